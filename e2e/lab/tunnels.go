package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/e2e/topology"
)

// The nodes' tunnel devices, and what each adds to a packet, in bytes.
const (
	IPIPDevice   = "godwit.ipip"
	VXLANDevice  = "godwit.vxlan"
	VXLAN6Device = "godwit.vxlan6"

	ipipOverhead   = 20 // an IPv4 header
	vxlanOverhead  = 50 // headers of IPv4, UDP, VXLAN and Ethernet
	vxlan6Overhead = 70 // the same with IPv6
)

// uplink is the nodes' interface in the fabric.
const uplink = "eth0"

// Tunnel returns the device that packets of a family go through, and what it
// adds to them; an encapsulation without a tunnel has none.
func Tunnel(e v1alpha1.Encapsulation, f topology.Family) (device string, overhead int) {
	switch {
	case e.Tunnel() == v1alpha1.TunnelIPIP && f == topology.IPv4:
		return IPIPDevice, ipipOverhead
	case e.Tunnel() == v1alpha1.TunnelVXLAN && f == topology.IPv4:
		return VXLANDevice, vxlanOverhead
	case e.Tunnel() == v1alpha1.TunnelVXLAN:
		return VXLAN6Device, vxlan6Overhead
	}
	return "", 0
}

// probeIPIP finds out whether the kernel has IPIP, if the lab is to have it.
func (l *Lab) probeIPIP(ctx context.Context) (err error) {
	if l.Options.Encapsulation.Tunnel() != v1alpha1.TunnelIPIP {
		return nil
	}
	probe := l.Prefix + "probe"
	if err := namespace.Add(ctx, probe); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, namespace.Delete(probe)) }()
	err = namespace.Do(probe, func() error {
		return netlink.LinkAdd(&netlink.Iptun{LinkAttrs: netlink.LinkAttrs{Name: "probe"}, Local: net.IPv4(192, 0, 2, 1)})
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return errors.New("this kernel has no IPIP: have the lab in a virtual machine (make lab ENCAP=ipip VM=1), or choose vxlan")
	}
	return err
}

// Encapsulated tells whether packets between pods of two nodes are to go
// through the tunnel.
func Encapsulated(e v1alpha1.Encapsulation, a, b topology.Node) bool {
	return e.Tunnel() != "" && (!e.CrossSubnet() || a.Subnet != b.Subnet)
}

// PodMTU is the MTU that pods of the lab are to have.
func (l *Lab) PodMTU() int {
	most := 0
	for _, f := range l.Options.Family.Each() {
		_, overhead := Tunnel(l.Options.EncapsulationOf(f), f)
		most = max(most, overhead)
	}
	return l.Options.MTU - most
}

// tunnelDevices lists the tunnel devices that the lab's pools use.
func (l *Lab) tunnelDevices() []string {
	var all []string
	for _, f := range l.Options.Family.Each() {
		if device, _ := Tunnel(l.Options.EncapsulationOf(f), f); device != "" {
			all = append(all, device)
		}
	}
	return all
}

// waitTunnels waits until packets go as the options say.
func (l *Lab) waitTunnels(ctx context.Context) error {
	for _, f := range l.Options.Family.Each() {
		if err := l.WaitEncapsulated(ctx, f, l.Options.EncapsulationOf(f)); err != nil {
			return err
		}
	}
	return nil
}

// WaitEncapsulated waits until every node's routes to the blocks of the others
// lead where an encapsulation says, and each has an address for its tunnel if
// there is one.
func (l *Lab) WaitEncapsulated(ctx context.Context, f topology.Family, e v1alpha1.Encapsulation) error {
	return l.poll(ctx, 30*time.Second, fmt.Sprintf("encapsulation %s of %s", e, f), func(ctx context.Context) error {
		var errs []error
		for _, from := range l.Top.Nodes {
			for _, to := range l.Top.Nodes {
				if from.Name != to.Name {
					errs = append(errs, l.checkWay(ctx, f, e, from, to))
				}
			}
			errs = append(errs, l.checkTunnelAddress(ctx, f, e, from))
		}
		return errors.Join(errs...)
	})
}

