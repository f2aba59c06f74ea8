package agent

import (
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/routes"
)

// routeTable is what learned and own routes are handed to; *routes.Table is one.
type routeTable interface {
	Set(c routes.Class, desired []routes.Route)
	Update(c routes.Class, put []routes.Route, remove []netip.Prefix)
	Synced(c routes.Class)
}

// peerAdder takes the addresses of nodes behind tunnels; *tunnel.Table is one.
type peerAdder interface {
	AddPeers(peers []netip.Addr) error
}

// What is learned of nodes waits until nothing has been learned for quiet, or
// for atMost: routes come first, and a table of thousands that comes in is one
// change for the masquerade rules.
const (
	quiet  = 100 * time.Millisecond
	atMost = 2 * time.Second
)

// learned is the speaker's sink: it hands routes on to the table at once, each
// with its encapsulation, and remembers which addresses are nodes, as those
// behind which nodes have blocks. No list of all nodes is needed for that.
type learned struct {
	table   routeTable
	tunnels peerAdder
	log     *slog.Logger
	changed chan struct{} // the set of nodes changed, or all is learned; holds at most one
	settled *time.Timer   // runs while there is something pending

	mu      sync.Mutex
	inSync  bool
	encap   *encapsulation
	peers   map[netip.Addr]bool        // that tunnels were told of
	pending []batch                    // not yet in the fields below
	since   time.Time                  // when the first of pending came
	known   map[netip.Prefix]bgp.Route // all that is learned
	nodes   map[netip.Addr]int         // how many blocks are behind each
	blocks  int                        // how many blocks of other nodes are known
	digest  uint64                     // of them, as v1alpha1.BlockDigest
}

// batch is what the speaker told at once.
type batch struct {
	changed []bgp.Route
	gone    []netip.Prefix
}

func newLearned(table routeTable, tunnels peerAdder, log *slog.Logger) *learned {
	l := &learned{
		table:   table,
		tunnels: tunnels,
		log:     log,
		changed: make(chan struct{}, 1),
		encap:   &encapsulation{},
		peers:   map[netip.Addr]bool{},
		known:   map[netip.Prefix]bgp.Route{},
		nodes:   map[netip.Addr]int{},
	}
	l.settled = time.AfterFunc(atMost, l.settle)
	return l
}

// Learned implements bgp.Sink.
func (l *learned) Learned(changed []bgp.Route, gone []netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.table.Update(routes.ClassLearned, l.routes(changed), gone)

	now := time.Now()
	if len(l.pending) == 0 {
		l.since = now
	}
	l.pending = append(l.pending, batch{changed, gone})
	l.settled.Reset(min(quiet, l.since.Add(atMost).Sub(now)))
}

// routes puts what was learned into the kernel's terms. The nodes that it leads
// to by tunnels are made known to these first, so that no packet finds a route
// but not the node. The lock is held.
func (l *learned) routes(learned []bgp.Route) []routes.Route {
	total := 0
	for _, r := range learned {
		total += len(r.NextHops)
	}
	out := make([]routes.Route, len(learned))
	all := make([]routes.NextHop, 0, total)
	var peers []netip.Addr
	for i, r := range learned {
		first := len(all)
		all = l.encap.appendNextHops(all, r)
		for j, h := range all[first:] {
			if h.OnLink && !l.peers[r.NextHops[j]] {
				l.peers[r.NextHops[j]] = true
				peers = append(peers, r.NextHops[j])
			}
		}
		out[i] = routes.Route{Dst: r.Prefix, NextHops: all[first:len(all):len(all)]}
	}
	if len(peers) > 0 {
		if err := l.tunnels.AddPeers(peers); err != nil {
			// The next pass tries again, and reports what is the matter.
			l.log.Warn("can't make nodes known to the tunnels yet", "nodes", len(peers), "error", err)
		}
	}
	return out
}

