package agenttest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/godwit-net/godwit/agent"
	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/nat"
	"github.com/godwit-net/godwit/routes"
	"github.com/godwit-net/godwit/tunnel"
)

// Bench is a kernel to be tested: of a node that has 10.9.0.1/24 on a link of its
// own, with an MTU of 1500 and a neighbour behind it, no other address but the
// loopback's, and no container.
type Bench struct {
	Kernel *agent.Kernel
	Link   string
	// Do calls f where the node is; nil: it is everywhere.
	Do func(f func())
	// Peers are the nodes of which the VXLAN device for IPv4 has both entries, and Nodes
	// those of IPv4 that the masquerade knows, sorted.
	Peers, Nodes func() []netip.Addr
}

// patience bounds how long a kernel may take.
const patience = 20 * time.Second

// TestKernel checks that a kernel does what agents count on. newBench makes one
// whose tables are run until the test ends.
func TestKernel(t *testing.T, newBench func(t *testing.T) *Bench) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, b *Bench)
	}{
		{"routes", testRoutes},
		{"tunnels", testTunnels},
		{"masquerade", testMasquerade},
		{"host", testHost},
		{"wirer", testWirer},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			if b.Do == nil {
				b.Do = func(f func()) { f() }
			}
			c.test(t, b)
		})
	}
}

func testRoutes(t *testing.T, b *Bench) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	table := b.Kernel.Routes
	pod, block, far := netip.MustParsePrefix("172.25.0.130/32"), netip.MustParsePrefix("172.25.0.128/26"), netip.MustParsePrefix("172.25.9.0/26")
	learned := func(p netip.Prefix) routes.Route {
		return routes.Route{Dst: p, NextHops: []routes.NextHop{{Gateway: netip.MustParseAddr("10.9.0.2")}}}
	}
	table.Set(routes.ClassPod, []routes.Route{{Dst: pod, Link: b.Link}})
	table.Set(routes.ClassBlock, []routes.Route{{Dst: block, Blackhole: true}})
	table.Update(routes.ClassLearned, []routes.Route{learned(far), learned(block)}, nil)
	if err := table.Wait(ctx, pod, block, far); err != nil {
		t.Fatal(err)
	}
	counts(t, table, map[routes.Class][2]int{routes.ClassPod: {1, 1}, routes.ClassBlock: {1, 1}, routes.ClassLearned: {2, 1}})
	for _, c := range routes.Classes() {
		if table.Status().Synced {
			t.Errorf("the table is synced before class %v is", c)
		}
		table.Synced(c)
	}
	table.Update(routes.ClassLearned, nil, []netip.Prefix{far})
	table.Set(routes.ClassBlock, nil)
	if err := table.Wait(ctx, far, block); err != nil {
		t.Fatal(err)
	}
	counts(t, table, map[routes.Class][2]int{routes.ClassPod: {1, 1}, routes.ClassLearned: {1, 1}})
	if !table.Status().Synced {
		t.Error("the table is not synced though all classes are")
	}
	// One that fails is told and does not hold up the others.
	other := netip.MustParsePrefix("172.25.0.131/32")
	table.Update(routes.ClassPod, []routes.Route{{Dst: other, Link: "gwnone"}}, nil)
	if err := table.Wait(ctx, other); err == nil {
		t.Error("a route over a link that is not there is no error")
	}
	if f := table.Status().Failed; len(f) != 1 || f[0].Dst != other {
		t.Errorf("failed routes %v, want that to %v", f, other)
	}
	counts(t, table, map[routes.Class][2]int{routes.ClassPod: {2, 1}, routes.ClassLearned: {1, 1}})
	if err := table.Close(); err != nil {
		t.Fatal(err)
	}
	if err := table.Wait(ctx, pod); !errors.Is(err, routes.ErrClosed) {
		t.Errorf("waiting for a table that is closed: %v", err)
	}
}

// counts compares how many routes of each class are desired and installed, once
// nothing is pending.
func counts(t *testing.T, table agent.RouteTable, want map[routes.Class][2]int) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for table.Status().Pending > 0 && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
	}
	s := table.Status()
	for _, c := range routes.Classes() {
		if got := [2]int{s.Desired[c], s.Installed[c]}; got != want[c] {
			t.Errorf("class %v: %v desired and installed, want %v (%+v)", c, got, want[c], s)
		}
	}
}

