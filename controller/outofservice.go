package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/controller/plan"
)

const (
	// claimQuiet is for how long nobody must have heard of the claimed addresses of a
	// node that is out of service before they are freed, if no shorter delay is set.
	claimQuiet = 10 * time.Second
	// claimLook is how often it is looked at in between.
	claimLook = 5 * time.Second
)

// freeClaims frees the claimed addresses of a node that is there but out of service:
// their pods are to start elsewhere. It asks as for a node that is gone, and keeps
// the node's other blocks and its plan, which it finds when it is back.
func (r *releaser) freeClaims(ctx context.Context, name string) (reconcile.Result, error) {
	var blocks v1alpha1.IPBlockList
	if err := r.client.List(ctx, &blocks, client.MatchingFields{nodeNameField: name}); err != nil {
		return reconcile.Result{}, fmt.Errorf("list the blocks of node %s: %w", name, err)
	}
	blocks.Items = slices.DeleteFunc(blocks.Items, func(b v1alpha1.IPBlock) bool { return b.Spec.Pod == nil })
	if len(blocks.Items) == 0 {
		return reconcile.Result{}, nil
	}
	heard, answered, err := r.hear(ctx, &blocks)
	if err != nil {
		return reconcile.Result{}, err
	}
	if wait := r.quietFor(name, heard); wait > 0 {
		return reconcile.Result{RequeueAfter: min(wait, claimLook)}, nil
	}
	now, err := r.liveAnswers(ctx, answered)
	if err != nil {
		return reconcile.Result{}, err
	}
	if heard, err = r.weigh(ctx, &blocks, now); err != nil {
		return reconcile.Result{}, err
	}
	var n corev1.Node
	if err := r.live.Get(ctx, types.NamespacedName{Name: name}, &n); err != nil {
		return reconcile.Result{}, fmt.Errorf("make sure that node %s is out of service before its claimed addresses are freed: %w", name, err)
	}
	if r.quietFor(name, heard) > 0 || !plan.OutOfService(&n) {
		return reconcile.Result{RequeueAfter: claimLook}, nil // the cache lags behind
	}
	var errs []error
	for i := range blocks.Items {
		b := &blocks.Items[i]
		err := r.client.Delete(ctx, b, client.Preconditions{UID: &b.UID, ResourceVersion: &b.ResourceVersion})
		if client.IgnoreNotFound(err) != nil {
			errs = append(errs, fmt.Errorf("free the claimed address %s of node %s: %w", b.Spec.CIDR, name, err))
			continue
		}
		log.FromContext(ctx).Info("claimed address of a node that is out of service freed", "address", b.Spec.CIDR, "node", name)
		r.recorder.tell(&n, "ClaimedAddressFreed", fmt.Sprintf("the node is out of service and nobody hears of %s: a pod on another node can have it", b.Spec.CIDR))
	}
	return reconcile.Result{}, errors.Join(errs...)
}

// quietFor notes what is heard of the claimed addresses of a node that is out of
// service, and returns for how long it has to be quiet yet.
func (r *releaser) quietFor(node string, heard plan.Heard) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	delay, now := min(claimQuiet, r.delay), r.now()
	if len(heard.Announced) > 0 || heard.Answers == 0 {
		delete(r.quiet, node)
		return delay
	}
	since, ok := r.quiet[node]
	if !ok {
		since = now
		r.quiet[node] = now
	}
	return max(0, delay-now.Sub(since))
}

// liveAnswers reads anew, past the cache, what nodes answer.
func (r *releaser) liveAnswers(ctx context.Context, answered []v1alpha1.NodeNetwork) ([]v1alpha1.NodeNetwork, error) {
	now := make([]v1alpha1.NodeNetwork, 0, len(answered))
	for i := range answered {
		var nn v1alpha1.NodeNetwork
		switch err := r.live.Get(ctx, types.NamespacedName{Name: answered[i].Name}, &nn); {
		case err == nil:
			now = append(now, nn)
		case !apierrors.IsNotFound(err):
			return nil, fmt.Errorf("make sure of what node %s hears before blocks are freed: %w", answered[i].Name, err)
		}
	}
	return now, nil
}
