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
	for addr, peer := range s.applied.peers {
		sessions = append(sessions, s.session(peer, states[addr]))
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
	out.Since, out.Message = page.since, page.message
	page.mu.Unlock()
	if state == nil {
		return out
	}
	out.State = stateOf(state.State.SessionState)
	if out.State != bgp.StateEstablished {
		return out
	}
	out.Message = ""
	if out.Since.IsZero() { // the event is on its way
		out.Since = state.GetTimers().GetState().GetUptime().AsTime()
	}
	for _, f := range state.AfiSafis {
		out.Received += int(f.GetState().GetReceived())
	}
	out.Accepted = s.accepted(page, peer, state, out.Received)
	carried := negotiated(state)
	for p := range s.applied.advertise {
		// All of these families are sent: nothing but them is, and nothing holds them back.
		if carried.Has(bgp.FamilyOf(p.Addr())) {
			out.Advertised++
		}
	}
	return out
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
	if cached.valid && cached.updates == updates {
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
	page.accepted = accepted{valid: true, updates: updates, count: n}
	page.mu.Unlock()
	return n
}

// takes reports whether the import policy accepts a path from a peer.
func (s *Speaker) takes(peer bgp.Peer, path *apiutil.Path) bool {
	prefix, ok := path.Nlri.(*packet.IPAddrPrefix)
	return ok && !throughUs(s.config.ASN, path) && nextHop(path).IsValid() && s.config.Accepts(peer, prefix.Prefix)
}

// throughUs reports whether a path came through our own AS and is a loop
// (RFC 4271, section 9.1.2).
func throughUs(asn uint32, path *apiutil.Path) bool {
	for _, a := range path.Attrs {
		if as, ok := a.(*packet.PathAttributeAsPath); ok {
			for _, segment := range as.Value {
				if slices.Contains(segment.GetAS(), asn) {
					return true
				}
			}
		}
	}
	return false
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
