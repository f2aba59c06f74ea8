// Package cluster runs a real Kubernetes cluster on one machine: etcd, the API
// server, controller manager and scheduler, and nodes with a containerd, a
// kubelet and a kube-proxy each. A node is a set of namespaces (network, mounts,
// processes, host name, IPC) with files of its own over the machine's.
//
//	fabric (bridge) ─┬─ n1: control plane, containerd, kubelet, kube-proxy ─ pods
//	                 ├─ n2:                containerd, kubelet, kube-proxy ─ pods
//	                 └─ n3:                containerd, kubelet, kube-proxy ─ pods
//
// The control plane is in the network of n1, so that what it says to pods
// crosses the network that is under test.
//
// Invariants:
//   - Everything of a cluster is found from its prefix (network namespaces,
//     cgroups) and its directory (all files); Down removes all of it.
//   - The end of a node's first process ends all that runs on the node.
//   - What kubelet and kube-proxy change of the machine's own settings is put back.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/godwit-net/godwit/e2e/controlplane"
	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/e2e/patience"
	"github.com/godwit-net/godwit/e2e/process"
)

// Config says what a cluster is made of.
type Config struct {
	Prefix string   // of network namespaces and of the cgroup
	Dir    string   // for all files; on a file system that can be an overlay's upper layer
	Bin    []string // folders with the programs
	// NodeProgram is the program that calls RunNode when it is started with the
	// arguments `node CONFIG`.
	NodeProgram string
	// Images are the archives that every node gets.
	Images   []string
	Patience patience.Factor
}

// Cluster is a cluster.
type Cluster struct {
	Config
	Nodes []Node
	Group *process.Group
	CP    *controlplane.ControlPlane
}

// Node is a node of a cluster.
type Node struct {
	Name    string
	Address netip.Prefix // on the fabric
}

// SandboxImage is the image of the pods' first containers. It and PodImage come
// from podtest.
const (
	SandboxImage = "godwit-net/pause:test"
	PodImage     = "godwit-net/podtest:test"
)

// Open returns the cluster of a configuration, which may be up or not.
func Open(c Config) (*Cluster, error) {
	if c.Prefix == "" || c.Dir == "" {
		return nil, errors.New("a cluster needs a prefix and a directory of its own")
	}
	var err error
	for _, p := range []*string{&c.Dir, &c.NodeProgram} {
		if *p, err = filepath.Abs(*p); err != nil {
			return nil, err
		}
	}
	for _, list := range [][]string{c.Bin, c.Images} {
		for i := range list {
			if list[i], err = filepath.Abs(list[i]); err != nil {
				return nil, err
			}
		}
	}
	cl := &Cluster{Config: c, Group: process.Open(c.Dir)}
	cl.Group.Patience = c.Patience
	for i := range 3 {
		cl.Nodes = append(cl.Nodes, Node{
			Name:    fmt.Sprintf("n%d", i+1),
			Address: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 98, 0, byte(11 + i)}), 24),
		})
	}
	cl.CP = &controlplane.ControlPlane{
		Dir: cl.path("control-plane"), Netns: cl.Netns("n1"), Address: cl.Nodes[0].Address.Addr(),
		Group: cl.Group, Kubelets: true, Patience: c.Patience,
	}
	return cl, nil
}

// Netns is the name of the network namespace of a node, or of the fabric.
func (c *Cluster) Netns(name string) string { return c.Prefix + name }

// Kubeconfig is an administrator's, for those in the cluster's network.
func (c *Cluster) Kubeconfig() string { return c.path("kubeconfig") }

func (c *Cluster) path(elem ...string) string {
	return filepath.Join(append([]string{c.Dir}, elem...)...)
}

// Program finds one of the programs.
func (c *Cluster) Program(name string) (string, error) {
	for _, dir := range c.Bin {
		if p := filepath.Join(dir, name); isFile(p) {
			return p, nil
		}
	}
	return "", fmt.Errorf("program %s is in none of %s: run `make cluster`, which builds it", name, strings.Join(c.Bin, ", "))
}

func isFile(p string) bool {
	st, err := os.Stat(p)
	return err == nil && st.Mode().IsRegular()
}

