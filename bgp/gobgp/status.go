package gobgp

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/godwit-net/godwit/bgp"
)

// Sessions implements bgp.Speaker. Counting what was accepted of a peer walks
// over its routes, but only when something changed since the last call.
func (s *Speaker) Sessions(ctx context.Context) ([]bgp.Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sessions := make([]bgp.Session, 0, len(s.applied.peers))
	if s.server == nil {
		return sessions, nil
	}
	states := make(map[netip.Addr]*api.Peer, len(s.applied.peers))
	err := s.server.ListPeer(ctx, &api.ListPeerRequest{}, func(p *api.Peer) {
		if addr, err := netip.ParseAddr(p.State.NeighborAddress); err == nil {
			states[addr] = p
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list the BGP sessions: %w", err)
	}
	reflected := s.learned.reflected(s.config)
	for addr, peer := range s.applied.peers {
		one := s.session(peer, states[addr])
		if one.State == bgp.StateEstablished {
			one.Advertised += reflected(peer)
		}
		sessions = append(sessions, one)
	}
	slices.SortFunc(sessions, func(a, b bgp.Session) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), a.Address.Compare(b.Address))
	})
	return sessions, nil
}

func (s *Speaker) session(peer bgp.Peer, state *api.Peer) bgp.Session {
	out := bgp.Session{Name: peer.Name, Kind: peer.Kind, Address: peer.Address, ASN: peer.ASN, State: bgp.StateIdle}
	page := s.book.page(peer.Address)
	page.mu.Lock()
	out.Since, out.Message, out.Flaps, out.LastError = page.since, page.message, page.flaps, page.lastError
	odd := page.nonsense.String()
	page.mu.Unlock()
	if state == nil {
		return out
	}
	out.State = stateOf(state.State.SessionState)
	if out.State != bgp.StateEstablished {
		out.PeerRestarting = peerRestarting(state)
		return out
	}
	out.Message = ""
	out.Capabilities = capabilities(state)
	if out.Since.IsZero() { // the event is on its way
		out.Since = state.GetTimers().GetState().GetUptime().AsTime()
	}
	for _, f := range state.AfiSafis {
		out.Received += int(f.GetState().GetReceived())
	}
	out.Accepted = s.accepted(page, peer, state, out.Received)
	if out.Received != out.Accepted {
		out.Refused, out.RefusedCount = s.refused(page, peer, state, out.Received)
	}
	out.Warning = joinWords(joinWords(nearLimit(peer, out.Received), withoutNextHops(peer, state)), odd)
	out.Advertised = s.advertised(page, peer, state)
	return out
}

// advertised counts the prefixes that an established peer was sent. Without
// export rules it is sent all own ones and nothing else; with rules GoBGP has to
// look at its table, but only when something was sent since the last call.
func (s *Speaker) advertised(page *page, peer bgp.Peer, state *api.Peer) int {
	carried := negotiated(state)
	if len(exportRulesOf(peer)) == 0 {
		n := 0
		for p := range s.applied.advertise {
			if carried.Has(bgp.FamilyOf(p.Addr())) {
				n++
			}
		}
		return n
	}
	updates := state.GetState().GetMessages().GetSent().GetUpdate()
	page.mu.Lock()
	cached := page.advertised
	page.mu.Unlock()
	if cached.valid && cached.updates == updates {
		return cached.count
	}
	n := s.server.advertised(peer.Address, carried)
	page.mu.Lock()
	page.advertised = tally{valid: true, updates: updates, count: n}
	page.mu.Unlock()
	return n
}

func joinWords(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}

// nearLimit says that a peer sends as many prefixes as it takes for a warning;
// empty: it does not.
func nearLimit(peer bgp.Peer, received int) string {
	switch {
	case peer.WarnPrefixes == 0 || received < peer.WarnPrefixes:
		return ""
	case peer.MaxPrefixes == 0:
		return fmt.Sprintf("it sends %d prefixes, at least the %d to warn at", received, peer.WarnPrefixes)
	}
	return fmt.Sprintf("it sends %d of at most %d prefixes; with more its session ends", received, peer.MaxPrefixes)
}

