package sender

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Message types (RFC 4271, section 4.1).
const (
	typeOpen         = 1
	typeUpdate       = 2
	typeNotification = 3
	typeKeepalive    = 4
	typeRefresh      = 5
)

const (
	headerLength = 19
	maxLength    = 4096
)

// message frames a body (RFC 4271, section 4.1).
func message(kind byte, body []byte) []byte {
	m := make([]byte, headerLength, headerLength+len(body))
	for i := range 16 {
		m[i] = 0xff
	}
	binary.BigEndian.PutUint16(m[16:], uint16(headerLength+len(body)))
	m[18] = kind
	return append(m, body...)
}

// Address families (RFC 4760): the AFIs of IPv4 and IPv6.
const (
	afi4 = 1
	afi6 = 2
)

// open encodes an OPEN with the capabilities of the unicast families that are
// offered, route refresh, four-octet AS numbers unless left out and, when asked
// for, graceful restart and its long-lived kind.
func (o *Options) open() []byte {
	caps := []byte{2, 0} // route refresh (RFC 2918)
	if !o.TwoOctetAS {
		caps = binary.BigEndian.AppendUint32(append(caps, 65, 4), o.ASN) // four-octet AS numbers (RFC 6793)
	}
	afis := make([]byte, 0, 2)
	if !o.NoIPv4 {
		afis = append(afis, afi4)
	}
	if !o.NoIPv6 {
		afis = append(afis, afi6)
	}
	for _, afi := range afis {
		caps = append(caps, 1, 4, 0, afi, 0, 1) // multiprotocol, unicast (RFC 4760)
	}
	if o.RestartTime > 0 {
		flags := uint16(o.RestartTime / time.Second)
		preserved := byte(0)
		if o.Restarting {
			flags |= 0x8000
			preserved = 0x80
		}
		caps = append(caps, 64, byte(2+4*len(afis)), byte(flags>>8), byte(flags))
		for _, afi := range afis {
			caps = append(caps, 0, afi, 1, preserved)
		}
	}
	if kept := uint32(o.LongLived / time.Second); kept > 0 {
		caps = append(caps, 71, byte(7*len(afis)))
		for _, afi := range afis {
			caps = append(caps, 0, afi, 1, 0, byte(kept>>16), byte(kept>>8), byte(kept))
		}
	}
	as := uint16(23456) // AS_TRANS
	if o.ASN < 1<<16 {
		as = uint16(o.ASN)
	}
	body := []byte{4}
	body = binary.BigEndian.AppendUint16(body, as)
	body = binary.BigEndian.AppendUint16(body, uint16(o.hold()/time.Second))
	id := o.RouterID.As4()
	body = append(body, id[:]...)
	body = append(body, byte(len(caps)+2), 2, byte(len(caps)))
	return message(typeOpen, append(body, caps...))
}

// Route is what an UPDATE says of a set of prefixes.
type Route struct {
	NextHop   netip.Addr
	LinkLocal netip.Addr // beside an IPv6 NextHop (RFC 2545); zero: left out
	ASPath    []uint32
	LocalPref uint32 // zero: the attribute is left out, as to external peers
	MED       uint32 // zero: the attribute is left out
	// Communities are standard (RFC 1997) and large ones (RFC 8092).
	Communities      []uint32
	LargeCommunities [][3]uint32
}

// Update encodes UPDATE messages that announce prefixes of one family, as few
// as their size allows. The next hop is sent as it is, also for IPv4 by way of
// IPv6 (RFC 8950).
func Update(r Route, prefixes ...netip.Prefix) []byte {
	attrs := []byte{0x40, 1, 1, 0} // ORIGIN IGP
	path := []byte{}
	if n := len(r.ASPath); n > 0 {
		path = append(path, 2, byte(n)) // AS_SEQUENCE
		for _, as := range r.ASPath {
			path = binary.BigEndian.AppendUint32(path, as)
		}
	}
	attrs = append(append(attrs, 0x40, 2, byte(len(path))), path...)
	afi := byte(afi6)
	if len(prefixes) > 0 && prefixes[0].Addr().Is4() {
		afi = afi4
	}
	classic := afi == afi4 && r.NextHop.Is4()
	if classic {
		attrs = append(append(attrs, 0x40, 3, 4), r.NextHop.AsSlice()...)
	}
	if r.MED > 0 {
		attrs = binary.BigEndian.AppendUint32(append(attrs, 0x80, 4, 4), r.MED)
	}
	if r.LocalPref > 0 {
		attrs = binary.BigEndian.AppendUint32(append(attrs, 0x40, 5, 4), r.LocalPref)
	}
	if len(r.Communities) > 0 {
		attrs = append(attrs, 0xc0, 8, byte(4*len(r.Communities)))
		for _, c := range r.Communities {
			attrs = binary.BigEndian.AppendUint32(attrs, c)
		}
	}
	if len(r.LargeCommunities) > 0 {
		attrs = append(attrs, 0xc0, 32, byte(12*len(r.LargeCommunities)))
		for _, c := range r.LargeCommunities {
			for _, part := range c {
				attrs = binary.BigEndian.AppendUint32(attrs, part)
			}
		}
	}
	room := maxLength - headerLength - 4 - len(attrs) - 48
	return chunked(prefixes, room, func(nlri []byte) []byte {
		if classic {
			return update(nil, attrs, nlri)
		}
		hop := append(r.NextHop.AsSlice(), r.LinkLocal.AsSlice()...)
		mp := append([]byte{0, afi, 1, byte(len(hop))}, hop...)
		mp = append(append(mp, 0), nlri...)
		return update(nil, appendExtended(attrs, 14, mp), nil)
	})
}

