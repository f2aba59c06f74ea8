package tunnel

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// What linux/if_tunnel.h, ip.h, ipv6.h and rtnetlink.h name; x/sys does not.
const (
	iptunLocal     = 2  // IFLA_IPTUN_LOCAL
	iptunRemote    = 3  // IFLA_IPTUN_REMOTE
	iptunTTL       = 4  // IFLA_IPTUN_TTL
	iptunPMTUDisc  = 10 // IFLA_IPTUN_PMTUDISC
	iptunLink      = 1  // IFLA_IPTUN_LINK
	iptunEncapType = 15 // IFLA_IPTUN_ENCAP_TYPE
	iptunMetadata  = 19 // IFLA_IPTUN_COLLECT_METADATA

	skipStats = 8 // RTEXT_FILTER_SKIP_STATS

	conf4Forwarding = 1 // IPV4_DEVCONF_FORWARDING, whose array starts with number 1

	conf6Forwarding = 0  // DEVCONF_FORWARDING
	conf6AcceptRA   = 3  // DEVCONF_ACCEPT_RA
	conf6Disable    = 26 // DEVCONF_DISABLE_IPV6

	genModeNone = 1 // IN6_ADDR_GEN_MODE_NONE
)

// ipipTTL is that of IPIP's outer packets. With a TTL of its own a tunnel lets
// no router fragment them, so that path MTU discovery works.
const ipipTTL = 64

// hwaddr is a MAC address that can be compared.
type hwaddr [6]byte

func (a hwaddr) String() string { return net.HardwareAddr(a[:]).String() }

// macOf is MAC as a hwaddr.
func macOf(local netip.Addr) hwaddr { return hwaddr(MAC(local)) }

// params are what a device is made with and can't be changed.
type params struct {
	kind          string
	local, remote netip.Addr // the zero Addr: any
	underlay      int        // the index of the underlying link, 0: any
	vni           uint32
	port          uint16
	learning      bool
	ttl           uint8
	pmtudisc      bool
	// special: it has extensions, so that it shares no socket with such that don't.
	special bool
	// external: others say for each packet where it goes, by either family.
	external bool
}

// params are those of a wanted device over a link.
func (w *want) params(underlay int) params {
	if w.Kind == IPIP {
		return params{kind: w.Kind.String(), local: w.Local, ttl: ipipTTL, pmtudisc: true}
	}
	return params{kind: w.Kind.String(), local: w.Local, underlay: underlay, vni: w.VNI, port: w.Port}
}

// String is about what `ip -d link` says.
func (p params) String() string {
	var b strings.Builder
	b.WriteString(p.kind)
	addr := func(what string, a netip.Addr) {
		if a.IsValid() {
			fmt.Fprintf(&b, " %s %s", what, a)
		}
	}
	if p.kind == VXLAN.String() {
		fmt.Fprintf(&b, " id %d", p.vni)
	}
	addr("local", p.local)
	addr("remote", p.remote)
	if p.underlay != 0 {
		fmt.Fprintf(&b, " dev #%d", p.underlay)
	}
	switch p.kind {
	case VXLAN.String():
		fmt.Fprintf(&b, " dstport %d", p.port)
		if !p.learning {
			b.WriteString(" nolearning")
		}
	case IPIP.String():
		fmt.Fprintf(&b, " ttl %d", p.ttl)
		if !p.pmtudisc {
			b.WriteString(" nopmtudisc")
		}
	}
	if p.ttl != 0 && p.kind == VXLAN.String() {
		fmt.Fprintf(&b, " ttl %d", p.ttl)
	}
	if p.external {
		b.WriteString(" external")
	}
	if p.special {
		b.WriteString(" with extensions")
	}
	return b.String()
}

// is6 tells whether a VXLAN device is over IPv6.
func (p params) is6() bool { return p.local.Is6() || p.remote.Is6() }

// link is a network interface.
type link struct {
	index  int
	name   string
	alias  string
	flags  uint32
	mtu    int
	mac    hwaddr
	params params

	forward4 bool // IPv4 is forwarded
	// The IPv6 settings; a link without IPv6 (its MTU is below 1280, or the kernel
	// has none) has ipv6 false.
	ipv6, forward6, acceptRA, disabled6 bool
	generates                           bool // IPv6 link-local addresses

	txChecksum bool // only known of ours, and where it matters
}

func (l *link) ours() bool     { return l.alias == Alias }
func (l *link) up() bool       { return l.flags&unix.IFF_UP != 0 }
func (l *link) loopback() bool { return l.flags&unix.IFF_LOOPBACK != 0 }

