package gobgp

import (
	"net/netip"
	"slices"
)

// cover returns few prefixes that contain all of some addresses, and of everyone
// no other. GoBGP looks through the addresses of a neighbour set one by one, for
// each route and each peer that it is sent to: a reflector's clients by prefixes
// are a handful where they are hundreds, each by itself.
//
// everyone has all addresses that are ever looked for; addresses that are not
// among them may be contained or not. Zones do not count, as in GoBGP's sets.
func cover(addrs, everyone []netip.Addr) []netip.Prefix {
	in := bareSet(addrs)
	var others []netip.Addr
	for _, a := range bareSet(everyone) {
		if _, is := slices.BinarySearchFunc(in, a, netip.Addr.Compare); !is {
			others = append(others, a)
		}
	}
	var out []netip.Prefix
	for _, whole := range []netip.Prefix{
		netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0),
	} {
		out = coverWithin(out, whole, within(in, whole), within(others, whole))
	}
	return out
}

// coverWithin appends prefixes inside of p. Both lists are of addresses in p,
// sorted.
func coverWithin(out []netip.Prefix, p netip.Prefix, in, others []netip.Addr) []netip.Prefix {
	if len(in) == 0 {
		return out
	}
	if len(others) == 0 {
		return append(out, p)
	}
	lower, upper := halves(p)
	out = coverWithin(out, lower, within(in, lower), within(others, lower))
	return coverWithin(out, upper, within(in, upper), within(others, upper))
}

// halves divides a prefix that is longer than one address.
func halves(p netip.Prefix) (lower, upper netip.Prefix) {
	bits := p.Bits()
	raw := p.Addr().AsSlice()
	raw[bits/8] |= 0x80 >> (bits % 8)
	second, _ := netip.AddrFromSlice(raw)
	return netip.PrefixFrom(p.Addr(), bits+1), netip.PrefixFrom(second, bits+1)
}

// within returns those of sorted addresses that are in p, which are neighbours.
func within(sorted []netip.Addr, p netip.Prefix) []netip.Addr {
	first, _ := slices.BinarySearchFunc(sorted, p.Addr(), netip.Addr.Compare)
	rest := sorted[first:]
	for i, a := range rest {
		if !p.Contains(a) {
			return rest[:i]
		}
	}
	return rest
}

// bareSet returns the addresses without zones, each once, sorted.
func bareSet(addrs []netip.Addr) []netip.Addr {
	bare := make([]netip.Addr, len(addrs))
	for i, a := range addrs {
		bare[i] = a.WithZone("")
	}
	slices.SortFunc(bare, netip.Addr.Compare)
	return slices.Compact(bare)
}
