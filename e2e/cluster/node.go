package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/godwit-net/godwit/e2e/controlplane"
	"github.com/godwit-net/godwit/e2e/process"
)

// nodeProcess is the name of the record of a node's first process.
func nodeProcess(node string) string { return "node-" + node }

// startNodes starts all nodes.
func (c *Cluster) startNodes(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range c.Nodes {
		g.Go(func() error { return c.startNode(ctx, n) })
	}
	return g.Wait()
}

// startNode starts a node, and returns when its containerd has the images and
// kubelet runs.
func (c *Cluster) startNode(ctx context.Context, n Node) error {
	conf, err := c.nodeConfig(n)
	if err != nil {
		return err
	}
	dir := c.path(n.Name)
	for _, d := range conf.dirs() {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	if err := c.makeCgroup(n.Name); err != nil {
		return fmt.Errorf("cgroup of %s: %w", n.Name, err)
	}
	if err := c.writeNodeFiles(n, dir); err != nil {
		return err
	}
	raw, err := json.Marshal(conf)
	if err != nil {
		return err
	}
	_ = os.Remove(conf.readyFile())
	file := filepath.Join(dir, "node.json")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		return err
	}
	err = c.Group.Start(process.Spec{
		Name: nodeProcess(n.Name), Netns: c.Netns(n.Name), Path: c.NodeProgram, Args: []string{"node", file},
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	})
	if err != nil {
		return err
	}
	return c.Wait(ctx, time.Minute, "node "+n.Name, func(context.Context) error {
		if isFile(conf.readyFile()) {
			return nil
		}
		if r, err := c.Group.Get(nodeProcess(n.Name)); err != nil || !r.Alive() {
			return fmt.Errorf("it ended: see %s", c.Group.Log(nodeProcess(n.Name)))
		}
		return fmt.Errorf("containerd has not all images yet: see %s", filepath.Join(dir, "log"))
	})
}

func (c *Cluster) nodeConfig(n Node) (*nodeConfig, error) {
	conf := &nodeConfig{Name: n.Name, Dir: c.path(n.Name), Images: c.Images, Path: c.Bin}
	var errs []error
	for name, args := range map[string][]string{
		"containerd": {"--config", c.path(n.Name, "containerd.toml")},
		"kubelet": {
			"--config=" + c.path(n.Name, "kubelet.yaml"), "--kubeconfig=" + c.path(n.Name, "kubelet.kubeconfig"),
			"--hostname-override=" + n.Name, "--node-ip=" + n.Address.Addr().String(), "--root-dir=/var/lib/kubelet",
		},
		"kube-proxy": {"--config=" + c.path(n.Name, "kube-proxy.yaml"), "--hostname-override=" + n.Name},
	} {
		program, err := c.Program(name)
		errs = append(errs, err)
		conf.Services = append(conf.Services, service{Name: name, Argv: append([]string{program}, args...)})
	}
	return conf, errors.Join(errs...)
}

// writeNodeFiles writes the configuration of a node's programs.
func (c *Cluster) writeNodeFiles(n Node, dir string) error {
	runc, err := c.Program("runc")
	if err != nil {
		return err
	}
	var errs []error
	for name, content := range map[string]string{
		"containerd.toml": fmt.Sprintf(containerdConfig, SandboxImage, runc),
		"kubelet.yaml":    fmt.Sprintf(kubeletConfig, c.path("control-plane", "ca.crt"), c.cgroup(n.Name)),
		"kube-proxy.yaml": fmt.Sprintf(proxyConfig, filepath.Join(dir, "kube-proxy.kubeconfig")),
	} {
		errs = append(errs, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	for name, cred := range map[string]controlplane.Credentials{
		"kubelet":    {User: "system:node:" + n.Name, Groups: []string{"system:nodes"}},
		"kube-proxy": {User: "system:kube-proxy"},
	} {
		errs = append(errs, c.CP.WriteKubeconfig(filepath.Join(dir, name+".kubeconfig"), c.CP.URL(), cred))
	}
	return errors.Join(errs...)
}

// Some machines give nobody the right to be spared by the kernel's killer of
// processes, without which sandboxes would not start.
const containerdConfig = `version = 3
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
  address = "/run/containerd/containerd.sock"

[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "%s"

[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = "runc"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
        BinaryName = "%s"
        SystemdCgroup = false
`

const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: %s}
authorization: {mode: Webhook}
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: %s
enforceNodeAllocatable: [none]
localStorageCapacityIsolation: false
failSwapOn: false
resolvConf: ""
evictionHard: {memory.available: 50Mi, nodefs.available: "0%%", imagefs.available: "0%%"}
nodeStatusUpdateFrequency: 2s
syncFrequency: 10s
volumeStatsAggPeriod: 1h
`

const proxyConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: %s}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`
