package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/controller/plan"
)

// planChange is a plan that is another now.
type planChange struct {
	node string
	old  *v1alpha1.NodeNetwork // nil: there is none
	spec *v1alpha1.NodeNetworkSpec
}

// weight sorts changes: those that cost the API server least first, new plans before
// all others.
func (c planChange) weight() int {
	if c.old == nil {
		return 0
	}
	return 1 + len(c.spec.Sessions)
}

// writePlans creates and changes the NodeNetworks whose plan is another now, or
// only creates those that are new: new ones first, those with many sessions last. A
// node without a plan keeps the NodeNetwork that it has. Changes that come too soon
// after the last of the same plan are left for later.
func (r *planner) writePlans(ctx context.Context, limit <-chan struct{}, p *plan.Plan, in plan.Input, onlyNew bool, again *soonest) {
	have := make(map[string]*v1alpha1.NodeNetwork, len(in.Networks))
	for i := range in.Networks {
		have[in.Networks[i].Name] = &in.Networks[i]
	}
	var changes []planChange
	for _, name := range p.Nodes() {
		old := have[name]
		if onlyNew && old != nil {
			continue
		}
		spec, _ := p.Spec(name)
		if old != nil && apiequality.Semantic.DeepEqual(old.Spec, spec) {
			continue
		}
		if r.writes.busy(name) {
			again.after(existsRetry)
			continue
		}
		if early := r.writes.early(old, &spec); early > 0 {
			again.after(early)
			continue
		}
		changes = append(changes, planChange{name, old, &spec})
	}
	slices.SortStableFunc(changes, func(a, b planChange) int { return cmp.Compare(a.weight(), b.weight()) })
	for _, c := range changes {
		started := r.writes.start(ctx, limit, c.node, c.old, c.spec, func() (types.UID, int64, error) {
			return r.writePlan(ctx, c.node, c.old, c.spec)
		})
		if !started {
			again.after(planSettle)
			return
		}
	}
}

// writePlan writes one plan and returns what came of it: nothing when somebody
// else created or deleted it just now.
func (r *planner) writePlan(ctx context.Context, name string, old *v1alpha1.NodeNetwork, spec *v1alpha1.NodeNetworkSpec) (types.UID, int64, error) {
	// The client decodes answers into what it is given, and the spec shares memory
	// with the cache.
	if old == nil {
		obj := &v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: *spec.DeepCopy()}
		if err := r.client.Create(ctx, obj); apierrors.IsAlreadyExists(err) {
			return "", 0, nil
		} else if err != nil {
			return "", 0, fmt.Errorf("create the plan of node %s: %w", name, err)
		}
		log.FromContext(ctx).Info("node has a plan", "node", name, "sessions", len(spec.Sessions), "pools", len(spec.Pools))
		return obj.UID, obj.Generation, nil
	}
	obj := old.DeepCopy()
	obj.Spec = *spec.DeepCopy()
	if err := r.client.Patch(ctx, obj, client.MergeFrom(old)); apierrors.IsNotFound(err) {
		return "", 0, nil
	} else if err != nil {
		return "", 0, fmt.Errorf("change the plan of node %s: %w", name, err)
	}
	log.FromContext(ctx).Info("plan of node changed", "node", name, "sessions", len(spec.Sessions), "pools", len(spec.Pools))
	return obj.UID, obj.Generation, nil
}

// deletePlans deletes the NodeNetworks of nodes that are no more, and have no
// blocks: of those with blocks the releaser does.
func (r *planner) deletePlans(ctx context.Context, p *plan.Plan, in plan.Input) error {
	exists := make(map[string]bool, len(in.Nodes))
	for i := range in.Nodes {
		exists[in.Nodes[i].Name] = true
	}
	var errs []error
	for i := range in.Networks {
		nn := &in.Networks[i]
		if exists[nn.Name] || p.Departed(nn.Name) || nn.DeletionTimestamp != nil {
			continue
		}
		err := r.client.Delete(ctx, nn, client.Preconditions{UID: &nn.UID})
		if client.IgnoreNotFound(err) != nil {
			errs = append(errs, fmt.Errorf("delete the plan of the deleted node %s: %w", nn.Name, err))
			continue
		}
		r.writes.forget(nn.Name)
		log.FromContext(ctx).Info("plan of deleted node deleted", "node", nn.Name)
	}
	return errors.Join(errs...)
}
