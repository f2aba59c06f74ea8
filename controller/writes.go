package controller

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

const (
	// writers is how many plans are written at once. An API server that has much to do
	// shares its time between those who ask, and answers each of them late.
	writers = 32
	// passLimit is how long a pass writes, and waits for its writes. What takes longer,
	// as a large plan does when the API server has too much to do, holds up nobody
	// else's plan.
	passLimit = 2 * time.Second
	// lagLimit is for how long a NodeNetwork that was created is taken to be there
	// though the cache has none: the API server may be behind, or somebody may have
	// deleted it at once.
	lagLimit = 30 * time.Second
	// existsRetry is after which time a NodeNetwork that the cache does not have is
	// created again when the API server said that it is there.
	existsRetry = 5 * time.Second
	// sessionSpacing is the least time between two writes of a plan for each session
	// in it. What a write costs the API server grows with the sessions, and plans with
	// many of them, those of reflectors, change with every node that joins: so they
	// cost it no more than others.
	sessionSpacing = 10 * time.Millisecond
)

// writes are the writes of plans: at most one of a plan at a time, and a bounded
// number of them at once. They may go on while the next plan is made, which is
// made as if they had succeeded, and nobody had carried them out yet: good enough
// for nodes that have no plan, which need not wait for the slowest write.
type writes struct {
	now  func() time.Time
	room chan struct{} // has an element for each write that goes on

	mu   sync.Mutex
	sent map[string]sent // the last write of each plan, by node
	errs []error         // of writes that ended, until they are asked for
}

// sent is a write of a plan.
type sent struct {
	uid types.UID // of the NodeNetwork; empty while it is created
	// generation is that which came of it: while it goes on, that which it changes.
	generation int64
	at         time.Time // of its end
	flying     bool      // it goes on
	created    bool      // it made the NodeNetwork
	exists     bool      // it was to, but there was one
	// spec is what is written, until the cache has it.
	spec *v1alpha1.NodeNetworkSpec
}

func newWrites(now func() time.Time) *writes {
	return &writes{now: now, room: make(chan struct{}, writers), sent: make(map[string]sent)}
}

// over returns the NodeNetworks of the cache as they are when all that was sent
// is there: the cache comes after it, and older plans would lead to a step of a
// change that is over. flying tells whether some of it may yet fail. The list is
// another, what it has is not to be changed.
func (w *writes) over(networks []v1alpha1.NodeNetwork) (out []v1alpha1.NodeNetwork, flying bool) {
	out = slices.Clone(networks)
	w.mu.Lock()
	defer w.mu.Unlock()
	there := make(map[string]bool, len(out))
	for i := range out {
		there[out[i].Name] = true
	}
	for node, s := range w.sent {
		if s.created && s.spec != nil && !there[node] && w.now().Sub(s.at) < lagLimit {
			nn := v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: node, UID: s.uid, Generation: s.generation}, Spec: *s.spec}
			out = append(out, nn)
		}
	}
	for i := range out {
		nn := &out[i]
		s, ok := w.sent[nn.Name]
		flying = flying || s.flying && s.uid != ""
		switch {
		case !ok || s.spec == nil || s.uid != nn.UID || nn.Generation > s.generation:
		case s.flying:
			nn.Spec, nn.Generation = *s.spec, s.generation+1
		case nn.Generation < s.generation:
			nn.Spec, nn.Generation = *s.spec, s.generation
		default:
			s.spec = nil
			w.sent[nn.Name] = s
		}
	}
	return out, flying
}

// early returns for how long a change of a plan has to wait.
func (w *writes) early(old *v1alpha1.NodeNetwork, spec *v1alpha1.NodeNetworkSpec) time.Duration {
	if old == nil {
		return 0
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.sent[old.Name]
	if s.uid != old.UID {
		return 0
	}
	spacing := time.Duration(max(len(old.Spec.Sessions), len(spec.Sessions))) * sessionSpacing
	return spacing - w.now().Sub(s.at)
}

// busy tells whether a write of a node's plan goes on, or has found just now what
// the cache has yet to show.
func (w *writes) busy(node string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.sent[node]
	return s.flying || s.exists && w.now().Sub(s.at) < existsRetry
}

// start starts the write of a plan, when there is room for it, and tells whether
// it did: not if there is none until the limit is reached. do returns what came of
// it; nothing when somebody else created or deleted the NodeNetwork just now.
func (w *writes) start(ctx context.Context, limit <-chan struct{}, node string, old *v1alpha1.NodeNetwork, spec *v1alpha1.NodeNetworkSpec,
	do func() (types.UID, int64, error),
) bool {
	select {
	case <-limit:
		return false
	default:
	}
	if !w.enter(ctx, limit) {
		return false
	}
	s := sent{flying: true, spec: spec}
	if old != nil {
		s.uid, s.generation = old.UID, old.Generation
	}
	w.mu.Lock()
	w.sent[node] = s
	w.mu.Unlock()
	go func() {
		uid, generation, err := do()
		w.mu.Lock()
		defer w.mu.Unlock()
		switch {
		case err == nil && uid == "" && old == nil:
			w.sent[node] = sent{exists: true, at: w.now()}
		case err != nil || uid == "":
			delete(w.sent, node)
		default:
			w.sent[node] = sent{uid: uid, generation: generation, at: w.now(), created: old == nil, spec: spec}
		}
		if err != nil {
			w.errs = append(w.errs, err)
		}
		<-w.room
	}()
	return true
}

// enter takes room for a write, if there is any before the limit is reached.
func (w *writes) enter(ctx context.Context, limit <-chan struct{}) bool {
	select {
	case w.room <- struct{}{}:
		return true
	default:
	}
	select {
	case <-ctx.Done():
		return false
	case <-limit:
		return false
	case w.room <- struct{}{}:
		return true
	}
}

// wait waits until no write goes on, or the limit is reached. It returns what
// writes failed with since it was last called, and whether some go on.
func (w *writes) wait(ctx context.Context, limit <-chan struct{}) (on bool, err error) {
	free := 0
	for free < writers && w.enter(ctx, limit) {
		free++
	}
	on = free < writers
	for range free {
		<-w.room
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	err = errors.Join(w.errs...)
	w.errs = nil
	return on, err
}

// forget forgets what was written of a plan that is deleted, or will be.
func (w *writes) forget(node string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.sent[node].flying {
		delete(w.sent, node)
	}
}