func testTunnels(t *testing.T, b *Bench) {
	own, other := netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.9")
	dev := tunnel.Device{Kind: tunnel.VXLAN, Local: own, MTU: 1450, Addresses: []netip.Addr{netip.MustParseAddr("172.25.0.128")}}
	set := func(d ...tunnel.Device) ([]tunnel.Status, error) {
		return b.Kernel.Tunnels.Set(t.Context(), tunnel.Config{Devices: d, Peers: []netip.Addr{netip.MustParseAddr("10.9.0.2")}})
	}
	for range 2 {
		status, err := set(dev)
		if err != nil || len(status) != 1 || !status[0].Up || status[0].Name() != tunnel.VXLANDevice {
			t.Fatalf("status %+v, %v; want the device up", status, err)
		}
	}
	if err := b.Kernel.Tunnels.AddPeers([]netip.Addr{netip.MustParseAddr("10.9.0.3")}); err != nil {
		t.Error(err)
	}
	// Who is known stays known for as long as not all peers are.
	know(t, b.Peers, "10.9.0.2", "10.9.0.3")
	for _, step := range []struct {
		partial     bool
		peer, knows string
	}{
		{true, "10.9.0.4", "10.9.0.2 10.9.0.3 10.9.0.4"},
		{true, "10.9.0.1", "10.9.0.2 10.9.0.3 10.9.0.4"}, // itself
		{false, "10.9.0.4", "10.9.0.4"},
		{false, "10.9.0.2", "10.9.0.2"},
	} {
		c := tunnel.Config{Devices: []tunnel.Device{dev}, Peers: []netip.Addr{netip.MustParseAddr(step.peer)}, Partial: step.partial}
		if _, err := b.Kernel.Tunnels.Set(t.Context(), c); err != nil {
			t.Error(err)
		}
		know(t, b.Peers, strings.Fields(step.knows)...)
	}
	unknown := dev
	unknown.MTU = 0
	if status, err := set(unknown); !errors.Is(err, tunnel.ErrNoAddress) || len(status) != 1 || status[0].Up {
		t.Errorf("status %+v, %v; want an error that says that no link has the address which the MTU hangs on", status, err)
	}
	dev.Local = other
	if status, err := set(dev); !errors.Is(err, tunnel.ErrNoAddress) || len(status) != 1 || status[0].Up {
		t.Errorf("status %+v, %v; want an error that says that no link has %v", status, err, other)
	}
	if status, err := set(); err != nil || len(status) != 0 {
		t.Errorf("status %+v, %v; want none", status, err)
	}
	if err := b.Kernel.Tunnels.Close(); err != nil {
		t.Error(err)
	}
	if err := b.Kernel.Tunnels.AddPeers([]netip.Addr{other}); !errors.Is(err, tunnel.ErrClosed) {
		t.Errorf("a peer more for tunnels that are closed: %v", err)
	}
}

func testMasquerade(t *testing.T, b *Bench) {
	pool := netip.MustParsePrefix("172.25.0.0/16")
	rules := nat.Rules{Masquerade: []netip.Prefix{pool}, Exempt: []netip.Prefix{pool}}
	for _, r := range []nat.Rules{rules, rules, {}} {
		if err := b.Kernel.Masquerade.Set(t.Context(), r); err != nil {
			t.Error(err)
		}
	}
	rules.Tunnelled = rules.Masquerade
	for _, step := range []struct {
		partial     bool
		node, knows string
	}{
		{false, "10.9.0.2", "10.9.0.2"},
		{true, "10.9.0.4", "10.9.0.2 10.9.0.4"},
		{false, "10.9.0.4", "10.9.0.4"},
	} {
		rules.Nodes, rules.Partial = []netip.Prefix{netip.MustParsePrefix(step.node + "/32")}, step.partial
		if err := b.Kernel.Masquerade.Set(t.Context(), rules); err != nil {
			t.Error(err)
		}
		know(t, b.Nodes, strings.Fields(step.knows)...)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	rules.Nodes = nil
	if err := b.Kernel.Masquerade.Set(over, rules); err == nil {
		t.Error("rules are set though nobody waits any more")
	}
	know(t, b.Nodes, "10.9.0.4")
}

// know compares whom a kernel knows.
func know(t *testing.T, known func() []netip.Addr, want ...string) {
	t.Helper()
	if got := fmt.Sprint(known()); got != fmt.Sprint(want) {
		t.Errorf("the kernel knows %s, want %v", got, want)
	}
}

func testHost(t *testing.T, b *Bench) {
	own := netip.MustParseAddr("10.9.0.1")
	b.Do(func() {
		got, err := b.Kernel.Host.Addresses([]netip.Addr{own, netip.MustParseAddr("10.9.0.9")})
		want := []v1alpha1.NodeAddress{{Address: "10.9.0.1/24", Interface: b.Link, MTU: MTU}}
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("addresses: %v (-want +got):\n%s", err, d)
		}
		for range 2 {
			if err := b.Kernel.Host.Forward(true, true); err != nil {
				t.Error(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := b.Kernel.Host.Watch(ctx, func(string) {}, func(netip.Addr) {}); err != nil || ctx.Err() == nil {
			t.Errorf("the watch ended before its context: %v", err)
		}
	})
}

func testWirer(t *testing.T, b *Bench) {
	w := b.Kernel.Wirer
	if _, err := w.OpenNamespace("/run/netns/godwit-none"); err == nil {
		t.Error("a network namespace that is not there is no error")
	}
	if links, err := w.List(t.Context()); err != nil || len(links) > 0 {
		t.Errorf("links %v, %v; want none", links, err)
	}
	for name, look := range map[string]func() (bool, error){
		"find": func() (bool, error) { _, found, err := w.Find(t.Context(), "none", "eth0"); return found, err },
		"doom": func() (bool, error) { _, found, err := w.Doom(t.Context(), "none", "eth0"); return found, err },
	} {
		if found, err := look(); found || err != nil {
			t.Errorf("%s what is not there: %v, %v", name, found, err)
		}
	}
	if err := w.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	if err := w.FlushConntrack(t.Context(), []netip.Addr{netip.MustParseAddr("172.25.0.130")}); err != nil {
		t.Error(err)
	}
}