// parseLink reads an RTM_NEWLINK or RTM_DELLINK message.
func parseLink(b []byte) (l link, ok bool) {
	if len(b) < sizeofIfinfo {
		return link{}, false
	}
	l.index, l.flags = int(int32(u32(b[4:]))), u32(b[8:])
	eachAttr(b[sizeofIfinfo:], func(typ uint16, v []byte) {
		switch typ {
		case unix.IFLA_IFNAME:
			l.name = unix.ByteSliceToString(v)
		case unix.IFLA_IFALIAS:
			l.alias = unix.ByteSliceToString(v)
		case unix.IFLA_MTU:
			l.mtu = int(u32(v))
		case unix.IFLA_ADDRESS:
			if len(v) == len(l.mac) {
				l.mac = hwaddr(v)
			}
		case unix.IFLA_LINKINFO:
			l.params = parseInfo(v)
		case unix.IFLA_AF_SPEC:
			l.parseFamilies(v)
		}
	})
	return l, true
}

// parseFamilies reads the settings of IPv4 and IPv6, which the kernel sends as
// arrays of numbers.
func (l *link) parseFamilies(b []byte) {
	eachAttr(b, func(fam uint16, v []byte) {
		eachAttr(v, func(typ uint16, v []byte) {
			at := func(i int) uint32 { return u32(v[min(4*i, len(v)):]) }
			switch {
			case fam == unix.AF_INET && typ == unix.IFLA_INET_CONF:
				l.forward4 = at(conf4Forwarding-1) != 0
			case fam == unix.AF_INET6 && typ == unix.IFLA_INET6_CONF:
				l.ipv6 = true
				l.forward6, l.acceptRA, l.disabled6 = at(conf6Forwarding) != 0, at(conf6AcceptRA) != 0, at(conf6Disable) != 0
			case fam == unix.AF_INET6 && typ == unix.IFLA_INET6_ADDR_GEN_MODE:
				l.generates = u8(v) != genModeNone
			}
		})
	})
}

func parseInfo(b []byte) (p params) {
	var data []byte
	eachAttr(b, func(typ uint16, v []byte) {
		switch typ {
		case unix.IFLA_INFO_KIND:
			p.kind = unix.ByteSliceToString(v)
		case unix.IFLA_INFO_DATA:
			data = v
		}
	})
	switch p.kind {
	case VXLAN.String():
		eachAttr(data, p.parseVXLAN)
	case IPIP.String():
		eachAttr(data, p.parseIPIP)
	}
	return p
}

func (p *params) parseVXLAN(typ uint16, v []byte) {
	switch typ {
	case unix.IFLA_VXLAN_ID:
		p.vni = u32(v)
	case unix.IFLA_VXLAN_LOCAL, unix.IFLA_VXLAN_LOCAL6:
		p.local = address(v)
	case unix.IFLA_VXLAN_GROUP, unix.IFLA_VXLAN_GROUP6:
		p.remote = address(v)
	case unix.IFLA_VXLAN_LINK:
		p.underlay = int(u32(v))
	case unix.IFLA_VXLAN_PORT:
		p.port = u16be(v)
	case unix.IFLA_VXLAN_LEARNING:
		p.learning = u8(v) != 0
	case unix.IFLA_VXLAN_TTL:
		p.ttl = u8(v)
	case unix.IFLA_VXLAN_GBP, unix.IFLA_VXLAN_GPE, unix.IFLA_VXLAN_REMCSUM_NOPARTIAL:
		p.special = true // these are there or not
	case unix.IFLA_VXLAN_COLLECT_METADATA:
		p.external = u8(v) != 0
	case unix.IFLA_VXLAN_UDP_ZERO_CSUM6_RX, unix.IFLA_VXLAN_REMCSUM_RX, unix.IFLA_VXLAN_VNIFILTER:
		p.special = p.special || u8(v) != 0
	}
}

func (p *params) parseIPIP(typ uint16, v []byte) {
	switch typ {
	case iptunLocal:
		p.local = address(v)
	case iptunRemote:
		p.remote = address(v)
	case iptunLink:
		p.underlay = int(u32(v))
	case iptunTTL:
		p.ttl = u8(v)
	case iptunPMTUDisc:
		p.pmtudisc = u8(v) != 0
	case iptunEncapType:
		p.special = p.special || len(v) > 1 && (v[0] != 0 || v[1] != 0)
	case iptunMetadata:
		p.external = true
	}
}

