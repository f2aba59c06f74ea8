package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/controller/plan"
)

// writers is how many plans are written at once.
const writers = 8

// planner makes the plan anew whenever something changes that it is made from,
// and writes what differs. All events lead to the same one piece of work, so
// its methods never run concurrently.
type planner struct {
	client   client.Client
	recorder *recorder

	// problems are those of nodes that were reported, so that each is once.
	problems map[string]plan.Problem
}

func (r *planner) setUp(mgr manager.Manager) error {
	on := enqueue("plan", planSettle)
	// Statuses of pools and peers have no other writer. Their events are taken
	// because a decision not to write may have been made on an old copy.
	every := builder.WithPredicates(predicate.ResourceVersionChangedPredicate{})
	spec := builder.WithPredicates(predicate.GenerationChangedPredicate{})
	return builder.ControllerManagedBy(mgr).
		Named("planner").
		WithOptions(retries()).
		Watches(&corev1.Node{}, on, builder.WithPredicates(nodeChanged())).
		Watches(&v1alpha1.BGPConfig{}, on, spec).
		Watches(&v1alpha1.BGPPeer{}, on, every).
		Watches(&v1alpha1.BGPFilter{}, on, spec).
		Watches(&v1alpha1.IPPool{}, on, every).
		Watches(&v1alpha1.NodeNetwork{}, on, spec).
		Complete(r)
}

// nodeChanged passes on changes of a Node that matter to a plan, and drops the
// heartbeats of kubelets.
func nodeChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, ok1 := e.ObjectOld.(*corev1.Node)
		after, ok2 := e.ObjectNew.(*corev1.Node)
		return !ok1 || !ok2 || before.UID != after.UID ||
			!maps.Equal(before.Labels, after.Labels) ||
			!reflect.DeepEqual(before.Status.Addresses, after.Status.Addresses)
	}}
}

// Reconcile makes the plan and carries it out. What fails is tried again and
// keeps nothing else from being written.
func (r *planner) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	in, err := r.read(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	p := plan.Make(in)
	r.report(p, in)
	return reconcile.Result{}, errors.Join(
		r.writePlans(ctx, p, in),
		r.deletePlans(ctx, in),
		r.writePools(ctx, p, in),
		r.writePeers(ctx, p, in),
	)
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
		networks v1alpha1.NodeNetworkList
		config   v1alpha1.BGPConfig
	)
	for _, list := range []client.ObjectList{&nodes, &peers, &filters, &pools, &blocks, &networks} {
		if err := r.client.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return plan.Input{}, fmt.Errorf("read %T: %w", list, err)
		}
	}
	in := plan.Input{
		Nodes: nodes.Items, Peers: peers.Items, Filters: filters.Items,
		Pools: pools.Items, Blocks: blocks.Items, Networks: networks.Items,
	}
	err := r.client.Get(ctx, types.NamespacedName{Name: v1alpha1.BGPConfigName}, &config)
	switch {
	case err == nil:
		in.Config = &config
	case !apierrors.IsNotFound(err):
		return plan.Input{}, fmt.Errorf("read BGPConfig %s: %w", v1alpha1.BGPConfigName, err)
	}
	return in, nil
}

// writePlans creates and changes the NodeNetworks whose plan is another now. A
// node without a plan keeps the NodeNetwork that it has.
func (r *planner) writePlans(ctx context.Context, p *plan.Plan, in plan.Input) error {
	have := make(map[string]*v1alpha1.NodeNetwork, len(in.Networks))
	for i := range in.Networks {
		have[in.Networks[i].Name] = &in.Networks[i]
	}
	var group errgroup.Group
	group.SetLimit(writers)
	names := p.Nodes()
	errs := make([]error, len(names))
	for i, name := range names {
		spec, _ := p.Spec(name)
		old := have[name]
		if old != nil && apiequality.Semantic.DeepEqual(old.Spec, spec) {
			continue
		}
		group.Go(func() error {
			errs[i] = r.writePlan(ctx, name, old, &spec)
			return nil
		})
	}
	_ = group.Wait()
	return errors.Join(errs...)
}

func (r *planner) writePlan(ctx context.Context, name string, old *v1alpha1.NodeNetwork, spec *v1alpha1.NodeNetworkSpec) error {
	// The client decodes answers into what it is given, and the spec shares memory
	// with the cache.
	if old == nil {
		obj := &v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: *spec.DeepCopy()}
		if err := r.client.Create(ctx, obj); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create the plan of node %s: %w", name, err)
		}
		log.FromContext(ctx).Info("node has a plan", "node", name, "sessions", len(spec.Sessions), "pools", len(spec.Pools))
		return nil
	}
	obj := old.DeepCopy()
	obj.Spec = *spec.DeepCopy()
	if err := client.IgnoreNotFound(r.client.Patch(ctx, obj, client.MergeFrom(old))); err != nil {
		return fmt.Errorf("change the plan of node %s: %w", name, err)
	}
	log.FromContext(ctx).Info("plan of node changed", "node", name, "sessions", len(spec.Sessions), "pools", len(spec.Pools))
	return nil
}

// deletePlans deletes the NodeNetworks of nodes that are no more.
func (r *planner) deletePlans(ctx context.Context, in plan.Input) error {
	exists := make(map[string]bool, len(in.Nodes))
	for i := range in.Nodes {
		exists[in.Nodes[i].Name] = true
	}
	var errs []error
	for i := range in.Networks {
		nn := &in.Networks[i]
		if exists[nn.Name] || nn.DeletionTimestamp != nil {
			continue
		}
		err := r.client.Delete(ctx, nn, client.Preconditions{UID: &nn.UID})
		if client.IgnoreNotFound(err) != nil {
			errs = append(errs, fmt.Errorf("delete the plan of the deleted node %s: %w", nn.Name, err))
			continue
		}
		log.FromContext(ctx).Info("plan of deleted node deleted", "node", nn.Name)
	}
	return errors.Join(errs...)
}

func (r *planner) writePools(ctx context.Context, p *plan.Plan, in plan.Input) error {
	var errs []error
	for i := range in.Pools {
		old := &in.Pools[i]
		obj := old.DeepCopy()
		cond := p.Pools[obj.Name]
		cond.ObservedGeneration = obj.Generation
		if !apimeta.SetStatusCondition(&obj.Status.Conditions, cond) {
			continue
		}
		if err := r.client.Status().Patch(ctx, obj, client.MergeFrom(old)); err != nil {
			errs = appendFound(errs, err, "write the status of IPPool "+obj.Name)
			continue
		}
		r.transition(obj, old.Status.Conditions, cond)
	}
	return errors.Join(errs...)
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
	if now.Status == metav1.ConditionTrue || now.Reason == plan.ReasonDisabled {
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
	now := make(map[string]plan.Problem, len(p.Problems))
	for _, pr := range p.Problems {
		now[pr.Node] = pr
		if r.problems[pr.Node] != pr {
			r.recorder.warn(nodes[pr.Node], pr.Reason, pr.Message)
		}
	}
	for name, pr := range r.problems {
		if _, still := now[name]; !still && nodes[name] != nil {
			r.recorder.tell(nodes[name], "Planned", "the node has a plan: "+pr.Reason+" is over")
		}
	}
	r.problems = now
}

// appendFound adds an error with what was tried, unless it says that the object
// is gone.
func appendFound(errs []error, err error, tried string) []error {
	if apierrors.IsNotFound(err) {
		return errs
	}
	return append(errs, fmt.Errorf("%s: %w", tried, err))
}
