// Package bgptest is for tests around BGP: a Speaker that behaves without a
// network, a Recorder of what a Speaker learns, and the Conformance suite that
// the Speaker here and the real one pass alike. The package sender has a
// speaker to measure with, the package router runs BIRD and FRR.
package bgptest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/godwit-net/godwit/bgp"
)

// Options are what a Speaker needs for life.
type Options struct {
	Sink bgp.Sink
	// Local is the speaker's address in its sessions.
	Local netip.Addr
	// SyncTimeout bounds the waiting for peers before InSync. Zero: 10 s.
	SyncTimeout time.Duration
}

// Speaker is a bgp.Speaker in memory. Around it are Routers, in the hands of
// the test. It decides as the real one does: import policy, equal paths,
// graceful restart, limits of prefixes, End-of-RIB.
type Speaker struct {
	options Options

	mu       sync.Mutex
	turn     *sync.Cond // signalled at each change
	config   bgp.Config
	peers    map[netip.Addr]bgp.Peer
	state    map[netip.Addr]*session
	called   map[netip.Addr]bool // callers that became peers
	routers  map[netip.Addr]*Neighbor
	told     map[netip.Prefix]bgp.Route
	began    time.Time
	synced   bool
	stopped  bool
	delivery chan struct{} // closed when nothing is delivered any more
}

// session is the speaker's side of a session. It outlives the session itself.
type session struct {
	up       bool
	since    time.Time
	message  string
	held     bool         // down for exceeding the limit of prefixes
	carried  bgp.Families // by both sides
	awaited  bgp.Families // End-of-RIB has not come yet of these
	complete bool         // all that were awaited came once
	routes   map[netip.Prefix]path
	expiry   *time.Timer // of stale routes
}

// path is a route as a peer announced it.
type path struct {
	hop    netip.Addr
	length int
	stale  bool
}

var _ bgp.Speaker = (*Speaker)(nil)

// New makes a Speaker.
func New(o Options) *Speaker {
	if o.SyncTimeout == 0 {
		o.SyncTimeout = 10 * time.Second
	}
	s := &Speaker{
		options: o,
		peers:   make(map[netip.Addr]bgp.Peer), state: make(map[netip.Addr]*session), called: make(map[netip.Addr]bool),
		routers: make(map[netip.Addr]*Neighbor), told: make(map[netip.Prefix]bgp.Route),
		delivery: make(chan struct{}),
	}
	s.turn = sync.NewCond(&s.mu)
	go s.deliver()
	return s
}

// Set implements bgp.Speaker.
func (s *Speaker) Set(_ context.Context, c bgp.Config) error {
	if err := c.Check(); err != nil {
		return err
	}
	wanted := c.Peers
	c, err := c.Usable()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return errors.New("the speaker is stopped")
	}
	want := make(map[netip.Addr]bgp.Peer, len(c.Peers))
	for _, p := range c.Peers {
		want[p.Address] = p
	}
	for _, p := range wanted { // a known peer that became unusable stays as it was, but not with a former password
		if _, ok := want[p.Address]; !ok && !s.called[p.Address] {
			if former, known := s.peers[p.Address]; known && former.Password == p.Password {
				want[p.Address] = former
			}
		}
	}
	for addr := range s.called {
		if p, ok := c.Caller(addr); ok {
			want[addr] = p
		} else {
			delete(s.called, addr)
		}
	}
	whole := s.config.ASN != c.ASN || s.config.RouterID != c.RouterID || s.config.ListenPort != c.ListenPort ||
		!slices.Equal(s.config.ListenAddresses, c.ListenAddresses)
	for addr, p := range s.peers {
		other := s.config.Families(addr) != c.Families(addr)
		if w, keep := want[addr]; !keep || whole || other || len(p.ResetFor(w)) > 0 {
			s.end(addr, "", true)
			delete(s.state, addr)
		} else if st := s.state[addr]; st.held && w.MaxPrefixes != p.MaxPrefixes {
			st.held = false
		}
	}
	for addr := range want {
		if s.state[addr] == nil {
			s.state[addr] = &session{message: "can't connect: connection refused", routes: make(map[netip.Prefix]path)}
		}
	}
	s.config, s.peers = c, want
	if s.began.IsZero() {
		s.began = time.Now()
		time.AfterFunc(s.options.SyncTimeout, s.turn.Broadcast)
	}
	s.turn.Broadcast()
	return err
}

// end ends a session, and drops what it brought.
func (s *Speaker) end(addr netip.Addr, why string, cease bool) {
	st := s.state[addr]
	if st == nil {
		return
	}
	if st.up {
		st.up, st.since = false, time.Now()
		if r := s.routers[addr]; r != nil {
			r.hungUp(cease)
		}
	}
	st.message = why
	if st.expiry != nil {
		st.expiry.Stop()
	}
	clear(st.routes)
	s.turn.Broadcast()
}

