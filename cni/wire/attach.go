package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Of linux/veth.h, linux/if_link.h and linux/ip.h, where x/sys/unix has no name.
const (
	vethInfoPeer     = 1 // VETH_INFO_PEER
	addrGenModeEUI64 = 0 // IN6_ADDR_GEN_MODE_EUI64
	addrGenModeNone  = 1 // IN6_ADDR_GEN_MODE_NONE
	skipStats        = 8 // RTEXT_FILTER_SKIP_STATS

	confForwarding   = 1  // IPV4_DEVCONF_FORWARDING
	confProxyARP     = 3  // IPV4_DEVCONF_PROXY_ARP
	confRPFilter     = 8  // IPV4_DEVCONF_RP_FILTER
	confRouteLocalne = 26 // IPV4_DEVCONF_ROUTE_LOCALNET
)

// hostConf is what differs from the kernel's defaults on the host's end:
// answer ARP for whatever the container asks for, forward, take only packets
// from the container's own address, and let it reach node ports of 127.0.0.1.
//
//nolint:gochecknoglobals // a constant in all but form
var hostConf = []struct {
	id    uint16
	name  string // of the sysctl
	value uint32
}{
	{confForwarding, "forwarding", 1},
	{confProxyARP, "proxy_arp", 1},
	{confRPFilter, "rp_filter", 1},
	{confRouteLocalne, "route_localnet", 1},
}

// ends is what the kernel tells of a new pair.
type ends struct {
	host, pod int // interface indexes, each in its own namespace
	mac       net.HardwareAddr
}

// podEnd is what the kernel tells of a container's end.
type podEnd struct {
	mac net.HardwareAddr
	mtu int
}

// Attach makes the pair, configures both ends and returns what the kernel says
// of them. The host's end is up and forwards when it returns, and no address
// waits for duplicate address detection; the route to the container is for the
// caller to make. On an error no link stays behind. The error wraps
// ErrInterfaceExists, ErrForeignLink or ErrNoIPv6 where those are the cause.
func (w *Wirer) Attach(ctx context.Context, ns *Namespace, s Spec) (Link, error) {
	if err := s.vetIPv6(); err != nil {
		return Link{}, err
	}
	alias, err := s.alias(false)
	if err != nil {
		return Link{}, err
	}
	name := HostEnd(s.ContainerID, s.Interface)
	link := Link{Identity: s.Identity, HostEnd: name}
	err = w.rt.with(func(c *conn) error {
		e, err := w.makePair(c, ns, s, name, alias)
		if err != nil {
			return err
		}
		link.HostMAC = e.mac
		if err = w.raiseHostEnd(c, s, name, e); err == nil {
			var pod podEnd
			pod, err = w.configurePod(ctx, ns, s, e)
			link.PodMAC, link.MTU = pod.mac, pod.mtu
		}
		if err == nil && s.has6() {
			err = c.awaitLocal(ctx, Gateway6, e.host)
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			// The index, not the name: exactly the link that was made.
			if undo := c.deleteLink(e.host); undo != nil {
				err = errors.Join(err, fmt.Errorf("delete %s again: %w", name, undo))
			}
		}
		return err
	})
	if err != nil {
		return Link{}, err
	}
	return link, nil
}

// makePair makes the veth pair, both ends down, the peer in the container's
// namespace with its final name. A link of ours that has the name is in the
// way only if an earlier life of the same attachment left it: it goes.
func (w *Wirer) makePair(c *conn, ns *Namespace, s Spec, name, alias string) (ends, error) {
	old, found, err := c.linkByName(name)
	switch {
	case err != nil:
		return ends{}, err
	case found && !old.ours:
		return ends{}, fmt.Errorf("%w: %s (alias %q); delete it if it is a leftover", ErrForeignLink, name, old.alias)
	case found:
		w.log.Info("deleting a link that an earlier attachment left", "link", name, "alias", old.alias)
		if err := c.deleteLink(old.index); err != nil {
			return ends{}, fmt.Errorf("delete the leftover link %s: %w", name, err)
		}
	}
	e, err := c.createPair(int(ns.f.Fd()), s, name, alias)
	if errors.Is(err, unix.EEXIST) {
		// The name was free on the node, so it is taken in the container.
		return ends{}, fmt.Errorf("%w: %s", ErrInterfaceExists, s.Interface)
	}
	return e, err
}

