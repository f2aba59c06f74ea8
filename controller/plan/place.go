package plan

import (
	"fmt"
	"net/netip"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// DefaultMaxPeers is how many routers may call a node from a range at a time where
// its BGPPeer does not say.
const DefaultMaxPeers = 100

// place is where a node's peer is: at an address, or somewhere in a range.
type place struct {
	addr   netip.Addr
	prefix netip.Prefix
}

func (at place) is6() bool { return at.addr.Is6() || at.prefix.Addr().Is6() }

func (at place) String() string {
	if at.prefix.IsValid() {
		return at.prefix.String()
	}
	return at.addr.String()
}

// put says in a session where the peer is.
func (at place) put(s *v1alpha1.PlannedSession) {
	if at.prefix.IsValid() {
		s.PeerPrefix = at.prefix.String()
		return
	}
	s.PeerAddress = at.addr.String()
}

func placeOf(spec *v1alpha1.BGPPeerSpec) (place, error) {
	if spec.PeerPrefix == "" {
		addr, ok := parseAddr(spec.PeerAddress)
		if !ok {
			return place{}, fmt.Errorf("peerAddress: %q is not an address that a router can have", spec.PeerAddress)
		}
		return place{addr: addr}, nil
	}
	prefix, err := netip.ParsePrefix(spec.PeerPrefix)
	if err != nil || prefix != prefix.Masked() || prefix.Bits() == 0 || prefix.Addr().Is4In6() {
		return place{}, fmt.Errorf("peerPrefix: %q is not a range that routers can be in", spec.PeerPrefix)
	}
	return place{prefix: prefix}, nil
}

func placeOfSession(s *v1alpha1.PlannedSession) (place, bool) {
	at, err := placeOf(&v1alpha1.BGPPeerSpec{PeerAddress: s.PeerAddress, PeerPrefix: s.PeerPrefix})
	return at, err == nil
}

// checkCallers reports who else than routers could call from a range: a call is
// all that it takes to be a peer.
func (p *Plan) checkCallers(prefix netip.Prefix) error {
	if !prefix.IsValid() {
		return nil
	}
	for _, pl := range p.pools {
		if pl.cidr.Overlaps(prefix) {
			return fmt.Errorf("peerPrefix: pods of IPPool %s could call from %s: give a range of routers alone", pl.obj.Name, prefix)
		}
	}
	for _, n := range p.nodes {
		for _, a := range n.addrs {
			if prefix.Contains(a) {
				return fmt.Errorf("peerPrefix: node %s, %s, could call from %s: give a range of routers alone", n.name, a, prefix)
			}
		}
	}
	return nil
}
