package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Netlink messages, after rtnetlink(7). Numbers are in host byte order,
// attributes and messages aligned to four bytes.

const (
	sizeofHeader = 16 // struct nlmsghdr
	sizeofIfinfo = 16 // struct ifinfomsg
	sizeofIfaddr = 8  // struct ifaddrmsg
	sizeofNdmsg  = 12 // struct ndmsg
	attrTypeMask = 0x3fff
)

var errMalformed = errors.New("malformed netlink message")

// batch is a row of requests to the kernel.
type batch struct {
	b    []byte
	reqs []request
}

// request is one message of a batch: where it starts, and what it is for.
type request struct {
	at   int
	step step
	of   any
}

// begin begins a message that takes a step with of; end closes it.
func (m *batch) begin(s step, of any, typ, flags uint16, fixed []byte) {
	m.reqs = append(m.reqs, request{at: len(m.b), step: s, of: of})
	m.b = append(m.b, make([]byte, sizeofHeader)...)
	h := m.b[len(m.b)-sizeofHeader:]
	binary.NativeEndian.PutUint16(h[4:], typ)
	binary.NativeEndian.PutUint16(h[6:], flags|unix.NLM_F_REQUEST)
	m.b = append(m.b, fixed...)
}

func (m *batch) end() {
	at := m.reqs[len(m.reqs)-1].at
	binary.NativeEndian.PutUint32(m.b[at:], uint32(len(m.b)-at))
}

func (m *batch) attr(typ uint16, v []byte) {
	m.b = binary.NativeEndian.AppendUint16(m.b, uint16(4+len(v)))
	m.b = binary.NativeEndian.AppendUint16(m.b, typ)
	m.b = append(m.b, v...)
	for len(m.b)%4 != 0 {
		m.b = append(m.b, 0)
	}
}

func (m *batch) attr32(typ uint16, v uint32) {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], v)
	m.attr(typ, b[:])
}

// attr16be is for numbers that the kernel wants in network byte order.
func (m *batch) attr16be(typ, v uint16) {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	m.attr(typ, b[:])
}

func (m *batch) attr8(typ uint16, v uint8) { m.attr(typ, []byte{v}) }

func (m *batch) attrAddr(typ uint16, a netip.Addr) {
	if a.Is4() {
		v := a.As4()
		m.attr(typ, v[:])
		return
	}
	v := a.As16()
	m.attr(typ, v[:])
}

// nest puts what f writes into an attribute.
func (m *batch) nest(typ uint16, f func()) {
	at := len(m.b)
	m.b = binary.NativeEndian.AppendUint16(m.b, 0)
	m.b = binary.NativeEndian.AppendUint16(m.b, typ|unix.NLA_F_NESTED)
	f()
	binary.NativeEndian.PutUint16(m.b[at:], uint16(len(m.b)-at))
}

// header is a message's header.
type header struct {
	typ, flags uint16
	seq        uint32
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
			seq: binary.NativeEndian.Uint32(b[8:]),
		}
		if err := f(h, b[sizeofHeader:n]); err != nil {
			return err
		}
		b = b[min(align(n), len(b)):]
	}
	return nil
}

// eachAttr calls f for the attributes in b, up to one that is malformed.
func eachAttr(b []byte, f func(typ uint16, v []byte)) {
	for len(b) >= unix.SizeofRtAttr {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofRtAttr || n > len(b) {
			return
		}
		f(binary.NativeEndian.Uint16(b[2:])&attrTypeMask, b[unix.SizeofRtAttr:n])
		b = b[min(align(n), len(b)):]
	}
}

func align(n int) int { return (n + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }

// The readers of attributes take what is too short for zero.

func u32(v []byte) uint32 {
	if len(v) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(v)
}

func u16be(v []byte) uint16 {
	if len(v) < 2 {
		return 0
	}
	return binary.BigEndian.Uint16(v)
}

func u8(v []byte) uint8 {
	if len(v) < 1 {
		return 0
	}
	return v[0]
}

// address reads an address; "any" and what is none are the zero Addr.
func address(v []byte) netip.Addr {
	a, ok := netip.AddrFromSlice(v)
	if !ok || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
