package topology

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/godwit-net/godwit/e2e/namespace"
)

// Bridges in the fabric.
const (
	fabricBridge = "br0"
	sharedBridge = "shared"
)

// Build makes the namespaces and wires them. It is to be called once, on a
// clean slate; what a failed Build leaves, Destroy removes.
func (t Topology) Build(ctx context.Context) error {
	for _, m := range t.Machines() {
		if err := namespace.Add(ctx, t.Namespace(m)); err != nil {
			return err
		}
		if err := t.sysctls(m); err != nil {
			return fmt.Errorf("sysctls of %s: %w", m, err)
		}
	}
	for _, br := range []string{fabricBridge, sharedBridge} {
		if err := t.bridge(br); err != nil {
			return err
		}
	}
	b := builder{t: t}
	b.address(Fabric, fabricBridge, t.ControlPlane)
	for _, n := range t.Nodes {
		b.port(fabricBridge, n.Name, n.Name, "eth0", n.Address)
		b.route(n.Name, netip.Prefix{}, t.GatewayAddr.Addr())
	}
	b.port(fabricBridge, Gateway, Gateway, "fabric", t.GatewayAddr)
	b.cable(Gateway, "internet", t.InternetGW, Internet, "eth0", t.InternetAddr)
	b.route(Internet, t.GatewayAddr.Masked(), t.InternetGW.Addr())
	for _, r := range t.ToRs {
		b.port(fabricBridge, r.Name, r.Name, "fabric", r.Address)
		b.port(sharedBridge, r.Name+"-shared", r.Name, "shared", r.Shared)
	}
	for _, h := range t.Hosts {
		b.host(h)
	}
	// The pods are reached through the routers' BGP routes; what the routers do not know,
	// goes nowhere.
	return b.err
}

// Namespaces returns the names of the lab's namespaces that exist: its
// machines' and its pods'. Those of another lab, whose prefix may start with
// this one's, are not among them.
func (t Topology) Namespaces() ([]string, error) {
	names, err := namespace.List(t.Prefix)
	if err != nil {
		return nil, err
	}
	machines := t.Machines()
	return slices.DeleteFunc(names, func(name string) bool {
		rest := strings.TrimPrefix(name, t.Prefix)
		return !slices.Contains(machines, rest) && !slices.ContainsFunc(t.Nodes, func(n Node) bool {
			return strings.HasPrefix(rest, n.Name+podSeparator)
		})
	}), nil
}

// Destroy removes the lab's namespaces, pods' included, and with them all that
// is in them.
func (t Topology) Destroy() error {
	names, err := t.Namespaces()
	errs := []error{err}
	for _, n := range names {
		errs = append(errs, namespace.Delete(n))
	}
	return errors.Join(errs...)
}

