package gobgp

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/godwit-net/godwit/bgp"
)

const (
	// settle is how long a change waits for its fellows before it is delivered.
	settle = time.Millisecond
	// quiet is how long after a session came up a peer that sends no End-of-RIB is
	// taken to have sent everything.
	quiet = time.Second
)

// learned keeps, for each prefix, the best ways as GoBGP reports them, one
// change at a time, and tells the sink of prefixes whose outcome changed.
//
//	GoBGP ── changes ──▶ routes, dirty ── run, one goroutine ──▶ Sink
//
// While the sink is busy, changes gather; what gathers is bounded by the
// number of prefixes. A prefix that has come back to what the sink knows is not
// reported.
type learned struct {
	sink    bgp.Sink
	timeout time.Duration
	wake    chan struct{}
	done    chan struct{}
	ended   chan struct{}

	mu     sync.Mutex
	epoch  int // of the server whose changes count
	routes map[netip.Prefix]*route
	dirty  []*route
	peers  map[netip.Addr]*source
	began  time.Time // of the first Set; zero: none yet
	synced bool      // InSync was or is about to be called
	open   bool      // who else will call is not known
	closed bool
	// gone are the prefixes that are no more, with the time: some peers may not have
	// been told, see announceMissed. Of learned ones there is need to know only as
	// long as they are passed on.
	gone     map[netip.Prefix]time.Time
	passesOn bool

	turned atomic.Int64 // when the best paths, our own among them, last changed; Unix time in ns
}

// route is a prefix with its ways, and what the sink was told of it.
type route struct {
	prefix   netip.Prefix
	ways     []way
	dirty    bool
	told     []netip.Addr // nil: the sink knows no such route
	toldNode bool
}

// way is a path of a peer; a peer may have several only with add-path.
type way struct {
	peer netip.Addr
	id   uint32
	hop  netip.Addr
}

// source is a peer that routes are expected of.
type source struct {
	kind     bgp.PeerKind
	families bgp.Families // that it is offered
	sendsEOR bool         // as far as we are concerned
	awaited  bgp.Families // End-of-RIB has not come yet of these
	complete bool         // it has sent everything at least once
	changes  int          // counts the changes of its session's state
}

func newLearned(sink bgp.Sink, timeout time.Duration) *learned {
	l := &learned{
		sink: sink, timeout: timeout,
		wake: make(chan struct{}, 1), done: make(chan struct{}), ended: make(chan struct{}),
		routes: make(map[netip.Prefix]*route),
		peers:  make(map[netip.Addr]*source),
		gone:   make(map[netip.Prefix]time.Time),
	}
	go l.run()
	return l
}

// newEpoch makes changes of earlier servers void.
func (l *learned) newEpoch() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.epoch++
	return l.epoch
}

// paths takes a change of best paths: withdrawals come before updates.
func (l *learned) paths(epoch int, paths []*apiutil.Path) {
	now := time.Now()
	l.turned.Store(now.UnixNano())
	l.mu.Lock()
	defer l.mu.Unlock()
	if epoch != l.epoch || l.closed {
		return
	}
	for _, p := range paths {
		if !p.PeerAddress.IsValid() {
			continue // our own
		}
		nlri, ok := p.Nlri.(*packet.IPAddrPrefix)
		if !ok {
			continue
		}
		l.noteGone(nlri.Prefix, p.Withdrawal, now)
		l.path(nlri.Prefix, way{peer: p.PeerAddress.Unmap(), id: p.RemoteID, hop: nextHop(p)})
	}
}

// path notes a way to a prefix; one without a next hop is no way any more.
func (l *learned) path(prefix netip.Prefix, w way) {
	r := l.routes[prefix]
	if r == nil {
		if !w.hop.IsValid() {
			return
		}
		r = &route{prefix: prefix}
		l.routes[prefix] = r
	}
	i := slices.IndexFunc(r.ways, func(o way) bool { return o.peer == w.peer && o.id == w.id })
	switch {
	case !w.hop.IsValid() && i < 0:
		return
	case !w.hop.IsValid():
		r.ways = slices.Delete(r.ways, i, i+1)
	case i < 0:
		r.ways = append(r.ways, w)
	default:
		r.ways[i] = w
	}
	l.touch(r)
}

// lost takes a peer's ways away at once where there are others, so that they go
// as one change. GoBGP withdraws them, too, but one by one: of each thousand
// the last goes some 20 ms after the first. Where there is no
// other way GoBGP may know a worse one, and tells it with the withdrawal.
func (l *learned) lost(epoch int, peer netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if epoch != l.epoch || l.closed {
		return
	}
	for _, r := range l.routes {
		others := 0
		for _, w := range r.ways {
			if w.peer != peer {
				others++
			}
		}
		if others == 0 || others == len(r.ways) {
			continue
		}
		r.ways = slices.DeleteFunc(r.ways, func(w way) bool { return w.peer == peer })
		l.touch(r)
	}
}

func (l *learned) touch(r *route) {
	if !r.dirty {
		r.dirty = true
		l.dirty = append(l.dirty, r)
	}
	l.signal()
}

