package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Check compares an attachment with what Attach makes of s and returns the
// differences, in words; none means that it is as it was made. What later
// plugins of a chain may change rightly is not compared: the container end's
// MTU, and its MAC address unless podMAC names it. The error is for when it
// can't be told.
func (w *Wirer) Check(_ context.Context, ns *Namespace, s Spec, podMAC net.HardwareAddr) ([]string, error) {
	var diffs []string
	err := w.rt.with(func(c *conn) error {
		got, err := w.checkHostEnd(c, s)
		diffs = got
		return err
	})
	if err != nil {
		return nil, err
	}
	pod, err := w.checkPod(ns, s, podMAC)
	if err != nil {
		return nil, err
	}
	return append(diffs, pod...), nil
}

func (w *Wirer) checkHostEnd(c *conn, s Spec) ([]string, error) {
	name := HostEnd(s.ContainerID, s.Interface)
	l, found, err := c.linkByName(name)
	if err != nil {
		return nil, err
	}
	if !found {
		return []string{fmt.Sprintf("link %s is missing on the node", name)}, nil
	}
	want, err := s.alias(false)
	if err != nil {
		return nil, err
	}
	var diffs []string
	differ := func(format string, args ...any) {
		diffs = append(diffs, fmt.Sprintf("link %s on the node ", name)+fmt.Sprintf(format, args...))
	}
	if l.alias != want {
		differ("has alias %q, not %q", l.alias, want)
	}
	if !l.up {
		differ("is down")
	}
	if !slices.Equal(l.mac, hostMAC) {
		differ("has MAC address %s, not %s", l.mac, hostMAC)
	}
	if s.MTU > 0 && l.mtu != s.MTU {
		differ("has MTU %d, not %d", l.mtu, s.MTU)
	}
	for _, o := range hostConf {
		if l.conf[o.id] != o.value {
			differ("has %s=%d, not %d", o.name, l.conf[o.id], o.value)
		}
	}
	for _, a := range s.Addresses {
		out, err := c.hostRoute(a)
		if err != nil {
			return nil, err
		}
		if out != l.index {
			diffs = append(diffs, fmt.Sprintf("the node has no route %s/%d over link %s", a, a.BitLen(), name))
		}
	}
	if s.has6() {
		if err := c.checkLinkLocal(l.index, differ); err != nil {
			return nil, err
		}
	}
	s.MTU = l.mtu // says whether the link has settings of IPv6
	return diffs, w.onNode(func() error {
		for _, o := range hostSysctls(s, name) {
			if d := o.differs(); d != "" {
				diffs = append(diffs, d)
			}
		}
		return nil
	})
}

// checkLinkLocal looks for the address that containers know as their gateway.
func (c *conn) checkLinkLocal(index int, differ func(string, ...any)) error {
	addresses, err := c.addresses(index, unix.AF_INET6)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(addresses, func(p netip.Prefix) bool { return p.Addr() == Gateway6 }) {
		differ("has no address %s (it has %v)", Gateway6, addresses)
	}
	return nil
}