// link begins a message about a link.
func (m *batch) link(s step, of any, typ, flags uint16, index int, fl, change uint32) {
	fixed := make([]byte, 0, sizeofIfinfo)
	for _, n := range []uint32{0, uint32(index), fl, change} {
		fixed = binary.NativeEndian.AppendUint32(fixed, n)
	}
	m.begin(s, of, typ, flags, fixed)
}

func (m *batch) text(typ uint16, s string) { m.attr(typ, append([]byte(s), 0)) }

// createLink makes a device, down, and marks it as ours. Both in one send, so
// that whenever the process dies there is no device without its mark. As the
// kernel goes on after a failure, the name must be known to be free.
func (m *batch) createLink(w *want, p params) {
	m.link(stepCreate, w.name, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, 0, 0, 0)
	m.text(unix.IFLA_IFNAME, w.name)
	m.attr32(unix.IFLA_MTU, uint32(w.MTU))
	if w.Kind == VXLAN {
		m.attr(unix.IFLA_ADDRESS, w.mac[:])
	}
	m.nest(unix.IFLA_LINKINFO, func() {
		m.attr(unix.IFLA_INFO_KIND, []byte(p.kind))
		m.nest(unix.IFLA_INFO_DATA, func() {
			if w.Kind == IPIP {
				m.ipip(p)
			} else {
				m.vxlan(p)
			}
		})
	})
	m.end()
	m.link(stepMark, w.name, unix.RTM_SETLINK, 0, 0, 0, 0)
	m.text(unix.IFLA_IFNAME, w.name)
	m.text(unix.IFLA_IFALIAS, Alias)
	m.end()
}

func (m *batch) vxlan(p params) {
	m.attr32(unix.IFLA_VXLAN_ID, p.vni)
	if p.local.Is4() {
		m.attrAddr(unix.IFLA_VXLAN_LOCAL, p.local)
	} else {
		m.attrAddr(unix.IFLA_VXLAN_LOCAL6, p.local)
	}
	if p.underlay != 0 {
		m.attr32(unix.IFLA_VXLAN_LINK, uint32(p.underlay))
	}
	m.attr8(unix.IFLA_VXLAN_LEARNING, 0)
	m.attr16be(unix.IFLA_VXLAN_PORT, p.port)
}

func (m *batch) ipip(p params) {
	m.attrAddr(iptunLocal, p.local)
	m.attr8(iptunTTL, p.ttl)
	m.attr8(iptunPMTUDisc, 1)
}

func (m *batch) deleteLink(name string, index int) {
	m.link(stepDelete, name, unix.RTM_DELLINK, 0, index, 0, 0)
	m.end()
}

// setLink changes what an existing device has wrong, each by a message of its
// own, so that one that is refused does not stand for the others.
func (m *batch) setLink(w *want, index int, c linkChange) {
	if c.mark {
		m.link(stepMark, w.name, unix.RTM_SETLINK, 0, index, 0, 0)
		m.text(unix.IFLA_IFALIAS, Alias)
		m.end()
	}
	if c.mtu {
		m.link(stepMTU, w.name, unix.RTM_SETLINK, 0, index, 0, 0)
		m.attr32(unix.IFLA_MTU, uint32(w.MTU))
		m.end()
	}
	if c.mac {
		m.link(stepMAC, w.name, unix.RTM_SETLINK, 0, index, 0, 0)
		m.attr(unix.IFLA_ADDRESS, w.mac[:])
		m.end()
	}
	if c.forward4 {
		m.link(stepForward, w.name, unix.RTM_SETLINK, 0, index, 0, 0)
		m.nest(unix.IFLA_AF_SPEC, func() {
			m.nest(unix.AF_INET, func() {
				m.nest(unix.IFLA_INET_CONF, func() { m.attr32(conf4Forwarding, 1) })
			})
		})
		m.end()
	}
	if c.genMode {
		m.link(stepGenMode, w.name, unix.RTM_SETLINK, 0, index, 0, 0)
		m.nest(unix.IFLA_AF_SPEC, func() {
			m.nest(unix.AF_INET6, func() { m.attr8(unix.IFLA_INET6_ADDR_GEN_MODE, genModeNone) })
		})
		m.end()
	}
}

func (m *batch) linkUp(name string, index int) {
	m.link(stepUp, name, unix.RTM_SETLINK, 0, index, unix.IFF_UP, unix.IFF_UP)
	m.end()
}
