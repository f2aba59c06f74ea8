package controller

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/controller/plan"
)

// nodeNameField is the index of IPBlocks by the node that owns them.
const nodeNameField = "spec.nodeName"

// releaser frees the blocks of nodes that are gone. A node is gone when, for the
// whole delay as this process has seen it, its Node object has been missing and
// other nodes have answered that BGP tells them of no route to its blocks; and when
// live reads right before say the same:
//
//	Node there ──deleted──▶ missing ──nobody hears of its blocks──▶ quiet since t ──t + delay──▶ live reads
//	     ▲                     ▲ │                                    │                       │
//	     │                     └────────── somebody hears ────────────┴───────────────────────┤
//	     └────── created ────────┴────────────────────────────────────────────────────────────┤
//	                        NodeNetwork deleted ◀── missing, and nobody hears ────────────────┘
//	                        then block after block, each after a live read of the Node
//
// The NodeNetwork goes first: an agent that comes back and finds another one by
// its name knows that its blocks may be others' (see package agent).
//
// Work is named after nodes, so that work on one never runs twice at a time.
type releaser struct {
	client   client.Client
	live     client.Reader // reads past the cache
	recorder *recorder
	delay    time.Duration
	now      func() time.Time

	mu      sync.Mutex
	absence map[string]absence
	quiet   map[string]time.Time // since when nobody hears of the claims of a node that is out of service
}

// absence is what was seen of a node that is gone.
type absence struct {
	since time.Time // when its Node was first seen missing
	quiet time.Time // since when nobody hears of its blocks; zero: somebody may
	told  bool      // it was told that its blocks are kept though it is gone for long
}

func newReleaser(c client.Client, live client.Reader, recorder *recorder, delay time.Duration) *releaser {
	return &releaser{client: c, live: live, recorder: recorder, delay: delay, now: time.Now, absence: make(map[string]absence), quiet: make(map[string]time.Time)}
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
		Watches(&v1alpha1.NodeNetwork{}, r.answers()).
		Complete(r)
}

// nodeEvents notes that a node is there when the event comes: work that is done
// later might miss one that came and went again.
func (r *releaser) nodeEvents() handler.EventHandler {
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) {
			r.seen(e.Object.GetName())
			r.outOfService(e.Object, q)
		},
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) { r.outOfService(e.ObjectNew, q) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q queue) { q.Add(requestFor(e.Object.GetName())) },
	}
}

// outOfService makes work of a node that is out of service.
func (r *releaser) outOfService(o client.Object, q queue) {
	n, ok := o.(*corev1.Node)
	switch {
	case !ok:
	case plan.OutOfService(n):
		q.Add(requestFor(n.Name))
	default:
		r.inService(n.Name)
	}
}

// inService forgets that a node was out of service.
func (r *releaser) inService(node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.quiet, node)
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

// answers makes work of what nodes newly answer about blocks: on the owners of
// these.
func (r *releaser) answers() handler.EventHandler {
	look := func(ctx context.Context, q queue, before, after []v1alpha1.DepartedBlock) {
		if slices.Equal(before, after) {
			return
		}
		owners := make(map[string]bool)
		for _, b := range slices.Concat(before, after) {
			var block v1alpha1.IPBlock
			cidr, err := netip.ParsePrefix(b.CIDR)
			if err == nil && r.client.Get(ctx, types.NamespacedName{Name: v1alpha1.IPBlockName(cidr)}, &block) == nil {
				owners[block.Spec.NodeName] = true
			}
		}
		for name := range owners {
			q.Add(requestFor(name))
		}
	}
	of := func(o client.Object) []v1alpha1.DepartedBlock {
		nn, ok := o.(*v1alpha1.NodeNetwork)
		if !ok {
			return nil
		}
		return nn.Status.DepartedBlocks
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) { look(ctx, q, nil, of(e.Object)) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			look(ctx, q, of(e.ObjectOld), of(e.ObjectNew))
		},
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) { look(ctx, q, of(e.Object), nil) },
	}
}

// Reconcile frees the blocks of the named node if it is gone for long enough,
// and otherwise comes back when it may be.
func (r *releaser) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	name := req.Name
	var node corev1.Node
	err := r.client.Get(ctx, req.NamespacedName, &node)
	if err == nil {
		r.seen(name)
		if plan.OutOfService(&node) {
			return r.freeClaims(ctx, name)
		}
		r.inService(name)
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
	slices.SortFunc(blocks.Items, func(a, b v1alpha1.IPBlock) int { return strings.Compare(a.Name, b.Name) })
	heard, answered, err := r.hear(ctx, &blocks)
	if err != nil {
		return reconcile.Result{}, err
	}
	wait, keep := r.missing(name, heard)
	if keep != "" {
		about := &v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: name}}
		log.FromContext(ctx).Info("blocks of a deleted node are kept", "node", name, "why", keep)
		r.recorder.warn(about, "BlocksKept", keep)
	}
	if wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	return r.free(ctx, name, &blocks, answered)
}

// hear returns what nodes answer about blocks, and who answered.
func (r *releaser) hear(ctx context.Context, blocks *v1alpha1.IPBlockList) (h plan.Heard, answered []v1alpha1.NodeNetwork, err error) {
	var all v1alpha1.NodeNetworkList
	if err := r.client.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		return h, nil, fmt.Errorf("read what nodes hear: %w", err)
	}
	for i := range all.Items {
		if len(all.Items[i].Status.DepartedBlocks) > 0 {
			answered = append(answered, all.Items[i])
		}
	}
	h, err = r.weigh(ctx, blocks, answered)
	return h, answered, err
}

