package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/ipam"
	"github.com/godwit-net/godwit/ipam/ipamtest"
	"github.com/godwit-net/godwit/tunnel"
)

func TestTunnelDevices(t *testing.T) {
	node := &fakeHost{found: []v1alpha1.NodeAddress{{Address: "10.211.55.101/24", Interface: "eth0", MTU: 1500}, {Address: "fd00:55::101/64", Interface: "eth0", MTU: 1500}}}
	unknown := &worker{Agent: &Agent{underlay: newUnderlay(&fakeHost{}, slog.New(slog.DiscardHandler))}}
	w := &worker{Agent: &Agent{underlay: newUnderlay(node, slog.New(slog.DiscardHandler))}}
	for _, tt := range []struct {
		plan string
		want []string
	}{
		{encapsulatedPlan, []string{
			"godwit.ipip from 10.211.55.101 mtu 1480",
			"godwit.vxlan from 10.211.55.101 mtu 1450 port 4789 vni 4096",
			"godwit.vxlan6 from fd00:55::101 mtu 1430 port 4789 vni 4096",
		}},
		{`{addresses: [10.211.55.101], routerID: 10.211.55.101, pools: [{name: a, cidr: 172.20.0.0/16, blockSize: 26, encapsulation: IPIP}]}`, nil},
		{
			`{addresses: [10.211.55.101, "fd00:55::101"], routerID: 10.211.55.101, tunnels: [VXLAN], network: {mtu: 9000, vxlan: {port: 8472, vni: 1}},
		   pools: [{name: a, cidr: 172.20.0.0/16, blockSize: 26, encapsulation: None}]}`,
			[]string{"godwit.vxlan from 10.211.55.101 mtu 8950 port 8472 vni 1"},
		}, // no IPv6 pool, no IPv6 tunnel
		{
			`{addresses: ["fd00:55::101"], routerID: 1.2.3.4, tunnels: [IPIP, VXLAN], pools: [{name: a, cidr: "fd00:20::/48", blockSize: 122, encapsulation: None}]}`,
			[]string{"godwit.vxlan6 from fd00:55::101 mtu 1430 port 4789 vni 4096"},
		},
	} {
		d := translated(t, tt.plan)
		if _, err := w.underlay.look(d.addresses); err != nil {
			t.Fatal(err)
		}
		for _, dev := range unknown.tunnelDevices(&d) {
			if dev.MTU != 0 && d.mtu == 0 {
				t.Errorf("%s has the MTU %d, though the network's is not known", dev.Name(), dev.MTU)
			}
		}
		var got []string
		for _, dev := range w.tunnelDevices(&d) {
			s := fmt.Sprintf("%s from %s mtu %d", dev.Name(), dev.Local, dev.MTU)
			if dev.Kind == tunnel.VXLAN {
				s += fmt.Sprintf(" port %d vni %d", dev.Port, dev.VNI)
			}
			got = append(got, s)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.plan, diff)
		}
	}
}

func TestTunnelTrouble(t *testing.T) {
	d := translated(t, encapsulatedPlan)
	v6 := translated(t, `{addresses: ["fd00:55::101"], routerID: 1.2.3.4, tunnels: [IPIP]}`)
	up := tunnel.Status{Device: tunnel.Device{Kind: tunnel.IPIP}, Up: true}
	for _, tt := range []struct {
		o            observation
		reason, text string
	}{
		{observation{desired: d, tunnels: []tunnel.Status{up}}, "", ""},
		{observation{desired: v6}, "NoAddress", "no address that IPIP can go over"},
		{observation{desired: d, tunnels: []tunnel.Status{up, {Device: tunnel.Device{Kind: tunnel.VXLAN}, Err: fmt.Errorf("make it: %w", tunnel.ErrPortInUse)}}}, "PortInUse", "godwit.vxlan: make it"},
		{observation{desired: d, tunnels: []tunnel.Status{{Err: tunnel.ErrDeviceConflict}}}, "DeviceConflict", "godwit.ipip"},
		{observation{desired: d, tunnelErr: errors.New("odd")}, "Failed", "odd"},
	} {
		reason, err := tunnelTrouble(&tt.o)
		if reason != tt.reason || !strings.Contains(text(err), tt.text) || (err == nil) != (tt.text == "") {
			t.Errorf("%q, %v; want %q, %q", reason, err, tt.reason, tt.text)
		}
	}
}

