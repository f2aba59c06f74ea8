package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/godwit-net/godwit/e2e/namespace"
)

// records are the files of the addresses that are in use on a node.
func (c *Cluster) records(t *testing.T, n Node) []string {
	t.Helper()
	files, err := filepath.Glob(c.file(t, n, "/run/godwit/addresses/*[0-9]"))
	must(t, err)
	return files
}

// noLeak holds that on a node there are as many addresses in use, links and
// addresses in its status as there are pods in its pod network.
func (c *Cluster) noLeak(t *testing.T, n Node) {
	t.Helper()
	must(t, c.Wait(t.Context(), time.Minute, "addresses of "+n.Name, func(ctx context.Context) error {
		raw, err := c.Kubectl(ctx, "get", "pods", "-A", "--field-selector=spec.nodeName="+n.Name, "-o", "json")
		if err != nil {
			return err
		}
		var pods corev1.PodList
		if err := json.Unmarshal([]byte(raw), &pods); err != nil {
			return err
		}
		want := 0
		for _, p := range pods.Items {
			if !p.Spec.HostNetwork {
				want++
			}
		}
		status, err := c.Kubectl(ctx, "get", "nodenetwork", n.Name, "-o", "jsonpath={.status.summary.pods}")
		if err != nil {
			return err
		}
		links, err := namespace.Run(ctx, c.Netns(n.Name), "ip", "-br", "link", "show", "type", "veth")
		if err != nil {
			return err
		}
		ours := strings.Count("\n"+links, "\ngw")
		have := fmt.Sprintf("%d records, %d links, %s in the status", len(c.records(t, n)), ours, status)
		if all := fmt.Sprintf("%[1]d records, %[1]d links, %[1]d in the status", want); have != all {
			return fmt.Errorf("there are %s, want %s", have, all)
		}
		return nil
	}))
}
