// Package tunnel keeps the node's tunnel devices as desired: IPIP and VXLAN,
// with their addresses, and for VXLAN the entries that say where peers are.
//
//	Set ───────▶ wanted ─┐
//	                     ├─▶ plan ─▶ batches ─▶ kernel
//	dumps ─▶ observation ┘                        │
//	  ▲                                           │
//	  └────────── again, until nothing is to do ──┘
//
// Invariants:
//   - What is right is never touched. A device is made anew only when what is
//     wrong can't be changed, and then within one batch.
//   - Additions and changes come before removals.
//   - A device that bears a name of ours but not our mark (Alias) is taken over if
//     it is exactly what is wanted, and else left alone and reported.
//   - A device that can't be had as wanted, by its configuration or by the
//     kernel's word, stays as it is, and does not hold up the others.
//   - Peers are on a device before it comes up, so that whoever sees it come up
//     can route over it.
//   - A peer's MAC address follows from its address (MAC), so that nothing has to
//     be learned, and a node that starts anew needs no change on the others. It also
//     tells which entries are ours, of an earlier life: until all peers are known
//     (Config.Partial) none of these is removed.
package tunnel

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// The names of the devices.
const (
	IPIPDevice   = "godwit.ipip"
	VXLANDevice  = "godwit.vxlan"
	VXLAN6Device = "godwit.vxlan6"
)

// What the outer headers take of a packet, in bytes.
const (
	IPIPOverhead   = 20
	VXLANOverhead  = 50
	VXLAN6Overhead = 70
)

// What VXLAN uses where nothing else is asked for.
const (
	DefaultPort = 4789
	DefaultVNI  = 4096
)

// Alias marks a device as ours.
const Alias = "godwit tunnel"

// Kind is a kind of tunnel.
type Kind int

// The kinds.
const (
	IPIP  Kind = iota // IPv4 in IPv4 (RFC 2003)
	VXLAN             // Ethernet in UDP (RFC 7348)
)

// String names the kind as the kernel does.
func (k Kind) String() string {
	switch k {
	case IPIP:
		return "ipip"
	case VXLAN:
		return "vxlan"
	default:
		return fmt.Sprintf("kind %d", int(k))
	}
}

// Device is a tunnel device.
type Device struct {
	Kind Kind
	// Local is the node's address in the underlying network, the source of the
	// outer packets. A VXLAN device over IPv6 is another one than that over IPv4.
	Local netip.Addr
	// MTU is the device's own: the underlying network's less the overhead. 0: that is
	// not known, for want of an interface with Local.
	MTU int
	// Addresses are exactly those that the device has, at most one of a family,
	// without a subnet.
	Addresses []netip.Addr
	// Port is VXLAN's UDP port; 0: DefaultPort.
	Port uint16
	// VNI is VXLAN's network identifier; 0: DefaultVNI.
	VNI uint32
}

// Name is the device's name, by its kind and the family of Local.
func (d Device) Name() string {
	switch {
	case d.Kind == IPIP:
		return IPIPDevice
	case d.Local.Is6() && !d.Local.Is4In6():
		return VXLAN6Device
	default:
		return VXLANDevice
	}
}

// Config is all that a Table is to keep.
type Config struct {
	// Devices are the tunnel devices, at most one of a name.
	Devices []Device
	// Peers are the other nodes' addresses in the underlying network, of both
	// families. A VXLAN device knows those of its family, so that a route via the
	// Gateway of one of them, onlink over the device, needs no more.
	Peers []netip.Addr
	// Partial says that Peers may not be all that there are, as after a restart: the
	// nodes that a VXLAN device knows already, and those that Set and AddPeers were told
	// of before, count as peers, too. Entries that can't be ours are removed all the
	// same.
	Partial bool
}

// Status is what became of a wanted device.
type Status struct {
	Device
	// Up says that the device carries packets as wanted.
	Up bool
	// Err is why it is not as wanted. It wraps one of the errors of this package
	// where one of them tells the reason.
	Err error
}

// Why a device is not as wanted.
var (
	// ErrDeviceConflict: a device is in the way that is somebody else's.
	ErrDeviceConflict = errors.New("the device is in conflict with another one")
	// ErrPortInUse: another VXLAN device or a socket has the UDP port.
	ErrPortInUse = errors.New("the UDP port is in use")
	// ErrNotSupported: the kernel has no such devices.
	ErrNotSupported = errors.New("the kernel does not support it")
	// ErrMTUTooSmall: the MTU is below what IP needs (RFC 791: 68 bytes, RFC 8200: 1280).
	ErrMTUTooSmall = errors.New("the MTU is too small")
	// ErrMTUTooLarge: the underlying interface's MTU leaves less.
	ErrMTUTooLarge = errors.New("the MTU is too large")
	// ErrNoAddress: no interface has the node's address.
	ErrNoAddress = errors.New("no interface has the node's address")
	// ErrInvalid: the device is not one that can be.
	ErrInvalid = errors.New("the device is not valid")
	// ErrClosed: the table is closed.
	ErrClosed = errors.New("the tunnel table is closed")
)

// MAC is the address of a node's VXLAN devices inside the tunnels, derived from
// its address in the underlying network: locally administered, and readable
// from an IPv4 address. For 192.0.2.1 it is 0a:67:c0:00:02:01.
func MAC(local netip.Addr) net.HardwareAddr {
	local = local.Unmap()
	if local.Is4() {
		a := local.As4()
		return net.HardwareAddr{0x0a, 'g', a[0], a[1], a[2], a[3]}
	}
	a := local.As16()
	h := sha256.Sum256(a[:])
	// Unicast and locally administered, whatever the rest is.
	return net.HardwareAddr{h[0]&^1 | 2, h[1], h[2], h[3], h[4], h[5]}
}

// Gateway is the address under which a node is the gateway of routes over a
// VXLAN device: local itself for IPv4, with the route's flag onlink. IPv6 has no
// gateway on one link that is (also) in the subnet of another, not even onlink.
// So there it is the link-local address that belongs to MAC.
func Gateway(local netip.Addr) netip.Addr {
	local = local.Unmap()
	if local.Is4() {
		return local
	}
	m := MAC(local)
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]})
}
