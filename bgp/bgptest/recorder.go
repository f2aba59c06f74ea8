package bgptest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
)

// patience is how long the helpers wait for what must come.
const patience = 20 * time.Second

// Recorder is a bgp.Sink that keeps the routes it was told of, and a log.
type Recorder struct {
	mu     sync.Mutex
	routes map[netip.Prefix]bgp.Route
	log    []string
	synced int
	turn   chan struct{} // closed and replaced at each change
}

// NewRecorder makes an empty Recorder.
func NewRecorder() *Recorder {
	return &Recorder{routes: make(map[netip.Prefix]bgp.Route), turn: make(chan struct{})}
}

// Learned implements bgp.Sink.
func (r *Recorder) Learned(changed []bgp.Route, gone []netip.Prefix) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range changed {
		r.routes[c.Prefix] = c
		r.log = append(r.log, "+"+line(c))
	}
	for _, p := range gone {
		delete(r.routes, p)
		r.log = append(r.log, "-"+p.String())
	}
	r.next()
}

// InSync implements bgp.Sink.
func (r *Recorder) InSync() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.synced++
	r.log = append(r.log, "in sync")
	r.next()
}

func (r *Recorder) next() {
	close(r.turn)
	r.turn = make(chan struct{})
}

// line shows a route as "10.0.0.0/26 via 10.1.0.1 10.1.0.2".
func line(r bgp.Route) string {
	hops := make([]string, len(r.NextHops))
	for i, h := range r.NextHops {
		hops[i] = h.String()
	}
	return r.Prefix.String() + " via " + strings.Join(hops, " ")
}

// Route returns what was last told of a prefix.
func (r *Recorder) Route(p netip.Prefix) (bgp.Route, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	route, ok := r.routes[p]
	return route, ok
}

// Log returns what was told: "+prefix via next hops", "-prefix", "in sync".
func (r *Recorder) Log() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.log)
}

// WaitRoutes waits until the routes are exactly these, each as
// "prefix via next hops".
func (r *Recorder) WaitRoutes(t testing.TB, want ...string) {
	t.Helper()
	want = slices.Clone(want)
	slices.Sort(want)
	r.wait(t, fmt.Sprintf("the routes are %v", want), func() bool {
		have := make([]string, 0, len(r.routes))
		for _, route := range r.routes {
			have = append(have, line(route))
		}
		slices.Sort(have)
		return slices.Equal(have, want)
	})
}

// WaitInSync waits until InSync was called.
func (r *Recorder) WaitInSync(t testing.TB) {
	t.Helper()
	r.wait(t, "in sync", func() bool { return r.synced > 0 })
}

func (r *Recorder) wait(t testing.TB, what string, so func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for {
		r.mu.Lock()
		ok, turn := so(), r.turn
		r.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-turn:
		case <-deadline:
			t.Fatalf("%s: not so after %v; told was %q", what, patience, r.Log())
		}
	}
}
