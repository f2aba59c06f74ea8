package routes

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// path is one way out: a gateway (or none) on a link.
type path struct {
	gateway netip.Addr
	oif     int
	onlink  bool
}

// kernelRoute is a route as the kernel has it.
type kernelRoute struct {
	dst      netip.Prefix
	table    uint32
	protocol uint8
	kind     uint8 // RTN_UNICAST, RTN_BLACKHOLE, …
	scope    uint8
	tos      uint8
	metric   uint32
	nhid     uint32
	paths    []path
	// odd says that the route has attributes that ours never have.
	odd bool
}

// usualMetric is the metric that the kernel gives a route whose message names
// none, as ours don't.
func usualMetric(dst netip.Prefix) uint32 {
	if dst.Addr().Is4() {
		return 0
	}
	return v6UserMetric
}

// usual says that the route stands where ours would stand.
func (r *kernelRoute) usual() bool {
	return r.tos == 0 && r.metric == usualMetric(r.dst)
}

// encodeRoute writes a route message. A DELROUTE message leaves out where
// packets go: destination, metric, TOS and protocol say which route is meant.
func encodeRoute(e *encoder, typ, flags uint16, seq uint32, r *kernelRoute) {
	e.begin(typ, flags, seq)
	table := uint8(unix.RT_TABLE_UNSPEC)
	if r.table < 256 {
		table = uint8(r.table)
	}
	scope, kind, rtmFlags := r.scope, r.kind, uint32(0)
	if typ == unix.RTM_DELROUTE {
		scope, kind = scopeNowhere, unix.RTN_UNSPEC
	}
	single := typ == unix.RTM_NEWROUTE && len(r.paths) == 1
	if single && r.paths[0].onlink {
		rtmFlags = rtnhOnlink
	}
	e.b = append(e.b, familyOf(r.dst.Addr()), uint8(r.dst.Bits()), 0, r.tos, table, r.protocol, scope, kind)
	e.b = binary.NativeEndian.AppendUint32(e.b, rtmFlags)
	e.addr(unix.RTA_DST, r.dst.Addr())
	if table == unix.RT_TABLE_UNSPEC {
		e.attr32(unix.RTA_TABLE, r.table)
	}
	if r.metric != 0 {
		e.attr32(unix.RTA_PRIORITY, r.metric)
	}
	switch {
	case typ == unix.RTM_DELROUTE:
	case r.nhid != 0:
		e.attr32(rtaNHID, r.nhid)
	case single:
		encodePath(e, r.dst.Addr(), r.paths[0])
	case len(r.paths) > 1:
		at := e.nest(unix.RTA_MULTIPATH)
		for _, p := range r.paths {
			encodeMultipath(e, r.dst.Addr(), p)
		}
		e.unnest(at)
	}
	e.end()
}

func encodePath(e *encoder, dst netip.Addr, p path) {
	encodeGateway(e, dst, p.gateway)
	e.attr32(unix.RTA_OIF, uint32(p.oif))
}

func encodeGateway(e *encoder, dst, gw netip.Addr) {
	switch {
	case !gw.IsValid():
	case gw.Is4() == dst.Is4():
		e.addr(unix.RTA_GATEWAY, gw)
	default: // an IPv4 route over an IPv6 gateway (RFC 8950)
		v := binary.NativeEndian.AppendUint16(nil, uint16(familyOf(gw)))
		e.attr(unix.RTA_VIA, append(v, gw.AsSlice()...))
	}
}

func encodeMultipath(e *encoder, dst netip.Addr, p path) {
	at, flags := len(e.b), uint8(0)
	if p.onlink {
		flags = rtnhOnlink
	}
	e.b = append(e.b, 0, 0, flags, 0)
	e.b = binary.NativeEndian.AppendUint32(e.b, uint32(p.oif))
	encodeGateway(e, dst, p.gateway)
	binary.NativeEndian.PutUint16(e.b[at:], uint16(len(e.b)-at))
}