// Sessions implements bgp.Speaker.
func (s *Speaker) Sessions(context.Context) ([]bgp.Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]bgp.Session, 0, len(s.peers))
	for addr, p := range s.peers {
		st := s.state[addr]
		one := bgp.Session{Name: p.Name, Kind: p.Kind, Address: addr, ASN: p.ASN, State: bgp.StateActive, Since: st.since, Message: st.message}
		switch {
		case st.held:
			one.State = bgp.StateIdle
		case st.up:
			one.State, one.Message, one.Received = bgp.StateEstablished, "", len(st.routes)
			one.Advertised = len(s.announced(p, st))
			for prefix, path := range st.routes {
				if s.takes(p, prefix, path) {
					one.Accepted++
				} else if p.Kind == bgp.PeerNode && p.Reflection != bgp.ReflectionServer && !s.config.Accepts(p, path.announcement(p, prefix)) {
					one.Refused = append(one.Refused, prefix)
				}
			}
			slices.SortFunc(one.Refused, netip.Prefix.Compare)
			one.RefusedCount = len(one.Refused)
			one.Refused = one.Refused[:min(one.RefusedCount, 8)]
		}
		out = append(out, one)
	}
	slices.SortFunc(out, func(a, b bgp.Session) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// Announced implements bgp.Speaker.
func (s *Speaker) Announced(_ context.Context, prefixes []netip.Prefix) ([]netip.Prefix, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	announced := func(p netip.Prefix) bool {
		for addr, peer := range s.peers {
			if _, ok := s.state[addr].routes[p]; ok && peer.Kind == bgp.PeerExternal {
				return true
			}
		}
		return false
	}
	var found []netip.Prefix
	for _, p := range prefixes {
		if announced(p) {
			found = append(found, p)
		}
	}
	slices.SortFunc(found, netip.Prefix.Compare)
	return found, nil
}

// Stop implements bgp.Speaker.
func (s *Speaker) Stop(_ context.Context, mode bgp.StopMode) error {
	s.mu.Lock()
	if !s.stopped {
		s.stopped = true
		for addr := range s.peers {
			s.end(addr, "", mode == bgp.StopLeave)
		}
		s.turn.Broadcast()
	}
	s.mu.Unlock()
	<-s.delivery
	return nil
}

// announced are the prefixes that a peer is sent, with their next hops: of the
// families that its session carries, as its export rules say.
func (s *Speaker) announced(peer bgp.Peer, st *session) map[netip.Prefix]netip.Addr {
	out := make(map[netip.Prefix]netip.Addr)
	export := s.config.Exporter(peer)
	for _, p := range s.config.Originates() {
		if _, ok := export(s.config.Originated(p)); ok && st.carried.Has(bgp.FamilyOf(p.Addr())) {
			out[p] = s.hop(peer.Address, p)
		}
	}
	internal := peer.ASN == s.config.ASN
	_, sources := s.best()
	for p, source := range sources {
		from := s.peers[source]
		learned := s.state[source].routes[p]
		a := learned.announcement(from, p)
		a.From, a.Reflected = bgp.Origin(from.Kind), from.Reflection == bgp.ReflectionServer
		between := from.Kind == bgp.PeerNode && peer.Kind == bgp.PeerNode
		// The peer's AS is in the path, or both are of our AS and we don't reflect between them.
		loop := from.Address == peer.Address || from.ASN == peer.ASN && !between
		if _, ok := export(a); !ok || loop || !st.carried.Has(bgp.FamilyOf(p.Addr())) {
			continue
		}
		out[p] = learned.hop
		if peer.NextHop == bgp.NextHopSelf || peer.NextHop == bgp.NextHopAuto && !internal {
			out[p] = s.hop(peer.Address, p)
		}
	}
	return out
}

// hop is the next hop by which a peer is told one of our prefixes.
func (s *Speaker) hop(peer netip.Addr, p netip.Prefix) netip.Addr {
	f := bgp.FamilyOf(p.Addr())
	if hop, given := s.config.NextHop(f); given && bgp.FamilyOf(peer) != f && !bgp.IsLinkLocal(peer) {
		return hop
	}
	return s.options.Local
}

// takes reports whether the import policy accepts a path from a peer.
func (s *Speaker) takes(peer bgp.Peer, prefix netip.Prefix, p path) bool {
	return bgp.NextHopOf(peer.Address, prefix, p.hop).IsValid() && s.config.Accepts(peer, p.announcement(peer, prefix))
}

// announcement is a path as rules see it: the AS path has the peer's number only.
func (p path) announcement(peer bgp.Peer, prefix netip.Prefix) bgp.Announcement {
	return bgp.Announcement{Prefix: prefix, ASPath: strings.TrimSpace(strings.Repeat(fmt.Sprintf("%d ", peer.ASN), p.length))}
}

// deliver tells the sink what is new until the speaker is stopped. It looks at
// the whole state each time, which is fit for a fake only.
func (s *Speaker) deliver() {
	defer close(s.delivery)
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.stopped {
		changed, gone := s.news()
		inSync := !s.synced && s.complete()
		if len(changed) == 0 && len(gone) == 0 && !inSync {
			s.turn.Wait()
			continue
		}
		s.synced = s.synced || inSync
		s.mu.Unlock()
		if len(changed) > 0 || len(gone) > 0 {
			s.options.Sink.Learned(changed, gone)
		}
		if inSync {
			s.options.Sink.InSync()
		}
		s.mu.Lock()
	}
}

func (s *Speaker) complete() bool {
	if s.began.IsZero() {
		return false
	}
	if len(s.config.Callers) > 0 && time.Since(s.began) < s.options.SyncTimeout {
		return false
	}
	for _, st := range s.state {
		if !st.complete {
			return time.Since(s.began) >= s.options.SyncTimeout
		}
	}
	return len(s.state) > 0 || time.Since(s.began) >= s.options.SyncTimeout
}

// news compares the best ways with what the sink was told.
func (s *Speaker) news() (changed []bgp.Route, gone []netip.Prefix) {
	best, _ := s.best()
	for p, r := range best {
		if old, known := s.told[p]; !known || old.FromNode != r.FromNode || !slices.Equal(old.NextHops, r.NextHops) {
			s.told[p] = r
			r.NextHops = slices.Clone(r.NextHops)
			changed = append(changed, r)
		}
	}
	for p := range s.told {
		if _, still := best[p]; !still {
			delete(s.told, p)
			gone = append(gone, p)
		}
	}
	slices.SortFunc(changed, func(a, b bgp.Route) int { return a.Prefix.Compare(b.Prefix) })
	slices.SortFunc(gone, netip.Prefix.Compare)
	return changed, gone
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// best chooses: the shortest AS path, then, where we reflect, paths that no other
// reflector passed on, then paths from outside the AS; what is equal then is shared (RFC 4271, section 9.1.2.2, a to d). Of the equals, the
// peer with the lowest address is the source whose route is sent on.
func (s *Speaker) best() (map[netip.Prefix]bgp.Route, map[netip.Prefix]netip.Addr) {
	type rank struct {
		length              int
		internal, reflected bool
	}
	ranks := make(map[netip.Prefix]rank)
	best := make(map[netip.Prefix]bgp.Route)
	sources := make(map[netip.Prefix]netip.Addr)
	for addr, st := range s.state {
		peer := s.peers[addr]
		for prefix, p := range st.routes {
			if !s.takes(peer, prefix, p) {
				continue
			}
			mine := rank{p.length, peer.ASN == s.config.ASN, s.config.Reflector && peer.Reflection == bgp.ReflectionServer}
			theirs, taken := ranks[prefix]
			worse := taken && cmp.Or(cmp.Compare(mine.length, theirs.length), compareBool(mine.reflected, theirs.reflected),
				compareBool(mine.internal, theirs.internal)) > 0
			if worse {
				continue
			}
			r := bgp.Route{Prefix: prefix}
			if taken && mine == theirs {
				r = best[prefix]
			}
			if !taken || mine != theirs || addr.Less(sources[prefix]) {
				sources[prefix] = addr
			}
			if hop := bgp.NextHopOf(addr, prefix, p.hop); !slices.Contains(r.NextHops, hop) {
				r.NextHops = append(r.NextHops, hop)
				slices.SortFunc(r.NextHops, netip.Addr.Compare)
			}
			r.FromNode = r.FromNode || peer.Kind == bgp.PeerNode
			ranks[prefix], best[prefix] = mine, r
		}
	}
	return best, sources
}

// Dump shows what the speaker is configured to do and what it has learned, one
// line each.
func (s *Speaker) Dump() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "as %d, router id %v\n", s.config.ASN, s.config.RouterID)
	for _, p := range s.config.Originates() {
		fmt.Fprintf(&b, "announce %v\n", p)
	}
	peers := make([]bgp.Peer, 0, len(s.peers))
	for _, p := range s.peers {
		peers = append(peers, p)
	}
	slices.SortFunc(peers, func(a, b bgp.Peer) int { return a.Address.Compare(b.Address) })
	for _, p := range peers {
		up := "down"
		if s.state[p.Address].up {
			up = "up"
		}
		fmt.Fprintf(&b, "peer %s %v as %d %s\n", p.Name, p.Address, p.ASN, up)
	}
	lines := []string{}
	best, _ := s.best()
	for _, r := range best {
		lines = append(lines, "learned "+line(r)+"\n")
	}
	slices.Sort(lines)
	b.WriteString(strings.Join(lines, ""))
	return b.String()
}
