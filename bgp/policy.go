package bgp

import "net/netip"

// Contains reports whether p is one of the range's prefixes.
func (r Range) Contains(p netip.Prefix) bool {
	return p.IsValid() && r.CIDR.Addr().Is4() == p.Addr().Is4() &&
		p.Bits() >= r.CIDR.Bits() && r.CIDR.Contains(p.Addr()) &&
		p.Bits() >= r.MinLength && p.Bits() <= r.MaxLength
}

// Accepts is the import policy: whether a route to p is taken from peer. A
// speaker may put it into other words for its library, but must decide alike.
//
// What the node announces itself, and whatever is inside that, is never taken
// from anyone: it would lead the node's own pods astray.
func (c Config) Accepts(peer Peer, p netip.Prefix) bool {
	for _, own := range c.Advertise {
		if own.Bits() <= p.Bits() && own.Contains(p.Addr()) {
			return false
		}
	}
	if peer.Kind == PeerNode {
		for _, block := range c.Blocks {
			if block.Contains(p) {
				return true
			}
		}
		return false
	}
	for _, rule := range peer.Import {
		if rule.Contains(p) {
			return rule.Accept
		}
	}
	return false
}

// NextHopFits reports whether a route to p may lead to hop: an address of the
// same family that one host has. IPv4 routes by way of IPv6 (RFC 8950) are not
// taken, and an IPv4-mapped address is none of IPv6: some routers send it where
// they have no address of IPv6. A speaker must decide alike.
func NextHopFits(p netip.Prefix, hop netip.Addr) bool {
	return hop.IsValid() && p.Addr().Is4() == hop.Is4() &&
		!hop.Is4In6() && !hop.IsUnspecified() && !hop.IsMulticast()
}
