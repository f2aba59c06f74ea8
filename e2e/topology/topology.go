// Package topology is the lab's network: which machines there are, what they
// are called and how they are wired, each machine a network namespace.
//
//	host1 ── tor1 ─┐                     ┌─ n1
//	        /      │                     │
//	host3 ─┤       ├── 10.211.55.0/24 ───┼─ n2      control plane 10.211.55.10
//	        \      │     (a bridge)      │
//	host2 ── tor2 ─┘         │           └─ n3
//	                        gw ── internet
//
// That is the reference topology. With options each network also has, or only
// has, an IPv6 range that reads like its IPv4 one (fd00:10:211:55::/64), and n3
// is in a second subnet behind gw:
//
//	tor1, tor2, n1, n2 ── 10.211.55.0/24 ── gw ── 10.211.56.0/24 ── n3
//
// There may be two routers more, tor3 and tor4, with host4 and host5 behind them;
// host3 is behind all four then.
//
// Invariants:
//   - All links are made inside the lab's namespaces, never in the caller's; the
//     end of a namespace ends its links.
//   - The internet knows a way back to the nodes' subnets, and to nothing else.
//   - gw knows nothing of pods and of hosts: what is for them and comes to it
//     bare goes nowhere.
package topology

import (
	"fmt"
	"net"
	"net/netip"
)

// Names of the machines that there is one of.
const (
	Fabric   = "fabric" // the switch between the machines; the control plane runs here
	Gateway  = "gw"     // the nodes' default gateway, and the router between their subnets
	Internet = "internet"
	Host3    = "host3" // behind all top-of-rack routers
)

// Node is a node of the cluster.
type Node struct {
	Name    string
	Address Pair // in its subnet of the fabric
	// MAC is that of its network card, which it keeps when it boots.
	MAC   net.HardwareAddr
	Block Pair // the blocks of the pools that the node is given
	// Subnet is the index of the node's subnet. The top-of-rack routers are in the
	// first, and speak with the nodes there.
	Subnet int
}

// ToR is a top-of-rack router with a network of hosts behind it.
type ToR struct {
	Name    string
	Address Pair // in the first subnet
	// RouterID is its BGP identifier, also where it has no IPv4 address.
	RouterID netip.Addr
	ASN      uint32
	Hosts    Pair // its address in its hosts' network
	Shared   Pair // its address in the network behind all routers
	// Password is the TCP MD5 password (RFC 2385) of its sessions; empty: none.
	Password string
}

// Host is a machine outside the cluster.
type Host struct {
	Name    string
	Address Pair
	Behind  []string // the routers
}

// Topology is a whole lab. Prefix starts the names of all its namespaces.
type Topology struct {
	Prefix       string
	Options      Options // with their defaults
	ControlPlane Pair
	Gateways     []Pair // addresses of gw, one pair a subnet
	InternetGW   Pair   // of gw, towards the internet
	InternetAddr Pair
	NodeASN      uint32
	Pool         Pair
	HostRange    Pair // what the nodes accept from the routers lies in it
	Nodes        []Node
	ToRs         []ToR
	Hosts        []Host
}

// Reference returns the reference topology.
func Reference(prefix string) Topology { return New(prefix, Options{}) }