// Withdraw encodes UPDATE messages that withdraw prefixes of one family.
func Withdraw(prefixes ...netip.Prefix) []byte {
	return chunked(prefixes, maxLength-headerLength-32, func(nlri []byte) []byte {
		if prefixes[0].Addr().Is4() {
			return update(nlri, nil, nil)
		}
		return update(nil, appendExtended(nil, 15, append([]byte{0, afi6, 1}, nlri...)), nil)
	})
}

// EndOfRIB encodes the End-of-RIB marker of a family (RFC 4724, section 2).
func EndOfRIB(v4 bool) []byte {
	if v4 {
		return update(nil, nil, nil)
	}
	return update(nil, appendExtended(nil, 15, []byte{0, afi6, 1}), nil)
}

func update(withdrawn, attrs, nlri []byte) []byte {
	body := binary.BigEndian.AppendUint16(nil, uint16(len(withdrawn)))
	body = append(body, withdrawn...)
	body = binary.BigEndian.AppendUint16(body, uint16(len(attrs)))
	body = append(body, attrs...)
	return message(typeUpdate, append(body, nlri...))
}

// appendExtended appends an optional attribute with a two-octet length.
func appendExtended(attrs []byte, kind byte, value []byte) []byte {
	out := append(append([]byte{}, attrs...), 0x90, kind)
	out = binary.BigEndian.AppendUint16(out, uint16(len(value)))
	return append(out, value...)
}

func chunked(prefixes []netip.Prefix, room int, encode func(nlri []byte) []byte) []byte {
	var out, nlri []byte
	for _, p := range prefixes {
		nlri = append(nlri, byte(p.Bits()))
		nlri = append(nlri, p.Addr().AsSlice()[:(p.Bits()+7)/8]...)
		if len(nlri) > room {
			out = append(out, encode(nlri)...)
			nlri = nlri[:0]
		}
	}
	if len(nlri) > 0 {
		out = append(out, encode(nlri)...)
	}
	return out
}

// Change is what a received UPDATE says.
type Change struct {
	Withdrawn []netip.Prefix
	Announced []netip.Prefix
	Route     Route // of Announced
	// The End-of-RIB of IPv4, of IPv6 (RFC 4724, section 2).
	EndOfRIB4, EndOfRIB6 bool
}

var errShort = errors.New("message is cut short")

// ParseUpdate decodes the body of an UPDATE message whose AS numbers have four octets.
func ParseUpdate(body []byte) (Change, error) {
	var c Change
	withdrawn, rest, err := sized(body)
	if err != nil {
		return c, err
	}
	attrs, nlri, err := sized(rest)
	if err != nil {
		return c, err
	}
	if c.Withdrawn, err = parsePrefixes(withdrawn, 4); err != nil {
		return c, err
	}
	if c.Announced, err = parsePrefixes(nlri, 4); err != nil {
		return c, err
	}
	c.EndOfRIB4 = len(body) == 4
	for len(attrs) > 0 {
		var kind byte
		var value []byte
		if kind, value, attrs, err = parseAttribute(attrs); err != nil {
			return c, err
		}
		if err := c.attribute(kind, value); err != nil {
			return c, err
		}
	}
	return c, nil
}

