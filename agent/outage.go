package agent

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/internal/untiring"
)

const (
	probeInterval = time.Second // about how often an agent asks whether the API server is back
	probeTimeout  = 15 * time.Second
	mostPause     = 30 * time.Second // between watches that fail again and again though the server answers
)

// noticing tells of every watch that begins, with nil, and of every request that
// fails, with its error.
type noticing struct {
	client.WithWatch
	notice func(err error)
}

// List implements client.Reader.
func (n noticing) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	err := n.WithWatch.List(ctx, list, opts...)
	if err != nil {
		n.notice(err)
	}
	return err
}

// Watch implements client.WithWatch.
func (n noticing) Watch(ctx context.Context, list client.ObjectList, opts ...client.ListOption) (watch.Interface, error) {
	w, err := n.WithWatch.Watch(ctx, list, opts...)
	n.notice(err)
	return w, err
}

// absence knows whether the API server is away, as far as the watch of the plan
// has found. Its methods may be called concurrently.
type absence struct {
	mu   sync.Mutex
	over chan struct{} // closed at the end; nil: it is not away
}

func (a *absence) begin() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over = make(chan struct{})
}

func (a *absence) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.over)
	a.over = nil
}

// away returns a channel that is closed when the server is back; nil: it is not
// known to be away.
func (a *absence) away() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.over
}

// untiringClient lists and watches through outages: what it is asked for is
// answered soon after the server's return.
type untiringClient struct {
	client.WithWatch
	o untiring.Options
}

// List implements client.Reader.
func (c untiringClient) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	_, err := untiring.Again(ctx, c.o, func() (any, error) { return nil, c.WithWatch.List(ctx, list, opts...) })
	return err
}

// Watch implements client.WithWatch.
func (c untiringClient) Watch(ctx context.Context, list client.ObjectList, opts ...client.ListOption) (watch.Interface, error) {
	return untiring.Again(ctx, c.o, func() (watch.Interface, error) { return c.WithWatch.Watch(ctx, list, opts...) })
}

// watchPlan hands the node's plan to the loop whenever it changes, and has the
// node's blocks verified and its status written whenever the watch had to begin
// anew: after an outage the API server may have another state than before it, as
// when etcd was restored from a snapshot. Watches also end every few minutes by
// themselves, so nothing stays unnoticed for longer.
//
// After a failure the watch is not gone on with but begun as if there had been
// none. That is sooner, as a watch that failed for long is tried again only every
// minute; and an API server whose state is older than before would not tell of a
// change until it had made as many as it lost.
func (a *Agent) watchPlan(ctx context.Context) {
	pause := probeInterval
	for ctx.Err() == nil {
		if begun := a.watchPlanOnce(ctx); begun {
			pause = probeInterval
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + rand.N(pause)): // #nosec G404 -- no secret
		}
		pause = min(2*pause, mostPause)
	}
}

// watchPlanOnce watches until ctx ends, or the API server is back after a failure.
// It tells whether the watch had begun.
func (a *Agent) watchPlanOnce(ctx context.Context) (begun bool) {
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	end := func() bool {
		cancel()
		done.Wait() // before begun is read
		return begun
	}
	again, failed := make(chan struct{}, 1), make(chan struct{}, 1)
	c := noticing{a.o.Client, func(err error) {
		a.noteCRDs(err)
		switch {
		case err != nil:
			signal(failed)
		case begun:
			signal(again)
		default:
			begun = true
		}
	}}
	done.Go(func() {
		key := client.ObjectKey{Name: a.o.Node}
		watchOne(ctx, c, key, &v1alpha1.NodeNetwork{}, &v1alpha1.NodeNetworkList{}, a.takePlan)
	})
	for {
		select {
		case <-ctx.Done():
			return end()
		case <-again:
			a.mistrust()
		case <-failed:
			a.absence.begin()
			a.probe(ctx)
			a.absence.end()
			a.mistrust()
			return end()
		}
	}
}

// mistrust makes the agent not take for granted what it has written to the API. A
// status that is there already costs the API server nothing but the request.
func (a *Agent) mistrust() {
	a.addresses.Recheck()
	signal(a.rewrite)
}

// takePlan hands a plan to the loop.
func (a *Agent) takePlan(n *v1alpha1.NodeNetwork, found bool) {
	if !found {
		a.log.Info("there is no plan for this node (yet); what works goes on working", "nodenetwork", a.o.Node)
		return
	}
	p := plan{generation: n.Generation, uid: n.UID, spec: n.Spec}
	select {
	case <-a.plans: // an older one that nobody took
	default:
	}
	a.plans <- p // the only sender: there is room
}

// probe asks the API server until it answers, or ctx ends. It is one small
// request, and comes much sooner than a watch that failed for long is tried again.
func (a *Agent) probe(ctx context.Context) {
	for {
		pctx, cancel := context.WithTimeout(ctx, probeTimeout)
		err := a.o.Client.Get(pctx, client.ObjectKey{Name: a.o.Node}, &v1alpha1.NodeNetwork{})
		cancel()
		if client.IgnoreNotFound(err) == nil || ctx.Err() != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(probeInterval + rand.N(probeInterval)): // #nosec G404 -- no secret
		}
	}
}