func (l *learned) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// nextHop is where a path leads, or the zero Addr for a withdrawal and for what
// can't be a next hop. Of a global and a link-local address GoBGP keeps the global
// one.
//
// That a next hop can't be used comes out here, after GoBGP's choice: a policy
// that is set as a whole can't speak of ranges of next hops. So a path that
// can't be used hides worse ones, though not equal ones.
func nextHop(p *apiutil.Path) netip.Addr {
	prefix, ok := p.Nlri.(*packet.IPAddrPrefix)
	if !ok || p.Withdrawal {
		return netip.Addr{}
	}
	var hop netip.Addr
	for _, a := range p.Attrs {
		switch a := a.(type) {
		case *packet.PathAttributeNextHop:
			if !hop.IsValid() {
				hop = a.Value
			}
		case *packet.PathAttributeMpReachNLRI:
			hop = a.Nexthop // beside it the other says nothing (RFC 4760, section 3)
		}
	}
	if hop.IsLoopback() && !p.PeerAddress.Unmap().IsLoopback() {
		return netip.Addr{}
	}
	return bgp.NextHopOf(p.PeerAddress.Unmap(), prefix.Prefix, hop)
}

// setPeers says whose routes to expect, and of which kind they are.
func (l *learned) setPeers(c bgp.Config, peers map[netip.Addr]bgp.Peer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = len(c.Callers) > 0
	l.passesOn = c.Reflector || slices.ContainsFunc(c.Peers, func(p bgp.Peer) bool { return len(exportRulesOf(p)) > 0 })
	changed := make(map[netip.Addr]bool)
	for addr, p := range peers {
		s := l.peers[addr]
		if s == nil {
			s = &source{kind: p.Kind}
			l.peers[addr] = s
		}
		if s.kind != p.Kind {
			s.kind = p.Kind
			changed[addr] = true
		}
		s.sendsEOR, s.families = p.GracefulRestart > 0, c.Families(addr)
	}
	for addr := range l.peers {
		if _, wanted := peers[addr]; !wanted {
			delete(l.peers, addr)
		}
	}
	if len(changed) > 0 {
		for _, r := range l.routes {
			if slices.ContainsFunc(r.ways, func(w way) bool { return changed[w.peer] }) {
				l.touch(r)
			}
		}
	}
	l.signal() // the peers that all waited for may be gone
}

// anyWithin reports whether a route is known to one of the prefixes or inside.
func (l *learned) anyWithin(owns []own) bool {
	if len(owns) == 0 {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for known := range l.routes {
		for _, o := range owns {
			if o.prefix.Bits() <= known.Bits() && o.prefix.Contains(known.Addr()) {
				return true
			}
		}
	}
	return false
}

// forget takes all ways away; the sink is told unless learned is stopped.
func (l *learned) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.epoch++
	clear(l.gone)
	for _, r := range l.routes {
		r.ways = nil
		l.touch(r)
	}
}

// take returns what the sink is to be told now.
func (l *learned) take() (changed []bgp.Route, gone []netip.Prefix, inSync bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, nil, false
	}
	for _, r := range l.dirty {
		r.dirty = false
		if len(r.ways) == 0 {
			delete(l.routes, r.prefix)
			if r.told != nil {
				gone = append(gone, r.prefix)
				r.told = nil
			}
			continue
		}
		hops, node := l.outcome(r)
		if r.told != nil && node == r.toldNode && slices.Equal(hops, r.told) {
			continue
		}
		r.told, r.toldNode = hops, node
		changed = append(changed, bgp.Route{Prefix: r.prefix, NextHops: slices.Clone(hops), FromNode: node})
	}
	l.dirty = l.dirty[:0]
	if !l.synced && l.complete() {
		l.synced, inSync = true, true
	}
	return changed, gone, inSync
}

// outcome is what a route's ways come to.
func (l *learned) outcome(r *route) (hops []netip.Addr, fromNode bool) {
	hops = make([]netip.Addr, 0, len(r.ways))
	for _, w := range r.ways {
		hops = append(hops, w.hop)
		if s := l.peers[w.peer]; s != nil && s.kind == bgp.PeerNode {
			fromNode = true
		}
	}
	if len(hops) > 1 {
		slices.SortFunc(hops, netip.Addr.Compare)
		hops = slices.Compact(hops)
	}
	return hops, fromNode
}

// run delivers until stop.
func (l *learned) run() {
	defer close(l.ended)
	timer := time.NewTimer(0)
	<-timer.C
	for {
		select {
		case <-l.done:
			return
		case <-l.wake:
		}
		timer.Reset(settle)
		select {
		case <-l.done:
			return
		case <-timer.C:
		}
		changed, gone, inSync := l.take()
		if len(changed) > 0 || len(gone) > 0 {
			l.sink.Learned(changed, gone)
		}
		if inSync {
			l.sink.InSync()
		}
	}
}

// stop ends the delivery; after it the sink is not called any more.
func (l *learned) stop() {
	l.mu.Lock()
	closed := l.closed
	l.closed = true
	l.mu.Unlock()
	if !closed {
		close(l.done)
	}
	<-l.ended
}
