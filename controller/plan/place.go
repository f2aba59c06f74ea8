package plan

import (
	"fmt"
	"net/netip"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// place is where a router is: at an address, or at the other end of an interface's
// link.
type place struct {
	addr netip.Addr // zero: at the interface
	name string     // of the interface
}

func placeOf(spec *v1alpha1.BGPPeerSpec) (place, error) {
	if spec.PeerInterface != "" {
		return place{name: spec.PeerInterface}, nil
	}
	addr, ok := parseAddr(spec.PeerAddress)
	if !ok {
		return place{}, fmt.Errorf("peerAddress: %q is not an address that a router can have", spec.PeerAddress)
	}
	return place{addr: addr}, nil
}

// String is the peerAddress of planned sessions with the router.
func (pl place) String() string {
	if pl.name != "" {
		return v1alpha1.InterfaceAddress(pl.name)
	}
	return pl.addr.String()
}

// fits reports whether n can have a session with a router there. What a node
// has an interface for only the node knows.
func (pl place) fits(n *node) bool { return pl.name != "" || n.has(pl.addr) }
