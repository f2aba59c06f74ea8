package agent

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/routes"
)

// routeTable is what learned and own routes are handed to; *routes.Table is one.
type routeTable interface {
	Set(c routes.Class, desired []routes.Route)
	Update(c routes.Class, put []routes.Route, remove []netip.Prefix)
	Synced(c routes.Class)
}

// What is learned of nodes waits until nothing has been learned for quiet, or
// for atMost: routes come first, and a table of thousands that comes in is one
// change for the masquerade rules.
const (
	quiet  = 100 * time.Millisecond
	atMost = 2 * time.Second
)

// learned is the speaker's sink: it hands routes on to the table at once, and
// remembers which addresses are nodes, as those behind which nodes have blocks.
// No list of all nodes is needed for that.
type learned struct {
	table   routeTable
	changed chan struct{} // the set of nodes changed; holds at most one
	settled *time.Timer   // runs while there is something pending

	mu       sync.Mutex
	pending  []batch                       // not yet in the fields below
	since    time.Time                     // when the first of pending came
	byPrefix map[netip.Prefix][]netip.Addr // next hops of nodes' blocks
	nodes    map[netip.Addr]int            // how many blocks are behind each
}

// batch is what the speaker told at once.
type batch struct {
	changed []bgp.Route
	gone    []netip.Prefix
}

func newLearned(table routeTable) *learned {
	l := &learned{
		table:    table,
		changed:  make(chan struct{}, 1),
		byPrefix: map[netip.Prefix][]netip.Addr{},
		nodes:    map[netip.Addr]int{},
	}
	l.settled = time.AfterFunc(atMost, l.settle)
	return l
}

// Learned implements bgp.Sink.
func (l *learned) Learned(changed []bgp.Route, gone []netip.Prefix) {
	total := 0
	for _, r := range changed {
		total += len(r.NextHops)
	}
	put := make([]routes.Route, len(changed))
	all := make([]routes.NextHop, 0, total)
	for i, r := range changed {
		first := len(all)
		for _, a := range r.NextHops {
			all = append(all, routes.NextHop{Gateway: a.WithZone(""), Link: a.Zone()})
		}
		put[i] = routes.Route{Dst: r.Prefix, NextHops: all[first:len(all):len(all)]}
	}
	l.table.Update(routes.ClassLearned, put, gone)

	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if len(l.pending) == 0 {
		l.since = now
	}
	l.pending = append(l.pending, batch{changed, gone})
	l.settled.Reset(min(quiet, l.since.Add(atMost).Sub(now)))
}

// settle takes in what is pending.
func (l *learned) settle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	differs := false
	for _, b := range l.pending {
		differs = l.note(b.changed, b.gone) || differs
	}
	l.pending = nil
	if differs {
		signal(l.changed)
	}
}

// InSync implements bgp.Sink.
func (l *learned) InSync() { l.table.Synced(routes.ClassLearned) }

// note keeps the set of nodes and reports whether it changed. The lock is held.
func (l *learned) note(changed []bgp.Route, gone []netip.Prefix) bool {
	differs := false
	drop := func(p netip.Prefix) {
		for _, a := range l.byPrefix[p] {
			if l.nodes[a]--; l.nodes[a] == 0 {
				delete(l.nodes, a)
				differs = true
			}
		}
		delete(l.byPrefix, p)
	}
	for _, r := range changed {
		if r.FromNode && slices.Equal(l.byPrefix[r.Prefix], r.NextHops) {
			continue
		}
		// The new ones are counted before the old ones are dropped, so that a node in
		// both does not come and go.
		if r.FromNode {
			for _, a := range r.NextHops {
				if l.nodes[a]++; l.nodes[a] == 1 {
					differs = true
				}
			}
		}
		drop(r.Prefix)
		if r.FromNode {
			l.byPrefix[r.Prefix] = r.NextHops
		}
	}
	for _, p := range gone {
		drop(p)
	}
	return differs
}

// nodeAddresses returns the nodes that have blocks, sorted, as of the last
// settling.
func (l *learned) nodeAddresses() []netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]netip.Addr, 0, len(l.nodes))
	for a := range l.nodes {
		out = append(out, a)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// signal wakes whoever waits for c, if it is not to be woken already.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
