package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/internal/netnstest"
)

const patience = 30 * time.Second // on a busy machine

// lab is some nodes on a switch. Node n (from 1) has 192.0.2.n and 2001:db8::n,
// the blocks 10.244.n.0/26 and fd00:n::/122, and a pod with the blocks' first
// address, which is on its lo.
type lab struct {
	t     testing.TB
	wire  *netnstest.NS
	nodes []*node
}

type node struct {
	*netnstest.NS
	t testing.TB
	n int
	// table is the node's, whose Run runs.
	table *Table
}

func newLab(t testing.TB, nodes int) *lab {
	t.Helper()
	l := &lab{t: t, wire: netnstest.New(t)}
	l.wire.Run("ip", "link", "add", "br0", "type", "bridge")
	l.wire.Run("ip", "link", "set", "br0", "up")
	for n := 1; n <= nodes; n++ {
		l.nodes = append(l.nodes, l.boot(n))
	}
	return l
}

// boot makes node n, with its table.
func (l *lab) boot(n int) *node {
	l.t.Helper()
	v := &node{NS: netnstest.New(l.t), t: l.t, n: n}
	v.plug(l.wire)
	v.ip("addr add %s/32 dev lo", v.pod4())
	v.ip("addr add %s/128 dev lo", v.pod6())
	v.Run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.conf.all.rp_filter=1")
	v.table = open(l.t, v.NS)
	return v
}

// plug connects the node with the switch.
func (v *node) plug(wire *netnstest.NS) {
	v.t.Helper()
	port := fmt.Sprintf("port%d", v.n)
	v.ip("link add eth0 type veth peer name %s netns %s", port, wire.Name)
	wire.Run("ip", "link", "set", port, "master", "br0", "up")
	v.ip("link set eth0 up address 02:00:00:00:00:%02x", v.n) // as hardware has it
	v.ip("addr add %s/24 dev eth0", v.local4())
	v.ip("addr add %s/64 dev eth0 nodad", v.local6())
}

// open opens a table in a namespace and lets it run until the test ends.
func open(t testing.TB, ns *netnstest.NS) *Table {
	t.Helper()
	var tb *Table
	var err error
	ns.Do(func() { tb, err = Open(Options{}) })
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- tb.Run(context.Background()) }()
	t.Cleanup(func() {
		if err := tb.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := <-ran; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return tb
}

func (v *node) ip(format string, args ...any) string {
	v.t.Helper()
	return v.Run("ip", strings.Fields(fmt.Sprintf(format, args...))...)
}

func (v *node) local4() netip.Addr { return addrf("192.0.2.%d", v.n) }
func (v *node) local6() netip.Addr { return addrf("2001:db8::%d", v.n) }
func (v *node) pod4() netip.Addr   { return addrf("10.244.%d.1", v.n) }
func (v *node) pod6() netip.Addr   { return addrf("fd00:%d::1", v.n) }
func (v *node) own4() netip.Addr   { return addrf("10.244.%d.63", v.n) }
func (v *node) own6() netip.Addr   { return addrf("fd00:%d::3f", v.n) }

func addrf(format string, args ...any) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf(format, args...))
}

// vxlan4 is the node's device for IPv4.
func (v *node) vxlan4() Device {
	return Device{Kind: VXLAN, Local: v.local4(), MTU: 1450, Addresses: []netip.Addr{v.own4()}}
}

// vxlan6 is the node's device for IPv6.
func (v *node) vxlan6() Device {
	return Device{Kind: VXLAN, Local: v.local6(), MTU: 1430, Addresses: []netip.Addr{v.own6()}}
}

func (v *node) ipip() Device {
	return Device{Kind: IPIP, Local: v.local4(), MTU: 1480, Addresses: []netip.Addr{v.own4()}}
}

// peers are the addresses of all nodes, the node itself among them, which
// must not matter.
func (l *lab) peers() []netip.Addr {
	var all []netip.Addr
	for _, v := range l.nodes {
		all = append(all, v.local4(), v.local6())
	}
	return all
}

// both is the configuration of a node with both VXLAN devices.
func (l *lab) both(v *node) Config {
	return Config{Devices: []Device{v.vxlan4(), v.vxlan6()}, Peers: l.peers()}
}

