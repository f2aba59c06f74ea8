// Package controller is the cluster's side of Godwit: it carries out the plan
// of package plan and frees the blocks of nodes that are gone. One replica at a
// time does so, by leader election.
//
//	Node, BGPConfig, NetworkConfig, BGPPeer, ────────┬▶ planner  ─▶ NodeNetwork.spec, IPClaim.status, conditions of IPPool
//	BGPFilter, IPPool, IPBlock, IPClaim, ServiceCIDR, ┤               and BGPPeer
//	Namespace, NodeNetwork.status ───────────────────┘
//	IPPool, IPBlock, NodeNetwork.status.blocks ──────▶ counter  ─▶ figures of IPPool.status
//	Node, IPBlock, NodeNetwork.status.departedBlocks ─▶ releaser ─▶ NodeNetworks and IPBlocks of deleted nodes are deleted
//
// Invariants:
//   - Nothing is decided before all caches are filled.
//   - Only what differs is written; with nothing changed, nothing is.
//   - Each field has one writer: the three above share none, and none is an
//     agent's.
//   - What can't be undone (the deletion of a block) is decided on a live read.
package controller

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	crcontroller "sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/internal/untiring"
)

// Name is under which the controller shows up in events and in the name of its
// lease.
const Name = "godwit-controller"

// DefaultBlockReleaseDelay is how long a Node must have been gone, and nobody must
// have announced its blocks, before they are freed, where Options do not say. A
// node that restarts, or is made anew under its name, is back by then; and an agent
// that works has long answered what it hears of the blocks.
const DefaultBlockReleaseDelay = 5 * time.Minute

const (
	// Events come in bursts (a rack of nodes joins); work waits this long for the
	// burst to end, and is done at most once in that time.
	planSettle  = 100 * time.Millisecond
	countSettle = 500 * time.Millisecond

	retryFirst = 100 * time.Millisecond
	retryLast  = 5 * time.Second
)

// Options are the settings of a controller.
type Options struct {
	// Namespace has the lease of the leader election.
	Namespace string
	// LeaderElect keeps the controller idle until it holds the lease. Without it,
	// only one controller may run.
	LeaderElect bool
	// BlockReleaseDelay is how long a Node must have been gone and its blocks not been
	// announced, observed without a break, before they are freed. Zero:
	// DefaultBlockReleaseDelay.
	BlockReleaseDelay time.Duration
	// MetricsAddress is where metrics are served, such as 127.0.0.1:9791; "0" or
	// empty: nowhere.
	MetricsAddress string
	// HealthAddress is where /healthz and /readyz are served; "0" or empty: nowhere.
	HealthAddress string
	// Log takes what the controller has to say.
	Log *slog.Logger

	// For tests: the duration of a lease; zero for the default of 15 s.
	leaseDuration time.Duration
}

// New returns a manager that runs the controller when it is started. Start ends
// with an error when the lease is lost: the process must then end, too.
func New(cfg *rest.Config, o Options) (manager.Manager, error) {
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("register Kubernetes' kinds: %w", err)
	}
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("register Godwit's kinds: %w", err)
	}
	mgr, err := manager.New(withRates(cfg), o.manager(scheme))
	if err != nil {
		return nil, fmt.Errorf("set up the controller: %w", err)
	}
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return nil, fmt.Errorf("set up /healthz: %w", err)
	}
	if err := mgr.AddReadyzCheck("ping", healthz.Ping); err != nil {
		return nil, fmt.Errorf("set up /readyz: %w", err)
	}

	recorder := &recorder{events: mgr.GetEventRecorder(Name)}
	if err := newPlanner(mgr.GetClient(), recorder).setUp(mgr); err != nil {
		return nil, fmt.Errorf("set up the planner: %w", err)
	}
	pools := newPoolMetrics()
	if err := pools.register(metrics.Registry); err != nil {
		return nil, err
	}
	if err := (&counter{client: mgr.GetClient(), metrics: pools}).setUp(mgr); err != nil {
		return nil, fmt.Errorf("set up the counter: %w", err)
	}
	delay := o.BlockReleaseDelay
	if delay <= 0 {
		delay = DefaultBlockReleaseDelay
	}
	if err := newReleaser(mgr.GetClient(), mgr.GetAPIReader(), recorder, delay).setUp(mgr); err != nil {
		return nil, fmt.Errorf("set up the releaser of blocks: %w", err)
	}
	return mgr, nil
}

