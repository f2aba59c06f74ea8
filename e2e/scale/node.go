package scale

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/agent"
	"github.com/godwit-net/godwit/agent/agenttest"
	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/bgp"
)

// zones is over how many zones nodes are spread.
const zones = 3

// node is a simulated node: a Node object, and the agent as it is but for its
// kernel and its BGP.
type node struct {
	name    string
	address netip.Addr
	cluster *Cluster
	meter   meter
	token   string // of the agent

	mu     sync.Mutex
	cancel context.CancelFunc
	ended  chan error // holds the end of the agent
	// reported is the newest generation of the plan that the agent reports as carried
	// out, and plan the newest that is known to be written.
	reported, written int64
	placed            time.Time // of the first report
	joined            time.Time // when the node was about to register
}

func (c *Cluster) newNode(i int) *node {
	return &node{
		name: fmt.Sprintf("n%05d", i), address: netip.AddrFrom4([4]byte{10, byte(128 + i>>16), byte(i >> 8), byte(i)}),
		cluster: c,
	}
}

// object is the Node as its kubelet registers it.
func (n *node) object(i int) *corev1.Node {
	labels := map[string]string{
		corev1.LabelHostname: n.name, corev1.LabelOSStable: "linux",
		corev1.LabelTopologyZone: fmt.Sprintf("z%d", i%zones),
	}
	if i < n.cluster.Reflectors {
		labels[reflectorLabel] = "true"
	}
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.name, Labels: labels}}
}

// register does what a kubelet does when it starts.
func (n *node) register(ctx context.Context, i int) (*corev1.Node, error) {
	o := n.object(i)
	if err := n.cluster.api.Create(ctx, o); err != nil {
		return nil, fmt.Errorf("create node %s: %w", n.name, err)
	}
	o.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: n.address.String()}}
	o.Status.Conditions = []corev1.NodeCondition{{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Simulated",
		LastTransitionTime: metav1.Now(), LastHeartbeatTime: metav1.Now(),
	}}
	if err := n.cluster.api.Status().Update(ctx, o); err != nil {
		return nil, fmt.Errorf("status of node %s: %w", n.name, err)
	}
	return o, nil
}

// start starts the agent, which outlives ctx.
func (n *node) start(ctx context.Context) error {
	cfg := measured(n.cluster.agents, &n.meter)
	cfg.BearerToken = n.token
	c, err := agent.NewClient(cfg)
	if err != nil {
		return err
	}
	events, stop, err := agent.NewEventRecorder(cfg, n.name)
	if err != nil {
		return err
	}
	dir := filepath.Join(n.cluster.Dir, "node", n.name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	a, err := agent.New(ctx, agent.Options{
		Node: n.name, Namespace: systemNamespace, RunDir: filepath.Join(dir, "run"), StateDir: filepath.Join(dir, "state"),
		Version: "simulated", Client: observed{c, n}, Events: events,
		NewSpeaker: func(sink bgp.Sink, _ bool) (bgp.Speaker, error) { return n.cluster.world.Speaker(n.address, sink), nil },
		Kernel:     agenttest.NewKernel(netip.PrefixFrom(n.address, 9)),
		Log:        slog.New(slog.NewTextHandler(n.cluster.agentLog, &slog.HandlerOptions{Level: slog.LevelWarn})).With("node", n.name),
	})
	if err != nil {
		cancel()
		stop()
		return fmt.Errorf("agent of %s: %w", n.name, err)
	}
	ended := make(chan error, 1)
	go func() {
		defer stop()
		ended <- a.Run(ctx)
	}()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cancel, n.ended = cancel, ended
	return nil
}

// stopTimeout is how long an agent has to end.
const stopTimeout = 30 * time.Second

// stop ends the agent, as for a restart.
func (n *node) stop() error {
	n.mu.Lock()
	cancel, ended := n.cancel, n.ended
	n.cancel = nil
	n.mu.Unlock()
	if cancel == nil {
		return nil
	}
	cancel()
	select {
	case err := <-ended:
		return err
	case <-time.After(stopTimeout):
		return fmt.Errorf("the agent of %s does not end", n.name)
	}
}

// noted notes what the agent reported, as the API server took it.
func (n *node) noted(nn *v1alpha1.NodeNetwork) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.written = max(n.written, nn.Generation)
	if n.reported == 0 && nn.Status.ObservedGeneration > 0 {
		n.placed = time.Now()
	}
	n.reported = nn.Status.ObservedGeneration
}

// current tells whether the agent has carried out the newest plan that it or the
// cluster knows of, which has at least a generation.
func (n *node) current(generation int64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.reported > 0 && n.reported >= max(n.written, generation)
}

// forget makes the node one whose agent has reported nothing yet.
func (n *node) forget() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.reported, n.written, n.placed = 0, 0, time.Time{}
}

// observed is an agent's client that lets its node know what it reports.
type observed struct {
	client.WithWatch
	node *node
}

func (o observed) Status() client.SubResourceWriter {
	return observedStatus{o.WithWatch.Status(), o.node}
}

type observedStatus struct {
	client.SubResourceWriter
	node *node
}

func (o observedStatus) Patch(ctx context.Context, obj client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
	err := o.SubResourceWriter.Patch(ctx, obj, p, opts...)
	if nn, ok := obj.(*v1alpha1.NodeNetwork); ok && err == nil {
		o.node.noted(nn)
	}
	return err
}

// stopAll ends the agents of nodes at once.
func stopAll(nodes []*node) error {
	var wg sync.WaitGroup
	errs := make([]error, len(nodes))
	for i, n := range nodes {
		wg.Go(func() { errs[i] = n.stop() })
	}
	wg.Wait()
	return errors.Join(errs...)
}
