package tunnel

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// carries tests that what goes between the nodes' pods, and between a node and
// the others' pods, is on the wire only as the outer packets of a tunnel.
func (l *lab) carries(t *testing.T, outer func(p packet) bool, pod, own, local func(*node) netip.Addr) {
	t.Helper()
	packets := capture(t, l.wire, func() {
		for _, a := range l.nodes {
			for _, b := range l.nodes {
				if a != b {
					a.ping(pod(b), "-I", pod(a).String()) // pod to pod
					a.ping(pod(b))                        // node to pod, and back
				}
			}
		}
	})
	isLocal := func(a netip.Addr) bool {
		return slices.ContainsFunc(l.nodes, func(v *node) bool { return local(v) == a })
	}
	sources := map[netip.Addr]bool{}
	for _, p := range packets {
		if p.dst.IsMulticast() || p.proto == unix.IPPROTO_ICMPV6 && (isLocal(p.src) || p.src.IsLinkLocalUnicast()) {
			continue // the nodes look for each other
		}
		if !outer(p) || !isLocal(p.src) || !isLocal(p.dst) || p.inner == nil {
			t.Fatalf("on the wire: %s", p)
		}
		sources[p.inner.src] = true
	}
	for _, v := range l.nodes {
		if !sources[pod(v)] || !sources[own(v)] {
			t.Errorf("on the wire there is nothing from %s or nothing from %s: %v", pod(v), own(v), sources)
		}
	}
}

func (l *lab) carries4(t *testing.T, port uint16, vni uint32) {
	t.Helper()
	l.carries(t, func(p packet) bool { return p.proto == unix.IPPROTO_UDP && p.port == port && p.vni == vni },
		(*node).pod4, (*node).own4, (*node).local4)
}

func (l *lab) carries6(t *testing.T, port uint16, vni uint32) {
	t.Helper()
	l.carries(t, func(p packet) bool { return p.proto == unix.IPPROTO_UDP && p.port == port && p.vni == vni },
		(*node).pod6, (*node).own6, (*node).local6)
}

func TestVXLANCarriesPackets(t *testing.T) {
	l := newLab(t, 3)
	for _, v := range l.nodes {
		v.set(l.both(v))
		l.route(v, VXLANDevice)
		l.route(v, VXLAN6Device)
		v.quiet()
	}
	t.Run("over IPv4", func(t *testing.T) { l.carries4(t, 4789, 4096) })
	t.Run("over IPv6", func(t *testing.T) { l.carries6(t, 4789, 4096) })
	for _, v := range l.nodes {
		v.quiet() // traffic is no reason for Set
	}
}

