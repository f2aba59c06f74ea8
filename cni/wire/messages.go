package wire

import (
	"errors"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// address gives the link an address.
func (b *batch) address(p netip.Prefix, index int) {
	a := p.Addr()
	fixed := []byte{family(a), byte(p.Bits()), 0, unix.RT_SCOPE_UNIVERSE}
	if a.Is6() {
		fixed[2] = unix.IFA_F_NODAD // nobody else can have it
	}
	b.begin("add the address "+a.String(), unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK,
		order.AppendUint32(fixed, uint32(index)))
	b.attrAddr(unix.IFA_LOCAL, a)
	b.attrAddr(unix.IFA_ADDRESS, a)
	b.end()
}

// gateway makes everything go by way of gw on the link: a route to gw, the
// default route, and gw's MAC address, so that the first packet waits for no ARP.
func (b *batch) gateway(gw netip.Addr, index int) {
	const create = unix.NLM_F_CREATE | unix.NLM_F_EXCL | unix.NLM_F_ACK
	fam := family(gw)
	route := func(what string, bits int, scope byte) {
		b.begin(what, unix.RTM_NEWROUTE, create, []byte{
			fam, byte(bits), 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, scope, unix.RTN_UNICAST, 0, 0, 0, 0,
		})
		b.attr32(unix.RTA_OIF, uint32(index))
	}
	route("add the route to the gateway "+gw.String(), gw.BitLen(), unix.RT_SCOPE_LINK)
	b.attrAddr(unix.RTA_DST, gw)
	b.end()
	route("add the default route via "+gw.String(), 0, unix.RT_SCOPE_UNIVERSE)
	b.attrAddr(unix.RTA_GATEWAY, gw)
	b.end()

	fixed := order.AppendUint32([]byte{fam, 0, 0, 0}, uint32(index))
	fixed = order.AppendUint16(fixed, unix.NUD_PERMANENT)
	b.begin("add the gateway's neighbour entry", unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK,
		append(fixed, 0, 0))
	b.attrAddr(unix.NDA_DST, gw)
	b.attr(unix.NDA_LLADDR, hostMAC)
	b.end()
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// linkInfo is what this package reads of a link.
type linkInfo struct {
	index, peer int // the peer's index is of the peer's namespace
	name, alias string
	mac         net.HardwareAddr
	up          bool
	mtu         int
	group       uint32
	conf        map[uint16]uint32 // IPv4 settings by number

	ours     bool // the alias is of a Godwit link
	identity Identity
	doomed   bool
}

func parseLink(r reply) (linkInfo, bool) {
	if r.typ != unix.RTM_NEWLINK || len(r.data) < unix.SizeofIfInfomsg {
		return linkInfo{}, false
	}
	l := linkInfo{
		index: int(int32(order.Uint32(r.data[4:]))),
		up:    order.Uint32(r.data[8:])&unix.IFF_UP != 0,
	}
	attrs(r.data[unix.SizeofIfInfomsg:], func(typ uint16, v []byte) {
		switch {
		case typ == unix.IFLA_IFNAME:
			l.name = cstring(v)
		case typ == unix.IFLA_IFALIAS:
			l.alias = cstring(v)
		case typ == unix.IFLA_ADDRESS:
			l.mac = append(net.HardwareAddr(nil), v...)
		case typ == unix.IFLA_LINK && len(v) == 4:
			l.peer = int(int32(order.Uint32(v)))
		case typ == unix.IFLA_MTU && len(v) == 4:
			l.mtu = int(order.Uint32(v))
		case typ == unix.IFLA_GROUP && len(v) == 4:
			l.group = order.Uint32(v)
		case typ == unix.IFLA_AF_SPEC:
			l.conf = parseConf(v)
		}
	})
	var err error
	l.identity, l.doomed, err = parseAlias(l.alias)
	l.ours = err == nil
	return l, true
}

// parseConf reads the IPv4 settings out of IFLA_AF_SPEC; the kernel sends them
// as a plain array that starts with setting number 1.
func parseConf(spec []byte) map[uint16]uint32 {
	conf := map[uint16]uint32{}
	attrs(spec, func(fam uint16, v []byte) {
		if fam != unix.AF_INET {
			return
		}
		attrs(v, func(typ uint16, v []byte) {
			if typ != unix.IFLA_INET_CONF {
				return
			}
			for i := uint16(1); len(v) >= 4; i, v = i+1, v[4:] {
				conf[i] = order.Uint32(v)
			}
		})
	})
	return conf
}

// linkByName looks a link up.
func (c *conn) linkByName(name string) (l linkInfo, found bool, err error) {
	var b batch
	b.link("look up "+name, unix.RTM_GETLINK, unix.NLM_F_ACK, 0, false)
	b.linkName(name)
	b.attr32(unix.IFLA_EXT_MASK, skipStats)
	b.end()
	err = c.do(&b, func(r reply) error {
		if got, ok := parseLink(r); ok {
			l, found = got, true
		}
		return nil
	})
	if errors.Is(err, unix.ENODEV) {
		return linkInfo{}, false, nil
	}
	return l, found, err
}