// setEncapsulation makes routes go as e says from now on, those that are there
// included: each is replaced, in one message.
func (l *learned) setEncapsulation(e *encapsulation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if reflect.DeepEqual(e, l.encap) {
		return
	}
	l.encap = e
	l.takePending()
	if len(l.known) == 0 {
		return
	}
	l.table.Set(routes.ClassLearned, l.routes(slices.Collect(maps.Values(l.known))))
}

// encapsulation returns how routes go now.
func (l *learned) encapsulation() *encapsulation {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.encap
}

// withNodes calls f with the nodes that have blocks, while no other comes: if they
// are all that there are to learn, f may make them the whole of what tunnels know.
func (l *learned) withNodes(f func(nodes []netip.Addr, all bool) []netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.takePending()
	peers := f(l.sortedNodes(), l.inSync)
	clear(l.peers)
	for _, a := range peers {
		l.peers[a] = true
	}
}

// settle takes in what is pending.
func (l *learned) settle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.takePending()
}

// takePending takes in what is pending, and tells if the nodes are others now.
// The lock is held.
func (l *learned) takePending() {
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
func (l *learned) InSync() {
	l.table.Synced(routes.ClassLearned)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.takePending() // the nodes are complete, too
	l.inSync = true
	signal(l.changed)
}

// complete tells whether what is known is all there is to learn. Nodes that are
// asked for after it are complete, too.
func (l *learned) complete() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.inSync
}

// departed tells which of the blocks somebody announces: those that there is a
// route to, and those that routers announce, which a node does not take of them.
// Before everything is learned it does not know, and says nothing.
func (l *learned) departed(blocks, byRouters []netip.Prefix) []v1alpha1.DepartedBlock {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.inSync || len(blocks) == 0 {
		return nil
	}
	l.takePending()
	out := make([]v1alpha1.DepartedBlock, len(blocks))
	for i, b := range blocks {
		_, announced := l.known[b]
		out[i] = v1alpha1.DepartedBlock{CIDR: b.String(), Announced: announced || slices.Contains(byRouters, b)}
	}
	return out
}

// note keeps what is known and reports whether the set of nodes changed. The
// lock is held.
func (l *learned) note(changed []bgp.Route, gone []netip.Prefix) bool {
	differs := false
	drop := func(p netip.Prefix) {
		if old := l.known[p]; old.FromNode {
			l.blocks--
			l.digest ^= v1alpha1.BlockDigest(p)
			for _, a := range old.NextHops {
				if l.nodes[a]--; l.nodes[a] == 0 {
					delete(l.nodes, a)
					differs = true
				}
			}
		}
	}
	for _, r := range changed {
		if old := l.known[r.Prefix]; r.FromNode && old.FromNode && slices.Equal(old.NextHops, r.NextHops) {
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
			l.blocks++
			l.digest ^= v1alpha1.BlockDigest(r.Prefix)
		}
		l.known[r.Prefix] = r
	}
	for _, p := range gone {
		drop(p)
		delete(l.known, p)
	}
	return differs
}

// announced tells whether another node announces any of a block.
func (l *learned) announced(block netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.takePending()
	if r, ok := l.known[block]; ok {
		return r.FromNode
	}
	for p, r := range l.known {
		if r.FromNode && p.Overlaps(block) {
			return true
		}
	}
	return false
}

// summary says which blocks of other nodes are known, as of the last settling.
func (l *learned) summary() v1alpha1.LearnedBlocks {
	l.mu.Lock()
	defer l.mu.Unlock()
	return v1alpha1.NewLearnedBlocks(l.blocks, l.digest)
}

// nodeAddresses returns the nodes that have blocks, sorted, as of the last
// settling.
func (l *learned) nodeAddresses() []netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sortedNodes()
}

func (l *learned) sortedNodes() []netip.Addr {
	return slices.SortedFunc(maps.Keys(l.nodes), netip.Addr.Compare)
}

// signal wakes whoever waits for c, if it is not to be woken already.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
