package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/ipam"
	"github.com/godwit-net/godwit/tunnel"
)

// encapsulate makes the tunnels that the plan asks for and lets packets go as
// its pools say. A tunnel that goes does so only when no route leads to it any
// more. It reports whether routes go as the plan says, as far as they can.
func (w *worker) encapsulate(ctx context.Context, d *desired, blocks []ipam.BlockUsage) (done bool, problems []error) {
	found, err := w.underlay.look(d.addresses)
	if err != nil {
		return false, []error{err} // nothing is known, so nothing changes
	}
	wanted := w.tunnelDevices(d)
	for i := range wanted {
		if err := w.tunnelAddress(ctx, d, blocks, &wanted[i]); err != nil {
			problems = append(problems, err)
		}
	}
	// Those of before are kept until the routes are off them.
	devices := slices.Clone(wanted)
	for _, old := range w.devices {
		if !named(wanted, old.Name()) {
			devices = append(devices, old)
		}
	}
	w.setTunnels(ctx, d, devices)
	w.learned.setEncapsulation(makeEncapsulation(d, found))
	w.devices = devices
	return true, problems
}

// dropTunnels removes the tunnels that are not wanted any more, now that the
// routes have left them.
func (w *worker) dropTunnels(ctx context.Context, d *desired) {
	wanted := w.tunnelDevices(d)
	keep := slices.DeleteFunc(slices.Clone(w.devices), func(dev tunnel.Device) bool { return !named(wanted, dev.Name()) })
	if len(keep) < len(w.devices) {
		w.setTunnels(ctx, d, keep)
		w.devices = keep
	}
	// Only now may others get their addresses; also of those that an earlier life of
	// the agent had.
	for _, r := range w.addresses.Records() {
		if !r.Owner.IsNode() || named(wanted, r.Owner.Interface) {
			continue
		}
		if _, err := w.addresses.Release(r.Owner); err != nil {
			w.log.Warn("can't release the address of a tunnel; trying on", "tunnel", r.Owner.Interface, "error", err)
		}
	}
}

// named reports whether a device of a name is among some.
func named(devices []tunnel.Device, name string) bool {
	return slices.ContainsFunc(devices, func(dev tunnel.Device) bool { return dev.Name() == name })
}

// setTunnels makes the devices be there, with all other nodes known to them. Until
// all is learned none is forgotten: the routes that lead to it stay for as long.
func (w *worker) setTunnels(ctx context.Context, d *desired, devices []tunnel.Device) {
	w.learned.withNodes(func(nodes []netip.Addr, all bool) []netip.Addr {
		peers := w.nodeAddresses(d, nodes)
		status, err := w.tunnels.Set(ctx, tunnel.Config{Devices: devices, Peers: peers, Partial: !all})
		w.state.mu.Lock()
		w.state.tunnels, w.state.tunnelErr = status, err
		w.state.mu.Unlock()
		return peers
	})
}

// nodeAddresses returns the addresses of the other nodes, sorted: of those that
// the plan names, and of those that have blocks.
func (w *worker) nodeAddresses(d *desired, learned []netip.Addr) []netip.Addr {
	nodes := slices.Clone(learned)
	for _, p := range d.speaker.Peers {
		if p.Kind == 0 {
			nodes = append(nodes, p.Address)
		}
	}
	for _, addresses := range d.nodes {
		nodes = append(nodes, addresses...)
	}
	nodes = slices.DeleteFunc(nodes, func(a netip.Addr) bool { return a.Zone() != "" || slices.Contains(d.addresses, a) })
	return sortedUnique(nodes)
}

// tunnelDevices returns the devices of the plan's tunnels: one for each family
// of which there are pools that it can carry.
func (w *worker) tunnelDevices(d *desired) []tunnel.Device {
	var devices []tunnel.Device
	for _, kind := range d.tunnels {
		for _, local := range d.addresses {
			v4 := local.Is4()
			if kind.Interface(!v4) == "" || !slices.ContainsFunc(d.ranges, func(p netip.Prefix) bool { return p.Addr().Is4() == v4 }) {
				continue
			}
			dev := tunnel.Device{Kind: tunnel.IPIP, Local: local}
			if mtu := w.underlayMTU(d, v4); mtu > 0 { // else there is no address to make it on
				dev.MTU = mtu - overhead(kind, v4)
			}
			if kind == v1alpha1.TunnelVXLAN {
				dev.Kind, dev.Port, dev.VNI = tunnel.VXLAN, d.port, d.vni
			}
			devices = append(devices, dev)
		}
	}
	return devices
}

// underlayMTU is the MTU of the network between the nodes. 0: not known.
func (a *Agent) underlayMTU(d *desired, v4 bool) int {
	if d.mtu > 0 {
		return d.mtu
	}
	return a.underlay.mtu(v4)
}

// addressWait bounds the wait for a tunnel's address, which is there at once
// unless all of the node's blocks are full.
const addressWait = 2 * time.Second