// createPair does the whole of it in one send: make the pair, give the host's
// end its identity and its settings, ask what came of it. In one send, so that
// whenever the process dies there is no link without its identity. As the kernel
// goes on after a failure, the name must be known to be free before: else the
// messages that follow would change whoever has it.
func (c *conn) createPair(nsFD int, s Spec, name, alias string) (ends, error) {
	var b batch
	b.link("create the veth pair", unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, 0, false)
	b.end4(name, s.MTU, hostMAC)
	b.nest(unix.IFLA_LINKINFO, func() {
		b.attr(unix.IFLA_INFO_KIND, []byte("veth"))
		b.nest(unix.IFLA_INFO_DATA, func() {
			b.nest(vethInfoPeer, func() {
				b.buf = append(b.buf, ifinfo(0, false)...)
				b.end4(s.Interface, s.MTU, macOf(s.ContainerID, s.Interface))
				b.attr32(unix.IFLA_NET_NS_FD, uint32(nsFD))
			})
		})
	})
	b.end()

	b.link("name and configure the host's end", unix.RTM_SETLINK, unix.NLM_F_ACK, 0, false)
	b.linkName(name)
	b.attr(unix.IFLA_IFALIAS, []byte(alias))
	b.nest(unix.IFLA_AF_SPEC, func() {
		b.nest(unix.AF_INET, func() {
			b.nest(unix.IFLA_INET_CONF, func() {
				for _, o := range hostConf {
					b.attr32(o.id, o.value)
				}
			})
		})
		b.linkLocal(s)
	})
	b.end()

	b.link("read the host's end back", unix.RTM_GETLINK, unix.NLM_F_ACK, 0, false)
	b.linkName(name)
	b.attr32(unix.IFLA_EXT_MASK, skipStats)
	b.end()

	var e ends
	err := c.do(&b, func(r reply) error {
		if l, ok := parseLink(r); ok {
			e = ends{host: l.index, pod: l.peer, mac: l.mac}
		}
		return nil
	})
	var refused *requestError
	switch {
	case err == nil && (e.host == 0 || e.pod == 0):
		err = fmt.Errorf("the kernel does not tell the indexes of %s and its peer", name)
	case errors.As(err, &refused) && refused.seq == 1:
		return ends{}, err // nothing was made
	}
	if err != nil {
		return ends{}, errors.Join(err, c.deleteMine(name, alias))
	}
	return e, nil
}

// end4 adds what both ends of a pair are made with. One queue is enough: veth
// transmits without a lock, and each queue costs entries in sysfs, of which the
// kernel makes one set for each CPU otherwise.
func (b *batch) end4(name string, mtu int, mac net.HardwareAddr) {
	b.linkName(name)
	b.attr(unix.IFLA_ADDRESS, mac)
	if mtu > 0 {
		b.attr32(unix.IFLA_MTU, uint32(mtu))
	}
	b.attr32(unix.IFLA_NUM_TX_QUEUES, 1)
	b.attr32(unix.IFLA_NUM_RX_QUEUES, 1)
}

// linkLocal says whether the kernel makes an IPv6 link-local address on a link:
// the one that its MAC address gives, or none where there is no use for one, and
// so no duplicate address detection and no router solicitations.
func (b *batch) linkLocal(s Spec) {
	if !s.haveIPv6() {
		return
	}
	mode := byte(addrGenModeNone)
	if s.has6() {
		mode = addrGenModeEUI64
	}
	b.nest(unix.AF_INET6, func() { b.attr8(unix.IFLA_INET6_ADDR_GEN_MODE, mode) })
}

