package topology

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/godwit-net/godwit/e2e/namespace"
)

// sharedBridge is the bridge of the network behind both routers.
const sharedBridge = "shared"

// fabricBridge is the bridge of one of the nodes' subnets.
func fabricBridge(subnet int) string { return "br" + strconv.Itoa(subnet) }

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
	b := builder{t: t}
	b.bridge(sharedBridge)
	for subnet := range t.Gateways {
		b.bridge(fabricBridge(subnet))
	}
	b.address(Fabric, fabricBridge(0), t.ControlPlane)
	for subnet, g := range t.Gateways {
		dev := gatewayLink(subnet)
		port := Gateway + strings.TrimPrefix(dev, Fabric)
		b.fabricPort(subnet, port, end{machine: Gateway, dev: dev, addrs: g})
		if subnet > 0 {
			b.route(Fabric, g.Networks(), t.Gateways[0])
		}
	}
	for _, n := range t.Nodes {
		b.node(n)
	}
	b.cable(end{machine: Gateway, dev: "internet", addrs: t.InternetGW}, end{machine: Internet, dev: "eth0", addrs: t.InternetAddr})
	for _, g := range t.Gateways {
		b.route(Internet, g.Networks(), t.InternetGW)
	}
	for _, r := range t.ToRs {
		b.fabricPort(0, r.Name, end{machine: r.Name, dev: "fabric", addrs: r.Address})
		b.port(sharedBridge, r.Name+"-shared", end{machine: r.Name, dev: "shared", addrs: r.Shared})
	}
	for _, h := range t.Hosts {
		b.host(h)
	}
	// The pods are reached through the routers' BGP routes; what the routers do not know,
	// goes nowhere.
	return b.err
}

// BuildNode makes the namespace of a node anew, as a boot of the node does. The
// namespace must not be there; Unplug pulls the node out first.
func (t Topology) BuildNode(ctx context.Context, n Node) error {
	if err := namespace.Add(ctx, t.Namespace(n.Name)); err != nil {
		return err
	}
	if err := t.sysctls(n.Name); err != nil {
		return fmt.Errorf("sysctls of %s: %w", n.Name, err)
	}
	b := builder{t: t}
	b.node(n)
	return b.err
}

// Unplug takes a node's link to the fabric away, as a power cut does: nothing
// that its processes do from then on is heard.
func (t Topology) Unplug(n Node) error {
	b := builder{t: t}
	b.in(Fabric, func(h *netlink.Handle) error {
		l, err := h.LinkByName(n.Name)
		if err != nil {
			return err
		}
		return h.LinkDel(l)
	})
	return b.err
}

// gatewayLink is the link of gw in a subnet.
func gatewayLink(subnet int) string {
	if subnet == 0 {
		return Fabric
	}
	return Fabric + strconv.Itoa(subnet+1)
}