// A tunnel has an address before any pool uses it, moves to one of a pool that
// does, and gives it up when it is not wanted any more, though an earlier life of
// the agent made it.
// A tunnel's own address must not keep the block of a pool that is to go, as long
// as there is another.
func TestTunnelPools(t *testing.T) {
	d := translated(t, `{addresses: [10.211.55.101], routerID: 10.211.55.101, tunnels: [VXLAN], pools: [
		{name: old, cidr: 172.20.0.0/16, blockSize: 26, encapsulation: VXLAN},
		{name: new, cidr: 172.21.0.0/16, blockSize: 26, encapsulation: VXLAN, allocate: true},
		{name: bare, cidr: 172.22.0.0/16, blockSize: 26, encapsulation: None, allocate: true}]}`)
	dev := &tunnel.Device{Kind: tunnel.VXLAN, Local: netip.MustParseAddr("10.211.55.101")}
	usage := func(cidr, pool string, pods int) ipam.BlockUsage {
		return ipam.BlockUsage{Block: ipam.Block{CIDR: netip.MustParsePrefix(cidr), Pool: pool}, Allocated: pods, Own: 1}
	}
	for _, tt := range []struct {
		blocks []ipam.BlockUsage
		want   string
	}{
		{nil, "[]"},
		{[]ipam.BlockUsage{usage("172.20.0.0/26", "old", 3), usage("172.21.0.0/26", "new", 0)}, "[old new]"},
		{[]ipam.BlockUsage{usage("172.20.0.0/26", "old", 0), usage("172.21.0.0/26", "new", 0)}, "[new]"},
		{[]ipam.BlockUsage{usage("172.20.0.0/26", "old", 0), usage("172.22.0.0/26", "bare", 0)}, "[old]"},
		{[]ipam.BlockUsage{usage("172.22.0.0/26", "bare", 0)}, "[bare]"},
	} {
		if got := fmt.Sprint(d.tunnelPools(tt.blocks, dev)); got != tt.want {
			t.Errorf("of blocks %v: %s, want %s", tt.blocks, got, tt.want)
		}
	}
}

