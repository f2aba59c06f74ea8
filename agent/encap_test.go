package agent

import (
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/tunnel"
)

// translated is a plan in the agent's terms.
func translated(t *testing.T, plan string) desired {
	t.Helper()
	var spec v1alpha1.NodeNetworkSpec
	if err := yaml.UnmarshalStrict([]byte(plan), &spec); err != nil {
		t.Fatal(err)
	}
	d, problems := translate(&spec)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return d
}

const encapsulatedPlan = `
addresses: [10.211.55.101, "fd00:55::101"]
asn: 64512
routerID: 10.211.55.101
tunnels: [IPIP, VXLAN]
network:
  subnets: [10.212.0.0/16, 10.211.0.0/16]
pools:
- {name: bare, cidr: 172.20.0.0/16, blockSize: 26, encapsulation: None}
- {name: ipip, cidr: 172.21.0.0/16, blockSize: 26, encapsulation: IPIP, allocate: true}
- {name: ipip-cross, cidr: 172.22.0.0/16, blockSize: 26, encapsulation: IPIPCrossSubnet, allocate: true}
- {name: vxlan, cidr: 172.23.0.0/16, blockSize: 26, encapsulation: VXLAN, allocate: true}
- {name: vxlan6, cidr: "fd00:23::/48", blockSize: 122, encapsulation: VXLAN, allocate: true}
- {name: cross6, cidr: "fd00:24::/48", blockSize: 122, encapsulation: VXLANCrossSubnet, allocate: true}
`

func TestEncapsulationOfEachRoute(t *testing.T) {
	d := translated(t, encapsulatedPlan)
	e := makeEncapsulation(&d, []v1alpha1.NodeAddress{
		{Address: "10.211.55.101/24", Interface: "eth0"},
		{Address: "fd00:55::101/64", Interface: "eth0"},
	})
	for _, tt := range []struct{ block, hop, device string }{
		{"172.20.0.0/26", "10.211.55.116", ""},
		{"172.21.0.0/26", "10.211.55.116", "godwit.ipip"},
		{"172.22.0.0/26", "10.211.55.116", ""},         // our subnet
		{"172.22.0.0/26", "10.211.56.117", ""},         // of a range that we are in
		{"172.22.0.0/26", "10.212.0.1", "godwit.ipip"}, // of a range that we are not in
		{"172.23.0.0/26", "10.211.55.116", "godwit.vxlan"},
		{"172.23.0.7/32", "10.211.55.116", "godwit.vxlan"},
		{"172.0.0.0/8", "10.211.55.116", ""},    // more than the pool
		{"192.168.0.0/24", "10.211.55.116", ""}, // no pool
		{"172.23.0.0/26", "fd00:55::116", ""},   // of another family: nothing that a tunnel can carry
		{"fd00:23::/122", "fd00:55::116", "godwit.vxlan6"},
		{"fd00:24::/122", "fd00:55::116", ""},
		{"fd00:24::/122", "fd00:56::117", "godwit.vxlan6"},
	} {
		got := e.nextHop(netip.MustParsePrefix(tt.block), netip.MustParseAddr(tt.hop))
		gateway := tt.hop
		if tt.device == "godwit.vxlan6" {
			gateway = tunnel.Gateway(netip.MustParseAddr(tt.hop)).String()
		}
		if got.Gateway.String() != gateway || got.Link != tt.device || got.OnLink != (tt.device != "") {
			t.Errorf("%s via %s: %+v, want device %q", tt.block, tt.hop, got, tt.device)
		}
	}
	single := makeEncapsulation(&d, []v1alpha1.NodeAddress{{Address: "10.211.55.101/32", Interface: "eth0"}})
	for hop, want := range map[string]string{"10.211.55.116": "", "10.213.0.1": "godwit.ipip"} {
		if got := single.device(netip.MustParsePrefix("172.22.0.0/26"), netip.MustParseAddr(hop)); got != want {
			t.Errorf("from a node with a /32, via %s: device %q, want %q", hop, got, want)
		}
	}
}

// TestEncapsulationChangesUnderRoutes: each known route is handed over anew, to
// be replaced, and none is taken away; tunnels hear of nodes before routes do.
func TestEncapsulationChangesUnderRoutes(t *testing.T) {
	var table noteTable
	l := newLearned(&table, &table, slog.New(slog.DiscardHandler))
	l.Learned([]bgp.Route{
		route("172.23.0.0/26", true, "10.211.55.116"),
		route("172.23.1.0/26", false, "10.211.55.1"), // not from a node
	}, nil)
	d := translated(t, encapsulatedPlan)
	e := makeEncapsulation(&d, nil)
	l.setEncapsulation(e)
	l.setEncapsulation(makeEncapsulation(&d, nil)) // the same again
	l.Learned([]bgp.Route{route("172.23.2.0/26", true, "10.211.55.117"), route("172.23.3.0/26", true, "10.211.55.116")}, nil)
	l.withNodes(func([]netip.Addr, bool) []netip.Addr { return nil }) // tunnels forget all
	l.Learned([]bgp.Route{route("172.23.2.0/26", true, "10.211.55.116")}, nil)
	l.setEncapsulation(&encapsulation{})
	want := []string{
		"172.23.0.0/26 via 10.211.55.116",
		"172.23.1.0/26 via 10.211.55.1",
		"peers [10.211.55.116]",
		"set learned to",
		"172.23.0.0/26 via 10.211.55.116 dev godwit.vxlan onlink",
		"172.23.1.0/26 via 10.211.55.1",
		"peers [10.211.55.117]",
		"172.23.2.0/26 via 10.211.55.117 dev godwit.vxlan onlink",
		"172.23.3.0/26 via 10.211.55.116 dev godwit.vxlan onlink",
		"peers [10.211.55.116]",
		"172.23.2.0/26 via 10.211.55.116 dev godwit.vxlan onlink",
		"set learned to",
		"172.23.0.0/26 via 10.211.55.116",
		"172.23.1.0/26 via 10.211.55.1",
		"172.23.2.0/26 via 10.211.55.116",
		"172.23.3.0/26 via 10.211.55.116",
	}
	if diff := cmp.Diff(want, table.notes); diff != "" {
		t.Errorf("told the table and the tunnels (-want +got):\n%s", diff)
	}
}

