package tunnel

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// TestConflict has somebody else's device in the way.
func TestConflict(t *testing.T) {
	for name, add := range map[string]string{
		"another kind":    "type bridge",
		"another VNI":     "type vxlan id 4097 dstport 4789 local 192.0.2.1 dev eth0 nolearning",
		"another address": "type vxlan id 4096 dstport 4789 local 192.0.2.9 dev eth0 nolearning",
		"learning":        "type vxlan id 4096 dstport 4789 local 192.0.2.1 dev eth0",
		"another link":    "type vxlan id 4096 dstport 4789 local 192.0.2.1 nolearning",
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 1)
			v := l.nodes[0]
			v.ip("link add %s %s", VXLANDevice, add)
			v.ip("addr add 198.51.100.1/24 dev %s", VXLANDevice)
			show := func() string { return v.ip("-d link show %s", VXLANDevice) + v.ip("addr show %s", VXLANDevice) }
			before := show()
			all := v.fail(l.both(v), ErrDeviceConflict, VXLANDevice)
			if all[0].Up || !all[1].Up {
				t.Errorf("only %s should be up: %v", VXLAN6Device, all)
			}
			if err := v.table.AddPeers([]netip.Addr{netip.MustParseAddr("192.0.2.8")}); err != nil {
				t.Error(err)
			}
			if after := show(); after != before {
				t.Errorf("somebody else's device was changed from\n%s\nto\n%s", before, after)
			}
			v.ip("link set %s name other", VXLANDevice)
			v.told()
			v.ip("link del other")
			v.heal(l.both(v))
			// Nor is it removed when it is not wanted.
			v.set(Config{})
			v.ip("link add %s %s", VXLANDevice, add)
			v.set(Config{})
			v.index(VXLANDevice)
		})
	}
}

// TestAdopt takes over a device that is exactly what is wanted.
func TestAdopt(t *testing.T) {
	l := newLab(t, 2)
	v := l.nodes[0]
	v.ip("link add %s type vxlan id 4096 dstport 4789 local 192.0.2.1 dev eth0 nolearning", VXLANDevice)
	v.ip("addr add 198.51.100.1/24 dev %s", VXLANDevice)
	index := v.index(VXLANDevice)
	v.set(l.both(v))
	if got := v.index(VXLANDevice); got != index {
		t.Errorf("the device was made anew: it is number %s, not %s", got, index)
	}
	adopted := v.dump()
	v.set(Config{})
	v.set(l.both(v))
	if made := v.dump(); made != adopted {
		t.Errorf("adopted:\n%s\nmade:\n%s", adopted, made)
	}
}

// TestPortInUse has others use what VXLAN needs.
func TestPortInUse(t *testing.T) {
	socket := func(network, addr string) func(*testing.T, *node) func() {
		return func(t *testing.T, v *node) func() {
			var c net.PacketConn
			var err error
			v.Do(func() { c, err = net.ListenPacket(network, addr) })
			if err != nil {
				t.Fatal(err)
			}
			return func() { _ = c.Close() }
		}
	}
	device := func(args string) func(*testing.T, *node) func() {
		return func(_ *testing.T, v *node) func() {
			v.ip("link add other type vxlan %s", args)
			v.ip("link set other up")
			return func() { v.ip("link del other") }
		}
	}
	both := []string{VXLANDevice, VXLAN6Device}
	for _, c := range []struct {
		name  string
		take  func(*testing.T, *node) (free func())
		fails []string
	}{
		{"a device with the VNI", device("id 4096 dstport 4789"), both[:1]},
		{"a device with the VNI over IPv6", device("id 4096 dstport 4789 local 2001:db8::1"), both[1:]},
		{"a device that leaves the VNI to others", device("external dstport 4789"), both},
		{"a device with an extension", device("id 5 dstport 4789 gbp"), both[:1]},
		{"a socket", socket("udp4", "0.0.0.0:4789"), both[:1]},
		{"a socket with an address", socket("udp4", "127.0.0.1:4789"), both[:1]},
		{"a socket for both families", socket("udp", ":4789"), both},
		{"a socket for IPv6", socket("udp6", "[::1]:4789"), both[1:]},
		{"a device with another VNI", device("id 5 dstport 4789"), nil},
		{"a device with another port", device("id 4096 dstport 4790"), nil},
		{"a socket with another port", socket("udp", ":4790"), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, 1)
			v := l.nodes[0]
			free := c.take(t, v)
			if len(c.fails) == 0 {
				v.set(l.both(v))
				free()
				return
			}
			v.fail(l.both(v), ErrPortInUse, c.fails...)
			free()
			v.set(l.both(v))
		})
		// What is in the way of a change leaves what there is.
		t.Run(c.name+", later", func(t *testing.T) {
			l := newLab(t, 2)
			v := l.nodes[0]
			from := l.both(v)
			for i := range from.Devices {
				from.Devices[i].Port = 5000
			}
			v.set(from)
			before := v.dump()
			free := c.take(t, v)
			if len(c.fails) > 0 {
				all := v.fail(l.both(v), ErrPortInUse, c.fails...)
				for i, s := range all {
					if failed := s.Err != nil; failed {
						name := from.Devices[i].Name()
						if !strings.Contains(before, section(v.dump(), name)) || section(before, name) == "" {
							t.Errorf("%s was changed:\n%s\nbefore:\n%s", name, v.dump(), before)
						}
					}
				}
			}
			free()
			v.set(l.both(v))
		})
	}
}

// section is a device's part of a dump.
func section(dump, name string) string {
	for _, part := range strings.Split(dump, "# ") {
		if strings.HasPrefix(part, name+"\n") {
			return part
		}
	}
	return ""
}

