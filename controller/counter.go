package controller

import (
	"context"
	"errors"
	"reflect"

	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/controller/plan"
)

// counter keeps the figures of pools. They change with every pod, plans don't:
// hence the two are apart.
type counter struct {
	client  client.Client
	metrics *poolMetrics
}

func (r *counter) setUp(mgr manager.Manager) error {
	on := enqueue("usage", countSettle)
	return builder.ControllerManagedBy(mgr).
		Named("counter").
		WithOptions(retries()).
		Watches(&v1alpha1.IPPool{}, on, builder.WithPredicates(predicate.ResourceVersionChangedPredicate{})).
		Watches(&v1alpha1.IPBlock{}, on, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.NodeNetwork{}, on, builder.WithPredicates(blocksReported())).
		Complete(r)
}

// blocksReported passes on changes of what agents report of their blocks.
func blocksReported() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, ok1 := e.ObjectOld.(*v1alpha1.NodeNetwork)
		after, ok2 := e.ObjectNew.(*v1alpha1.NodeNetwork)
		return !ok1 || !ok2 || !reflect.DeepEqual(before.Status.Blocks, after.Status.Blocks)
	}}
}

// Reconcile counts anew and writes the figures of pools where they differ.
func (r *counter) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	var (
		pools    v1alpha1.IPPoolList
		blocks   v1alpha1.IPBlockList
		networks v1alpha1.NodeNetworkList
	)
	for _, list := range []client.ObjectList{&pools, &blocks, &networks} {
		if err := r.client.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return reconcile.Result{}, err
		}
	}
	usages := plan.Usages(pools.Items, blocks.Items, networks.Items)
	r.metrics.set(usages)
	var errs []error
	for i := range pools.Items {
		old := &pools.Items[i]
		obj := old.DeepCopy()
		u := usages[obj.Name]
		obj.Status.Blocks, obj.Status.Capacity = u.Blocks, u.Capacity
		obj.Status.Free, obj.Status.Addresses = u.Free, u.Addresses
		obj.Status.Allocated, obj.Status.Summary, obj.Status.Left = u.Allocated, u.Summary, u.Left
		if reflect.DeepEqual(old.Status, obj.Status) {
			continue
		}
		if err := r.client.Status().Patch(ctx, obj, client.MergeFrom(old)); err != nil {
			errs = appendFound(errs, err, "write the figures of IPPool "+obj.Name)
		}
	}
	return reconcile.Result{}, errors.Join(errs...)
}
