package cluster

import (
	"testing"
	"time"

	"github.com/godwit-net/godwit/e2e/namespace"
)

const chartDir = "../../charts/godwit"

// testHelmInstall installs Godwit by its chart, a pool with it.
func testHelmInstall(t *testing.T, c *Cluster) {
	start := time.Now()
	c.helm(t, "install", "godwit", chartDir, "--set", "pools[0].name=default,pools[0].cidr=172.25.0.0/16,pools[0].natOutgoing=true")
	must(t, c.WaitInstalled(t.Context()))
	t.Logf("from `helm install` until all nodes and agents are ready: %.1f s", time.Since(start).Seconds())
}

// testHelmUninstall takes the release away as docs/install.md says.
func testHelmUninstall(t *testing.T, c *Cluster, before map[string]string) {
	c.deleteWorkload(t)
	start := time.Now()
	c.helm(t, "upgrade", "godwit", chartDir, "--reset-then-reuse-values", "--set", "uninstall=true")
	must(t, c.rolledOut(t.Context(), "daemonset/godwit-agent"))
	c.kubectl(t, "delete", "ipblocks,ipclaims,ippools", "--all", "--wait", "--timeout=1m")
	c.helm(t, "uninstall", "godwit", "--wait", "--timeout", "2m")
	c.kubectl(t, "delete", "-f", chartDir+"/crds", "--wait", "--timeout=1m")
	t.Logf("uninstalled in %.1f s", time.Since(start).Seconds())
	c.checkNothingLeft(t, before)
}

func (c *Cluster) helm(t *testing.T, args ...string) {
	t.Helper()
	program, err := c.Program("helm")
	must(t, err)
	_, err = namespace.Run(t.Context(), c.CP.Netns, append([]string{program, "--kubeconfig=" + c.Kubeconfig()}, args...)...)
	must(t, err)
}