// set sets a node's tunnels, which must go well.
func (v *node) set(c Config) {
	v.t.Helper()
	all, err := v.table.Set(context.Background(), c)
	if err != nil {
		v.t.Fatalf("Set: %v", err)
	}
	for i, s := range all {
		if !s.Up || s.Err != nil {
			v.t.Fatalf("%s is not well: up %v, %v", c.Devices[i].Name(), s.Up, s.Err)
		}
	}
}

// fail sets a node's tunnels; the devices of those names must fail for the
// reason, and no others.
func (v *node) fail(c Config, reason error, names ...string) []Status {
	v.t.Helper()
	all, err := v.table.Set(context.Background(), c)
	if !errors.Is(err, reason) {
		v.t.Fatalf("Set: %v, not %v", err, reason)
	}
	if len(all) != len(c.Devices) {
		v.t.Fatalf("Set told the state of %d devices of %d", len(all), len(c.Devices))
	}
	for _, s := range all {
		if fails := slices.Contains(names, s.Name()); fails != errors.Is(s.Err, reason) || !fails && s.Err != nil {
			v.t.Errorf("%s: %v", s.Name(), s.Err)
		}
	}
	return all
}

// route routes the blocks of the other nodes by way of a device.
func (l *lab) route(v *node, device string) {
	l.t.Helper()
	for _, o := range l.nodes {
		switch {
		case o.n == v.n:
		case device == VXLAN6Device:
			v.ip("route replace %s/122 via %s dev %s onlink", addrf("fd00:%d::", o.n), Gateway(o.local6()), device)
		default:
			v.ip("route replace %s/26 via %s dev %s onlink", addrf("10.244.%d.0", o.n), o.local4(), device)
		}
	}
}

// ping sends one echo request, which must be answered at once.
func (v *node) ping(to netip.Addr, args ...string) {
	v.t.Helper()
	v.Run("ping", append([]string{"-c", "1", "-W", "5", to.String()}, args...)...)
}

// quiet tests that nobody is told to call Set.
func (v *node) quiet() {
	v.t.Helper()
	if news, err := v.table.news(); news || err != nil {
		v.t.Fatalf("there is work for Set: %v %v", news, err)
	}
	select {
	case <-v.table.Changed():
		v.t.Fatal("Changed was signalled though nobody else changed anything")
	default:
	}
}

// told waits for Changed.
func (v *node) told() {
	v.t.Helper()
	select {
	case <-v.table.Changed():
	case <-time.After(patience):
		v.t.Fatal("Changed was not signalled")
	}
}

// dump is what there is of our devices, in the words of the tools.
func (v *node) dump() string {
	v.t.Helper()
	var b strings.Builder
	links := v.ip("-br link")
	for _, device := range []string{IPIPDevice, VXLANDevice, VXLAN6Device} {
		if !strings.Contains(links, device+" ") && !strings.Contains(links, device+"@") {
			continue
		}
		fmt.Fprintf(&b, "# %s\n", device)
		for _, line := range strings.Split(v.ip("-d link show %s", device), "\n") {
			if _, rest, ok := strings.Cut(line, ": "); ok {
				line = rest // without the index
			}
			b.WriteString(strings.TrimSpace(line) + "\n")
		}
		for _, cmd := range []string{
			"ip -br addr show dev " + device, "ip neigh show nud permanent dev " + device, "bridge fdb show dev " + device,
			"sysctl -e net/ipv4/conf/" + device + "/forwarding", "sysctl -e net/ipv6/conf/" + device + "/accept_ra",
			"sysctl -e net/ipv6/conf/" + device + "/forwarding", "sysctl -e net/ipv6/conf/" + device + "/disable_ipv6",
		} {
			f := strings.Fields(cmd)
			lines := strings.Split(strings.TrimSpace(v.Run(f[0], f[1:]...)), "\n")
			for i, line := range lines {
				lines[i] = strings.TrimSpace(line)
			}
			slices.Sort(lines)
			b.WriteString(strings.Join(lines, "\n") + "\n")
		}
	}
	return b.String()
}

// index is the number of a link.
func (v *node) index(device string) string {
	v.t.Helper()
	index, _, _ := strings.Cut(v.ip("-o link show %s", device), ":")
	return index
}