// New returns the topology of options.
func New(prefix string, o Options) Topology {
	o = o.WithDefaults()
	p := func(v4, v6 string) Pair {
		return Pair{netip.MustParsePrefix(v4), netip.MustParsePrefix(v6)}.only(o.Family)
	}
	t := Topology{
		Prefix:       prefix,
		Options:      o,
		ControlPlane: p("10.211.55.10/24", "fd00:10:211:55::10/64"),
		Gateways:     []Pair{p("10.211.55.254/24", "fd00:10:211:55::254/64")},
		InternetGW:   p("198.51.100.1/24", "2001:db8:100::1/64"),
		InternetAddr: p("198.51.100.10/24", "2001:db8:100::10/64"),
		NodeASN:      64512,
		Pool:         p("172.25.0.0/16", "fd00:25::/48"),
		HostRange:    p("192.168.0.0/16", "fd00:192:168::/48"),
		// The last digits of a block are the same number in both families.
		Nodes: []Node{
			{Name: "n1", Address: p("10.211.55.101/24", "fd00:10:211:55::101/64"), Block: p("172.25.0.128/26", "fd00:25::80/122")},
			{Name: "n2", Address: p("10.211.55.116/24", "fd00:10:211:55::116/64"), Block: p("172.25.0.192/26", "fd00:25::c0/122")},
			{Name: "n3", Address: p("10.211.55.117/24", "fd00:10:211:55::117/64"), Block: p("172.25.1.0/26", "fd00:25::100/122")},
		},
		ToRs: []ToR{
			{
				Name: "tor1", Address: p("10.211.55.1/24", "fd00:10:211:55::1/64"), ASN: 65001,
				RouterID: netip.MustParseAddr("10.211.55.1"),
				Hosts:    p("192.168.101.1/24", "fd00:192:168:101::1/64"), Shared: p("192.168.200.1/24", "fd00:192:168:200::1/64"),
				Password: "lab-sesame",
			},
			{
				Name: "tor2", Address: p("10.211.55.2/24", "fd00:10:211:55::2/64"), ASN: 65002,
				RouterID: netip.MustParseAddr("10.211.55.2"),
				Hosts:    p("192.168.102.1/24", "fd00:192:168:102::1/64"), Shared: p("192.168.200.2/24", "fd00:192:168:200::2/64"),
			},
		},
		Hosts: []Host{
			{Name: "host1", Address: p("192.168.101.10/24", "fd00:192:168:101::10/64"), Behind: []string{"tor1"}},
			{Name: "host2", Address: p("192.168.102.10/24", "fd00:192:168:102::10/64"), Behind: []string{"tor2"}},
			{Name: Host3, Address: p("192.168.200.10/24", "fd00:192:168:200::10/64"), Behind: []string{"tor1", "tor2"}},
		},
	}
	more := []Node{
		{Name: "n4", Address: p("10.211.55.118/24", "fd00:10:211:55::118/64"), Block: p("172.25.1.64/26", "fd00:25::140/122")},
		{Name: "n5", Address: p("10.211.55.119/24", "fd00:10:211:55::119/64"), Block: p("172.25.1.128/26", "fd00:25::180/122")},
		{Name: "n6", Address: p("10.211.55.120/24", "fd00:10:211:55::120/64"), Block: p("172.25.1.192/26", "fd00:25::1c0/122")},
	}
	t.Nodes = append(t.Nodes, more[:min(max(o.Nodes-len(t.Nodes), 0), len(more))]...)
	for i := len(t.ToRs) + 1; i <= o.ToRs; i++ {
		t.addToR(i, p)
	}
	for i := range t.Nodes {
		t.Nodes[i].MAC = net.HardwareAddr{0x02, 'g', 'o', 'd', 0, byte(i + 1)}
	}
	if o.Subnets == 2 {
		t.Gateways = append(t.Gateways, p("10.211.56.254/24", "fd00:10:211:56::254/64"))
		t.Nodes[2].Subnet = 1
		t.Nodes[2].Address = p("10.211.56.117/24", "fd00:10:211:56::117/64")
	}
	return t
}

// addToR adds the i-th router, and a host behind it; p makes a pair.
func (t *Topology) addToR(i int, p func(v4, v6 string) Pair) {
	both := func(v4, v6 string, args ...any) Pair { return p(fmt.Sprintf(v4, args...), fmt.Sprintf(v6, args...)) }
	r := ToR{
		Name: fmt.Sprintf("tor%d", i), ASN: 65000 + uint32(i), // #nosec G115 -- a small number
		Address:  both("10.211.55.%d/24", "fd00:10:211:55::%d/64", i),
		RouterID: netip.MustParseAddr(fmt.Sprintf("10.211.55.%d", i)),
		Hosts:    both("192.168.%d.1/24", "fd00:192:168:%d::1/64", 100+i),
		Shared:   both("192.168.200.%d/24", "fd00:192:168:200::%d/64", i),
	}
	t.ToRs = append(t.ToRs, r)
	for h := range t.Hosts {
		if t.Hosts[h].Name == Host3 {
			t.Hosts[h].Behind = append(t.Hosts[h].Behind, r.Name)
		}
	}
	t.Hosts = append(t.Hosts, Host{
		Name: fmt.Sprintf("host%d", i+1), Address: both("192.168.%d.10/24", "fd00:192:168:%d::10/64", 100+i),
		Behind: []string{r.Name},
	})
}

// podSeparator stands between a node's name and what tells its pods apart.
const podSeparator = "-"

// PodName returns the name of a node's pod; the pod's network namespace is
// Namespace of it.
func PodName(node, pod string) string { return node + podSeparator + pod }

// Namespace returns the name of the network namespace of a machine or pod.
func (t Topology) Namespace(machine string) string { return t.Prefix + machine }

// Machines returns the names of all machines.
func (t Topology) Machines() []string {
	all := []string{Fabric, Gateway, Internet}
	for _, n := range t.Nodes {
		all = append(all, n.Name)
	}
	for _, r := range t.ToRs {
		all = append(all, r.Name)
	}
	for _, h := range t.Hosts {
		all = append(all, h.Name)
	}
	return all
}

// Node returns a node by its name, and whether there is one.
func (t Topology) Node(name string) (Node, bool) {
	for _, n := range t.Nodes {
		if n.Name == name {
			return n, true
		}
	}
	return Node{}, false
}

// NameOf returns the name of the machine that has an address; none: "".
func (t Topology) NameOf(a netip.Addr) string {
	for _, n := range t.Nodes {
		if n.Address.Is(a) {
			return n.Name
		}
	}
	for _, r := range t.ToRs {
		if r.Address.Is(a) || r.Hosts.Is(a) || r.Shared.Is(a) {
			return r.Name
		}
	}
	for _, h := range t.Hosts {
		if h.Address.Is(a) {
			return h.Name
		}
	}
	for _, g := range append([]Pair{t.InternetGW}, t.Gateways...) {
		if g.Is(a) {
			return Gateway
		}
	}
	switch {
	case t.InternetAddr.Is(a):
		return Internet
	case t.ControlPlane.Is(a):
		return Fabric
	}
	return ""
}