// checkWay looks at the kernel's route of one node to the block of another.
func (l *Lab) checkWay(ctx context.Context, f topology.Family, e v1alpha1.Encapsulation, from, to topology.Node) error {
	block := to.Block.Of(f).String()
	out, err := l.RunIn(ctx, from.Name, "ip", f.Flag(), "route", "show", block)
	if err != nil {
		return err
	}
	want := uplink
	if Encapsulated(e, from, to) {
		want, _ = Tunnel(e, f)
	}
	if !strings.Contains(out, " dev "+want+" ") {
		return fmt.Errorf("%s: the route to %s is to lead over %s: %q", from.Name, block, want, strings.TrimSpace(out))
	}
	return nil
}

func (l *Lab) checkTunnelAddress(ctx context.Context, f topology.Family, e v1alpha1.Encapsulation, n topology.Node) error {
	device, _ := Tunnel(e, f)
	if device == "" {
		return nil
	}
	a, err := l.TunnelAddress(ctx, n.Name, device)
	if err != nil {
		return err
	}
	if !n.Block.Of(f).Contains(a) {
		return fmt.Errorf("%s on %s has %s, which is not of the node's block %s", device, n.Name, a, n.Block.Of(f))
	}
	return nil
}

// TunnelAddress returns the one address that a tunnel device has, apart from
// link-local ones.
func (l *Lab) TunnelAddress(ctx context.Context, node, device string) (netip.Addr, error) {
	out, err := l.RunIn(ctx, node, "ip", "-brief", "address", "show", "dev", device, "scope", "global")
	if err != nil {
		return netip.Addr{}, err
	}
	// godwit.ipip@NONE UNKNOWN 172.25.0.128/32
	fields := strings.Fields(out)
	if len(fields) != 3 {
		return netip.Addr{}, fmt.Errorf("%s on %s is to have one address: %q", device, node, strings.TrimSpace(out))
	}
	p, err := netip.ParsePrefix(fields[2])
	if err != nil {
		return netip.Addr{}, err
	}
	if !p.IsSingleIP() {
		return netip.Addr{}, fmt.Errorf("%s on %s has %s, which is more than one address", device, node, p)
	}
	return p.Addr(), nil
}

// tunnelOwners are the nodes by the addresses of their tunnels, as the nodes
// report them.
func (l *Lab) tunnelOwners(ctx context.Context) (map[netip.Addr]string, error) {
	api, err := l.API()
	if err != nil {
		return nil, err
	}
	var list v1alpha1.NodeNetworkList
	if err := api.List(ctx, &list); err != nil {
		return nil, err
	}
	owners := map[netip.Addr]string{}
	for _, nn := range list.Items {
		for _, t := range nn.Status.Tunnels {
			if a, err := netip.ParseAddr(t.Address); err == nil {
				owners[a] = nn.Name
			}
		}
	}
	return owners, nil
}

// SetEncapsulation changes the encapsulation of the pool of a family, as a
// person would.
func (l *Lab) SetEncapsulation(ctx context.Context, f topology.Family, e v1alpha1.Encapsulation) error {
	return l.Change(ctx, &v1alpha1.IPPool{}, PoolOf(f), func(o client.Object) {
		o.(*v1alpha1.IPPool).Spec.Encapsulation = e
	})
}

// Change changes an object of the API, without regard to what others change in
// it at the same time.
func (l *Lab) Change(ctx context.Context, o client.Object, name string, change func(client.Object)) error {
	api, err := l.API()
	if err != nil {
		return err
	}
	if err := api.Get(ctx, client.ObjectKey{Name: name}, o); err != nil {
		return err
	}
	before, ok := o.DeepCopyObject().(client.Object)
	if !ok {
		return fmt.Errorf("a copy of %T is no object", o)
	}
	change(o)
	return api.Patch(ctx, o, client.MergeFrom(before))
}
