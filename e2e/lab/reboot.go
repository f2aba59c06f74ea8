package lab

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/e2e/pods"
	"github.com/godwit-net/godwit/e2e/topology"
)

// CutPower ends a node as a power cut does: nothing is said to anyone, and the
// pods and all that is kept in memory are gone.
func (l *Lab) CutPower(ctx context.Context, node string) error {
	n, ok := l.Top.Node(node)
	if !ok {
		return fmt.Errorf("the lab has no node %s", node)
	}
	// The link goes first, or the peers would hear of the end of its connections.
	if err := l.Top.Unplug(n); err != nil {
		return err
	}
	if err := l.Group.Kill(ctx, AgentProcess(node)); err != nil {
		return err
	}
	if err := l.forgetPods(node); err != nil {
		return err
	}
	if err := os.RemoveAll(l.RunDir(node)); err != nil {
		return err
	}
	return namespace.Delete(l.Top.Namespace(node))
}

// Boot starts a node after CutPower: its network anew, with the same address,
// and its agent, which finds its checkpoint.
func (l *Lab) Boot(ctx context.Context, node string) error {
	n, ok := l.Top.Node(node)
	if !ok {
		return fmt.Errorf("the lab has no node %s", node)
	}
	if err := l.Top.BuildNode(ctx, n); err != nil {
		return err
	}
	return l.StartAgent(ctx, node)
}

// forgetPods removes the network namespaces of a node's pods, without a word to
// the agent.
func (l *Lab) forgetPods(node string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	l.pods = slices.DeleteFunc(l.pods, func(p pods.Pod) bool {
		if err != nil || !strings.HasPrefix(p.Name, topology.PodName(node, "")) {
			return false
		}
		err = namespace.Delete(p.Netns)
		return err == nil
	})
	if err != nil {
		return err
	}
	return l.savePods()
}

// AttachPodsOf attaches the pods of a node, as in a new lab.
func (l *Lab) AttachPodsOf(ctx context.Context, node string) error {
	for i := range podCount(node) {
		if _, err := l.AddPod(ctx, node, fmt.Sprintf("p%d", i+1)); err != nil {
			return err
		}
	}
	return nil
}