// raiseHostEnd sets what netlink can't set, then the link up.
func (w *Wirer) raiseHostEnd(c *conn, s Spec, name string, e ends) error {
	if err := w.onNode(func() error { return applySysctls(w.sysctls, hostSysctls(s, name)) }); err != nil {
		return err
	}
	var b batch
	b.link("set the host's end up", unix.RTM_SETLINK, unix.NLM_F_ACK, e.host, true)
	if !slices.Equal(e.mac, hostMAC) {
		b.attr(unix.IFLA_ADDRESS, hostMAC)
	}
	b.end()
	if s.has6() {
		// The kernel would make the same, but only some time after the container's end is
		// up, and with duplicate address detection where the node asks for it of all links.
		b.address(netip.PrefixFrom(Gateway6, 64), e.host)
	}
	if slices.Equal(e.mac, hostMAC) {
		return c.do(&b, nil)
	}
	// Some kernels have been seen to ignore the address that a link is made with.
	b.link("read the host's end back", unix.RTM_GETLINK, unix.NLM_F_ACK, e.host, false)
	b.end()
	err := c.do(&b, func(r reply) error {
		if l, ok := parseLink(r); ok && !slices.Equal(l.mac, hostMAC) {
			return fmt.Errorf("%s has MAC address %s and does not take %s", name, l.mac, hostMAC)
		}
		return nil
	})
	return err
}

// configurePod gives the container's end its addresses, its gateways and its
// routes, and returns what the kernel has of it.
func (w *Wirer) configurePod(ctx context.Context, ns *Namespace, s Spec, e ends) (podEnd, error) {
	var c *conn
	err := w.inside(ns.f, func() error {
		if err := applySysctls(w.sysctls, podSysctls(s)); err != nil {
			return err
		}
		var err error
		c, err = dial(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return podEnd{}, err
	}
	defer c.close()

	var b batch
	if !s.has6() && s.haveIPv6() {
		b.link("configure the container's end", unix.RTM_SETLINK, unix.NLM_F_ACK, e.pod, false)
		b.nest(unix.IFLA_AF_SPEC, func() { b.linkLocal(s) })
		b.end()
	}
	b.link("set the container's end up", unix.RTM_SETLINK, unix.NLM_F_ACK, e.pod, true)
	b.end()
	for _, a := range s.Addresses {
		b.address(netip.PrefixFrom(a, a.BitLen()), e.pod)
		b.gateway(Gateway(a), e.pod)
	}
	b.link("read the container's end back", unix.RTM_GETLINK, unix.NLM_F_ACK, e.pod, false)
	b.attr32(unix.IFLA_EXT_MASK, skipStats)
	b.end()

	var pod podEnd
	err = c.do(&b, func(r reply) error {
		if l, ok := parseLink(r); ok {
			pod = podEnd{mac: l.mac, mtu: l.mtu}
		}
		return nil
	})
	if err != nil {
		return podEnd{}, fmt.Errorf("in the container: %w", err)
	}
	for _, a := range s.Addresses {
		if !a.Is6() {
			continue
		}
		if err := c.awaitLocal(ctx, a, e.pod); err != nil {
			return podEnd{}, fmt.Errorf("in the container: %w", err)
		}
	}
	return pod, nil
}

// deleteLink deletes a link by its index; one that is not there is no error.
func (c *conn) deleteLink(index int) error {
	var b batch
	b.link("delete the link", unix.RTM_DELLINK, unix.NLM_F_ACK, index, false)
	b.end()
	if err := c.do(&b, nil); err != nil && !errors.Is(err, unix.ENODEV) {
		return err
	}
	return nil
}

// deleteMine deletes the link of the name that was just made and failed to be
// configured; it may not have got its alias yet.
func (c *conn) deleteMine(name, alias string) error {
	l, found, err := c.linkByName(name)
	if err != nil || !found || (l.alias != "" && l.alias != alias) {
		return err
	}
	return c.deleteLink(l.index)
}