// decodeRoute reads a route message; nil for one that is neither IPv4 nor IPv6,
// or only a cached copy.
func decodeRoute(b []byte) (*kernelRoute, error) {
	if len(b) < sizeofRtmsg {
		return nil, fmt.Errorf("%w: route of %d bytes", errMalformed, len(b))
	}
	flags := binary.NativeEndian.Uint32(b[8:])
	if b[0] != unix.AF_INET && b[0] != unix.AF_INET6 || flags&unix.RTM_F_CLONED != 0 {
		return nil, nil //nolint:nilnil // nothing of interest, and no error
	}
	r := &kernelRoute{
		tos: b[3], table: uint32(b[4]), protocol: b[5], scope: b[6], kind: b[7],
		odd: b[2] != 0, // a source prefix
	}
	dst := netip.IPv4Unspecified()
	if b[0] == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	single := path{onlink: flags&rtnhOnlink != 0}
	err := eachAttr(b[sizeofRtmsg:], func(typ uint16, v []byte) (err error) {
		var n uint32
		switch typ {
		case unix.RTA_DST:
			dst, err = address(v)
		case unix.RTA_TABLE:
			r.table, err = u32(v)
		case unix.RTA_PRIORITY:
			r.metric, err = u32(v)
		case rtaNHID:
			r.nhid, err = u32(v)
		case unix.RTA_OIF:
			n, err = u32(v)
			single.oif = int(int32(n))
		case unix.RTA_GATEWAY:
			single.gateway, err = address(v)
		case unix.RTA_VIA:
			single.gateway, err = via(v)
		case unix.RTA_MULTIPATH:
			err = decodeMultipath(r, v)
		case unix.RTA_PREF: // IPv6 always has one; 0 is the usual
			r.odd = r.odd || len(v) > 0 && v[0] != 0
		case unix.RTA_PREFSRC, unix.RTA_METRICS, unix.RTA_FLOW, unix.RTA_SRC, unix.RTA_ENCAP, unix.RTA_ENCAP_TYPE:
			r.odd = true
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if dst.Is4() != (b[0] == unix.AF_INET) || int(b[1]) > dst.BitLen() {
		return nil, fmt.Errorf("%w: %s/%d in family %d", errMalformed, dst, b[1], b[0])
	}
	r.dst = netip.PrefixFrom(dst, int(b[1])).Masked()
	if r.paths == nil && (single.oif != 0 || single.gateway.IsValid()) {
		r.paths = []path{single}
	}
	return r, nil
}

func decodeMultipath(r *kernelRoute, b []byte) error {
	for len(b) >= sizeofRtnh {
		n := int(binary.NativeEndian.Uint16(b))
		if n < sizeofRtnh || n > len(b) {
			return fmt.Errorf("%w: next hop length %d of %d", errMalformed, n, len(b))
		}
		p := path{onlink: b[2]&rtnhOnlink != 0, oif: int(int32(binary.NativeEndian.Uint32(b[4:])))}
		r.odd = r.odd || b[3] != 0 // a weight
		err := eachAttr(b[sizeofRtnh:n], func(typ uint16, v []byte) (err error) {
			switch typ {
			case unix.RTA_GATEWAY:
				p.gateway, err = address(v)
			case unix.RTA_VIA:
				p.gateway, err = via(v)
			case unix.RTA_ENCAP, unix.RTA_ENCAP_TYPE:
				r.odd = true
			}
			return err
		})
		if err != nil {
			return err
		}
		r.paths = append(r.paths, p)
		b = b[min(align(n), len(b)):]
	}
	return nil
}

// sortPaths brings paths into one order, so that equal sets compare equal.
func sortPaths(ps []path) {
	slices.SortFunc(ps, func(a, b path) int {
		return cmp.Or(a.gateway.Compare(b.gateway), cmp.Compare(a.oif, b.oif))
	})
}
