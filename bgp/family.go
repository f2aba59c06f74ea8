package bgp

import "net/netip"

// Families is a set of address families; their unicast routes are what
// sessions carry (RFC 4760).
type Families uint8

// The families.
const (
	IPv4 Families = 1 << iota
	IPv6
)

// FamilyOf is the family of an address, and of prefixes that begin with it.
func FamilyOf(a netip.Addr) Families {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// Has reports whether all of g are among f.
func (f Families) Has(g Families) bool { return f&g == g }

// Each lists the families one by one.
func (f Families) Each() []Families {
	var out []Families
	for _, one := range []Families{IPv4, IPv6} {
		if f.Has(one) {
			out = append(out, one)
		}
	}
	return out
}

// Families are what a peer is offered: the families that the node has an
// address of, or, when nothing is said of those, that of the session itself; of
// them those of Peer.Families, when the peer is among Config.Peers and has some.
// The peer may know fewer; what both know is carried.
func (c Config) Families(peer netip.Addr) Families {
	var f Families
	for _, a := range c.NextHops {
		f |= FamilyOf(a)
	}
	if f == 0 {
		f = FamilyOf(peer)
	}
	for i := range c.Peers {
		if p := &c.Peers[i]; p.Address == peer && p.Families != 0 {
			return f & p.Families
		}
	}
	return f
}

// NextHop is the node's own address of a family, if it is given.
func (c Config) NextHop(f Families) (netip.Addr, bool) {
	for _, a := range c.NextHops {
		if FamilyOf(a) == f {
			return a, true
		}
	}
	return netip.Addr{}, false
}
