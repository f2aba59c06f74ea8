package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/topology"
)

// optionFlags are a lab's options as a person gives them.
type optionFlags struct {
	encapsulation, family, sessions, topology string
	vxlanPort, vni                            int32
	network                                   topology.Options
}

func (o *optionFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.encapsulation, "encap", "none", "the pools' encapsulation: none, ipip, ipip-crosssubnet, vxlan or vxlan-crosssubnet")
	f.StringVar(&o.family, "family", string(topology.IPv4), "the address families: ipv4, ipv6 or dual")
	f.StringVar(&o.sessions, "sessions", string(lab.SessionsBoth), "in a dual-stack lab, over which families nodes and routers speak: v4, v6 or both")
	f.IntVar(&o.network.Subnets, "subnets", 1, "in how many subnets the nodes are; with 2, n3 is behind a router that knows nothing of pods")
	f.IntVar(&o.network.ToRs, "tors", 2, "how many top-of-rack routers there are: 2 or 4")
	f.StringVar(&o.topology, "topology", "mesh", "which BGP sessions nodes have with each other: mesh or none")
	f.IntVar(&o.network.MTU, "mtu", topology.DefaultMTU, "the MTU of the network between the nodes")
	f.BoolVar(&o.network.StrictReversePath, "strict-rp-filter", false, "let nodes check strictly from where packets come (rp_filter=1)")
	f.Int32Var(&o.vxlanPort, "vxlan-port", 0, "the UDP port of VXLAN (0: Godwit's default)")
	f.Int32Var(&o.vni, "vni", 0, "the VXLAN network identifier (0: Godwit's default)")
}

// options reads the flags; what does not go together, Open tells.
func (o *optionFlags) options() (lab.Options, error) {
	encapsulation, err := lab.ParseEncapsulation(o.encapsulation)
	bgp, topErr := lab.ParseTopology(o.topology)
	if err := errors.Join(err, topErr); err != nil {
		return lab.Options{}, err
	}
	network := o.network
	network.Family = topology.Family(o.family)
	return lab.Options{
		Options: network, Encapsulation: encapsulation, Sessions: lab.Sessions(o.sessions), BGP: bgp,
		VXLANPort: o.vxlanPort, VNI: o.vni,
	}, nil
}