// withoutNextHops says that a peer without other addresses than link-local ones
// can't take routes of IPv4 by these; empty: it can, or needs not.
func withoutNextHops(peer bgp.Peer, state *api.Peer) string {
	if !bgp.IsLinkLocal(peer.Address) || !negotiated(state).Has(bgp.IPv4) || slices.Contains(capabilities(state), wordNextHops) {
		return ""
	}
	return "it does not take routes of IPv4 by way of IPv6, which there is no other way for: turn on extended next hops (RFC 8950) there"
}

// accepted counts the received prefixes that the import policy takes. GoBGP's
// own count disregards the policy.
func (s *Speaker) accepted(page *page, peer bgp.Peer, state *api.Peer, received int) int {
	if received == 0 {
		return 0
	}
	updates := state.GetState().GetMessages().GetReceived().GetUpdate()
	page.mu.Lock()
	cached := page.accepted
	page.mu.Unlock()
	if cached.valid && cached.updates == updates && cached.received == received {
		return cached.count
	}
	n := 0
	for _, f := range s.applied.families[peer.Address].Each() {
		err := s.server.ListPath(apiutil.ListPathRequest{
			TableType: api.TableType_TABLE_TYPE_ADJ_IN, Name: peer.Address.String(), Family: packetFamily(f),
		}, func(_ packet.NLRI, paths []*apiutil.Path) {
			if len(paths) > 0 && s.takes(peer, paths[0]) {
				n++
			}
		})
		if err != nil {
			return cached.count // the peer went away in this moment
		}
	}
	page.mu.Lock()
	page.accepted = tally{valid: true, updates: updates, received: received, count: n}
	page.mu.Unlock()
	return n
}

// refused finds what a node peer announces though it must not, like accepted.
func (s *Speaker) refused(page *page, peer bgp.Peer, state *api.Peer, received int) (first []netip.Prefix, count int) {
	updates := state.GetState().GetMessages().GetReceived().GetUpdate()
	page.mu.Lock()
	known, cached := page.refused, page.refusedFirst
	page.mu.Unlock()
	if known.valid && known.updates == updates && known.received == received {
		return cached, known.count
	}
	first, count = s.server.refused(peer, s.applied.families[peer.Address], s.config)
	page.mu.Lock()
	defer page.mu.Unlock()
	page.refused, page.refusedFirst = tally{valid: true, updates: updates, received: received, count: count}, first
	return first, count
}

// takes reports whether the import policy accepts a path from a peer.
func (s *Speaker) takes(peer bgp.Peer, path *apiutil.Path) bool {
	a, ok := announcement(path)
	return ok && !throughUs(s.config, peer, path) && nextHop(path).IsValid() && s.config.Accepts(peer, a)
}

// throughUs reports whether a path came through our own AS, by one of the numbers
// that it has, more often than the peer may send (RFC 4271, section 9.1.2).
func throughUs(c bgp.Config, peer bgp.Peer, path *apiutil.Path) bool {
	times := make(map[uint32]int)
	for _, a := range path.Attrs {
		if as, ok := a.(*packet.PathAttributeAsPath); ok {
			for _, segment := range as.Value {
				for _, asn := range segment.GetAS() {
					times[asn]++
				}
			}
		}
	}
	return times[c.ASN] > peer.AllowOwnASN || peer.LocalASN != 0 && times[peer.LocalASN] > peer.AllowOwnASN
}

func stateOf(s api.PeerState_SessionState) bgp.State {
	switch s {
	case api.PeerState_SESSION_STATE_CONNECT:
		return bgp.StateConnect
	case api.PeerState_SESSION_STATE_ACTIVE:
		return bgp.StateActive
	case api.PeerState_SESSION_STATE_OPENSENT:
		return bgp.StateOpenSent
	case api.PeerState_SESSION_STATE_OPENCONFIRM:
		return bgp.StateOpenConfirm
	case api.PeerState_SESSION_STATE_ESTABLISHED:
		return bgp.StateEstablished
	}
	return bgp.StateIdle
}
