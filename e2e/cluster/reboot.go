package cluster

import (
	"context"
	"fmt"
	"slices"

	"github.com/godwit-net/godwit/e2e/namespace"
)

// Reboot ends a node as a power cut does and starts it again: its processes,
// its network and what is on tmpfs are gone, its disk is not. n1 can't be
// rebooted, as the control plane is in its network.
func (c *Cluster) Reboot(ctx context.Context, node string) error {
	i := slices.IndexFunc(c.Nodes, func(n Node) bool { return n.Name == node })
	if i <= 0 {
		return fmt.Errorf("%q is no node that can be rebooted", node)
	}
	n := c.Nodes[i]
	if _, err := namespace.Run(ctx, c.Netns(fabric), "ip", "link", "del", n.Name); err != nil {
		return err
	}
	if err := c.Group.Kill(ctx, nodeProcess(n.Name)); err != nil {
		return err
	}
	if err := namespace.Delete(c.Netns(n.Name)); err != nil {
		return err
	}
	// The kernel's memory of the pods: kubelet would look for each of them, for
	// seconds, before it does anything else.
	if err := c.removeCgroups(ctx, c.cgroup(n.Name)); err != nil {
		return err
	}
	if err := c.plugIn(ctx, n); err != nil {
		return err
	}
	return c.startNode(ctx, n)
}
