package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/godwit-net/godwit/e2e/namespace"
)

// testUninstall takes Godwit away as docs/install.md says: the nodes and the API
// must be as they were before it was installed, and it can be installed again.
func testUninstall(t *testing.T, c *Cluster, before map[string]string) {
	c.deleteWorkload(t)
	start := time.Now()
	for _, args := range [][]string{
		{"-n", "godwit-system", "delete", "daemonset", "godwit-agent", "--cascade=foreground", "--wait", "--timeout=2m"},
		{"apply", "-k", filepath.Join(configDir, "uninstall")},
		{"-n", "godwit-system", "rollout", "status", "daemonset/godwit-uninstall", "--timeout=2m"},
		{"delete", "-k", filepath.Join(configDir, "uninstall"), "--cascade=foreground", "--wait", "--timeout=2m"},
		{"delete", "ipblocks,ipclaims,ippools", "--all", "--wait", "--timeout=1m"},
		{"delete", "-k", filepath.Join(configDir, "default"), "--ignore-not-found", "--wait", "--timeout=2m"},
	} {
		c.kubectl(t, args...)
	}
	t.Logf("uninstalled in %.1f s", time.Since(start).Seconds())
	c.checkNothingLeft(t, before)
}

// deleteWorkload deletes the pods, which can't do without the network that goes.
func (c *Cluster) deleteWorkload(t *testing.T) {
	t.Helper()
	start := time.Now()
	c.kubectl(t, "delete", "daemonset/each", "deployment/web", "service/web", "--cascade=foreground", "--wait", "--timeout=2m")
	t.Logf("deleted the pods in %.1f s", time.Since(start).Seconds())
}

// checkNothingLeft compares what is there with what was before Godwit was installed.
func (c *Cluster) checkNothingLeft(t *testing.T, before map[string]string) {
	t.Helper()
	if diff := cmp.Diff(before, c.snapshot(t)); diff != "" {
		t.Errorf("what was before the first install and after the uninstall (-before +after):\n%s", diff)
	}
}

// snapshot is what Godwit may leave on nodes and in the API, by where it is.
func (c *Cluster) snapshot(t *testing.T) map[string]string {
	t.Helper()
	peer := regexp.MustCompile(`@if\d+`) // another after a reboot
	s := map[string]string{}
	out := c.kubectl(t, "get", "-A", "-o", "name",
		"crds,clusterroles,clusterrolebindings,roles,rolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings,namespaces,secrets,configmaps")
	var ours []string
	for line := range strings.Lines(out) {
		if strings.Contains(line, "godwit") {
			ours = append(ours, strings.TrimSpace(line))
		}
	}
	s["API"] = strings.Join(ours, "\n")
	for _, n := range c.Nodes {
		for _, argv := range [][]string{
			{"ip", "-br", "link"}, {"ip", "rule"}, {"ip", "route"}, {"ip", "-6", "route", "show", "proto", "71"}, {"ip", "nexthop"}, {"nft", "list", "tables"},
		} {
			out, err := namespace.Run(t.Context(), c.Netns(n.Name), argv...)
			must(t, err)
			// kube-proxy's and portmap's own.
			for _, other := range []string{"table ip kube-proxy\n", "table ip6 kube-proxy\n", "table ip cni_hostport\n", "table ip6 cni_hostport\n"} {
				out = strings.ReplaceAll(out, other, "")
			}
			out = peer.ReplaceAllString(out, "")
			s[n.Name+": "+strings.Join(argv, " ")] = out
		}
		r, err := c.Group.Get(nodeProcess(n.Name))
		must(t, err)
		for _, dir := range []string{"etc/cni/net.d", "opt/cni/bin", "run/godwit", "var/lib/godwit"} {
			s[n.Name+": /"+dir] = list(t, filepath.Join("/proc", fmt.Sprint(r.PID), "root", dir))
		}
		out := c.kubectl(t, "get", "node", n.Name, "-o", "jsonpath={.spec.taints[*].key}")
		// Those by which Kubernetes says that the node has no network (yet, or any more).
		s[n.Name+": taints"] = strings.TrimSpace(strings.ReplaceAll(out, "node.kubernetes.io/not-ready", ""))
	}
	return s
}

// list names the files below a folder; one that is not there has none.
func list(t *testing.T, dir string) string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, strings.TrimPrefix(path, dir))
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Join(files, "\n")
}
