package controller

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// nodeNameField is the index of IPBlocks by the node that owns them.
const nodeNameField = "spec.nodeName"

// releaser frees the blocks of nodes that are gone. A node is gone when its Node
// object has been missing for the whole delay, as this process has seen it, and
// is still missing in a live read right before each deletion:
//
//	Node there ──deleted──▶ missing since t ──t + delay──▶ live read: missing ──▶ delete block
//	     ▲                        │                            │
//	     └────── created ─────────┴──────── there ─────────────┘
//
// Work is named after nodes, so that work on one never runs twice at a time.
type releaser struct {
	client client.Client
	live   client.Reader // reads past the cache
	delay  time.Duration
	now    func() time.Time

	mu    sync.Mutex
	since map[string]time.Time // when a node was first seen missing
}

func newReleaser(c client.Client, live client.Reader, delay time.Duration) *releaser {
	return &releaser{client: c, live: live, delay: delay, now: time.Now, since: make(map[string]time.Time)}
}

func (r *releaser) setUp(mgr manager.Manager) error {
	byNode := func(o client.Object) []string {
		b, ok := o.(*v1alpha1.IPBlock)
		if !ok {
			return nil
		}
		return []string{b.Spec.NodeName}
	}
	if err := mgr.GetFieldIndexer().IndexField(context.Background(), &v1alpha1.IPBlock{}, nodeNameField, byNode); err != nil {
		return fmt.Errorf("index blocks by node: %w", err)
	}
	return builder.ControllerManagedBy(mgr).
		Named("releaser").
		WithOptions(retries()).
		Watches(&corev1.Node{}, r.nodeEvents()).
		Watches(&v1alpha1.IPBlock{}, blockEvents()).
		Complete(r)
}

// nodeEvents notes that a node is there when the event comes: work that is done
// later might miss one that came and went again.
func (r *releaser) nodeEvents() handler.EventHandler {
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, _ queue) { r.seen(e.Object.GetName()) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q queue) { q.Add(requestFor(e.Object.GetName())) },
	}
}

// blockEvents makes work of blocks that come: their node may be gone already, as
// when a controller starts.
func blockEvents() handler.EventHandler {
	return handler.Funcs{CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) {
		if b, ok := e.Object.(*v1alpha1.IPBlock); ok {
			q.Add(requestFor(b.Spec.NodeName))
		}
	}}
}

// Reconcile frees the blocks of the named node if it is gone for long enough,
// and otherwise comes back when it may be.
func (r *releaser) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	name := req.Name
	err := r.client.Get(ctx, req.NamespacedName, &corev1.Node{})
	if err == nil {
		r.seen(name)
		return reconcile.Result{}, nil
	}
	if !apierrors.IsNotFound(err) {
		return reconcile.Result{}, fmt.Errorf("read node %s: %w", name, err)
	}
	var blocks v1alpha1.IPBlockList
	if err := r.client.List(ctx, &blocks, client.MatchingFields{nodeNameField: name}); err != nil {
		return reconcile.Result{}, fmt.Errorf("list the blocks of node %s: %w", name, err)
	}
	if len(blocks.Items) == 0 {
		r.seen(name) // nothing to free, nothing to remember
		return reconcile.Result{}, nil
	}
	if wait := r.delay - r.missing(name); wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	var errs []error
	for i := range blocks.Items {
		there, err := r.release(ctx, name, &blocks.Items[i])
		if there {
			// The cache lags behind, or missed a node that came and went: wait anew.
			r.seen(name)
			return reconcile.Result{RequeueAfter: r.delay}, nil
		}
		errs = append(errs, err)
	}
	return reconcile.Result{}, errors.Join(errs...)
}

// release deletes a block unless a live read finds its node; it tells whether
// the node is there.
func (r *releaser) release(ctx context.Context, node string, b *v1alpha1.IPBlock) (there bool, err error) {
	err = r.live.Get(ctx, types.NamespacedName{Name: node}, &corev1.Node{})
	if err == nil {
		return true, nil
	}
	if !apierrors.IsNotFound(err) {
		return false, fmt.Errorf("make sure that node %s is gone before block %s is freed: %w", node, b.Spec.CIDR, err)
	}
	preconditions := client.Preconditions{UID: &b.UID, ResourceVersion: &b.ResourceVersion}
	if err := client.IgnoreNotFound(r.client.Delete(ctx, b, preconditions)); err != nil {
		return false, fmt.Errorf("free block %s of node %s: %w", b.Spec.CIDR, node, err)
	}
	log.FromContext(ctx).Info("block of deleted node freed", "block", b.Spec.CIDR, "pool", b.Spec.Pool, "node", node)
	return false, nil
}

// missing returns for how long a node has been missing: zero at the first time.
func (r *releaser) missing(node string) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.since[node]; !ok {
		r.since[node] = r.now()
	}
	return r.now().Sub(r.since[node])
}

// seen forgets that a node was missing.
func (r *releaser) seen(node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.since, node)
}