func (o Options) manager(scheme *runtime.Scheme) manager.Options {
	m := manager.Options{
		Scheme: scheme,
		Logger: logr.FromSlogHandler(o.Log.Handler()),
		Cache: cache.Options{
			DefaultTransform: cache.TransformStripManagedFields(),
			ByObject: map[client.Object]cache.ByObject{
				&corev1.Node{}:      {Transform: slimNode},
				&corev1.Namespace{}: {Transform: slimNamespace},
			},
			NewInformer: o.newInformer,
		},
		LeaderElection:          o.LeaderElect,
		LeaderElectionID:        Name,
		LeaderElectionNamespace: o.Namespace,
		// The process ends when Start returns, so the next one needn't wait for the
		// lease to run out.
		LeaderElectionReleaseOnCancel: true,
		Metrics:                       metricsserver.Options{BindAddress: orOff(o.MetricsAddress)},
		HealthProbeBindAddress:        orOff(o.HealthAddress),
		Controller: config.Controller{
			// The names are labels of metrics of the process; tests run several.
			SkipNameValidation: new(true),
			// Nothing here has a priority, and a queue that has them may hang when it is shut
			// down, and keep the lease meanwhile (controller-runtime's issue 3538, mended in
			// 0.25).
			UsePriorityQueue: new(false),
		},
	}
	if o.leaseDuration > 0 {
		m.LeaseDuration = new(o.leaseDuration)
		m.RenewDeadline = new(o.leaseDuration * 2 / 3)
		m.RetryPeriod = new(o.leaseDuration / 8)
	}
	return m
}

// newInformer makes an informer that has its objects within seconds after an outage
// of the API server. The controller's own work does not begin before.
func (o Options) newInformer(lw toolscache.ListerWatcher, kind runtime.Object, resync time.Duration, indexers toolscache.Indexers) toolscache.SharedIndexInformer {
	what := fmt.Sprintf("%T", kind)
	tell := func(err error) {
		if err != nil {
			o.Log.Warn("the API server does not answer; asking on", "kind", what, "error", err)
			return
		}
		o.Log.Info("the API server answers again", "kind", what)
	}
	return toolscache.NewSharedIndexInformer(untiring.New(lw, untiring.Options{Tell: tell}), kind, resync, indexers)
}

// orOff returns the address, or what controller-runtime takes for none.
func orOff(address string) string {
	if address == "" {
		return "0"
	}
	return address
}

// withRates lets a configuration without limits of its own write the plans of a
// large cluster in seconds.
func withRates(cfg *rest.Config) *rest.Config {
	cfg = rest.CopyConfig(cfg)
	if cfg.QPS == 0 && cfg.Burst == 0 {
		cfg.QPS, cfg.Burst = 100, 200
	}
	return cfg
}

// slimNode keeps of a Node what plans are made from. Nodes are large, mostly by
// the list of their images, and change every few seconds.
func slimNode(obj any) (any, error) {
	n, ok := obj.(*corev1.Node)
	if !ok {
		return obj, nil // the marker of a deletion that the watch missed
	}
	slim := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name:              n.Name,
			UID:               n.UID,
			ResourceVersion:   n.ResourceVersion,
			CreationTimestamp: n.CreationTimestamp,
			DeletionTimestamp: n.DeletionTimestamp,
			Labels:            n.Labels,
		},
		Status: corev1.NodeStatus{Addresses: n.Status.Addresses},
	}
	for _, t := range n.Spec.Taints {
		if t.Key == v1alpha1.DrainKey || t.Key == corev1.TaintNodeOutOfService {
			slim.Spec.Taints = append(slim.Spec.Taints, t)
		}
	}
	if ready := readiness(n); ready != "" {
		slim.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
	}
	return slim, nil
}

// retries returns the options of a controller whose failed work is tried again,
// soon at first.
func retries() crcontroller.Options {
	return crcontroller.Options{
		RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](retryFirst, retryLast),
	}
}

// recorder writes events about objects.
type recorder struct {
	events events.EventRecorder
}

// maxNote is how long the API lets the note of an event be, in bytes.
const maxNote = 1024

// warn reports something that a person should mend.
func (r *recorder) warn(about runtime.Object, reason, message string) {
	r.event(about, corev1.EventTypeWarning, reason, message)
}

// tell reports that something is in order again.
func (r *recorder) tell(about runtime.Object, reason, message string) {
	r.event(about, corev1.EventTypeNormal, reason, message)
}

func (r *recorder) event(about runtime.Object, kind, reason, message string) {
	if len(message) > maxNote {
		message = message[:maxNote-3] + "..."
	}
	r.events.Eventf(about, nil, kind, reason, "Plan", "%s", message)
}
