package tunnel

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/godwit-net/godwit/internal/netnstest"
)

// haveIPIP tells whether the kernel has IPIP.
func haveIPIP(t *testing.T) bool {
	t.Helper()
	ns := netnstest.New(t)
	out, err := exec.Command("ip", "-n", ns.Name, "link", "add", "probe", "type", "ipip", "local", "192.0.2.1").CombinedOutput()
	if err != nil && !strings.Contains(string(out), "Unknown device type") {
		t.Fatalf("ip link add type ipip: %v: %s", err, out)
	}
	return err == nil
}

// requireIPIP skips a test on a kernel without IPIP, such as those of many
// development machines; in the virtual machine, which is there to have it, the
// test fails instead.
func requireIPIP(t *testing.T) {
	t.Helper()
	switch {
	case haveIPIP(t):
	case os.Getenv("GODWIT_VM") == "1":
		t.Fatal("the virtual machine's kernel has no IPIP")
	default:
		t.Skip("this kernel has no IPIP: the test runs in the virtual machine (make test-vm)")
	}
}

// all is the configuration of a node with all three devices. IPIP's address is
// the one of the two for IPv4.
func (l *lab) all(v *node) Config {
	c := l.both(v)
	c.Devices[0].Addresses = nil
	c.Devices = append([]Device{v.ipip()}, c.Devices...)
	return c
}

// TestNotSupported: a kernel's lack of one kind does not keep the others.
func TestNotSupported(t *testing.T) {
	l := newLab(t, 1)
	v := l.nodes[0]
	// A kind that no kernel has, and what its answer means.
	w := canonical(v.ipip())
	p := w.params(0)
	p.kind = "nonesuch"
	var m batch
	m.createLink(w, p)
	if err := explain(w, v.table.req.do(&m)); !errors.Is(err, ErrNotSupported) {
		t.Errorf("no reason: %v", err)
	}
	if haveIPIP(t) {
		v.set(l.all(v))
		return
	}
	all := v.fail(l.all(v), ErrNotSupported, IPIPDevice)
	if all[0].Up || !all[1].Up || !all[2].Up {
		t.Errorf("only %s should be down: %v", IPIPDevice, all)
	}
}

func (l *lab) carriesIPIP(t *testing.T) {
	t.Helper()
	l.carries(t, func(p packet) bool { return p.proto == unix.IPPROTO_IPIP }, (*node).pod4, (*node).own4, (*node).local4)
}

func TestIPIPCarriesPackets(t *testing.T) {
	requireIPIP(t)
	l := newLab(t, 3)
	for _, v := range l.nodes {
		v.set(l.all(v))
		l.route(v, IPIPDevice)
		l.route(v, VXLAN6Device)
		v.quiet()
	}
	l.carriesIPIP(t)
	l.carries6(t, 4789, 4096)
	for _, v := range l.nodes {
		v.quiet()
	}
}

