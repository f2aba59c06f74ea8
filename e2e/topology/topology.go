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
// Invariants:
//   - All links are made inside the lab's namespaces, never in the caller's; the
//     end of a namespace ends its links.
//   - The internet knows a way back to the nodes' subnet, and to nothing else.
package topology

import "net/netip"

// Names of the machines that there is one of.
const (
	Fabric   = "fabric" // the switch between the machines; the control plane runs here
	Gateway  = "gw"     // the nodes' default gateway
	Internet = "internet"
	Host3    = "host3" // behind both top-of-rack routers
)

// Node is a node of the cluster.
type Node struct {
	Name    string
	Address netip.Prefix // in the fabric
	Block   netip.Prefix // the block of the default pool that the node is given
}

// ToR is a top-of-rack router with a network of hosts behind it.
type ToR struct {
	Name    string
	Address netip.Prefix // in the fabric
	ASN     uint32
	Hosts   netip.Prefix // its address in its hosts' network
	Shared  netip.Prefix // its address in the network behind both routers
	// Password is the TCP MD5 password (RFC 2385) of its sessions; empty: none.
	Password string
}

// Host is a machine outside the cluster.
type Host struct {
	Name    string
	Address netip.Prefix
	Behind  []string // the routers
}

// Topology is a whole lab. Prefix starts the names of all its namespaces.
type Topology struct {
	Prefix       string
	ControlPlane netip.Prefix
	GatewayAddr  netip.Prefix // of the gateway, in the fabric
	InternetGW   netip.Prefix // of the gateway, towards the internet
	InternetAddr netip.Prefix
	NodeASN      uint32
	Pool         netip.Prefix
	HostRange    netip.Prefix // what the nodes accept from the routers lies in it
	Nodes        []Node
	ToRs         []ToR
	Hosts        []Host
}

// Reference returns the reference topology.
func Reference(prefix string) Topology {
	p := netip.MustParsePrefix
	return Topology{
		Prefix:       prefix,
		ControlPlane: p("10.211.55.10/24"),
		GatewayAddr:  p("10.211.55.254/24"),
		InternetGW:   p("198.51.100.1/24"),
		InternetAddr: p("198.51.100.10/24"),
		NodeASN:      64512,
		Pool:         p("172.25.0.0/16"),
		HostRange:    p("192.168.0.0/16"),
		Nodes: []Node{
			{Name: "n1", Address: p("10.211.55.101/24"), Block: p("172.25.0.128/26")},
			{Name: "n2", Address: p("10.211.55.116/24"), Block: p("172.25.0.192/26")},
			{Name: "n3", Address: p("10.211.55.117/24"), Block: p("172.25.1.0/26")},
		},
		ToRs: []ToR{
			{
				Name: "tor1", Address: p("10.211.55.1/24"), ASN: 65001,
				Hosts: p("192.168.101.1/24"), Shared: p("192.168.200.1/24"),
				Password: "lab-sesame",
			},
			{
				Name: "tor2", Address: p("10.211.55.2/24"), ASN: 65002,
				Hosts: p("192.168.102.1/24"), Shared: p("192.168.200.2/24"),
			},
		},
		Hosts: []Host{
			{Name: "host1", Address: p("192.168.101.10/24"), Behind: []string{"tor1"}},
			{Name: "host2", Address: p("192.168.102.10/24"), Behind: []string{"tor2"}},
			{Name: Host3, Address: p("192.168.200.10/24"), Behind: []string{"tor1", "tor2"}},
		},
	}
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

// NameOf returns the name of the machine that has an address; none: "".
func (t Topology) NameOf(a netip.Addr) string {
	for _, n := range t.Nodes {
		if n.Address.Addr() == a {
			return n.Name
		}
	}
	for _, r := range t.ToRs {
		if r.Address.Addr() == a || r.Hosts.Addr() == a || r.Shared.Addr() == a {
			return r.Name
		}
	}
	for _, h := range t.Hosts {
		if h.Address.Addr() == a {
			return h.Name
		}
	}
	switch a {
	case t.GatewayAddr.Addr(), t.InternetGW.Addr():
		return Gateway
	case t.InternetAddr.Addr():
		return Internet
	case t.ControlPlane.Addr():
		return Fabric
	}
	return ""
}