func (c *Change) attribute(kind byte, v []byte) (err error) {
	switch kind {
	case 2:
		for len(v) >= 2 {
			n := int(v[1])
			if len(v) < 2+4*n {
				return errShort
			}
			for i := range n {
				c.Route.ASPath = append(c.Route.ASPath, binary.BigEndian.Uint32(v[2+4*i:]))
			}
			v = v[2+4*n:]
		}
	case 3:
		c.Route.NextHop, _ = netip.AddrFromSlice(v)
	case 4, 5:
		if len(v) != 4 {
			return errShort
		}
		n := binary.BigEndian.Uint32(v)
		if kind == 4 {
			c.Route.MED = n
		} else {
			c.Route.LocalPref = n
		}
	case 8:
		for ; len(v) >= 4; v = v[4:] {
			c.Route.Communities = append(c.Route.Communities, binary.BigEndian.Uint32(v))
		}
	case 32:
		for ; len(v) >= 12; v = v[12:] {
			c.Route.LargeCommunities = append(c.Route.LargeCommunities, [3]uint32{
				binary.BigEndian.Uint32(v), binary.BigEndian.Uint32(v[4:]), binary.BigEndian.Uint32(v[8:]),
			})
		}
	case 14:
		if len(v) < 5 || len(v) < 5+int(v[3]) {
			return errShort
		}
		hop := v[4 : 4+int(v[3])]
		if len(hop) == 32 {
			c.Route.LinkLocal, _ = netip.AddrFromSlice(hop[16:])
			hop = hop[:16]
		}
		c.Route.NextHop, _ = netip.AddrFromSlice(hop)
		return appendPrefixes(&c.Announced, v[5+int(v[3]):], v[1])
	case 15:
		if len(v) < 3 {
			return errShort
		}
		c.EndOfRIB6 = len(v) == 3
		return appendPrefixes(&c.Withdrawn, v[3:], v[1])
	}
	return err
}

func appendPrefixes(to *[]netip.Prefix, b []byte, afi byte) error {
	size := 16
	if afi == afi4 {
		size = 4
	}
	prefixes, err := parsePrefixes(b, size)
	*to = append(*to, prefixes...)
	return err
}

func parseAttribute(b []byte) (kind byte, value, rest []byte, err error) {
	if len(b) < 3 {
		return 0, nil, nil, errShort
	}
	head, n := 3, int(b[2])
	if b[0]&0x10 != 0 {
		if len(b) < 4 {
			return 0, nil, nil, errShort
		}
		head, n = 4, int(binary.BigEndian.Uint16(b[2:]))
	}
	if len(b) < head+n {
		return 0, nil, nil, errShort
	}
	return b[1], b[head : head+n], b[head+n:], nil
}

func sized(b []byte) (value, rest []byte, err error) {
	if len(b) < 2 {
		return nil, nil, errShort
	}
	n := int(binary.BigEndian.Uint16(b))
	if len(b) < 2+n {
		return nil, nil, errShort
	}
	return b[2 : 2+n], b[2+n:], nil
}

func parsePrefixes(b []byte, size int) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for len(b) > 0 {
		bits := int(b[0])
		n := (bits + 7) / 8
		if bits > 8*size {
			return nil, fmt.Errorf("prefix length %d", bits)
		}
		if len(b) < 1+n {
			return nil, errShort
		}
		full := make([]byte, size)
		copy(full, b[1:1+n])
		addr, _ := netip.AddrFromSlice(full)
		out = append(out, netip.PrefixFrom(addr, bits).Masked())
		b = b[1+n:]
	}
	return out, nil
}

// Table encodes a table for measurements: n prefixes of length 26 from
// 16.0.0.0/4 on, and hops next hops from 10.64.0.1 on, each with its share of
// neighbouring prefixes in a message of its own, then End-of-RIB.
func Table(n, hops int) []byte {
	share := n / hops
	var out []byte
	for h := range hops {
		prefixes := make([]netip.Prefix, 0, share+1)
		for i := h * share; i < n && (i < (h+1)*share || h == hops-1); i++ {
			prefixes = append(prefixes, TablePrefix(i))
		}
		out = append(out, Update(Route{NextHop: TableHop(h), LocalPref: 100}, prefixes...)...)
	}
	return append(out, EndOfRIB(true)...)
}

// TablePrefix is the prefix i of Table.
func TablePrefix(i int) netip.Prefix {
	n := uint32(16<<24) + uint32(i)<<6
	return netip.PrefixFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n))), 26)
}

// TableHop is the next hop h of Table.
func TableHop(h int) netip.Addr {
	n := uint32(10<<24|64<<16) + uint32(h) + 1
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
}
