package cluster

import (
	"context"
	"fmt"

	"github.com/godwit-net/godwit/e2e/namespace"
)

// fabric is the namespace with the bridge that all nodes are at.
const fabric = "fab"

// buildFabric makes the network namespaces of the nodes and wires them.
func (c *Cluster) buildFabric(ctx context.Context) error {
	fab := c.Netns(fabric)
	if err := namespace.Add(ctx, fab); err != nil {
		return err
	}
	for _, argv := range [][]string{
		{"ip", "link", "add", "br0", "type", "bridge"},
		{"ip", "addr", "add", "10.98.0.1/24", "dev", "br0"},
		{"ip", "link", "set", "br0", "up"},
	} {
		if _, err := namespace.Run(ctx, fab, argv...); err != nil {
			return err
		}
	}
	for _, n := range c.Nodes {
		if err := c.plugIn(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// plugIn makes the network namespace of a node and its cable to the bridge.
func (c *Cluster) plugIn(ctx context.Context, n Node) error {
	fab, ns, a := c.Netns(fabric), c.Netns(n.Name), n.Address.Addr().As4()
	if err := namespace.Add(ctx, ns); err != nil {
		return err
	}
	for _, step := range []struct {
		netns string
		argv  []string
	}{
		{fab, []string{"ip", "link", "add", n.Name, "type", "veth", "peer", "name", "eth0", "netns", ns}},
		{fab, []string{"ip", "link", "set", n.Name, "master", "br0", "up"}},
		// A machine keeps its link-layer address when it reboots, and so do its neighbours.
		{ns, []string{"ip", "link", "set", "eth0", "address", fmt.Sprintf("02:00:%02x:%02x:%02x:%02x", a[0], a[1], a[2], a[3])}},
		{ns, []string{"ip", "addr", "add", n.Address.String(), "dev", "eth0"}},
		{ns, []string{"ip", "link", "set", "eth0", "up"}},
		{ns, []string{"ip", "route", "add", "default", "via", "10.98.0.1"}},
	} {
		if _, err := namespace.Run(ctx, step.netns, step.argv...); err != nil {
			return err
		}
	}
	return nil
}
