package agent

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/unnumbered"
)

// neighborWait is how long the first pass waits for routers on links: each may
// take some 3 s until it advertises itself again.
const neighborWait = 5 * time.Second

// atInterface stands for the address of a peer that is at the other end of an
// interface's link, whoever that is.
func atInterface(name string) netip.Addr { return netip.IPv6Unspecified().WithZone(name) }

// interfaceOf returns the interface of a peer that is found by it, once found or
// not; empty: the peer has an address of its own.
func interfaceOf(peer netip.Addr) string { return peer.Zone() }

// peerKey tells sessions apart: by the peer's address, or by its interface.
func peerKey(peer netip.Addr) netip.Addr {
	if name := interfaceOf(peer); name != "" {
		return atInterface(name)
	}
	return peer
}

// parsePeer reads where the peer of a planned session is.
func parsePeer(s *v1alpha1.PlannedSession) (netip.Addr, error) {
	if s.PeerInterface != "" {
		return atInterface(s.PeerInterface), nil
	}
	return netip.ParseAddr(s.PeerAddress)
}

// peerWords is a peer's address in words; of one that was not found %eth1.
func peerWords(peer netip.Addr) string {
	if name := interfaceOf(peer); name != "" && peer == atInterface(name) {
		return "%" + name
	}
	return peer.String()
}

// interfaces are those at which peers are to be found.
func (d *desired) interfaces() []string {
	var names []string
	for i := range d.speaker.Peers {
		if name := interfaceOf(d.speaker.Peers[i].Address); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// neighborAt returns what is known of the other end of an interface's link.
func neighborAt(name string, neighbors []unnumbered.Neighbor) unnumbered.Neighbor {
	i := slices.IndexFunc(neighbors, func(n unnumbered.Neighbor) bool { return n.Interface == name })
	if i < 0 {
		return unnumbered.Neighbor{Interface: name}
	}
	return neighbors[i]
}

// locate gives a peer that is found by its interface its address; false: it was
// not found.
func locate(p *bgp.Peer, neighbors []unnumbered.Neighbor) bool {
	name := interfaceOf(p.Address)
	if name == "" {
		return true
	}
	n := neighborAt(name, neighbors)
	p.Address, p.SourceAddress = n.Address, n.Source
	return n.Address.IsValid()
}

// missesNeighbor reports whether a peer was not found yet.
func missesNeighbor(neighbors []unnumbered.Neighbor) bool {
	return slices.ContainsFunc(neighbors, func(n unnumbered.Neighbor) bool { return !n.Address.IsValid() })
}

// withNeighbors adds to the speaker's sessions what is known of the links: the
// sessions that there are not, as nobody was found, and what is not as it should be
// with the others.
func withNeighbors(sessions []bgp.Session, peers []bgp.Peer, neighbors []unnumbered.Neighbor) []bgp.Session {
	for i := range peers {
		p := &peers[i]
		name := interfaceOf(p.Address)
		if name == "" {
			continue
		}
		n := neighborAt(name, neighbors)
		at := slices.IndexFunc(sessions, func(s bgp.Session) bool { return interfaceOf(s.Address) == name })
		switch {
		case at < 0 && !n.Address.IsValid():
			sessions = append(sessions, bgp.Session{
				Name: p.Name, Kind: p.Kind, Address: p.Address, ASN: p.ASN, State: bgp.StateIdle, Message: n.Problem,
			})
		case at < 0:
		case sessions[at].State == bgp.StateEstablished:
			sessions[at].Warning = joinWords(sessions[at].Warning, n.Problem)
		default:
			sessions[at].Message = joinWords(n.Problem, sessions[at].Message)
		}
	}
	slices.SortStableFunc(sessions, func(a, b bgp.Session) int { return strings.Compare(a.Name, b.Name) })
	return sessions
}
