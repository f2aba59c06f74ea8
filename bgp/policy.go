package bgp

import (
	"net/netip"
	"slices"
)

// LocalPrefLast is the local preference of routes whose sender asks to be
// avoided (GRACEFUL_SHUTDOWN). RFC 8326, section 4.2, recommends 0, which not
// every library can set; 1 does the same.
const LocalPrefLast uint32 = 1

// Contains reports whether p is one of the range's prefixes.
func (r Range) Contains(p netip.Prefix) bool {
	return p.IsValid() && r.CIDR.Addr().Is4() == p.Addr().Is4() &&
		p.Bits() >= r.CIDR.Bits() && r.CIDR.Contains(p.Addr()) &&
		p.Bits() >= r.MinLength && p.Bits() <= r.MaxLength
}

// Martians are the ranges that no route is ever taken to: what means this host,
// this link, or many. The list is short on purpose: 240.0.0.0/4, for one, is in
// use inside of data centres. The default route is none of them.
func Martians() []Range {
	cidrs := []string{
		"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32",
		"::/96", "::ffff:0:0/96", "fe80::/10", "ff00::/8",
	}
	out := make([]Range, len(cidrs))
	for i, s := range cidrs {
		p := netip.MustParsePrefix(s)
		out[i] = Range{CIDR: p, MinLength: p.Bits(), MaxLength: p.Addr().BitLen()}
	}
	return out
}

func contains(ranges []Range, p netip.Prefix) bool {
	return slices.ContainsFunc(ranges, func(r Range) bool { return r.Contains(p) })
}

// Accepts is the import policy: whether a route is taken from peer. Where many
// routes are to be judged, Importer is cheaper.
func (c Config) Accepts(peer Peer, a Announcement) bool {
	_, ok := c.Importer(peer)(a)
	return ok
}

// Importer is the import policy: it returns a function that says of a route as
// it comes from peer whether it is taken, and how it looks then. A speaker may
// put it into other words for its library, but must decide alike.
//
// What the node announces itself, and whatever is inside its own blocks, is never
// taken from anyone: it would lead the node's own pods astray. Nor are Martians, and a
// default route only by a rule that names it.
func (c Config) Importer(peer Peer) func(Announcement) (Announcement, bool) {
	var (
		rules    = compile(peer.Import)
		asn      = c.asnTowards(peer)
		martians = Martians()
	)
	return func(a Announcement) (Announcement, bool) {
		if c.own(a.Prefix) || slices.Contains(c.Aggregates, a.Prefix) || contains(martians, a.Prefix) {
			return a, false
		}
		leaving := slices.Contains(a.Communities, GracefulShutdown)
		ok := false
		if peer.Kind == PeerNode {
			ok = c.ownedBy(peer, a.Prefix)
		} else {
			for _, r := range rules {
				if r.holds(a) && (!r.Accept || c.names(r.Rule, a.Prefix)) {
					ok = r.Accept
					a = r.set(a, asn)
					break
				}
			}
		}
		if ok && leaving {
			last := LocalPrefLast
			a.LocalPref = &last
		}
		return a, ok
	}
}

// Exporter is the export policy: it returns a function that says of a route in
// our table whether it is announced to peer, and how its attributes are changed.
// What BGP itself does on the way, such as adding the AS number, comes on top,
// and that what an internal peer announced is never told to another.
func (c Config) Exporter(peer Peer) func(Announcement) (Announcement, bool) {
	rules := compile(peer.Export)
	asn := c.asnTowards(peer)
	return func(a Announcement) (Announcement, bool) {
		if peer.Kind == PeerNode {
			if a.From == nil {
				return a, slices.Contains(c.Advertise, a.Prefix)
			}
			return a, c.Reflector && *a.From == PeerNode && (peer.Reflection == ReflectionClient || peer.Reflection == ReflectionServer && !a.Reflected)
		}
		for _, r := range rules {
			if r.holds(a) && r.concerns(a) {
				return r.set(a, asn), r.Accept
			}
		}
		return a, a.From == nil
	}
}

func (c Config) asnTowards(peer Peer) uint32 {
	if peer.LocalASN != 0 {
		return peer.LocalASN
	}
	return c.ASN
}

// Originates are the prefixes that we announce of ourselves, to whomever.
func (c Config) Originates() []netip.Prefix { return slices.Concat(c.Advertise, c.Aggregates) }

// own reports whether p is announced by us or part of what is.
func (c Config) own(p netip.Prefix) bool {
	return slices.ContainsFunc(c.Advertise, func(own netip.Prefix) bool {
		return own.Bits() <= p.Bits() && own.Contains(p.Addr())
	})
}

// names reports whether a rule that accepts p from a router does so by name, where
// that is called for. Who takes "everything" means neither the default route nor
// prefixes of pods, which would lead them away from their nodes: those are taken only by
// a range that is itself inside the pool.
func (c Config) names(r Rule, p netip.Prefix) bool {
	switch {
	case c.inPool(p):
		return slices.ContainsFunc(r.Ranges, func(x Range) bool { return x.Contains(p) && c.inPool(x.CIDR) })
	case p.Bits() == 0:
		return len(r.Ranges) > 0
	}
	return true
}

// inPool reports whether p is a pool or a part of one.
func (c Config) inPool(p netip.Prefix) bool {
	return slices.ContainsFunc(c.Blocks, func(pool Range) bool { return pool.CIDR.Bits() <= p.Bits() && pool.CIDR.Contains(p.Addr()) })
}

// ownedBy reports whether p may come from a node peer.
func (c Config) ownedBy(peer Peer, p netip.Prefix) bool {
	return contains(c.Blocks, p) &&
		(!c.ValidateOrigin || peer.Reflection == ReflectionServer || slices.Contains(peer.Owned, p))
}

// NextHopOf returns where a route to p leads that comes from a peer's address with
// hop as its next hop: to hop itself, an address of the same family that one host
// has; or to nowhere, the zero Addr, and then the route is not taken. An IPv4-mapped
// address is none of IPv6: some routers send it where they have no address of IPv6.
// A link-local one is of the session's link, and without that says nothing.
//
// From a peer with a link-local address every next hop of IPv6 but a link-local one
// stands for the peer, for nobody else is on the link: the global address that it
// may have there we can't reach, and BIRD sends the unspecified one. There routes of
// IPv4 may have next hops of IPv6, too (RFC 8950); elsewhere such are not taken. A
// speaker must decide alike.
func NextHopOf(peer netip.Addr, p netip.Prefix, hop netip.Addr) netip.Addr {
	onLink := IsLinkLocal(peer)
	switch {
	case !hop.IsValid(), hop.Is4In6(), hop.IsMulticast():
		return netip.Addr{}
	case IsLinkLocal(hop):
		if peer.Zone() == "" || p.Addr().Is4() && !onLink {
			return netip.Addr{}
		}
		return hop.WithZone(peer.Zone())
	case onLink && hop.Is6():
		return peer
	case hop.IsUnspecified(), p.Addr().Is4() != hop.Is4():
		return netip.Addr{}
	}
	return hop
}

// IsLinkLocal reports whether a is an address of IPv6 that says nothing without
// its link.
func IsLinkLocal(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }
