package cluster

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"
)

// Pool is what the cluster's pods get addresses from.
const Pool = `apiVersion: godwit.dev/v1alpha1
kind: IPPool
metadata:
  name: default
spec:
  cidr: 172.25.0.0/16
  natOutgoing: true
`

// Install installs Godwit as a person would, from a folder for kustomize, and
// returns when all nodes are ready and the agents too.
func (c *Cluster) Install(ctx context.Context, folder string) error {
	if _, err := c.Kubectl(ctx, "apply", "-k", folder); err != nil {
		return err
	}
	// The API server may need a moment until it serves a kind whose definition is new.
	err := c.Wait(ctx, 20*time.Second, "create the pool", func(ctx context.Context) error { return c.Apply(ctx, Pool) })
	if err != nil {
		return err
	}
	return c.WaitInstalled(ctx)
}

// WaitInstalled waits until the DaemonSet's and the Deployment's newest pods, and
// all nodes, are ready.
func (c *Cluster) WaitInstalled(ctx context.Context) error {
	limit := "--timeout=" + c.Patience.Times(2*time.Minute).String()
	for _, args := range [][]string{
		{"-n", "godwit-system", "rollout", "status", "daemonset/godwit-agent", limit},
		{"-n", "godwit-system", "rollout", "status", "deployment/godwit-controller", limit},
		{"wait", "--for=condition=Ready", "nodes", "--all", limit},
	} {
		if _, err := c.Kubectl(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// Apply applies a manifest.
func (c *Cluster) Apply(ctx context.Context, manifest string) error {
	f, err := os.CreateTemp(c.Dir, "manifest-*.yaml")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	if _, err := f.WriteString(manifest); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	_, err = c.Kubectl(ctx, "apply", "-f", f.Name())
	return err
}

// Lines runs kubectl and returns the words that it prints.
func (c *Cluster) Lines(ctx context.Context, args ...string) ([]string, error) {
	out, err := c.Kubectl(ctx, args...)
	if err != nil {
		return nil, err
	}
	return strings.Fields(out), nil
}

// Exec runs podtest in a pod.
func (c *Cluster) Exec(ctx context.Context, pod string, args ...string) (string, error) {
	out, err := c.Kubectl(ctx, append([]string{"exec", pod, "--", "/bin/podtest"}, args...)...)
	if err != nil {
		return "", fmt.Errorf("in pod %s: %w", pod, err)
	}
	return strings.TrimSpace(out), nil
}
