package cluster

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"
)

// testReboot reboots n3 while the pods of the other nodes send to each other: its
// pods come back, no address stays in use by none, and the others lose nothing.
func testReboot(t *testing.T, c *Cluster) {
	ctx := t.Context()
	n3 := c.Nodes[2]
	blocks := c.blocks(t, n3)
	booted := c.bootID(t, n3)
	each, web := c.pods(t, "each"), c.pods(t, "web")
	check := c.allPairs(t, each[:2]...)
	start := time.Now()
	must(t, c.Reboot(ctx, n3.Name))
	t.Logf("n3 is up again after %.1f s", time.Since(start).Seconds())
	must(t, c.Wait(ctx, time.Minute, "n3", func(context.Context) error {
		if c.bootID(t, n3) == booted {
			return fmt.Errorf("kubelet does not say that n3 was rebooted")
		}
		return nil
	}))
	// What is said of its pods is old until kubelet has looked after them.
	must(t, c.Wait(ctx, 3*time.Minute, "pods of n3", func(context.Context) error {
		for _, p := range append(c.pods(t, "each"), c.pods(t, "web")...) {
			if p.node == n3.Name && (p.restarts == 0 || !p.ready) {
				return fmt.Errorf("pod %s of n3 is not ready again", p.name)
			}
		}
		return nil
	}))
	t.Logf("its pods are ready again %.1f s after the power cut", time.Since(start).Seconds())
	check(time.Since(start))
	names := func(pods []pod) (list []string) {
		for _, p := range pods {
			list = append(list, p.name)
		}
		return list
	}
	if now := c.pods(t, "web"); !slices.Equal(names(web), names(now)) {
		t.Errorf("the pods of the Deployment were %v, and are %v now", names(web), names(now))
	}
	testReach(t, c)
	for _, n := range c.Nodes {
		c.noLeak(t, n)
	}
	if now := c.blocks(t, n3); !slices.Equal(blocks, now) {
		t.Errorf("n3 had the blocks %v and has %v now", blocks, now)
	}
}

func (c *Cluster) bootID(t *testing.T, n Node) string {
	t.Helper()
	id, err := c.Kubectl(t.Context(), "get", "node", n.Name, "-o", "jsonpath={.status.nodeInfo.bootID}")
	must(t, err)
	return id
}

// blocks are the names of a node's blocks.
func (c *Cluster) blocks(t *testing.T, n Node) []string {
	t.Helper()
	list, err := c.Lines(t.Context(), "get", "ipblocks", "-o", fmt.Sprintf(`jsonpath={range .items[?(@.spec.nodeName==%q)]}{.metadata.name}{" "}{end}`, n.Name))
	must(t, err)
	if len(list) == 0 {
		t.Fatalf("%s has no blocks", n.Name)
	}
	return list
}
