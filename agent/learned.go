package agent

import (
	"net/netip"
	"slices"
	"sync"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/routes"
)

// routeTable is what learned and own routes are handed to; *routes.Table is one.
type routeTable interface {
	Set(c routes.Class, desired []routes.Route)
	Update(c routes.Class, put []routes.Route, remove []netip.Prefix)
	Synced(c routes.Class)
}

// learned is the speaker's sink: it hands routes on to the table and remembers
// which addresses are nodes, as those behind which nodes have blocks. No list
// of all nodes is needed for that.
type learned struct {
	table   routeTable
	changed chan struct{} // the set of nodes changed; holds at most one

	mu       sync.Mutex
	byPrefix map[netip.Prefix][]netip.Addr // next hops of nodes' blocks
	nodes    map[netip.Addr]int            // how many blocks are behind each
}

func newLearned(table routeTable) *learned {
	return &learned{
		table:    table,
		changed:  make(chan struct{}, 1),
		byPrefix: map[netip.Prefix][]netip.Addr{},
		nodes:    map[netip.Addr]int{},
	}
}

// Learned implements bgp.Sink.
func (l *learned) Learned(changed []bgp.Route, gone []netip.Prefix) {
	put := make([]routes.Route, len(changed))
	for i, r := range changed {
		hops := make([]routes.NextHop, len(r.NextHops))
		for j, a := range r.NextHops {
			hops[j] = routes.NextHop{Gateway: a.WithZone(""), Link: a.Zone()}
		}
		put[i] = routes.Route{Dst: r.Prefix, NextHops: hops}
	}
	l.table.Update(routes.ClassLearned, put, gone)
	if l.note(changed, gone) {
		signal(l.changed)
	}
}

// InSync implements bgp.Sink.
func (l *learned) InSync() { l.table.Synced(routes.ClassLearned) }

// note keeps the set of nodes and reports whether it changed.
func (l *learned) note(changed []bgp.Route, gone []netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
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

// nodeAddresses returns the nodes that have blocks, sorted.
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
