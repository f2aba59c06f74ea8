package agent

import (
	"net/netip"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/routes"
	"github.com/godwit-net/godwit/tunnel"
)

// encapsulation decides how packets to another node's block go: bare, or
// through which tunnel. It is a value that never changes once made.
//
//	the pool that holds the block   the next hop      the way
//	None                            any               bare
//	…CrossSubnet                    in our subnet     bare
//	…CrossSubnet                    elsewhere         tunnel
//	IPIP, VXLAN                     any               tunnel
type encapsulation struct {
	pools   []encapsulatedPool
	subnets []netip.Prefix // what the node reaches directly
}

// encapsulatedPool is a pool whose packets may go through a tunnel.
type encapsulatedPool struct {
	cidr        netip.Prefix
	device      string
	crossSubnet bool
}

// overhead is what a tunnel adds to each packet, in bytes.
func overhead(kind v1alpha1.TunnelKind, v4 bool) int {
	switch kind.Interface(!v4) {
	case tunnel.IPIPDevice:
		return tunnel.IPIPOverhead
	case tunnel.VXLANDevice:
		return tunnel.VXLANOverhead
	case tunnel.VXLAN6Device:
		return tunnel.VXLAN6Overhead
	}
	return 0
}

// device returns the tunnel device by which packets to dst go when the node
// that has it is at hop; empty: none.
func (e *encapsulation) device(dst netip.Prefix, hop netip.Addr) string {
	for i := range e.pools {
		p := &e.pools[i]
		if p.cidr.Bits() > dst.Bits() || !p.cidr.Contains(dst.Addr()) {
			continue
		}
		if hop.Is4() != dst.Addr().Is4() || p.crossSubnet && e.reaches(hop) {
			return ""
		}
		return p.device
	}
	return ""
}

// reaches reports whether a node is in a subnet of ours.
func (e *encapsulation) reaches(hop netip.Addr) bool {
	for _, s := range e.subnets {
		if s.Contains(hop) {
			return true
		}
	}
	return false
}

// nextHop is the way to a block behind a node.
func (e *encapsulation) nextHop(dst netip.Prefix, hop netip.Addr) routes.NextHop {
	if device := e.device(dst, hop); device != "" {
		return routes.NextHop{Gateway: tunnel.Gateway(hop), Link: device, OnLink: true}
	}
	return bare(hop)
}

// appendNextHops appends the ways of what was learned. Only nodes are behind
// tunnels.
func (e *encapsulation) appendNextHops(to []routes.NextHop, r bgp.Route) []routes.NextHop {
	for _, hop := range r.NextHops {
		if r.FromNode {
			to = append(to, e.nextHop(r.Prefix, hop))
		} else {
			to = append(to, bare(hop))
		}
	}
	return to
}

func bare(hop netip.Addr) routes.NextHop {
	return routes.NextHop{Gateway: hop.WithZone(""), Link: hop.Zone()}
}

// makeEncapsulation makes what a plan's pools ask for. found are the node's
// addresses as they are on its interfaces.
func makeEncapsulation(d *desired, found []v1alpha1.NodeAddress) *encapsulation {
	e := &encapsulation{}
	for _, p := range d.encapsulated {
		e.pools = append(e.pools, encapsulatedPool{
			cidr: p.cidr, device: p.kind.Interface(p.cidr.Addr().Is6()), crossSubnet: p.crossSubnet,
		})
	}
	for _, a := range found {
		own, err := netip.ParsePrefix(a.Address)
		if err != nil {
			continue // not reached: it was made from a prefix
		}
		e.subnets = append(e.subnets, own.Masked())
		for _, s := range d.subnets {
			if s.Contains(own.Addr()) {
				e.subnets = append(e.subnets, s)
			}
		}
	}
	return e
}
