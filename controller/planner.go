package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/controller/plan"
)

// planner makes the plan anew whenever something changes that it is made from,
// and writes what differs. All events lead to the same one piece of work, so
// its methods never run concurrently.
type planner struct {
	client   client.Client
	recorder *recorder
	writes   *writes

	// problems are those of nodes that were reported, so that each is once.
	problems map[plan.Problem]bool
	// waits is what a change of the topology waited for, as last logged.
	waits string
	// reflectorsLack is why there were no route reflectors as asked.
	reflectorsLack string
	// services tells that the API server has ServiceCIDRs.
	services bool
	// settled tells that the last plan waits for no report of an agent.
	settled atomic.Bool
}

func newPlanner(c client.Client, recorder *recorder) *planner {
	return &planner{client: c, recorder: recorder, writes: newWrites(time.Now)}
}

func (r *planner) setUp(mgr manager.Manager) error {
	on := enqueue("plan", planSettle)
	// Statuses of pools, peers and claims have no other writer. Their events are taken
	// because a decision not to write may have been made on an old copy.
	every := builder.WithPredicates(predicate.ResourceVersionChangedPredicate{})
	spec := builder.WithPredicates(predicate.GenerationChangedPredicate{})
	b := builder.ControllerManagedBy(mgr)
	var err error
	if r.services, err = hasServiceCIDRs(mgr.GetRESTMapper()); err != nil {
		return err
	}
	if r.services {
		b = b.Watches(&networkingv1.ServiceCIDR{}, on, spec)
	}
	return b.
		Named("planner").
		WithOptions(retries()).
		Watches(&corev1.Node{}, on, builder.WithPredicates(nodeChanged())).
		Watches(&v1alpha1.BGPConfig{}, on, spec).
		Watches(&v1alpha1.NetworkConfig{}, on, spec).
		Watches(&v1alpha1.BGPPeer{}, on, every).
		Watches(&v1alpha1.BGPFilter{}, on, spec).
		Watches(&v1alpha1.IPPool{}, on, every).
		Watches(&v1alpha1.IPBlock{}, on, spec).
		Watches(&v1alpha1.IPClaim{}, on, every).
		Watches(&corev1.Namespace{}, on, builder.WithPredicates(choiceChanged())).
		Watches(&v1alpha1.NodeNetwork{}, r.forgetting(on), builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, r.reportAwaited()))).
		Complete(r)
}

// forgetting returns a handler that does the same, and knows of a plan that is
// deleted that it is not there any more.
func (r *planner) forgetting(on handler.Funcs) handler.Funcs {
	then := on.DeleteFunc
	on.DeleteFunc = func(ctx context.Context, e event.DeleteEvent, q queue) {
		r.writes.forget(e.Object.GetName())
		then(ctx, e, q)
	}
	return on
}

// hasServiceCIDRs tells whether the API server has ServiceCIDRs, as since Kubernetes
// 1.33. Without them nobody says which addresses are the Services'.
func hasServiceCIDRs(mapper apimeta.RESTMapper) (bool, error) {
	_, err := mapper.RESTMapping(networkingv1.SchemeGroupVersion.WithKind("ServiceCIDR").GroupKind(), networkingv1.SchemeGroupVersion.Version)
	if apimeta.IsNoMatchError(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("find out whether the API server has ServiceCIDRs: %w", err)
	}
	return true, nil
}

// Reconcile makes the plan and carries it out. What fails is tried again and
// keeps nothing else from being written.
func (r *planner) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	// What changes from here on may not be in what is read.
	r.settled.Store(false)
	in, err := r.read(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	cached := len(in.Networks)
	var flying bool
	in.Networks, flying = r.writes.over(in.Networks)
	p := plan.Make(in)
	r.report(p, in)
	r.logTopology(ctx, p)
	r.reportReflectors(p, in.Config)
	limit, cancel := context.WithTimeout(ctx, passLimit)
	defer cancel()
	var again soonest
	if len(in.Networks) > cached {
		again.after(lagLimit) // they may be gone by then, and no event say so
	}
	// If a write that goes on fails, what follows from it for others is wrong.
	r.writePlans(ctx, limit.Done(), p, in, flying, &again)
	if flying {
		again.after(onInterval)
	} else {
		err = errors.Join(
			r.deletePlans(ctx, p, in),
			r.writePools(ctx, p, in),
			r.writePeers(ctx, p, in),
			r.writeClaims(ctx, p, in),
		)
	}
	on, failed := r.writes.wait(ctx, limit.Done())
	if err = errors.Join(failed, err); on {
		again.after(onInterval)
	}
	// What was written comes back as an event, and shows whether that was the last step.
	r.settled.Store(err == nil && !p.Waiting && !on && !flying)
	if err != nil {
		return reconcile.Result{}, err // comes back by itself
	}
	return reconcile.Result{RequeueAfter: time.Duration(again)}, nil
}

