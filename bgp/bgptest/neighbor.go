package bgptest

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/godwit-net/godwit/bgp"
)

// Router is the other end of a session, in the hands of a test.
type Router interface {
	// Peer is how the router is to be configured at the speaker.
	Peer() bgp.Peer
	// Address is the router's address of a family.
	Address(f bgp.Families) netip.Addr
	// Offer says which families the router offers from the next Connect on. It is
	// both without.
	Offer(f bgp.Families)
	// Connect brings the session up and waits until it is.
	Connect()
	// Announce announces prefixes of one family with a next hop, fit or not, and an
	// AS path of a length.
	Announce(hop netip.Addr, length int, prefixes ...netip.Prefix)
	// Withdraw withdraws prefixes of one family.
	Withdraw(prefixes ...netip.Prefix)
	// EndOfRIB says of some families that all has been announced.
	EndOfRIB(f bgp.Families)
	// Break ends the connection without a word, Cease with a NOTIFICATION.
	Break()
	Cease()
	// Routes are the speaker's announcements: prefix to next hop.
	Routes() map[netip.Prefix]netip.Addr
	// Ended reports whether the speaker has ended the last session, and whether it
	// said so with a Cease.
	Ended() (ended, cease bool)
}

// Neighbor is a Router beside a fake Speaker.
type Neighbor struct {
	speaker     *Speaker
	peer        bgp.Peer
	other       netip.Addr // of the family that the session is not of
	restartTime time.Duration

	mu           sync.Mutex
	offers       bgp.Families
	ended, cease bool
}

var _ Router = (*Neighbor)(nil)

// Router makes a router beside the speaker; kind and AS are those of the Peer
// that it wants to be, and other is its address of the family that the session is
// not of. restartTime is how long the speaker shall keep its routes while it is
// away; zero: not at all.
func (s *Speaker) Router(p bgp.Peer, other netip.Addr, restartTime time.Duration) *Neighbor {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := &Neighbor{speaker: s, peer: p, other: other, restartTime: restartTime, offers: bgp.IPv4 | bgp.IPv6}
	s.routers[p.Address] = n
	return n
}

// Peer implements Router.
func (n *Neighbor) Peer() bgp.Peer { return n.peer }

// Address implements Router.
func (n *Neighbor) Address(f bgp.Families) netip.Addr {
	if bgp.FamilyOf(n.peer.Address) == f {
		return n.peer.Address
	}
	return n.other
}

// Offer implements Router.
func (n *Neighbor) Offer(f bgp.Families) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.offers = f
}

// with runs f with the speaker's lock and the session's state, which is nil
// when the speaker does not know this router.
func (n *Neighbor) with(f func(st *session)) {
	n.speaker.mu.Lock()
	defer n.speaker.mu.Unlock()
	f(n.speaker.state[n.peer.Address])
	n.speaker.turn.Broadcast()
}

// Connect implements Router. It blocks until the speaker is configured for
// this router.
func (n *Neighbor) Connect() {
	s := n.speaker
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		p, known := s.peers[n.peer.Address]
		if caller, ok := s.config.Caller(n.peer.Address); !known && ok && s.config.MayCall(n.peer.Address, slices.Collect(maps.Keys(s.called))) {
			p, known = caller, true
			s.called[n.peer.Address], s.peers[n.peer.Address] = true, p
			s.state[n.peer.Address] = &session{routes: make(map[netip.Prefix]path)}
		}
		if st := s.state[n.peer.Address]; known && !s.stopped && !st.held && p.ASN == n.peer.ASN && p.Password == n.peer.Password {
			st.up, st.since, st.message = true, time.Now(), ""
			if st.expiry != nil {
				st.expiry.Stop()
			}
			n.mu.Lock()
			st.carried = s.config.Families(n.peer.Address) & n.offers
			st.awaited = st.carried
			if p.GracefulRestart == 0 || n.restartTime == 0 || st.awaited == 0 {
				st.complete = true // no End-of-RIB will come
			}
			n.ended, n.cease = false, false
			n.mu.Unlock()
			s.turn.Broadcast()
			return
		}
		s.turn.Wait()
	}
}

// Announce implements Router.
func (n *Neighbor) Announce(hop netip.Addr, length int, prefixes ...netip.Prefix) {
	n.with(func(st *session) {
		if st == nil || !st.up {
			return
		}
		for _, p := range prefixes {
			if st.carried.Has(bgp.FamilyOf(p.Addr())) {
				st.routes[p] = path{hop: hop, length: length}
			}
		}
		if limit := n.speaker.peers[n.peer.Address].MaxPrefixes; limit > 0 && len(st.routes) > limit {
			n.speaker.end(n.peer.Address, "it sent more prefixes than its limit", true)
			st.held = true
		}
	})
}

// Withdraw implements Router.
func (n *Neighbor) Withdraw(prefixes ...netip.Prefix) {
	n.with(func(st *session) {
		if st == nil || !st.up {
			return
		}
		for _, p := range prefixes {
			delete(st.routes, p)
		}
	})
}

// EndOfRIB implements Router.
func (n *Neighbor) EndOfRIB(f bgp.Families) {
	n.with(func(st *session) {
		if st == nil || !st.up {
			return
		}
		st.awaited &^= f
		st.complete = st.complete || st.awaited == 0
		for prefix, p := range st.routes {
			if p.stale && f.Has(bgp.FamilyOf(prefix.Addr())) {
				delete(st.routes, prefix)
			}
		}
	})
}

// Break implements Router.
func (n *Neighbor) Break() {
	n.with(func(st *session) {
		if st == nil || !st.up {
			return
		}
		if n.restartTime == 0 || n.speaker.peers[n.peer.Address].GracefulRestart == 0 {
			n.speaker.end(n.peer.Address, "the connection was lost", false)
			return
		}
		st.up, st.since, st.message = false, time.Now(), "the connection was lost; what it announced is kept while it restarts"
		for prefix, p := range st.routes {
			p.stale = true
			st.routes[prefix] = p
		}
		st.expiry = time.AfterFunc(n.restartTime, func() {
			n.with(func(now *session) {
				if now == st && !st.up {
					n.speaker.end(n.peer.Address, "it did not come back within its restart time", false)
				}
			})
		})
	})
}

// Cease implements Router.
func (n *Neighbor) Cease() {
	n.with(func(*session) {
		n.speaker.end(n.peer.Address, "it closed the session: administrative shutdown", false)
	})
}

// Routes implements Router.
func (n *Neighbor) Routes() map[netip.Prefix]netip.Addr {
	out := make(map[netip.Prefix]netip.Addr)
	n.with(func(st *session) {
		if st == nil || !st.up {
			return
		}
		out = n.speaker.announced(n.speaker.peers[n.peer.Address], st)
	})
	return out
}

// Ended implements Router.
func (n *Neighbor) Ended() (ended, cease bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ended, n.cease
}

func (n *Neighbor) hungUp(cease bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ended, n.cease = true, cease
}

// prefixes parses prefixes.
func prefixes(s ...string) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(s))
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return slices.Clip(out)
}
