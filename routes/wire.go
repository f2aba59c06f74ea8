package routes

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Netlink messages, after rtnetlink(7) and linux/nexthop.h. Numbers are in host
// byte order, attributes and messages aligned to four bytes.

const (
	sizeofHeader  = 16 // struct nlmsghdr
	sizeofRtmsg   = 12 // struct rtmsg
	sizeofNhmsg   = 8  // struct nhmsg
	sizeofIfinfo  = 16 // struct ifinfomsg
	sizeofRtnh    = 8  // struct rtnexthop
	sizeofNhgrp   = 8  // struct nexthop_grp
	attrTypeMask  = 0x3fff
	rtnhOnlink    = 4  // RTNH_F_ONLINK
	rtaNHID       = 30 // RTA_NH_ID
	scopeUniverse = 0
	scopeLink     = 253
	scopeNowhere  = 255
	v6UserMetric  = 1024 // what the kernel gives an IPv6 route without a metric
)

var errMalformed = errors.New("malformed netlink message")

// encoder writes messages one behind the other.
type encoder struct {
	b     []byte
	start int
}

func (e *encoder) begin(typ, flags uint16, seq uint32) {
	e.start = len(e.b)
	e.b = binary.NativeEndian.AppendUint32(e.b, 0)
	e.b = binary.NativeEndian.AppendUint16(e.b, typ)
	e.b = binary.NativeEndian.AppendUint16(e.b, flags)
	e.b = binary.NativeEndian.AppendUint32(e.b, seq)
	e.b = binary.NativeEndian.AppendUint32(e.b, 0)
}

func (e *encoder) end() {
	binary.NativeEndian.PutUint32(e.b[e.start:], uint32(len(e.b)-e.start))
}

// setFlags adds flags to the message begun last.
func (e *encoder) setFlags(flags uint16) {
	at := e.start + 6
	binary.NativeEndian.PutUint16(e.b[at:], binary.NativeEndian.Uint16(e.b[at:])|flags)
}

func (e *encoder) attr(typ uint16, v []byte) {
	e.b = binary.NativeEndian.AppendUint16(e.b, uint16(4+len(v)))
	e.b = binary.NativeEndian.AppendUint16(e.b, typ)
	e.b = append(e.b, v...)
	e.pad()
}

func (e *encoder) attr32(typ uint16, v uint32) {
	e.b = binary.NativeEndian.AppendUint16(e.b, 8)
	e.b = binary.NativeEndian.AppendUint16(e.b, typ)
	e.b = binary.NativeEndian.AppendUint32(e.b, v)
}

func (e *encoder) addr(typ uint16, a netip.Addr) {
	if a.Is4() {
		v := a.As4()
		e.attr(typ, v[:])
		return
	}
	v := a.As16()
	e.attr(typ, v[:])
}

// nest begins a nested attribute; close it with unnest.
func (e *encoder) nest(typ uint16) int {
	at := len(e.b)
	e.b = binary.NativeEndian.AppendUint16(e.b, 0)
	e.b = binary.NativeEndian.AppendUint16(e.b, typ)
	return at
}

func (e *encoder) unnest(at int) {
	binary.NativeEndian.PutUint16(e.b[at:], uint16(len(e.b)-at))
}

func (e *encoder) pad() {
	for len(e.b)%4 != 0 {
		e.b = append(e.b, 0)
	}
}

// header is a message's header.
type header struct {
	typ, flags uint16
	seq, pid   uint32
}

// eachMessage calls f for the messages of a datagram, until f returns an error.
func eachMessage(b []byte, f func(h header, payload []byte) error) error {
	for len(b) > 0 {
		if len(b) < sizeofHeader {
			return fmt.Errorf("%w: %d bytes where a header was expected", errMalformed, len(b))
		}
		n := int(binary.NativeEndian.Uint32(b))
		if n < sizeofHeader || n > len(b) {
			return fmt.Errorf("%w: length %d of %d", errMalformed, n, len(b))
		}
		h := header{
			typ: binary.NativeEndian.Uint16(b[4:]), flags: binary.NativeEndian.Uint16(b[6:]),
			seq: binary.NativeEndian.Uint32(b[8:]), pid: binary.NativeEndian.Uint32(b[12:]),
		}
		if err := f(h, b[sizeofHeader:n]); err != nil {
			return err
		}
		b = b[min(align(n), len(b)):]
	}
	return nil
}