// onInterval is how often is looked at what became of writes that go on. Where
// they succeed, events say so.
const onInterval = time.Second

// soonest is after which time something is to be done, the first of several; zero:
// there is nothing.
type soonest time.Duration

func (s *soonest) after(d time.Duration) {
	if *s == 0 || d < time.Duration(*s) {
		*s = soonest(d)
	}
}

// read collects the input of a plan from the cache. The objects are the cache's
// own and must not be changed.
func (r *planner) read(ctx context.Context) (plan.Input, error) {
	var (
		nodes    corev1.NodeList
		peers    v1alpha1.BGPPeerList
		filters  v1alpha1.BGPFilterList
		pools    v1alpha1.IPPoolList
		blocks   v1alpha1.IPBlockList
		claims   v1alpha1.IPClaimList
		networks v1alpha1.NodeNetworkList
		config   v1alpha1.BGPConfig
		network  v1alpha1.NetworkConfig
		services networkingv1.ServiceCIDRList
	)
	lists := []client.ObjectList{&nodes, &peers, &filters, &pools, &blocks, &claims, &networks}
	if r.services {
		lists = append(lists, &services)
	}
	for _, list := range lists {
		if err := r.client.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return plan.Input{}, fmt.Errorf("read %T: %w", list, err)
		}
	}
	in := plan.Input{
		Nodes: nodes.Items, Peers: peers.Items, Filters: filters.Items,
		Pools: pools.Items, Blocks: blocks.Items, Claims: claims.Items, Networks: networks.Items, Services: services.Items,
	}
	var err error
	if in.NamespacesChoose, err = r.namespacesChoose(ctx); err != nil {
		return plan.Input{}, err
	}
	there, err := r.get(ctx, v1alpha1.BGPConfigName, &config)
	if err != nil {
		return plan.Input{}, err
	}
	if there {
		in.Config = &config
	}
	there, err = r.get(ctx, v1alpha1.NetworkConfigName, &network)
	if err != nil {
		return plan.Input{}, err
	}
	if there {
		in.Network = &network
	}
	return in, nil
}

// get reads an object and tells whether it is there.
func (r *planner) get(ctx context.Context, name string, obj client.Object) (bool, error) {
	err := r.client.Get(ctx, types.NamespacedName{Name: name}, obj)
	if err != nil && !apierrors.IsNotFound(err) {
		return false, fmt.Errorf("read %T %s: %w", obj, name, err)
	}
	return err == nil, nil
}

func (r *planner) writePools(ctx context.Context, p *plan.Plan, in plan.Input) error {
	var errs []error
	for i := range in.Pools {
		old := &in.Pools[i]
		if err := r.hold(ctx, old, v1alpha1.PoolFinalizer, p.Holds(old.Name)); err != nil {
			errs = appendFound(errs, err, "write the finalizers of IPPool "+old.Name)
		}
		obj := old.DeepCopy()
		conditions := p.Pools[obj.Name]
		if !setConditions(&obj.Status.Conditions, conditions, obj.Generation) {
			continue
		}
		if err := r.client.Status().Patch(ctx, obj, client.MergeFrom(old)); err != nil {
			errs = appendFound(errs, err, "write the status of IPPool "+obj.Name)
			continue
		}
		for _, cond := range conditions {
			r.transition(obj, old.Status.Conditions, cond)
		}
	}
	return errors.Join(errs...)
}

// hold gives an object that must not go the finalizer that keeps it, and takes it
// from one that may.
func (r *planner) hold(ctx context.Context, old client.Object, finalizer string, hold bool) error {
	obj, ok := old.DeepCopyObject().(client.Object)
	if !ok {
		return fmt.Errorf("%T is no object", old)
	}
	changed := false
	switch {
	case !hold:
		changed = controllerutil.RemoveFinalizer(obj, finalizer)
	case old.GetDeletionTimestamp() == nil: // else none may be added
		changed = controllerutil.AddFinalizer(obj, finalizer)
	}
	if !changed {
		return nil
	}
	return r.client.Patch(ctx, obj, client.MergeFromWithOptions(old, client.MergeFromWithOptimisticLock{}))
}