func TestRemoteRoutes(t *testing.T) {
	d := translated(t, encapsulatedPlan+`
nodes:
- {name: n2, addresses: [10.211.55.116, "fd00:55::116"]}
- {name: n3, addresses: ["fd00:55::117"]}
`)
	blocks := map[netip.Prefix]remoteBlock{}
	for cidr, b := range map[string]remoteBlock{
		"172.20.0.0/26":   {"bare", "n1"}, // our own
		"172.20.0.64/26":  {"bare", "n2"},
		"172.20.0.128/26": {"bare", "n3"},   // no address of the family
		"172.20.0.192/26": {"bare", "n9"},   // not in the plan
		"172.99.0.0/26":   {"nopool", "n2"}, // not in the plan
		"10.0.0.0/26":     {"bare", "n2"},   // not of the pool that it says it is of
		"172.23.0.0/26":   {"vxlan", "n2"},
		"fd00:23::/122":   {"vxlan6", "n2"},
		"fd00:23::40/122": {"vxlan6", "n3"},
	} {
		blocks[netip.MustParsePrefix(cidr)] = b
	}
	var table noteTable
	table.Set(0, remoteRoutes(&d, makeEncapsulation(&d, nil), blocks, "n1"))
	want := []string{
		"set pod to",
		"172.20.0.64/26 via 10.211.55.116",
		"172.23.0.0/26 via 10.211.55.116 dev godwit.vxlan onlink",
		"fd00:23::/122 via fe80::ccae:f8ff:fe60:b225 dev godwit.vxlan6 onlink",
		"fd00:23::40/122 via fe80::9841:80ff:fee4:4e48 dev godwit.vxlan6 onlink",
	}
	if diff := cmp.Diff(want, table.notes); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPodMTU(t *testing.T) {
	node := &fakeHost{}
	a := &Agent{underlay: newUnderlay(node, slog.New(slog.DiscardHandler))}
	a.state.desired = translated(t, encapsulatedPlan)
	if _, err := a.underlay.look(a.state.desired.addresses); err != nil {
		t.Fatal(err)
	}
	vxlan := []netip.Addr{netip.MustParseAddr("172.23.0.1")}
	if mtu, err := a.podMTU(vxlan); err == nil || !strings.Contains(err.Error(), "give it one, or set spec.mtu") || a.poolMTU(&a.state.desired) != 0 {
		t.Errorf("MTU of a pod on a node whose address is nowhere: %d, %v; want an error", mtu, err)
	}
	// No pass has looked since, but the address is there.
	node.set(
		v1alpha1.NodeAddress{Address: "10.211.55.101/24", Interface: "eth0", MTU: 1500},
		v1alpha1.NodeAddress{Address: "fd00:55::101/64", Interface: "eth1", MTU: 9000},
	)
	if mtu, err := a.podMTU(vxlan); err != nil || mtu != 1450 {
		t.Errorf("MTU of a pod when the address is there: %d, %v, want 1450", mtu, err)
	}
	for _, tt := range []struct {
		addresses []string
		override  int
		want      int
	}{
		{[]string{"172.20.0.1"}, 0, 1500},
		{[]string{"172.21.0.1"}, 0, 1480},
		{[]string{"172.22.0.1"}, 0, 1480}, // some packets go through the tunnel
		{[]string{"172.23.0.1"}, 0, 1450},
		{[]string{"fd00:23::1"}, 0, 8930},
		{[]string{"fd00:23::1", "172.23.0.1"}, 0, 1450},
		{[]string{"172.21.0.1"}, 4000, 3980},
		{[]string{"fd00:23::1"}, 4000, 3930},
		{nil, 0, 0},
	} {
		a.state.desired.mtu = tt.override
		var addresses []netip.Addr
		for _, s := range tt.addresses {
			addresses = append(addresses, netip.MustParseAddr(s))
		}
		if got, err := a.podMTU(addresses); err != nil || got != tt.want {
			t.Errorf("MTU of a pod with %v where the network has %d: %d, %v, want %d", tt.addresses, tt.override, got, err, tt.want)
		}
	}
}
