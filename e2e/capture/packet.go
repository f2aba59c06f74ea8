package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Numbers of protocols (IANA, Assigned Internet Protocol Numbers).
const (
	ICMP     = 1
	IPIP     = 4
	TCP      = 6
	UDP      = 17
	IPv6     = 41
	fragment = 44 // a header of IPv6 (RFC 8200, section 4.5)
	ICMPv6   = 58
)

// Types of what Ethernet carries (IEEE 802).
const (
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
)

// Packet is an IP packet and, when a tunnel carries another in it, that one.
type Packet struct {
	Src, Dst         netip.Addr
	Protocol         uint8  // of what the packet carries
	SrcPort, DstPort uint16 // of TCP and UDP
	// Length is that of the whole packet, in bytes. Between two ends of one machine
	// it may be more than the MTU: the kernel then has not cut it into segments.
	Length       int
	DontFragment bool // also true for every IPv6 packet
	Fragment     bool // it is a part of a packet
	VNI          uint32
	Inner        *Packet
}

// maxDepth bounds how deep packets are looked for in packets.
const maxDepth = 4

var errShort = errors.New("packet ends too soon")

// decode reads an IP packet. UDP to vxlanPort holds VXLAN.
func decode(raw []byte, vxlanPort uint16) (Packet, error) {
	return decodeIP(raw, vxlanPort, maxDepth)
}

func decodeIP(raw []byte, vxlanPort uint16, depth int) (Packet, error) {
	if len(raw) == 0 {
		return Packet{}, errShort
	}
	var p Packet
	var payload []byte
	var err error
	switch raw[0] >> 4 {
	case 4:
		p, payload, err = decodeV4(raw)
	case 6:
		p, payload, err = decodeV6(raw)
	default:
		return Packet{}, fmt.Errorf("IP version %d", raw[0]>>4)
	}
	if err != nil {
		return Packet{}, err
	}
	return p, p.decodePayload(payload, vxlanPort, depth-1)
}

// decodeV4 reads a header of IPv4 (RFC 791, section 3.1). The payload of any
// fragment but the first begins with no header.
func decodeV4(raw []byte) (Packet, []byte, error) {
	if len(raw) < 20 {
		return Packet{}, nil, errShort
	}
	header := int(raw[0]&0xf) * 4
	if header < 20 || len(raw) < header {
		return Packet{}, nil, errShort
	}
	part := binary.BigEndian.Uint16(raw[6:])
	p := Packet{
		Src: netip.AddrFrom4([4]byte(raw[12:16])), Dst: netip.AddrFrom4([4]byte(raw[16:20])),
		Protocol: raw[9], Length: int(binary.BigEndian.Uint16(raw[2:])),
		DontFragment: part&0x4000 != 0, Fragment: part&0x3fff != 0,
	}
	if part&0x1fff != 0 {
		return p, nil, nil
	}
	return p, raw[header:], nil
}

// decodeV6 reads a header of IPv6 (RFC 8200, section 3) and, of those that may
// follow it, the one of fragments.
func decodeV6(raw []byte) (Packet, []byte, error) {
	const header = 40
	if len(raw) < header {
		return Packet{}, nil, errShort
	}
	p := Packet{
		Src: netip.AddrFrom16([16]byte(raw[8:24])), Dst: netip.AddrFrom16([16]byte(raw[24:40])),
		Protocol: raw[6], Length: header + int(binary.BigEndian.Uint16(raw[4:])), DontFragment: true,
	}
	if p.Protocol != fragment {
		return p, raw[header:], nil
	}
	if len(raw) < header+8 {
		return Packet{}, nil, errShort
	}
	p.Protocol, p.Fragment = raw[header], true
	if binary.BigEndian.Uint16(raw[header+2:])&0xfff8 != 0 {
		return p, nil, nil
	}
	return p, raw[header+8:], nil
}

func (p *Packet) decodePayload(payload []byte, vxlanPort uint16, depth int) error {
	if payload == nil {
		return nil
	}
	switch p.Protocol {
	case IPIP, IPv6:
		return p.decodeInner(payload, vxlanPort, depth)
	case TCP, UDP:
		if len(payload) < 8 {
			return errShort
		}
		p.SrcPort, p.DstPort = binary.BigEndian.Uint16(payload), binary.BigEndian.Uint16(payload[2:])
		if p.Protocol == UDP && p.DstPort == vxlanPort {
			return p.decodeVXLAN(payload[8:], vxlanPort, depth)
		}
	}
	return nil
}

// decodeVXLAN reads a header of VXLAN (RFC 7348, section 5) and the Ethernet
// frame behind it, which may hold something else than IP.
func (p *Packet) decodeVXLAN(raw []byte, vxlanPort uint16, depth int) error {
	const header, ethernet = 8, 14
	if len(raw) < header+ethernet {
		return errShort
	}
	p.VNI = binary.BigEndian.Uint32(raw[4:]) >> 8
	switch binary.BigEndian.Uint16(raw[header+12:]) {
	case etherIPv4, etherIPv6:
		return p.decodeInner(raw[header+ethernet:], vxlanPort, depth)
	}
	return nil
}

func (p *Packet) decodeInner(raw []byte, vxlanPort uint16, depth int) error {
	if depth <= 0 {
		return errors.New("packets in packets without end")
	}
	inner, err := decodeIP(raw, vxlanPort, depth)
	if err != nil {
		return fmt.Errorf("inner packet: %w", err)
	}
	p.Inner = &inner
	return nil
}

// String is the packet in one line, from the outside inwards.
func (p Packet) String() string {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "%s > %s %s", p.Src, p.Dst, p.carries())
	if p.Fragment {
		b.WriteString(" (fragment)")
	}
	if p.Inner != nil {
		return b.String() + " [ " + p.Inner.String() + " ]"
	}
	_, _ = fmt.Fprintf(&b, ", %d bytes", p.Length)
	return b.String()
}

func (p Packet) carries() string {
	switch p.Protocol {
	case ICMP:
		return "ICMP"
	case ICMPv6:
		return "ICMPv6"
	case IPIP:
		return "IPIP (protocol 4)"
	case TCP:
		return fmt.Sprintf("TCP port %d", p.DstPort)
	case UDP:
		if p.VNI != 0 {
			return fmt.Sprintf("VXLAN (UDP port %d, VNI %d)", p.DstPort, p.VNI)
		}
		return fmt.Sprintf("UDP port %d", p.DstPort)
	}
	return fmt.Sprintf("protocol %d", p.Protocol)
}