// TestPortTakenUnseen has the port taken by what the plan can't foresee.
func TestPortTakenUnseen(t *testing.T) {
	l := newLab(t, 1)
	v := l.nodes[0]
	v.set(l.both(v))
	v.ip("link set %s down", VXLANDevice) // and so its socket is gone
	var c net.PacketConn
	var err error
	v.Do(func() { c, err = net.ListenPacket("udp4", ":4789") })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if all := v.fail(l.both(v), ErrPortInUse, VXLANDevice); all[0].Up || !all[1].Up {
		t.Errorf("only %s should be up: %v", VXLAN6Device, all)
	}
}

func TestRemoval(t *testing.T) {
	l := newLab(t, 2)
	v := l.nodes[0]
	v.ip("link add other type vxlan id 5 dstport 4789 local 192.0.2.1 dev eth0")
	v.set(l.both(v))
	c := l.both(v)
	c.Devices = c.Devices[1:]
	v.set(c)
	if got := v.dump(); strings.Contains(got, VXLANDevice+"\n") || !strings.Contains(got, VXLAN6Device+"\n") {
		t.Errorf("only %s should be left:\n%s", VXLAN6Device, got)
	}
	v.quiet()
	v.set(Config{})
	if got := v.dump(); got != "" {
		t.Errorf("devices are left:\n%s", got)
	}
	v.quiet()
	v.index("other")

	// A device of an earlier life, under whatever name.
	v.set(l.both(v))
	v.ip("link set %s down", VXLANDevice)
	v.ip("link set %s name old", VXLANDevice)
	again := open(t, v.NS)
	if _, err := again.Set(context.Background(), Config{}); err != nil {
		t.Fatal(err)
	}
	if links := v.ip("-br link"); strings.Contains(links, "old") || strings.Contains(links, VXLAN6Device) {
		t.Errorf("devices are left:\n%s", links)
	}
}

func TestMTU(t *testing.T) {
	l := newLab(t, 2)
	v := l.nodes[0]
	v.set(l.both(v))
	before := v.dump()

	c := l.both(v)
	c.Devices[1].MTU = 1279
	v.fail(c, ErrMTUTooSmall, VXLAN6Device)
	c.Devices[0].MTU = 67
	v.fail(c, ErrMTUTooSmall, VXLANDevice, VXLAN6Device)
	c.Devices[0].MTU, c.Devices[1].MTU = 1451, 1431
	for _, s := range v.fail(c, ErrMTUTooLarge, VXLANDevice, VXLAN6Device) {
		if !s.Up {
			t.Errorf("%s is not up", s.Name())
		}
	}
	// One that is not known is for want of the address that it hangs on.
	c.Devices[0].MTU, c.Devices[1].MTU = 0, 0
	v.fail(c, ErrNoAddress, VXLANDevice, VXLAN6Device)
	c.Devices[0].MTU, c.Devices[1].MTU = 1451, 1431
	if after := v.dump(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	// Made with too large an MTU, a device has what fits.
	v.set(Config{})
	v.fail(c, ErrMTUTooLarge, VXLANDevice, VXLAN6Device)
	if after := v.dump(); strings.Count(after, "mtu 1450") != 1 || strings.Count(after, "mtu 1430") != 1 {
		t.Errorf("not what fits:\n%s", after)
	}
	// IPv6 comes with an MTU that is enough for it, and without link-local addresses.
	c = l.both(v)
	c.Devices[0].MTU = 1000
	v.set(c)
	c.Devices[0].MTU = 1400
	v.set(c)
	if got := section(v.dump(), VXLANDevice); !strings.Contains(got, "addrgenmode none") || strings.Contains(got, "fe80::") {
		t.Errorf("addresses are generated:\n%s", got)
	}
	v.quiet()
}

// TestOldKernel does what kernels up to 5.7 need.
func TestOldKernel(t *testing.T) {
	l := newLab(t, 2)
	for _, v := range l.nodes {
		v.table.oldOffload = true
		v.set(l.both(v))
		l.route(v, VXLANDevice)
		l.route(v, VXLAN6Device)
		for _, name := range []string{VXLANDevice, VXLAN6Device} {
			if on, err := v.table.req.txChecksum(name); on || err != nil {
				t.Errorf("%s is to compute checksums: %v, %v", name, on, err)
			}
		}
		v.quiet()
	}
	l.carries4(t, 4789, 4096)
	l.carries6(t, 4789, 4096)

	v := l.nodes[0]
	v.set(Config{})
	v.table.oldOffload = false
	v.set(l.both(v))
	if on, err := v.table.req.txChecksum(VXLANDevice); !on || err != nil {
		t.Errorf("a new kernel's device does not compute checksums: %v, %v", on, err)
	}
}

func TestSetTellsTheState(t *testing.T) {
	l := newLab(t, 1)
	v := l.nodes[0]
	c := l.both(v)
	c.Devices = append(c.Devices, v.vxlan4())
	all, err := v.table.Set(context.Background(), c)
	if !errors.Is(err, ErrInvalid) || all[2].Err == nil || !all[0].Up || !all[1].Up {
		t.Errorf("a device that is asked for twice: %v, %v", all, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	all, err = v.table.Set(ctx, l.both(v))
	if !errors.Is(err, context.Canceled) || len(all) != 2 || !errors.Is(all[0].Err, context.Canceled) {
		t.Errorf("with a context that ended: %v, %v", all, err)
	}
	if err := v.table.Close(); err != nil {
		t.Error(err)
	}
	all, err = v.table.Set(context.Background(), l.both(v))
	if !errors.Is(err, ErrClosed) || len(all) != 2 || !errors.Is(all[0].Err, ErrClosed) {
		t.Errorf("closed: %v, %v", all, err)
	}
	if err := v.table.AddPeers(nil); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}
