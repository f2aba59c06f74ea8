// Package unnumbered finds the routers at the other ends of links by router
// advertisements (RFC 4861), so that a BGP session can be had by the name of an
// interface alone, over IPv6 link-local addresses. It advertises the node in the
// same way, by which the router finds it.
//
//	Set ──▶ wanted ─┐
//	                ├─▶ links ─▶ advertisements, solicitations
//	link changes ───┘    ▲               │
//	                     └── what is heard, Neighbors, Changed
//
// Invariants:
//   - An advertisement says that the node is no default router (lifetime 0), and
//     nothing of prefixes or of an MTU: no host on the link takes anything from it.
//   - A router stays an interface's neighbour as long as the interface is there and
//     no other router is heard instead: whether it lives BGP knows better, and a
//     router that restarts is to find its session as it was.
//   - Of two routers that both answer the first stays, and the other is reported:
//     such a link is not what this is for.
package unnumbered

import (
	"log/slog"
	"net/netip"
	"slices"
	"sync"
)

// Neighbor is what is known of the other end of an interface's link.
type Neighbor struct {
	Interface string
	// Address is the router's link-local address, with the interface as its zone; zero:
	// none is known.
	Address netip.Addr
	// Source is ours, by which the router knows the node; zero with Address.
	Source netip.Addr
	// Problem says why no router is known, or what is not as it should be though one
	// is; empty: all is well.
	Problem string
}

// Options are what a Finder needs for life.
type Options struct {
	Log *slog.Logger // nil discards it
}

// Finder finds the routers on links. Make one with New and have it Run. Its
// methods may be called concurrently.
type Finder struct {
	log     *slog.Logger
	changed chan struct{} // holds at most one
	wake    chan struct{} // holds at most one

	mu     sync.Mutex
	wanted []string // sorted
	known  []Neighbor
}

// New makes a Finder that looks for nothing yet.
func New(o Options) *Finder {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Finder{log: o.Log, changed: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
}

// Set says on which interfaces routers are to be found, all of them at once.
// Interfaces that are not there yet are looked for until they are. It is
// idempotent.
func (f *Finder) Set(interfaces []string) {
	wanted := slices.Compact(slices.Sorted(slices.Values(interfaces)))
	f.mu.Lock()
	same := slices.Equal(wanted, f.wanted)
	f.wanted = wanted
	f.mu.Unlock()
	if !same {
		signal(f.wake)
	}
}

// Neighbors returns what is known of each interface that was asked for last,
// sorted by their names.
func (f *Finder) Neighbors() []Neighbor {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]Neighbor, len(f.wanted))
	for i, name := range f.wanted {
		out[i] = Neighbor{Interface: name, Problem: notHeard(name)}
		if j := slices.IndexFunc(f.known, func(n Neighbor) bool { return n.Interface == name }); j >= 0 {
			out[i] = f.known[j]
		}
	}
	return out
}

// Changed wakes whoever waits for it when Neighbors are others than before.
func (f *Finder) Changed() <-chan struct{} { return f.changed }

// asked returns what was Set last.
func (f *Finder) asked() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.wanted
}

// tell makes known what is known.
func (f *Finder) tell(known []Neighbor) {
	f.mu.Lock()
	same := slices.Equal(known, f.known)
	f.known = known
	f.mu.Unlock()
	if !same {
		signal(f.changed)
	}
}

// signal wakes whoever waits for c, if it is not to be woken already.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