func TestTunnelAddress(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	addresses, err := ipam.Open(ipam.Options{Node: "n1", Store: &ipamtest.Store{}, Dir: t.TempDir(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	w := &worker{Agent: &Agent{addresses: addresses, log: log}}
	plan := func(tunnels, second string) (desired, []ipam.BlockUsage) {
		d := translated(t, `{addresses: [10.211.55.101], routerID: 10.211.55.101, tunnels: `+tunnels+`, network: {mtu: 1500}, pools: [
			{name: bare, cidr: 172.20.0.0/16, blockSize: 26, encapsulation: None, allocate: true},
			{name: second, cidr: 172.21.0.0/16, blockSize: 26, encapsulation: `+second+`, allocate: true}]}`)
		addresses.SetPools(d.pools)
		return d, addresses.Blocks()
	}
	d, _ := plan("[VXLAN]", "None")
	addresses.SetBlocks([]ipam.Block{
		{CIDR: netip.MustParsePrefix("172.20.0.0/26"), Pool: "bare", Node: "n1"},
		{CIDR: netip.MustParsePrefix("172.21.0.0/26"), Pool: "second", Node: "n1"},
	})
	give := func(d desired, blocks []ipam.BlockUsage) string {
		t.Helper()
		dev := w.tunnelDevices(&d)[0]
		if err := w.tunnelAddress(t.Context(), &d, blocks, &dev); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(dev.Addresses)
	}
	if got := give(d, addresses.Blocks()); got != "[172.20.0.0]" {
		t.Errorf("before a pool uses the tunnel: %s, want one of any pool", got)
	}
	for range 2 {
		if got := give(plan("[VXLAN]", "VXLAN")); got != "[172.21.0.0]" {
			t.Errorf("when a pool uses it: %s, want one of that pool", got)
		}
	}
	if n := len(addresses.Records()); n != 1 {
		t.Errorf("%d addresses are taken, want 1", n)
	}
	d, _ = plan("[VXLAN]", "VXLAN")
	w.dropTunnels(t.Context(), &d)
	if n := len(addresses.Records()); n != 1 {
		t.Errorf("a tunnel that is wanted has lost its address")
	}
	d, _ = plan("[]", "None")
	w.dropTunnels(t.Context(), &d)
	if left := addresses.Records(); len(left) != 0 {
		t.Errorf("a tunnel that is not wanted keeps %v", left)
	}
}

// TestTunnelKeepsItsAddress has no other address to be had: the one that the tunnel
// has stays on it, for without one it takes nothing in.
func TestTunnelKeepsItsAddress(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	addresses, err := ipam.Open(ipam.Options{Node: "n1", Store: &ipamtest.Store{}, Dir: t.TempDir(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	w := &worker{Agent: &Agent{addresses: addresses, log: log}}
	const (
		plan = `{addresses: [10.211.55.101], routerID: 10.211.55.101, tunnels: [VXLAN], network: {mtu: 1500}, pools: [`
		old  = `{name: old, cidr: 172.20.0.0/26, blockSize: 26, encapsulation: None, allocate: true},`
		full = `{name: full, cidr: 172.21.0.0/26, blockSize: 26, encapsulation: VXLAN, allocate: true},`
		none = `{name: none, cidr: 172.22.0.0/26, blockSize: 26, encapsulation: VXLAN, allocate: true},`
	)
	give := func(d desired, blocks []ipam.BlockUsage) (string, error) {
		dev := w.tunnelDevices(&d)[0]
		err := w.tunnelAddress(t.Context(), &d, blocks, &dev)
		return fmt.Sprint(dev.Addresses), err
	}
	first := translated(t, plan+old+`]}`)
	addresses.SetPools(first.pools)
	addresses.SetBlocks([]ipam.Block{
		{CIDR: netip.MustParsePrefix("172.20.0.0/26"), Pool: "old", Node: "n1"},
		{CIDR: netip.MustParsePrefix("172.21.0.0/26"), Pool: "full", Node: "n1"},
	})
	if got, err := give(first, addresses.Blocks()); err != nil || got != "[172.20.0.0]" {
		t.Fatalf("the first address: %s, %v", got, err)
	}
	second := translated(t, plan+old+full+`]}`)
	addresses.SetPools(second.pools)
	for i := range 64 {
		if _, err := addresses.Allocate(t.Context(), ipam.Request{Owner: ipam.Owner{ContainerID: fmt.Sprint("c", i), Interface: "eth0"}, Pools: []string{"full"}}); err != nil {
			t.Fatal(err)
		}
	}
	all := addresses.Blocks()
	lost := all[1:]
	for _, tt := range []struct {
		name   string
		d      desired
		blocks []ipam.BlockUsage
		want   string
		fails  bool
	}{
		{"the pool is full", second, all, "[172.20.0.0]", true},
		{"it is full, and the block of before is lost", second, lost, "[]", true},
		{"no pool of the plan has a block", translated(t, plan+none+`]}`), all, "[172.20.0.0]", false},
		{"none has, and the block of before is lost", translated(t, plan+none+`]}`), lost, "[]", false},
	} {
		var exhausted *ipam.ExhaustedError
		if got, err := give(tt.d, tt.blocks); got != tt.want || errors.As(err, &exhausted) != tt.fails || (err != nil) != tt.fails {
			t.Errorf("%s: %s, %v; want %s, an error: %v", tt.name, got, err, tt.want, tt.fails)
		}
	}
}
