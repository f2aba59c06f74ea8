package tunnel

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// work is what a device needs.
type work struct {
	w    *want
	link *link // what there is of it
	p    params
	// up: the device there is carries packets.
	up bool
	// err is why it can't be had as wanted; then nothing is done.
	err error

	create  bool
	replace int // the index of the device that goes first, 0: none

	set     linkChange
	sysctls []sysctl
	addrs   diff[ifaddr]
	fdb     diff[fdbEntry]
	neigh   diff[neighbour]
}

// diff is what to add and what to remove of a kind of things.
type diff[T any] struct{ add, remove []T }

func (d diff[T]) none() bool { return len(d.add)+len(d.remove) == 0 }

// linkChange says which properties of a device to set.
type linkChange struct {
	mark, mtu, mac, forward4, genMode, checksumOff, bringUp bool
}

// done tells whether there is nothing to do.
func (k *work) done() bool {
	return !k.create && k.set == linkChange{} && len(k.sysctls) == 0 && k.addrs.none() && k.fdb.none() && k.neigh.none()
}

// plan compares what is wanted of a device with what is there.
func (s *state) plan(w *want, p peers) *work {
	k := &work{w: w, link: s.byName(w.name), err: w.err}
	l := k.link
	if k.err != nil {
		k.up = l != nil && l.ours() && l.up()
		return k
	}
	inUse := 0
	if l != nil {
		inUse = l.params.underlay
	}
	underlay, found := s.underlay(w.Local, inUse)
	if !found || w.MTU == 0 {
		k.err = fmt.Errorf("%w: %s", ErrNoAddress, w.Local)
		return k
	}
	k.p = w.params(underlay)
	if l != nil && l.params == k.p {
		k.up = l.ours() && l.up()
		k.change(s, p)
		return k
	}
	if l != nil {
		if !l.ours() {
			k.err = conflict(l, k.p)
			return k
		}
		k.replace = l.index
	}
	k.err = s.clash(k.p, k.replace)
	k.create = k.err == nil
	return k
}

// conflict says what is in the way of a device.
func conflict(l *link, p params) error {
	is := l.params.String()
	if is == "" {
		is = "of another kind"
	}
	return fmt.Errorf("%w: there is a %s that is not Godwit's and is %s, not %s", ErrDeviceConflict, l.name, is, p)
}

// change finds what has to be changed of a device that is of the right make.
func (k *work) change(s *state, p peers) {
	l := k.link
	k.set = linkChanges(k.w, l)
	k.set.checksumOff = l.txChecksum
	k.sysctls = sysctls(k.w, l)

	missing := map[netip.Addr]bool{}
	for _, a := range k.w.Addresses {
		missing[a] = true
	}
	for _, a := range s.addrs {
		switch {
		case a.index != l.index:
		case k.w.wantsAddr(a):
			delete(missing, a.addr)
		default:
			k.addrs.remove = append(k.addrs.remove, a)
		}
	}
	for _, a := range k.w.Addresses {
		if missing[a] {
			k.addrs.add = append(k.addrs.add, ifaddr{index: l.index, addr: a, other: a, bits: a.BitLen()})
		}
	}
	k.changeEntries(s.fdb[l.index], s.neigh[l.index], p)
}

func (k *work) changeEntries(fdb []fdbEntry, neigh []neighbour, p peers) {
	if k.w.Kind != VXLAN {
		return
	}
	reached := make(map[netip.Addr]bool, len(fdb))
	for _, e := range fdb {
		if k.w.wantsFDB(p, e) {
			reached[e.dst] = true
		} else {
			k.fdb.remove = append(k.fdb.remove, e)
		}
	}
	known := make(map[netip.Addr]bool, len(neigh))
	for _, n := range neigh {
		switch {
		case k.w.wantsNeighbour(p, n):
			known[n.addr] = true
		case !k.w.wantsGateway(p, n.addr) && n.permanent():
			k.neigh.remove = append(k.neigh.remove, n)
		}
		// The others are the kernel's own and end by themselves.
	}
	for a, mac := range p.nodes {
		if !k.w.reaches(a) {
			continue
		}
		if !reached[a] {
			k.fdb.add = append(k.fdb.add, fdbEntry{mac: mac, dst: a})
		}
		if gw := Gateway(a); !known[gw] {
			k.neigh.add = append(k.neigh.add, neighbour{addr: gw, mac: mac})
		}
	}
	slices.SortFunc(k.fdb.add, func(a, b fdbEntry) int { return a.dst.Compare(b.dst) })
	slices.SortFunc(k.neigh.add, func(a, b neighbour) int { return a.addr.Compare(b.addr) })
}

// linkChanges finds what is wrong with the properties of the link itself.
func linkChanges(w *want, l *link) linkChange {
	return linkChange{
		mark:     !l.ours(),
		mtu:      l.mtu != w.MTU,
		mac:      w.Kind == VXLAN && l.mac != w.mac,
		forward4: !l.forward4,
		genMode:  l.ipv6 && l.generates,
		bringUp:  !l.up(),
	}
}

// clash finds what would keep a device from being made or from coming up; the
// device replaced doesn't count. The kernel would say so, too, but then what is
// replaced is gone already.
func (s *state) clash(p params, replaced int) error {
	if p.kind == IPIP.String() {
		return s.clashIPIP(p, replaced)
	}
	var port, port6 bool // a VXLAN device has the port, and so a socket that can be shared
	for i := range s.links {
		l := &s.links[i]
		o := l.params
		if o.kind != p.kind || o.port != p.port {
			continue
		}
		port6 = port6 || (o.is6() || o.external) && l.up()
		if o.is6() != p.is6() && !o.external {
			continue
		}
		port = port || l.up()
		apart := o.external || o.special // with a socket of its own
		if l.index != replaced && (apart && l.up() || !apart && o.vni == p.vni) {
			return fmt.Errorf("%w: %d by %s (%s)", ErrPortInUse, p.port, l.name, o)
		}
	}
	if !port && s.listening(p.port, p.is6(), port6) {
		return fmt.Errorf("%w: %d by a socket", ErrPortInUse, p.port)
	}
	return nil
}

// clashIPIP finds a device that would get the same packets.
func (s *state) clashIPIP(p params, replaced int) error {
	for i := range s.links {
		l := &s.links[i]
		o := l.params
		if o.kind == p.kind && l.index != replaced && o.local == p.local && o.remote == p.remote && o.underlay == p.underlay {
			return fmt.Errorf("%w: %s is %s, too", ErrDeviceConflict, l.name, o)
		}
	}
	return nil
}

// unwanted are the devices of ours that nobody wants.
func (s *state) unwanted(ws []*want) []*link {
	var found []*link
	for i := range s.links {
		l := &s.links[i]
		if l.ours() && !slices.ContainsFunc(ws, func(w *want) bool { return w.name == l.name }) {
			found = append(found, l)
		}
	}
	slices.SortFunc(found, func(a, b *link) int { return cmp.Compare(a.index, b.index) })
	return found
}