// weigh gathers answers, of nodes that count.
func (r *releaser) weigh(ctx context.Context, blocks *v1alpha1.IPBlockList, answered []v1alpha1.NodeNetwork) (plan.Heard, error) {
	cidrs := make([]string, len(blocks.Items))
	for i := range blocks.Items {
		cidrs[i] = blocks.Items[i].Spec.CIDR
	}
	nodes := make(map[string]*corev1.Node, len(answered))
	for i := range answered {
		var n corev1.Node
		err := r.client.Get(ctx, types.NamespacedName{Name: answered[i].Name}, &n)
		if client.IgnoreNotFound(err) != nil {
			return plan.Heard{}, fmt.Errorf("read node %s: %w", answered[i].Name, err)
		}
		if err == nil {
			nodes[n.Name] = &n
		}
	}
	return plan.Hear(cidrs, nodes, answered), nil
}

// free frees the blocks of a node if live reads find that it is gone and that
// nobody hears of them.
func (r *releaser) free(ctx context.Context, name string, blocks *v1alpha1.IPBlockList, answered []v1alpha1.NodeNetwork) (reconcile.Result, error) {
	now, err := r.liveAnswers(ctx, answered)
	if err != nil {
		return reconcile.Result{}, err
	}
	heard, err := r.weigh(ctx, blocks, now)
	if err != nil {
		return reconcile.Result{}, err
	}
	if wait, _ := r.missing(name, heard); wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil // the cache lags behind
	}
	there, err := r.isThere(ctx, name)
	if err == nil && !there {
		err = r.forget(ctx, name)
	}
	errs := []error{err}
	for i := range blocks.Items {
		if err != nil {
			break
		}
		if there, err = r.release(ctx, name, &blocks.Items[i]); there {
			// The cache lags behind, or missed a node that came and went: wait anew.
			break
		}
		errs = append(errs, err)
		err = nil
	}
	if there {
		r.seen(name)
		return reconcile.Result{RequeueAfter: r.delay}, nil
	}
	return reconcile.Result{}, errors.Join(errs...)
}

// forget deletes the NodeNetwork of a node that is gone.
func (r *releaser) forget(ctx context.Context, node string) error {
	var nn v1alpha1.NodeNetwork
	err := r.client.Get(ctx, types.NamespacedName{Name: node}, &nn)
	if err == nil {
		err = r.client.Delete(ctx, &nn, client.Preconditions{UID: &nn.UID})
	}
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete the plan of the deleted node %s before its blocks are freed: %w", node, err)
	}
	if err == nil {
		log.FromContext(ctx).Info("plan of deleted node deleted", "node", node)
	}
	return nil
}

// isThere reads live whether a node is there.
func (r *releaser) isThere(ctx context.Context, node string) (bool, error) {
	err := r.live.Get(ctx, types.NamespacedName{Name: node}, &corev1.Node{})
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("make sure that node %s is gone before its blocks are freed: %w", node, err)
	}
	return err == nil, nil
}

// release deletes a block unless a live read finds its node; it tells whether
// the node is there.
func (r *releaser) release(ctx context.Context, node string, b *v1alpha1.IPBlock) (there bool, err error) {
	if there, err := r.isThere(ctx, node); there || err != nil {
		return there, err
	}
	preconditions := client.Preconditions{UID: &b.UID, ResourceVersion: &b.ResourceVersion}
	if err := client.IgnoreNotFound(r.client.Delete(ctx, b, preconditions)); err != nil {
		return false, fmt.Errorf("free block %s of node %s: %w", b.Spec.CIDR, node, err)
	}
	log.FromContext(ctx).Info("block of deleted node freed", "block", b.Spec.CIDR, "pool", b.Spec.Pool, "node", node)
	return false, nil
}

// missing notes that a node is gone and what is heard of its blocks. It returns
// after which time they may be freed, 0 for now, and why they are kept though the
// node is gone for long, if that is to be told.
func (r *releaser) missing(node string, heard plan.Heard) (wait time.Duration, keep string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	a := r.absence[node]
	if a.since.IsZero() {
		a.since = now
	}
	defer func() { r.absence[node] = a }()
	kept := ""
	switch {
	case len(heard.Announced) > 0:
		kept = fmt.Sprintf("Node %s was deleted, but its blocks are still announced: %s. They are freed when nobody has announced them for %s: "+
			"end godwit-agent on that machine, or register its Node again", node, heard, r.delay)
	case heard.Answers == 0:
		kept = fmt.Sprintf("Node %s was deleted, but no node that is ready says whether its blocks are still announced: "+
			"see that godwit-agent runs on the nodes", node)
	}
	if kept == "" {
		if a.told = false; a.quiet.IsZero() {
			a.quiet = now
		}
		return max(0, r.delay-now.Sub(a.quiet)), ""
	}
	a.quiet = time.Time{}
	if wait = r.delay - now.Sub(a.since); wait > 0 {
		return wait, ""
	}
	if a.told {
		return r.delay, ""
	}
	a.told = true
	return r.delay, kept
}

// seen forgets that a node was missing.
func (r *releaser) seen(node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.absence, node)
}