// Up builds the cluster and returns when every node has registered. The nodes
// are not ready: that is the part of whoever installs a pod network.
func (c *Cluster) Up(ctx context.Context, p *lab.Progress) error {
	var err error
	for name, path := range map[string]*string{"etcd": &c.CP.Etcd, "kube-apiserver": &c.CP.Server} {
		if *path, err = c.Program(name); err != nil {
			return err
		}
	}
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"etcd and kube-apiserver, in the network of n1", func(ctx context.Context) error {
			return errors.Join(c.buildFabric(ctx), c.recordHost(), c.CP.Start(ctx))
		}},
		{"controller manager and scheduler", c.startControllers},
		{"containerd, kubelet and kube-proxy on three nodes", c.startNodes},
		{"nodes register", c.waitRegistered},
	} {
		if err := p.Step(step.what, func() error { return step.do(ctx) }); err != nil {
			return err
		}
	}
	return nil
}

// startControllers starts what makes pods of Deployments and finds nodes for
// them.
func (c *Cluster) startControllers(ctx context.Context) error {
	if err := c.CP.WriteKubeconfig(c.Kubeconfig(), c.CP.URL(), controlplane.Credentials{User: "admin", Groups: []string{controlplane.AdminGroup}}); err != nil {
		return err
	}
	for name, args := range map[string][]string{
		"kube-controller-manager": {
			"--service-account-private-key-file=" + c.path("control-plane", "sa.key"),
			"--root-ca-file=" + c.path("control-plane", "ca.crt"),
			"--use-service-account-credentials", "--bind-address=127.0.0.1", "--leader-elect=false",
		},
		"kube-scheduler": {"--bind-address=127.0.0.1", "--leader-elect=false"},
	} {
		program, err := c.Program(name)
		if err != nil {
			return err
		}
		kubeconfig := c.path("control-plane", name+".kubeconfig")
		if err := c.CP.WriteKubeconfig(kubeconfig, c.CP.URL(), controlplane.Credentials{User: "system:" + name}); err != nil {
			return err
		}
		args = append([]string{
			"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		}, args...)
		if err := c.Group.Start(process.Spec{Name: name, Netns: c.CP.Netns, Path: program, Args: args}); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (c *Cluster) waitRegistered(ctx context.Context) error {
	return c.Wait(ctx, time.Minute, "nodes", func(ctx context.Context) error {
		out, err := c.Kubectl(ctx, "get", "nodes", "-o", "name")
		if err != nil {
			return err
		}
		if n := strings.Count(out, "node/"); n != len(c.Nodes) {
			return fmt.Errorf("%d of %d nodes have registered", n, len(c.Nodes))
		}
		return nil
	})
}

// Kubectl runs kubectl as an administrator and returns what it prints.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	program, err := c.Program("kubectl")
	if err != nil {
		return "", err
	}
	return namespace.Run(ctx, c.CP.Netns, append([]string{program, "--kubeconfig=" + c.Kubeconfig()}, args...)...)
}

// Wait tries f until it returns nil, for as long as a stretched time.
func (c *Cluster) Wait(ctx context.Context, d time.Duration, what string, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, c.Patience.Times(d))
	defer cancel()
	var err error
	for {
		// What the end of the time itself makes of the last try tells nothing.
		if now := f(ctx); ctx.Err() == nil || now == nil || err == nil {
			err = now
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w (after %s)", what, err, c.Patience.Times(d))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Down ends the cluster and removes all of it. It is idempotent, and works on
// what a failed or interrupted Up left.
func (c *Cluster) Down(ctx context.Context) error {
	var errs []error
	_, err := c.Group.StopAll(ctx)
	errs = append(errs, err)
	names, err := namespace.List(c.Prefix)
	errs = append(errs, err)
	for _, name := range names {
		if name == c.Netns(fabric) || slices.ContainsFunc(c.Nodes, func(n Node) bool { return c.Netns(n.Name) == name }) {
			errs = append(errs, namespace.Delete(name))
		}
	}
	errs = append(errs, c.removeCgroups(ctx, c.cgroup("")), c.restoreHost())
	if errors.Join(errs...) == nil {
		errs = append(errs, os.RemoveAll(c.Dir))
	}
	return errors.Join(errs...)
}
