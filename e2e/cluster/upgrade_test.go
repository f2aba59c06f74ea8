package cluster

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/e2e/podtest"
)

// The tags of the two builds that upgrades go between.
const (
	currentImage  = "godwit-net/godwit:dev"
	previousImage = "godwit-net/godwit:previous"
)

// testUpgrade rolls the agents to another build and back while pods on all pairs
// of nodes send to each other, and pods start meanwhile.
func testUpgrade(t *testing.T, c *Cluster) {
	each, web := c.pods(t, "each"), c.pods(t, "web")
	check := c.allPairs(t, each...)
	stream := c.send(t, each[2], "stream", c.service(t, "web")+":7", each[0].echo())
	start := time.Now()
	c.roll(t, previousImage)
	for _, n := range c.Nodes {
		c.writeNewerState(t, n)
	}
	c.roll(t, currentImage)
	c.heardOfNewerState(t)
	upgraded := time.Since(start)
	check(upgraded)
	checkStreams(t, upgraded, stream)
	if now := c.pods(t, "web"); !slices.Equal(web, now) {
		t.Errorf("the pods of the Deployment were %v, and are %v now", web, now)
	}
	for _, n := range c.Nodes {
		c.noLeak(t, n)
	}
}

// roll makes the agents of an image, and pods at the same time, which must start.
func (c *Cluster) roll(t *testing.T, image string) {
	t.Helper()
	const made = 6
	ctx, start := t.Context(), time.Now()
	c.kubectl(t, "-n", "godwit-system", "set", "image", "daemonset/godwit-agent", "agent="+image)
	c.kubectl(t, "create", "deployment", "late", "--image="+PodImage, fmt.Sprint("--replicas=", made))
	must(t, c.rolledOut(ctx, "deployment/late", "daemonset/godwit-agent"))
	t.Logf("rolled to %s in %.1f s", image, time.Since(start).Seconds())
	var urls, names []string
	for _, p := range c.pods(t, "late") {
		urls, names = append(urls, fmt.Sprintf("http://%s:%d", p.address, podtest.HTTPPort)), append(names, p.name)
	}
	if len(names) != made {
		t.Errorf("of %d pods that were made during the upgrade, %v run", made, names)
	}
	for _, from := range c.pods(t, "each") {
		out, err := c.Exec(ctx, from.name, append([]string{"get"}, urls...)...)
		if got := strings.Fields(out); err != nil || !slices.Equal(got, names) {
			t.Errorf("pod on %s asks pods that were made during the upgrade: they answer %v (%v), want %v", from.node, got, err, names)
		}
	}
	c.kubectl(t, "delete", "deployment", "late", "--cascade=foreground", "--wait", "--timeout=2m")
}

// writeNewerState turns what an agent keeps on a node into what a build may leave
// that is newer than the next: fields that are not known, a checkpoint of another
// version, and a record and a list of other shapes.
func (c *Cluster) writeNewerState(t *testing.T, n Node) {
	t.Helper()
	records := c.records(t, n)
	for i, file := range append(records, c.file(t, n, "/var/lib/godwit/checkpoint.json")) {
		raw, err := os.ReadFile(file)
		must(t, err)
		var content map[string]any
		must(t, json.Unmarshal(raw, &content))
		content["version"], content["news"] = 99, "of a later build"
		if i == 0 {
			delete(content, "owner")
		}
		raw, err = json.Marshal(content)
		must(t, err)
		must(t, os.WriteFile(file+".tmp", raw, 0o600))
		must(t, os.Rename(file+".tmp", file))
	}
	must(t, os.WriteFile(c.file(t, n, "/var/lib/godwit/returned.json"), []byte(`{"version": 99}`), 0o600))
}

// heardOfNewerState fails unless agents say that they found such a checkpoint: one
// whose blocks or plan changed in between has written its own over it.
func (c *Cluster) heardOfNewerState(t *testing.T) {
	t.Helper()
	log := c.kubectl(t, "-n", "godwit-system", "logs", "--selector=app.kubernetes.io/name=godwit-agent", "--tail=-1")
	n := strings.Count(log, "has version 99")
	t.Logf("%d of %d agents found the checkpoint of a later build", n, len(c.Nodes))
	if n == 0 {
		t.Error("no agent found the state of a later build: the way back shows nothing")
	}
}

// file is where a file of a node is for those outside.
func (c *Cluster) file(t *testing.T, n Node, path string) string {
	t.Helper()
	r, err := c.Group.Get(nodeProcess(n.Name))
	must(t, err)
	return filepath.Join("/proc", fmt.Sprint(r.PID), "root", path)
}
