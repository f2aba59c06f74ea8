package cluster

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/e2e/lab"
)

const configDir = "../../config"

// TestCluster installs Godwit on a real cluster, uses it, upgrades it under
// traffic, reboots a node, takes Godwit away and installs it again by its chart. It
// is run by `make test-cluster`.
func TestCluster(t *testing.T) {
	if os.Getenv("GODWIT_CLUSTER_IMAGES") == "" {
		t.Fatal("this test needs programs and images: run `make test-cluster`")
	}
	prefix := os.Getenv("GODWIT_E2E_NAME")
	if prefix == "" {
		prefix = "gwcl"
	}
	c, err := Open(Config{
		Prefix: prefix + "-", Dir: filepath.Join("/var/tmp", prefix+"-cluster"), Bin: []string{os.Getenv("GODWIT_KUBE_BIN"), os.Getenv("GODWIT_BIN")},
		NodeProgram: filepath.Join(os.Getenv("GODWIT_BIN"), "cluster"), Images: strings.Split(os.Getenv("GODWIT_CLUSTER_IMAGES"), ":"),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if err := c.Down(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			keepLogs(t, c)
		}
		if err := c.Down(context.WithoutCancel(ctx)); err != nil {
			t.Errorf("take the cluster down: %v", err)
		}
	})
	if err := c.Up(ctx, lab.NewProgress(os.Stdout)); err != nil {
		t.Fatal(err)
	}
	before := c.snapshot(t)
	for _, part := range []struct {
		name string
		run  func(*testing.T, *Cluster)
	}{
		{"install", testInstall},
		{"reach", testReach},
		{"figures", testFigures},
		{"upgrade and reboot", testUpgradeAndReboot},
		{"uninstall", func(t *testing.T, c *Cluster) { testUninstall(t, c, before) }},
		{"install by Helm", testHelmInstall},
		{"reach again", testReach},
		{"uninstall by Helm", func(t *testing.T, c *Cluster) { testHelmUninstall(t, c, before) }},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.run(t, c) }) {
			t.FailNow()
		}
	}
}

// keepLogs copies the cluster's logs to where the other tests leave theirs.
func keepLogs(t *testing.T, c *Cluster) {
	dir := os.Getenv("GODWIT_E2E_LOGS")
	if dir == "" {
		return
	}
	dir = filepath.Join(dir, "cluster", time.Now().UTC().Format("20060102T150405"))
	for _, name := range []string{"", "n1", "n2", "n3"} {
		if err := os.CopyFS(filepath.Join(dir, name), os.DirFS(c.path(name, "log"))); err != nil {
			t.Log(err)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// kubectl runs kubectl, which must succeed, and returns what it prints.
func (c *Cluster) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.Kubectl(t.Context(), args...)
	must(t, err)
	return out
}

// testInstall installs Godwit as a person would.
func testInstall(t *testing.T, c *Cluster) {
	start := time.Now()
	must(t, c.Install(t.Context(), filepath.Join(configDir, "default")))
	t.Logf("from `kubectl apply -k config/default` until all nodes and agents are ready: %.1f s", time.Since(start).Seconds())
}

// testUpgradeAndReboot upgrades the agents and reboots n3, and holds that TCP
// streams between the other nodes, by which more than a minute passes, do not even
// falter.
func testUpgradeAndReboot(t *testing.T, c *Cluster) {
	each, start := c.pods(t, "each"), time.Now()
	streams := []*traffic{c.send(t, each[0], "stream", each[1].echo()), c.send(t, each[1], "stream", each[0].echo())}
	if !t.Run("upgrade", func(t *testing.T) { testUpgrade(t, c) }) {
		t.FailNow()
	}
	// The pods that did nothing go meanwhile.
	c.kubectl(t, "delete", "deployment", "idle", "--wait=false")
	if !t.Run("reboot", func(t *testing.T) { testReboot(t, c) }) {
		t.FailNow()
	}
	<-time.After(time.Until(start.Add(65 * time.Second)))
	checkStreams(t, time.Minute, streams...)
}