// TestDevices compares with what ip and bridge are to tell.
func TestDevices(t *testing.T) {
	l := newLab(t, 2)
	v := l.nodes[0]
	v.set(l.both(v))
	got := v.dump()
	for _, want := range []string{
		"mtu 1450 ", "link/ether 0a:67:c0:00:02:01 ", "alias godwit tunnel",
		"vxlan id 4096 local 192.0.2.1 dev eth0 srcport 0 0 dstport 4789 nolearning ",
		" addrgenmode none ",
		"godwit.vxlan     UNKNOWN        10.244.1.63/32\n",
		"192.0.2.2 lladdr 0a:67:c0:00:02:02 PERMANENT",
		"0a:67:c0:00:02:02 dst 192.0.2.2 self permanent",
		"net.ipv4.conf.godwit/vxlan.forwarding = 1",
		"mtu 1430 ", "link/ether 1e:03:d7:e1:ca:9d ",
		"vxlan id 4096 local 2001:db8::1 dev eth0 srcport 0 0 dstport 4789 nolearning ", " noudp6zerocsumtx noudp6zerocsumrx ",
		"godwit.vxlan6    UNKNOWN        fd00:1::3f/128\n",
		"fe80::4844:eaff:fe23:20d2 lladdr 4a:44:ea:23:20:d2 PERMANENT",
		"4a:44:ea:23:20:d2 dst 2001:db8::2 self permanent",
		"net.ipv6.conf.godwit/vxlan6.forwarding = 1", "net.ipv6.conf.godwit/vxlan6.accept_ra = 0",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	// No entry leads to the node itself, and none is left over.
	if n := strings.Count(got, " self permanent"); n != 2 {
		t.Errorf("%d forwarding entries, not one on each device:\n%s", n, got)
	}
	if n := strings.Count(got, " lladdr "); n != 2 {
		t.Errorf("%d neighbour entries, not one on each device:\n%s", n, got)
	}
	if routes := v.ip("-6 route show dev %s", VXLAN6Device); routes != "" {
		t.Errorf("there are routes that nobody asked for:\n%s", routes)
	}
}

func TestSetAgainChangesNothing(t *testing.T) {
	l := newLab(t, 3)
	v := l.nodes[0]
	v.set(l.both(v))
	before := v.dump()

	var m *monitor
	var err error
	v.Do(func() { m, err = openMonitor() })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.close() }()
	asked := v.table.req.seq
	v.set(l.both(v))
	// One request each for the links and the addresses, and for the two lists of
	// each device.
	if n := v.table.req.seq - asked; n != 2+2*2 {
		t.Errorf("%d requests, not the 6 lists", n)
	}
	lost, err := m.drain(func(h header, _ []byte) { t.Errorf("a notification of type %d", h.typ) })
	if lost || err != nil {
		t.Errorf("drain: lost %v, %v", lost, err)
	}
	if after := v.dump(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	v.quiet()
}

func TestAddPeers(t *testing.T) {
	l := newLab(t, 3)
	for _, v := range l.nodes {
		v.set(l.both(v))
	}
	a, b := l.nodes[0], l.nodes[1]
	c := l.both(a)
	c.Peers = nil
	a.set(c)
	if err := a.table.AddPeers([]netip.Addr{b.local4(), b.local6(), a.local4(), {}}); err != nil {
		t.Fatal(err)
	}
	l.route(a, VXLANDevice)
	l.route(a, VXLAN6Device)
	l.route(b, VXLANDevice)
	l.route(b, VXLAN6Device)
	a.ping(b.pod4())
	a.ping(b.pod6())
	a.quiet()

	c.Peers = []netip.Addr{b.local4()}
	a.set(c)
	if got := a.dump(); strings.Contains(got, "2001:db8::2") || !strings.Contains(got, "dst 192.0.2.2") {
		t.Errorf("only 192.0.2.2 should be left:\n%s", got)
	}
	a.quiet()

	// What is added while there is no device is on it when it comes.
	c.Devices = nil
	a.set(c)
	if err := a.table.AddPeers([]netip.Addr{b.local6()}); err != nil {
		t.Fatal(err)
	}
	if a.dump() != "" {
		t.Errorf("there are devices:\n%s", a.dump())
	}
}

// TestReboot makes a node anew, with its address and nothing else.
func TestReboot(t *testing.T) {
	l := newLab(t, 2)
	for _, v := range l.nodes {
		v.set(l.both(v))
		l.route(v, VXLANDevice)
		l.route(v, VXLAN6Device)
	}
	a, b := l.nodes[0], l.nodes[1]
	a.ping(b.pod4())
	before := a.dump()
	b.ip("link del eth0") // the end of it

	b = l.boot(2)
	b.set(l.both(b))
	l.route(b, VXLANDevice)
	l.route(b, VXLAN6Device)
	a.ping(b.pod4())
	a.ping(b.pod6())
	b.ping(a.pod4())
	if after := a.dump(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	a.quiet()
}

func TestLiveChange(t *testing.T) {
	l := newLab(t, 2)
	up := func(change func(d *Device)) {
		t.Helper()
		for _, v := range l.nodes {
			c := l.both(v)
			for i := range c.Devices {
				change(&c.Devices[i])
			}
			v.set(c)
			l.route(v, VXLANDevice)
			l.route(v, VXLAN6Device)
			v.quiet()
		}
	}
	up(func(*Device) {})
	v := l.nodes[0]

	t.Run("MTU and address, in place", func(t *testing.T) {
		index, routes := v.index(VXLANDevice), v.ip("route")
		c := l.both(v)
		c.Devices[0].MTU = 1400
		c.Devices[0].Addresses = []netip.Addr{netip.MustParseAddr("10.244.1.62")}
		v.set(c)
		if got := v.index(VXLANDevice); got != index {
			t.Errorf("the device was made anew: it is number %s, not %s", got, index)
		}
		if got := v.ip("route"); got != routes {
			t.Errorf("the routes were\n%s\nand are\n%s", routes, got)
		}
		if got := v.dump(); !strings.Contains(got, "mtu 1400 ") || !strings.Contains(got, " 10.244.1.62/32\n") {
			t.Errorf("not as wanted:\n%s", got)
		}
		l.nodes[1].ping(netip.MustParseAddr("10.244.1.62"))
	})
	t.Run("VNI", func(t *testing.T) {
		up(func(d *Device) { d.VNI = 77 })
		l.carries4(t, 4789, 77)
		l.carries6(t, 4789, 77)
	})
	t.Run("port", func(t *testing.T) {
		up(func(d *Device) { d.Port, d.VNI = 8472, 77 })
		l.carries4(t, 8472, 77)
		l.carries6(t, 8472, 77)
	})
	t.Run("the node's address", func(t *testing.T) {
		v.ip("addr add 192.0.2.101/24 dev eth0")
		c := l.both(v)
		c.Devices[0].Local = netip.MustParseAddr("192.0.2.101")
		v.set(c)
		if got := v.dump(); !strings.Contains(got, "local 192.0.2.101 dev eth0") || !strings.Contains(got, "link/ether 0a:67:c0:00:02:65") {
			t.Errorf("not as wanted:\n%s", got)
		}
	})
}

// TestUnderlay moves the node's address from link to link.
func TestUnderlay(t *testing.T) {
	l := newLab(t, 2)
	for _, v := range l.nodes {
		v.set(l.both(v))
		l.route(v, VXLANDevice)
		l.route(v, VXLAN6Device)
	}
	v := l.nodes[0]
	works := func(t *testing.T) {
		t.Helper()
		l.route(v, VXLANDevice)
		l.route(v, VXLAN6Device)
		l.carries4(t, 4789, 4096)
		l.carries6(t, 4789, 4096)
	}
	t.Run("a new link", func(t *testing.T) {
		v.ip("link del eth0") // and the kernel takes the devices over it with it
		v.told()
		for _, s := range v.fail(l.both(v), ErrNoAddress, VXLANDevice, VXLAN6Device) {
			if s.Up {
				t.Errorf("%s is up", s.Name())
			}
		}
		v.plug(l.wire)
		v.heal(l.both(v))
		works(t)
	})
	t.Run("the address only", func(t *testing.T) {
		v.ip("addr del 192.0.2.1/24 dev eth0")
		v.told()
		before := v.dump()
		v.fail(l.both(v), ErrNoAddress, VXLANDevice)
		if after := v.dump(); after != before {
			t.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
		v.ip("addr add 192.0.2.1/24 dev eth0")
		v.heal(l.both(v))
		works(t)
	})
	t.Run("the loopback link", func(t *testing.T) {
		v.ip("addr del 192.0.2.1/24 dev eth0")
		v.ip("addr add 192.0.2.1/32 dev lo")
		v.ip("addr add 192.0.2.201/24 dev eth0")
		v.heal(l.both(v))
		if got := v.dump(); !strings.Contains(got, "local 192.0.2.1 srcport") {
			t.Errorf("the device should be bound to no link:\n%s", got)
		}
		works(t)
	})
}