func TestIPIPDevice(t *testing.T) {
	requireIPIP(t)
	l := newLab(t, 2)
	v := l.nodes[0]
	v.set(l.all(v))
	got := section(v.dump(), IPIPDevice)
	for _, want := range []string{
		",UP,", "mtu 1480 ", "link/ipip 192.0.2.1 ", "alias godwit tunnel", "ipip any remote any local 192.0.2.1 ttl 64 pmtudisc",
		" 10.244.1.63/32\n", "net.ipv4.conf.godwit/ipip.forwarding = 1", "net.ipv6.conf.godwit/ipip.accept_ra = 0",
	} {
		// iproute2 has said "ipip" and "ipip any".
		if !strings.Contains(got, want) && !strings.Contains(got, strings.Replace(want, "ipip any ", "ipip ", 1)) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	if strings.Contains(got, "nopmtudisc") {
		t.Errorf("routers may fragment:\n%s", got)
	}
	v.set(l.all(v))
	v.quiet()
	if again := section(v.dump(), IPIPDevice); again != got {
		t.Errorf("before:\n%s\nafter:\n%s", got, again)
	}
}

func TestIPIPHealing(t *testing.T) {
	requireIPIP(t)
	l := newLab(t, 2)
	for _, v := range l.nodes {
		v.set(l.all(v))
		l.route(v, IPIPDevice)
	}
	v := l.nodes[0]
	want := v.dump()
	for _, hurt := range []string{
		"ip link del godwit.ipip",
		"ip link set godwit.ipip down",
		"ip link set godwit.ipip mtu 1300",
		"ip link set godwit.ipip alias mine",
		"ip link set godwit.ipip down; ip link set godwit.ipip name x",
		"ip tunnel change godwit.ipip local 192.0.2.1 ttl 9",
		"ip addr del 10.244.1.63/32 dev godwit.ipip",
		"ip addr add 198.51.100.1/24 dev godwit.ipip",
		"sysctl -qw net/ipv4/conf/godwit.ipip/forwarding=0",
	} {
		t.Run(hurt, func(t *testing.T) {
			for _, cmd := range strings.Split(hurt, "; ") {
				f := strings.Fields(cmd)
				v.Run(f[0], f[1:]...)
			}
			v.heal(l.all(v))
			if got := v.dump(); got != want {
				t.Fatalf("healed to\n%s\nand not\n%s", got, want)
			}
			l.route(v, IPIPDevice)
			v.ping(l.nodes[1].pod4())
			v.quiet()
		})
	}
}

func TestIPIPLiveChange(t *testing.T) {
	requireIPIP(t)
	l := newLab(t, 2)
	for _, v := range l.nodes {
		v.set(l.all(v))
		l.route(v, IPIPDevice)
	}
	v := l.nodes[0]
	index, routes := v.index(IPIPDevice), v.ip("route")
	c := l.all(v)
	c.Devices[0].MTU = 1400
	c.Devices[0].Addresses = []netip.Addr{netip.MustParseAddr("10.244.1.62")}
	v.set(c)
	if got := v.index(IPIPDevice); got != index {
		t.Errorf("the device was made anew: it is number %s, not %s", got, index)
	}
	if got := v.ip("route"); got != routes {
		t.Errorf("the routes were\n%s\nand are\n%s", routes, got)
	}
	l.nodes[1].ping(netip.MustParseAddr("10.244.1.62"))

	v.ip("addr add 192.0.2.101/24 dev eth0")
	c.Devices[0].Local = netip.MustParseAddr("192.0.2.101")
	v.set(c)
	if got := section(v.dump(), IPIPDevice); !strings.Contains(got, "local 192.0.2.101 ") {
		t.Errorf("not as wanted:\n%s", got)
	}
	v.quiet()
}

func TestIPIPConflict(t *testing.T) {
	requireIPIP(t)
	for name, add := range map[string]string{
		"another kind":              IPIPDevice + " type bridge",
		"another address":           IPIPDevice + " type ipip local 192.0.2.9 ttl 64",
		"a peer":                    IPIPDevice + " type ipip local 192.0.2.1 remote 192.0.2.2 ttl 64",
		"nopmtudisc":                IPIPDevice + " type ipip local 192.0.2.1 nopmtudisc",
		"the same by another name":  "other type ipip local 192.0.2.1 ttl 64",
		"almost by another name":    "other type ipip local 192.0.2.1 nopmtudisc",
		"external by the same name": IPIPDevice + " type ipip external",
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 1)
			v := l.nodes[0]
			v.ip("link add %s", add)
			device, _, _ := strings.Cut(add, " ")
			before := v.ip("-d link show %s", device)
			all := v.fail(l.all(v), ErrDeviceConflict, IPIPDevice)
			if all[0].Up || !all[1].Up || !all[2].Up {
				t.Errorf("only %s should be down: %v", IPIPDevice, all)
			}
			if after := v.ip("-d link show %s", device); after != before {
				t.Errorf("somebody else's device was changed from\n%s\nto\n%s", before, after)
			}
			v.ip("link del %s", device)
			v.heal(l.all(v))
		})
	}
	t.Run("exactly what is wanted", func(t *testing.T) {
		l := newLab(t, 1)
		v := l.nodes[0]
		v.ip("link add %s type ipip local 192.0.2.1 ttl 64", IPIPDevice)
		index := v.index(IPIPDevice)
		v.set(l.all(v))
		if got := v.index(IPIPDevice); got != index {
			t.Errorf("the device was made anew: it is number %s, not %s", got, index)
		}
	})
}

// TestIPIPRemoval removes ours, and leaves what the module itself makes.
func TestIPIPRemoval(t *testing.T) {
	requireIPIP(t)
	l := newLab(t, 1)
	v := l.nodes[0]
	v.set(l.all(v))
	links := func() string { return v.ip("-br link") }
	before := links()
	if _, err := v.table.Set(context.Background(), Config{}); err != nil {
		t.Fatal(err)
	}
	after := links()
	if strings.Contains(after, "godwit.") {
		t.Errorf("devices are left:\n%s", after)
	}
	if strings.Contains(before, "tunl0") != strings.Contains(after, "tunl0") {
		t.Errorf("tunl0 was touched:\n%s", after)
	}
}
