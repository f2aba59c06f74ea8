package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/godwit-net/godwit/internal/netnstest"
)

// packet is an IP packet seen on the wire between the nodes.
type packet struct {
	src, dst netip.Addr
	proto    byte
	port     uint16  // UDP's destination
	vni      uint32  // VXLAN's
	inner    *packet // what a tunnel carries
}

func (p packet) String() string {
	s := fmt.Sprintf("%s > %s proto %d", p.src, p.dst, p.proto)
	if p.port != 0 {
		s += fmt.Sprintf(" port %d vni %d", p.port, p.vni)
	}
	if p.inner != nil {
		s += " [" + p.inner.String() + "]"
	}
	return s
}

// capture collects what goes over the wire while f runs.
func capture(t *testing.T, wire *netnstest.NS, f func()) []packet {
	t.Helper()
	var fd int
	var err error
	all := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff})
	wire.Do(func() { fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all)) })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	f()
	var seen []packet
	b := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			return seen
		}
		if err != nil {
			t.Fatal(err)
		}
		if p := readFrame(b[:n]); p != nil {
			seen = append(seen, *p)
		}
	}
}

func readFrame(b []byte) *packet {
	if len(b) < 14 {
		return nil
	}
	switch binary.BigEndian.Uint16(b[12:]) {
	case unix.ETH_P_IP, unix.ETH_P_IPV6:
		return readIP(b[14:])
	}
	return nil
}

func readIP(b []byte) *packet {
	var p packet
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		p.src, _ = netip.AddrFromSlice(b[12:16])
		p.dst, _ = netip.AddrFromSlice(b[16:20])
		p.proto = b[9]
		b = b[4*(b[0]&15):]
	case len(b) >= 40 && b[0]>>4 == 6:
		p.src, _ = netip.AddrFromSlice(b[8:24])
		p.dst, _ = netip.AddrFromSlice(b[24:40])
		p.proto = b[6]
		b = b[40:]
	default:
		return nil
	}
	switch {
	case p.proto == unix.IPPROTO_IPIP:
		p.inner = readIP(b)
	case p.proto == unix.IPPROTO_UDP && len(b) >= 16:
		p.port = binary.BigEndian.Uint16(b[2:])
		p.vni = binary.BigEndian.Uint32(b[12:]) >> 8
		p.inner = readFrame(b[16:])
	}
	return &p
}
