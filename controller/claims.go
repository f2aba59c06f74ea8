package controller

import (
	"context"
	"errors"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/controller/plan"
)

// writeClaims writes who has the claimed addresses, and keeps claims whose address
// a node has from going.
func (r *planner) writeClaims(ctx context.Context, p *plan.Plan, in plan.Input) error {
	var errs []error
	for i := range in.Claims {
		old := &in.Claims[i]
		state := p.Claims[old.Name]
		if err := r.hold(ctx, old, v1alpha1.ClaimFinalizer, old.DeletionTimestamp == nil || state.Held); err != nil {
			errs = appendFound(errs, err, "write the finalizers of IPClaim "+old.Name)
		}
		obj := old.DeepCopy()
		conditions := obj.Status.Conditions
		setConditions(&conditions, state.Status.Conditions, obj.Generation)
		obj.Status = state.Status
		obj.Status.Conditions = conditions
		if apiequality.Semantic.DeepEqual(obj.Status, old.Status) {
			continue
		}
		if err := r.client.Status().Patch(ctx, obj, client.MergeFrom(old)); err != nil {
			errs = appendFound(errs, err, "write the status of IPClaim "+obj.Name)
			continue
		}
		r.warnOfClaim(obj, old.Status.Conditions, state.Status.Conditions)
	}
	return errors.Join(errs...)
}

// warnOfClaim makes an event when pods can't have the address any more. That pods
// come and go makes none.
func (r *planner) warnOfClaim(obj *v1alpha1.IPClaim, before, now []metav1.Condition) {
	for _, c := range now {
		old := apimeta.FindStatusCondition(before, c.Type)
		if c.Status == metav1.ConditionFalse && (old == nil || old.Reason != c.Reason) {
			r.recorder.warn(obj, c.Reason, c.Message)
		}
	}
}