// Namespaces returns the names of the lab's namespaces that exist: its
// machines' and its pods'. Those of another lab, whose prefix may start with
// this one's, are not among them. They are found also when the lab was built with
// other options.
func (t Topology) Namespaces() ([]string, error) {
	names, err := namespace.List(t.Prefix)
	if err != nil {
		return nil, err
	}
	largest := New(t.Prefix, Options{Nodes: mostNodes, ToRs: mostToRs})
	machines := largest.Machines()
	return slices.DeleteFunc(names, func(name string) bool {
		rest := strings.TrimPrefix(name, t.Prefix)
		return !slices.Contains(machines, rest) && !slices.ContainsFunc(largest.Nodes, func(n Node) bool {
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
	_, isNode := t.Node(machine)
	// Loose: two routers to one network make asymmetric ways legitimate.
	reversePath := "2"
	if isNode && t.Options.StrictReversePath {
		reversePath = "1"
	}
	return namespace.Do(t.Namespace(machine), func() error {
		for _, s := range [][2]string{
			{"net/ipv4/ip_forward", "1"},
			{"net/ipv4/conf/all/send_redirects", "0"},
			{"net/ipv4/conf/default/send_redirects", "0"},
			{"net/ipv4/conf/all/accept_redirects", "0"},
			{"net/ipv4/conf/default/accept_redirects", "0"},
			{"net/ipv4/conf/all/rp_filter", reversePath},
			// Flows, not source and destination alone, spread over equal-cost routes.
			{"net/ipv4/fib_multipath_hash_policy", "1"},
			{"net/ipv6/fib_multipath_hash_policy", "1"},
			// A router of IPv6 takes no redirects and no advertisements (RFC 4861).
			{"net/ipv6/conf/all/forwarding", "1"},
			{"net/ipv6/conf/default/forwarding", "1"},
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

// bridge makes a bridge in the fabric, with an address of its own: else it has
// the lowest of its ports', which goes with the port, and whoever spoke with it
// speaks to nobody until its neighbour entry is renewed.
func (b *builder) bridge(name string) {
	b.in(Fabric, func(h *netlink.Handle) error {
		// Without snooping, which would hold neighbour solicitations back until the
		// bridge has seen who listens.
		off := false
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: bridgeMAC(name)}, MulticastSnooping: &off}
		if err := h.LinkAdd(br); err != nil {
			return fmt.Errorf("make bridge %s: %w", name, err)
		}
		return h.LinkSetUp(br)
	})
}

// bridgeMAC is a locally administered address made from a bridge's name.
func bridgeMAC(name string) net.HardwareAddr {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	return binary.BigEndian.AppendUint32(net.HardwareAddr{0x02, 'g'}, h.Sum32())
}

// node wires a node to its subnet, whose router is its default gateway.
func (b *builder) node(n Node) {
	b.fabricPort(n.Subnet, n.Name, end{machine: n.Name, dev: "eth0", addrs: n.Address, mac: n.MAC})
	b.defaultRoute(n.Name, b.t.Gateways[n.Subnet])
}

// host wires a host to its router or, behind several, to the shared network.
func (b *builder) host(h Host) {
	if len(h.Behind) > 1 {
		b.port(sharedBridge, h.Name, end{machine: h.Name, dev: "eth0", addrs: h.Address})
	}
	var gateways []Pair
	for _, r := range b.t.ToRs {
		switch {
		case len(h.Behind) > 1:
			gateways = append(gateways, r.Shared)
		case h.Behind[0] == r.Name:
			b.cable(end{machine: r.Name, dev: "hosts", addrs: r.Hosts}, end{machine: h.Name, dev: "eth0", addrs: h.Address})
			gateways = append(gateways, r.Hosts)
		}
	}
	b.defaultRoute(h.Name, gateways...)
}

// end is an end of a cable: a link of a machine.
type end struct {
	machine, dev string
	addrs        Pair             // none: the zero value
	mac          net.HardwareAddr // nil: the kernel's choice
	mtu          int              // 0: the kernel's choice
}

// fabricPort connects a machine to one of the nodes' subnets.
func (b *builder) fabricPort(subnet int, port string, e end) {
	e.mtu = b.t.Options.MTU
	b.port(fabricBridge(subnet), port, e)
}

// port connects a machine to a bridge of the fabric.
func (b *builder) port(bridge, port string, e end) {
	b.cable(end{machine: Fabric, dev: port, mtu: e.mtu}, e)
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
// namespaces.
func (b *builder) cable(e1, e2 end) {
	b.in(e1.machine, func(h *netlink.Handle) error {
		peer, err := netns.GetFromPath(namespace.Path(b.t.Namespace(e2.machine)))
		if err != nil {
			return err
		}
		defer func() { _ = peer.Close() }()
		return h.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: e1.dev, HardwareAddr: e1.mac, MTU: e1.mtu},
			PeerName:  e2.dev, PeerHardwareAddr: e2.mac, PeerMTU: uint32(e2.mtu), PeerNamespace: netlink.NsFd(int(peer)),
		})
	})
	b.address(e1.machine, e1.dev, e1.addrs)
	b.address(e2.machine, e2.dev, e2.addrs)
}

// address brings a link up and gives it addresses. IPv6 ones are usable at
// once: nobody looks for duplicates.
func (b *builder) address(machine, dev string, a Pair) {
	b.in(machine, func(h *netlink.Handle) error {
		l, err := h.LinkByName(dev)
		if err != nil {
			return fmt.Errorf("link %s: %w", dev, err)
		}
		for _, p := range a.Each() {
			addr := &netlink.Addr{IPNet: ipNet(p)}
			if p.Addr().Is6() {
				addr.Flags = unix.IFA_F_NODAD
			}
			if err := h.AddrAdd(l, addr); err != nil {
				return fmt.Errorf("address %s on %s: %w", p, dev, err)
			}
		}
		return h.LinkSetUp(l)
	})
}

// defaultRoute adds the default route of each family, with several gateways an
// equal-cost one.
func (b *builder) defaultRoute(machine string, gateways ...Pair) {
	for _, f := range b.t.Options.Family.Each() {
		dst := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if f == IPv6 {
			dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		b.route(machine, []netip.Prefix{dst}, gateways...)
	}
}

// route adds a route to each destination, through the gateways' addresses of
// its family; with several gateways an equal-cost one.
func (b *builder) route(machine string, dsts []netip.Prefix, gateways ...Pair) {
	for _, dst := range dsts {
		b.in(machine, func(h *netlink.Handle) error {
			r := &netlink.Route{Dst: ipNet(dst)}
			for _, g := range gateways {
				gw := g.Of(FamilyOf(dst.Addr())).Addr().AsSlice()
				if len(gateways) == 1 {
					r.Gw = gw
					continue
				}
				r.MultiPath = append(r.MultiPath, &netlink.NexthopInfo{Gw: gw})
			}
			return h.RouteAdd(r)
		})
	}
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