// setConditions makes the conditions those that are wanted and no others, and
// tells whether that changed anything.
func setConditions(conditions *[]metav1.Condition, wanted []metav1.Condition, generation int64) bool {
	before := len(*conditions)
	*conditions = slices.DeleteFunc(*conditions, func(c metav1.Condition) bool {
		return apimeta.FindStatusCondition(wanted, c.Type) == nil
	})
	changed := len(*conditions) != before
	for _, cond := range wanted {
		cond.ObservedGeneration = generation
		changed = apimeta.SetStatusCondition(conditions, cond) || changed
	}
	return changed
}

func (r *planner) writePeers(ctx context.Context, p *plan.Plan, in plan.Input) error {
	var errs []error
	for i := range in.Peers {
		old := &in.Peers[i]
		obj := old.DeepCopy()
		st := p.Peers[obj.Name]
		cond := st.Conditions[0]
		cond.ObservedGeneration = obj.Generation
		changed := apimeta.SetStatusCondition(&obj.Status.Conditions, cond)
		if !changed && obj.Status.Nodes == st.Nodes {
			continue
		}
		obj.Status.Nodes = st.Nodes
		if err := r.client.Status().Patch(ctx, obj, client.MergeFrom(old)); err != nil {
			errs = appendFound(errs, err, "write the status of BGPPeer "+obj.Name)
			continue
		}
		r.transition(obj, old.Status.Conditions, cond)
	}
	return errors.Join(errs...)
}

// transition makes an event of a condition whose status or reason is another
// than before.
func (r *planner) transition(obj client.Object, before []metav1.Condition, now metav1.Condition) {
	old := apimeta.FindStatusCondition(before, now.Type)
	if old != nil && old.Status == now.Status && old.Reason == now.Reason {
		return
	}
	if old == nil && (now.Reason == plan.ReasonApplied || now.Reason == plan.ReasonEnough) {
		return // there was nothing before it
	}
	asked := []string{plan.ReasonDisabled, plan.ReasonDeleting, plan.ReasonInUse, plan.ReasonWaitingForTunnels}
	if now.Status == metav1.ConditionTrue || slices.Contains(asked, now.Reason) {
		r.recorder.tell(obj, now.Reason, now.Message)
		return
	}
	r.recorder.warn(obj, now.Reason, now.Message)
}

// report makes an event of each problem of a node that is new, and of each that
// is over.
func (r *planner) report(p *plan.Plan, in plan.Input) {
	nodes := make(map[string]*corev1.Node, len(in.Nodes))
	for i := range in.Nodes {
		nodes[in.Nodes[i].Name] = &in.Nodes[i]
	}
	now := make(map[plan.Problem]bool, len(p.Problems))
	done := make(map[string]bool, len(p.Problems)) // nodes with problems, or that were said to have none any more
	for _, pr := range p.Problems {
		if !r.problems[pr] {
			r.recorder.warn(nodes[pr.Node], pr.Reason, pr.Message)
		}
		now[pr], done[pr.Node] = true, true
	}
	for pr := range r.problems {
		if !done[pr.Node] && nodes[pr.Node] != nil {
			done[pr.Node] = true
			r.recorder.tell(nodes[pr.Node], "Planned", "the node has a plan: "+pr.Reason+" is over")
		}
	}
	r.problems = now
}

// logTopology logs what a change of the topology waits for, when that changes.
func (r *planner) logTopology(ctx context.Context, p *plan.Plan) {
	switch p.TopologyWaits {
	case r.waits:
	case "":
		log.FromContext(ctx).Info("topology changed")
	default:
		log.FromContext(ctx).Info("topology is being changed: nodes have both until all are ready", "waiting", p.TopologyWaits)
	}
	r.waits = p.TopologyWaits
}

// reportReflectors makes an event when there can't be reflectors as asked, and
// when there can again.
func (r *planner) reportReflectors(p *plan.Plan, config *v1alpha1.BGPConfig) {
	if config == nil || p.ReflectorsLack == r.reflectorsLack {
		return
	}
	if r.reflectorsLack = p.ReflectorsLack; r.reflectorsLack == "" {
		r.recorder.tell(config, "ReflectorsChosen", "there are route reflectors as asked")
		return
	}
	r.recorder.warn(config, "NoReflectors", r.reflectorsLack+": nodes learn of each other as before")
}

// appendFound adds an error with what was tried, unless it says that the object is
// gone, or another than the cache had: the event of that leads to another try.
func appendFound(errs []error, err error, tried string) []error {
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return errs
	}
	return append(errs, fmt.Errorf("%s: %w", tried, err))
}