// eachAttr calls f for the attributes in b.
func eachAttr(b []byte, f func(typ uint16, v []byte) error) error {
	for len(b) >= 4 {
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			return fmt.Errorf("%w: attribute length %d of %d", errMalformed, n, len(b))
		}
		if err := f(binary.NativeEndian.Uint16(b[2:])&attrTypeMask, b[4:n]); err != nil {
			return err
		}
		b = b[min(align(n), len(b)):]
	}
	return nil
}

func align(n int) int { return (n + 3) &^ 3 }

func u32(v []byte) (uint32, error) {
	if len(v) < 4 {
		return 0, fmt.Errorf("%w: a number of %d bytes", errMalformed, len(v))
	}
	return binary.NativeEndian.Uint32(v), nil
}

// address reads an address of four or sixteen bytes.
func address(v []byte) (netip.Addr, error) {
	a, ok := netip.AddrFromSlice(v)
	if !ok {
		return netip.Addr{}, fmt.Errorf("%w: an address of %d bytes", errMalformed, len(v))
	}
	return a, nil
}

// via reads a struct rtvia: a gateway whose family may differ from the route's.
func via(v []byte) (netip.Addr, error) {
	if len(v) < 2 {
		return netip.Addr{}, fmt.Errorf("%w: via of %d bytes", errMalformed, len(v))
	}
	return address(v[2:])
}

func familyOf(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// link is an interface.
type link struct {
	index int
	name  string
	flags uint32
}

// up says that the interface is administratively up: it can have routes.
func (l link) up() bool { return l.flags&unix.IFF_UP != 0 }

// running says that it has its carrier, too: it can have nexthop objects.
func (l link) running() bool {
	return l.up() && l.flags&unix.IFF_LOWER_UP != 0
}

// event is something that the kernel tells, in a dump or unasked. Exactly one
// of the pointers is set.
type event struct {
	del     bool
	replace bool // it took the place of the first of the same key
	route   *kernelRoute
	object  *kernelObject
	link    *link
}

// decodeEvent reads one message; ok is false for one of no interest here.
func decodeEvent(h header, payload []byte) (ev event, ok bool, err error) {
	ev.replace = h.flags&unix.NLM_F_REPLACE != 0
	switch h.typ {
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		ev.del = h.typ == unix.RTM_DELROUTE
		ev.route, err = decodeRoute(payload)
		ok = ev.route != nil
	case unix.RTM_NEWNEXTHOP, unix.RTM_DELNEXTHOP:
		ev.del = h.typ == unix.RTM_DELNEXTHOP
		ev.object, err = decodeObject(payload)
		ok = ev.object != nil
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		ev.del = h.typ == unix.RTM_DELLINK
		ev.link, err = decodeLink(payload)
		ok = ev.link != nil
	}
	return ev, ok && err == nil, err
}

// decodeLink reads a link message; nil for another family's view of a link.
func decodeLink(b []byte) (*link, error) {
	if len(b) < sizeofIfinfo {
		return nil, fmt.Errorf("%w: link of %d bytes", errMalformed, len(b))
	}
	if b[0] != unix.AF_UNSPEC {
		return nil, nil //nolint:nilnil // nothing of interest, and no error
	}
	l := &link{
		index: int(int32(binary.NativeEndian.Uint32(b[4:]))),
		flags: binary.NativeEndian.Uint32(b[8:]),
	}
	err := eachAttr(b[sizeofIfinfo:], func(typ uint16, v []byte) error {
		if typ == unix.IFLA_IFNAME {
			l.name = unix.ByteSliceToString(v)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}