func (w *Wirer) checkPod(ns *Namespace, s Spec, podMAC net.HardwareAddr) (diffs []string, err error) {
	var c *conn
	err = w.inside(ns.f, func() error {
		for _, o := range podSysctls(s) {
			if d := o.differs(); d != "" {
				diffs = append(diffs, "in the container "+d)
			}
		}
		var err error
		c, err = dial(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer c.close()
	l, found, err := c.linkByName(s.Interface)
	if err != nil {
		return nil, err
	}
	if !found {
		return []string{fmt.Sprintf("interface %s is missing in the container", s.Interface)}, nil
	}
	differ := func(format string, args ...any) {
		diffs = append(diffs, fmt.Sprintf("interface %s in the container ", s.Interface)+fmt.Sprintf(format, args...))
	}
	if !l.up {
		differ("is down")
	}
	if podMAC != nil && !slices.Equal(l.mac, podMAC) {
		differ("has MAC address %s, not %s", l.mac, podMAC)
	}
	// The kernel forgets an interface's neighbours when its MAC address is changed;
	// it learns the gateway's anew from the node's proxy_arp.
	changed := !slices.Equal(l.mac, macOf(s.ContainerID, s.Interface))
	for _, a := range s.Addresses {
		if err := c.checkFamily(l.index, a, changed, differ); err != nil {
			return nil, err
		}
	}
	return diffs, nil
}

// checkFamily compares the address a, and the gateway of its family, whose
// neighbour entry may be missing if that is said to be so.
func (c *conn) checkFamily(index int, a netip.Addr, mayForget bool, differ func(string, ...any)) error {
	addresses, err := c.addresses(index, family(a))
	if err != nil {
		return err
	}
	if !slices.Contains(addresses, netip.PrefixFrom(a, a.BitLen())) {
		differ("has no address %s/%d (it has %v)", a, a.BitLen(), addresses)
	}
	gw := Gateway(a)
	routes, err := c.routes(index, family(a))
	if err != nil {
		return err
	}
	if !slices.Contains(routes, podRoute{dst: netip.PrefixFrom(gw, gw.BitLen())}) {
		differ("has no route to the gateway %s", gw)
	}
	unspecified := netip.IPv4Unspecified()
	if gw.Is6() {
		unspecified = netip.IPv6Unspecified()
	}
	if !slices.Contains(routes, podRoute{dst: netip.PrefixFrom(unspecified, 0), gateway: gw}) {
		differ("has no default route via %s", gw)
	}
	mac, state, err := c.neighbour(index, gw)
	if err != nil {
		return err
	}
	switch {
	case mayForget && (mac == nil || bytes.Equal(mac, hostMAC)):
	case !bytes.Equal(mac, hostMAC) || state&unix.NUD_PERMANENT == 0:
		differ("has no permanent neighbour entry %s for the gateway %s", hostMAC, gw)
	}
	return nil
}

// hostRoute returns the link of the route to exactly this address, 0 for none.
func (c *conn) hostRoute(a netip.Addr) (link int, err error) {
	const fibMatch = 0x2000 // RTM_F_FIB_MATCH: the route as it is in the table
	var b batch
	b.begin("look up the route to "+a.String(), unix.RTM_GETROUTE, unix.NLM_F_ACK,
		order.AppendUint32([]byte{family(a), byte(a.BitLen()), 0, 0, 0, 0, 0, 0}, fibMatch))
	b.attrAddr(unix.RTA_DST, a)
	b.end()
	err = c.do(&b, func(r reply) error {
		if r.typ != unix.RTM_NEWROUTE || len(r.data) < unix.SizeofRtMsg || int(r.data[1]) != a.BitLen() {
			return nil
		}
		attrs(r.data[unix.SizeofRtMsg:], func(typ uint16, v []byte) {
			if typ == unix.RTA_OIF && len(v) == 4 {
				link = int(order.Uint32(v))
			}
		})
		return nil
	})
	if err != nil && !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.ENETUNREACH) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EACCES) {
		return 0, err
	}
	return link, nil // other errors are what unreachable, blackhole and prohibit routes make
}

// podRoute is a route in the main table; no gateway means that the destination
// is on the link.
type podRoute struct {
	dst     netip.Prefix
	gateway netip.Addr
}

func (c *conn) addresses(index int, fam byte) ([]netip.Prefix, error) {
	var b batch
	b.begin("list the container's addresses", unix.RTM_GETADDR, unix.NLM_F_DUMP,
		order.AppendUint32([]byte{fam, 0, 0, 0}, uint32(index)))
	b.end()
	var list []netip.Prefix
	err := c.do(&b, func(r reply) error {
		if r.typ != unix.RTM_NEWADDR || len(r.data) < unix.SizeofIfAddrmsg || order.Uint32(r.data[4:]) != uint32(index) {
			return nil
		}
		var local, address netip.Addr
		attrs(r.data[unix.SizeofIfAddrmsg:], func(typ uint16, v []byte) {
			switch typ {
			case unix.IFA_LOCAL:
				local, _ = netip.AddrFromSlice(v)
			case unix.IFA_ADDRESS:
				address, _ = netip.AddrFromSlice(v)
			}
		})
		if !local.IsValid() { // IPv6 has no separate local address
			local = address
		}
		list = append(list, netip.PrefixFrom(local, int(r.data[1])))
		return nil
	})
	return list, err
}

func (c *conn) routes(index int, fam byte) ([]podRoute, error) {
	var b batch
	b.begin("list the container's routes", unix.RTM_GETROUTE, unix.NLM_F_DUMP,
		[]byte{fam, 0, 0, 0, unix.RT_TABLE_MAIN, 0, 0, 0, 0, 0, 0, 0})
	b.attr32(unix.RTA_OIF, uint32(index))
	b.end()
	var list []podRoute
	err := c.do(&b, func(r reply) error {
		if r.typ != unix.RTM_NEWROUTE || len(r.data) < unix.SizeofRtMsg || r.data[4] != unix.RT_TABLE_MAIN {
			return nil
		}
		dst, out := netip.IPv4Unspecified(), 0
		if fam == unix.AF_INET6 {
			dst = netip.IPv6Unspecified()
		}
		var gw netip.Addr
		attrs(r.data[unix.SizeofRtMsg:], func(typ uint16, v []byte) {
			switch {
			case typ == unix.RTA_DST:
				dst, _ = netip.AddrFromSlice(v)
			case typ == unix.RTA_GATEWAY:
				gw, _ = netip.AddrFromSlice(v)
			case typ == unix.RTA_OIF && len(v) == 4:
				out = int(order.Uint32(v))
			}
		})
		if out == index {
			list = append(list, podRoute{dst: netip.PrefixFrom(dst, int(r.data[1])), gateway: gw})
		}
		return nil
	})
	return list, err
}

func (c *conn) neighbour(index int, a netip.Addr) (mac net.HardwareAddr, state uint16, err error) {
	fixed := order.AppendUint32([]byte{family(a), 0, 0, 0}, uint32(index))
	var b batch
	b.begin("look up the gateway's neighbour entry", unix.RTM_GETNEIGH, unix.NLM_F_ACK, append(fixed, 0, 0, 0, 0))
	b.attrAddr(unix.NDA_DST, a)
	b.end()
	err = c.do(&b, func(r reply) error {
		if r.typ != unix.RTM_NEWNEIGH || len(r.data) < unix.SizeofNdMsg {
			return nil
		}
		state = order.Uint16(r.data[8:])
		attrs(r.data[unix.SizeofNdMsg:], func(typ uint16, v []byte) {
			if typ == unix.NDA_LLADDR {
				mac = append(net.HardwareAddr(nil), v...)
			}
		})
		return nil
	})
	if errors.Is(err, unix.ENOENT) {
		return nil, 0, nil
	}
	return mac, state, err
}