// sysctls makes routers of the machines that are such. Redirects are off: the
// fabric is one subnet, and routers in it would otherwise tell the nodes of
// shorter ways that no routing protocol knows.
func (t Topology) sysctls(machine string) error {
	return namespace.Do(t.Namespace(machine), func() error {
		for _, s := range [][2]string{
			{"net/ipv4/ip_forward", "1"},
			{"net/ipv4/conf/all/send_redirects", "0"},
			{"net/ipv4/conf/default/send_redirects", "0"},
			{"net/ipv4/conf/all/accept_redirects", "0"},
			{"net/ipv4/conf/default/accept_redirects", "0"},
			// Loose: two routers to one network make asymmetric ways legitimate.
			{"net/ipv4/conf/all/rp_filter", "2"},
			// Flows, not source and destination alone, spread over equal-cost routes.
			{"net/ipv4/fib_multipath_hash_policy", "1"},
			// No duplicate address detection, so that addresses are usable at once.
			{"net/ipv6/conf/all/accept_dad", "0"},
			{"net/ipv6/conf/default/accept_dad", "0"},
		} {
			err := os.WriteFile(filepath.Join("/proc/sys", s[0]), []byte(s[1]), 0o600)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		return nil
	})
}

func (t Topology) bridge(name string) error {
	h, err := t.handle(Fabric)
	if err != nil {
		return err
	}
	defer h.Close()
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
	if err := h.LinkAdd(br); err != nil {
		return fmt.Errorf("make bridge %s: %w", name, err)
	}
	return h.LinkSetUp(br)
}

func (t Topology) handle(machine string) (*netlink.Handle, error) {
	ns, err := netns.GetFromPath(namespace.Path(t.Namespace(machine)))
	if err != nil {
		return nil, fmt.Errorf("network namespace %s: %w", t.Namespace(machine), err)
	}
	defer func() { _ = ns.Close() }()
	return netlink.NewHandleAt(ns)
}

// builder wires machines; after the first error it does nothing more.
type builder struct {
	t   Topology
	err error
}

// host wires a host to its router or, behind several, to the shared network.
func (b *builder) host(h Host) {
	if len(h.Behind) > 1 {
		b.port(sharedBridge, h.Name, h.Name, "eth0", h.Address)
	}
	var gateways []netip.Addr
	for _, r := range b.t.ToRs {
		switch {
		case len(h.Behind) > 1:
			gateways = append(gateways, r.Shared.Addr())
		case h.Behind[0] == r.Name:
			b.cable(r.Name, "hosts", r.Hosts, h.Name, "eth0", h.Address)
			gateways = append(gateways, r.Hosts.Addr())
		}
	}
	b.route(h.Name, netip.Prefix{}, gateways...)
}

// port connects a machine to a bridge of the fabric.
func (b *builder) port(bridge, port, machine, dev string, a netip.Prefix) {
	b.cable(Fabric, port, netip.Prefix{}, machine, dev, a)
	b.in(Fabric, func(h *netlink.Handle) error {
		br, err := h.LinkByName(bridge)
		if err != nil {
			return err
		}
		l, err := h.LinkByName(port)
		if err != nil {
			return err
		}
		return h.LinkSetMaster(l, br)
	})
}

// cable connects two machines with a veth pair whose ends are born in their
// namespaces; an end without an address gets none.
func (b *builder) cable(m1, dev1 string, a1 netip.Prefix, m2, dev2 string, a2 netip.Prefix) {
	b.in(m1, func(h *netlink.Handle) error {
		peer, err := netns.GetFromPath(namespace.Path(b.t.Namespace(m2)))
		if err != nil {
			return err
		}
		defer func() { _ = peer.Close() }()
		return h.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: dev1},
			PeerName:  dev2, PeerNamespace: netlink.NsFd(int(peer)),
		})
	})
	b.address(m1, dev1, a1)
	b.address(m2, dev2, a2)
}

// address brings a link up and gives it an address.
func (b *builder) address(machine, dev string, a netip.Prefix) {
	b.in(machine, func(h *netlink.Handle) error {
		l, err := h.LinkByName(dev)
		if err != nil {
			return fmt.Errorf("link %s: %w", dev, err)
		}
		if a.IsValid() {
			if err := h.AddrAdd(l, &netlink.Addr{IPNet: ipNet(a)}); err != nil {
				return fmt.Errorf("address %s on %s: %w", a, dev, err)
			}
		}
		return h.LinkSetUp(l)
	})
}

// route adds a route, with several gateways an equal-cost one; the default
// route when dst is zero.
func (b *builder) route(machine string, dst netip.Prefix, gateways ...netip.Addr) {
	b.in(machine, func(h *netlink.Handle) error {
		if !dst.IsValid() {
			dst = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
		r := &netlink.Route{Dst: ipNet(dst)}
		if len(gateways) == 1 {
			r.Gw = gateways[0].AsSlice()
		} else {
			for _, g := range gateways {
				r.MultiPath = append(r.MultiPath, &netlink.NexthopInfo{Gw: g.AsSlice()})
			}
		}
		return h.RouteAdd(r)
	})
}

func (b *builder) in(machine string, f func(*netlink.Handle) error) {
	if b.err != nil {
		return
	}
	h, err := b.t.handle(machine)
	if err != nil {
		b.err = err
		return
	}
	defer h.Close()
	if err := f(h); err != nil {
		b.err = fmt.Errorf("wire %s: %w", machine, err)
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