// tunnelAddress gives a device its address, out of a block of a pool that uses
// the tunnel: under it the node itself speaks with pods behind the tunnel. While
// no pool uses it (yet) it is of any pool of its family, since the kernel drops
// what comes in by a device without an address where it checks sources at all
// (rp_filter, loose or strict), and other nodes may use the tunnel first. For the same
// reason it keeps the one that it has while no other can be had.
func (w *worker) tunnelAddress(ctx context.Context, d *desired, blocks []ipam.BlockUsage, dev *tunnel.Device) error {
	pools := d.tunnelPools(blocks, dev)
	if len(pools) == 0 {
		dev.Addresses = w.heldAddress(blocks, dev)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, addressWait)
	defer cancel()
	records, err := w.addresses.Allocate(ctx, ipam.Request{
		Owner: ipam.NodeOwner(dev.Name()), Pod: "tunnel " + dev.Name(), Pools: pools,
	})
	if err != nil {
		dev.Addresses = w.heldAddress(blocks, dev)
		return fmt.Errorf("tunnel %s: get it an address: %w", dev.Name(), err)
	}
	for _, r := range records {
		dev.Addresses = append(dev.Addresses, r.Address)
	}
	return nil
}

// heldAddress is the address that a device has already, out of a block that is
// the node's; one of a block that was lost may be that of another node's pod.
func (w *worker) heldAddress(blocks []ipam.BlockUsage, dev *tunnel.Device) []netip.Addr {
	for _, r := range w.addresses.Records() {
		if r.Owner == ipam.NodeOwner(dev.Name()) && holds(blocks, r.Address) {
			return []netip.Addr{r.Address} // a device has one; two are on record while one replaces the other
		}
	}
	return nil
}

// tunnelPools returns the pools that a device may have its address of. A pool that
// gives out no new addresses here, and of which no pod has one any more, is left
// out where there is another, so that its blocks can go.
func (d *desired) tunnelPools(blocks []ipam.BlockUsage, dev *tunnel.Device) []string {
	var using, leaving, others, leavingOthers []string
	for _, p := range d.pools {
		// A block of the node gives an address at once. Without one there will be one
		// soon, as blocks are claimed ahead, and then another pass.
		there, pods := false, 0
		for _, b := range blocks {
			if b.Pool == p.Name {
				there, pods = true, pods+b.Allocated
			}
		}
		uses, goes := d.uses(p.Name, dev.Name()), !p.Allocate && pods == 0
		switch {
		case !there || p.Claims || p.CIDR.Addr().Is4() != dev.Local.Is4():
		case uses && goes:
			leaving = append(leaving, p.Name)
		case uses:
			using = append(using, p.Name)
		case goes:
			leavingOthers = append(leavingOthers, p.Name)
		default:
			others = append(others, p.Name)
		}
	}
	for _, pools := range [][]string{using, leaving, others} {
		if len(pools) > 0 {
			return pools
		}
	}
	return leavingOthers
}

// uses reports whether packets to blocks of a pool go through a device.
func (d *desired) uses(pool, device string) bool {
	return slices.ContainsFunc(d.encapsulated, func(p desiredEncapsulation) bool {
		return p.name == pool && p.kind.Interface(p.cidr.Addr().Is6()) == device
	})
}

// podMTU is the MTU of the interface of a pod with some addresses, so that its
// packets fit whatever their pools put around them.
func (a *Agent) podMTU(addresses []netip.Addr) (int, error) {
	a.state.mu.Lock()
	d := a.state.desired
	a.state.mu.Unlock()
	least := 0
	for _, addr := range addresses {
		mtu := a.underlayMTU(&d, addr.Is4())
		if mtu == 0 {
			return 0, fmt.Errorf("the MTU of the node's network is not known: none of its addresses %v is on an interface; give it one, or set spec.mtu of the NetworkConfig", d.addresses)
		}
		for _, p := range d.encapsulated {
			if p.cidr.Contains(addr) {
				mtu -= overhead(p.kind, addr.Is4())
			}
		}
		if mtu > 0 && (least == 0 || mtu < least) {
			least = mtu
		}
	}
	return least, nil
}

// poolMTU is the MTU that a new pod gets which may have an address of any pool
// of the node's. 0: not known.
func (a *Agent) poolMTU(d *desired) int {
	var any []netip.Addr
	for _, p := range d.pools {
		if p.Allocate {
			any = append(any, p.CIDR.Addr())
		}
	}
	mtu, _ := a.podMTU(any) // the status tells of the addresses that are missing
	return mtu
}

// tunnelReason is the reason of a condition for what is wrong with a tunnel.
func tunnelReason(err error) string {
	for _, r := range []struct {
		err    error
		reason string
	}{
		{tunnel.ErrDeviceConflict, "DeviceConflict"},
		{tunnel.ErrPortInUse, "PortInUse"},
		{tunnel.ErrNotSupported, "NotSupported"},
		{tunnel.ErrMTUTooSmall, "MTUTooSmall"},
		{tunnel.ErrMTUTooLarge, "MTUTooLarge"},
		{tunnel.ErrNoAddress, "NoAddress"},
		{tunnel.ErrInvalid, "Invalid"},
	} {
		if errors.Is(err, r.err) {
			return r.reason
		}
	}
	return "Failed"
}
