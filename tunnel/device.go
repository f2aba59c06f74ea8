package tunnel

import (
	"fmt"
	"net/netip"
	"slices"
)

const (
	minMTU4 = 68   // RFC 791
	minMTU6 = 1280 // RFC 8200
)

// want is a device that is asked for, in canonical form.
type want struct {
	Device
	name string
	mac  hwaddr // VXLAN only
	err  error  // why it can't be, whatever the kernel says
}

// wants are the devices in canonical form. A device that can't be is among
// them, with its error, so that what there is of it stays.
func wants(devices []Device) []*want {
	var all []*want
	for _, d := range devices {
		w := canonical(d)
		for _, other := range all {
			if w.err == nil && other.name == w.name {
				w.err = fmt.Errorf("%w: %s is asked for twice", ErrInvalid, w.name)
			}
		}
		all = append(all, w)
	}
	return all
}

func canonical(d Device) *want {
	d.Local = d.Local.Unmap().WithZone("")
	if d.Kind == VXLAN {
		if d.Port == 0 {
			d.Port = DefaultPort
		}
		if d.VNI == 0 {
			d.VNI = DefaultVNI
		}
	}
	addrs := make([]netip.Addr, len(d.Addresses))
	for i, a := range d.Addresses {
		addrs[i] = a.Unmap().WithZone("")
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	d.Addresses = slices.Compact(addrs)
	w := &want{Device: d, name: d.Name()}
	if d.Kind == VXLAN && d.Local.IsValid() {
		w.mac = macOf(d.Local)
	}
	w.err = w.validate()
	return w
}

// needs6 tells whether IPv6 packets go over the device.
func (w *want) needs6() bool {
	return w.Local.Is6() || slices.ContainsFunc(w.Addresses, netip.Addr.Is6)
}

func (w *want) validate() error {
	switch {
	case w.Kind != IPIP && w.Kind != VXLAN:
		return fmt.Errorf("%w: unknown %s", ErrInvalid, w.Kind)
	case !w.Local.IsValid() || w.Local.IsUnspecified() || w.Local.IsMulticast() || w.Local.IsLinkLocalUnicast() && w.Local.Is6():
		return fmt.Errorf("%w: %s can't be the node's address", ErrInvalid, w.Local)
	case w.Kind == IPIP && w.needs6():
		return fmt.Errorf("%w: IPIP is for IPv4 in IPv4", ErrInvalid)
	case w.VNI >= 1<<24:
		return fmt.Errorf("%w: the VNI %d has more than 24 bits", ErrInvalid, w.VNI)
	case w.MTU == 0: // not known: plan says why
	case w.MTU < minMTU4:
		return fmt.Errorf("%w: %s would have %d, and IPv4 needs %d", ErrMTUTooSmall, w.name, w.MTU, minMTU4)
	case w.needs6() && w.MTU < minMTU6:
		return fmt.Errorf("%w: %s would have %d, and IPv6 needs %d", ErrMTUTooSmall, w.name, w.MTU, minMTU6)
	case w.MTU > 65535:
		return fmt.Errorf("%w: %s would have %d", ErrMTUTooLarge, w.name, w.MTU)
	}
	for i, a := range w.Addresses {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
			return fmt.Errorf("%w: %s can't be the address of %s", ErrInvalid, a, w.name)
		}
		if i > 0 && a.Is4() == w.Addresses[i-1].Is4() {
			return fmt.Errorf("%w: %s would have two addresses of a family, %s and %s", ErrInvalid, w.name, w.Addresses[i-1], a)
		}
	}
	return nil
}

// peers are the other nodes, by the addresses in the underlying network and by
// those that are gateways in the tunnels. A value is the node's MAC address.
type peers struct{ nodes, gateways map[netip.Addr]hwaddr }

func newPeers() peers {
	return peers{nodes: map[netip.Addr]hwaddr{}, gateways: map[netip.Addr]hwaddr{}}
}

// add takes addresses in and returns them in canonical form.
func (p peers) add(addrs []netip.Addr) []netip.Addr {
	taken := make([]netip.Addr, 0, len(addrs))
	for _, a := range addrs {
		a = a.Unmap().WithZone("")
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
			continue // nothing could be sent to it
		}
		p.nodes[a] = macOf(a)
		p.gateways[Gateway(a)] = p.nodes[a]
		taken = append(taken, a)
	}
	return taken
}

// reaches tells whether a device needs entries for a node: one that is of its
// family, and not its own.
func (w *want) reaches(node netip.Addr) bool {
	return w.Kind == VXLAN && node.Is4() == w.Local.Is4() && node != w.Local
}

// wantsFDB tells whether a forwarding entry is wanted as it is.
func (w *want) wantsFDB(p peers, e fdbEntry) bool {
	mac, ok := p.nodes[e.dst]
	return ok && w.reaches(e.dst) && mac == e.mac && !e.odd
}

// wantsGateway tells whether a device needs a neighbour entry for an address.
func (w *want) wantsGateway(p peers, a netip.Addr) bool {
	_, ok := p.gateways[a]
	return ok && w.Kind == VXLAN && a.Is4() == w.Local.Is4() && a != Gateway(w.Local)
}

// wantsNeighbour tells whether a neighbour entry is wanted as it is.
func (w *want) wantsNeighbour(p peers, n neighbour) bool {
	return w.wantsGateway(p, n.addr) && p.gateways[n.addr] == n.mac && n.permanent()
}

// wantsAddr tells whether an address that a device has is wanted as it is.
func (w *want) wantsAddr(a ifaddr) bool {
	return a.bits == a.addr.BitLen() && (a.other == a.addr || !a.other.IsValid()) && slices.Contains(w.Addresses, a.addr)
}
