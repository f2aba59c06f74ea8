package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/e2e/podtest"
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
	// The others hold the sessions with n3 for up until their next KEEPALIVE, half a
	// minute later at most, and take up no other before: n3 lacks their routes.
	must(t, c.Wait(ctx, 2*time.Minute, "routes of n3", func(ctx context.Context) error {
		out, err := namespace.Run(ctx, c.Netns(n3.Name), "ip", "route", "show", "proto", "71")
		if err != nil {
			return err
		}
		for _, other := range c.Nodes[:2] {
			if !strings.Contains(out, fmt.Sprintf("via %s dev eth0", other.Address.Addr())) {
				return fmt.Errorf("n3 has no route to the pods of %s:\n%s", other.Name, out)
			}
		}
		return nil
	}))
	each = c.pods(t, "each")
	must(t, c.Wait(ctx, 30*time.Second, "pods of n3", func(ctx context.Context) error {
		for _, pair := range [][2]pod{{each[0], each[2]}, {each[1], each[2]}, {each[2], each[0]}, {each[2], each[1]}} {
			if _, err := c.Exec(ctx, pair[0].name, "get", fmt.Sprintf("http://%s:%d", pair[1].address, podtest.HTTPPort)); err != nil {
				return err
			}
		}
		return nil
	}))
	t.Logf("they and the others' reach each other %.1f s after it", time.Since(start).Seconds())
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
	return c.kubectl(t, "get", "node", n.Name, "-o", "jsonpath={.status.nodeInfo.bootID}")
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
