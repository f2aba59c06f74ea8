package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/e2e/pods"
	"github.com/godwit-net/godwit/e2e/topology"
)

// How many pods each node gets: the third of n1 has 172.25.0.130, the fourth of
// n2 has 172.25.0.195.
func podCount(node string) int {
	switch node {
	case "n1":
		return 3
	case "n2":
		return 4
	}
	return 2
}

// WaitAgentsReady waits until every agent has written its CNI configuration,
// which it does when it can take pods.
func (l *Lab) WaitAgentsReady(ctx context.Context) error {
	for _, n := range l.Top.Nodes {
		if err := l.WaitAgentReady(ctx, n.Name); err != nil {
			return err
		}
	}
	return nil
}

// WaitAgentReady waits until the agent of a node can take pods.
func (l *Lab) WaitAgentReady(ctx context.Context, node string) error {
	return l.poll(ctx, time.Minute, "agent of "+node, func(ctx context.Context) error {
		rt := l.Runtime(node)
		list, err := rt.ConfList()
		if err != nil {
			return err
		}
		return rt.Status(ctx, list)
	})
}

// WaitEstablished waits until every session that should be is established.
func (l *Lab) WaitEstablished(ctx context.Context) error {
	return l.poll(ctx, time.Minute, "BGP sessions", l.CheckEstablished)
}

// CheckEstablished tells which sessions, as the nodes report them, are not
// established.
func (l *Lab) CheckEstablished(ctx context.Context) error {
	api, err := l.API()
	if err != nil {
		return err
	}
	var list v1alpha1.NodeNetworkList
	if err := api.List(ctx, &list); err != nil {
		return err
	}
	reported := map[string][]v1alpha1.SessionStatus{}
	for _, nn := range list.Items {
		reported[nn.Name] = nn.Status.Sessions
	}
	var missing []string
	for _, n := range l.Top.Nodes {
		for _, peer := range l.sessionsOf(n.Name) {
			i := slices.IndexFunc(reported[n.Name], func(s v1alpha1.SessionStatus) bool { return s.Name == peer })
			switch {
			case i < 0:
				missing = append(missing, n.Name+"–"+peer+": not reported")
			case reported[n.Name][i].State != "Established":
				s := reported[n.Name][i]
				missing = append(missing, strings.TrimSpace(n.Name+"–"+peer+": "+s.State+" "+s.Message))
			}
		}
	}
	if len(missing) > 0 {
		return errors.New(strings.Join(missing, "; "))
	}
	return nil
}

// WaitRestarted waits until the agent of a node that was started at a time
// takes pods and has every session established again. What was reported before
// does not count.
func (l *Lab) WaitRestarted(ctx context.Context, node string, started time.Time) error {
	if err := l.WaitAgentReady(ctx, node); err != nil {
		return err
	}
	return l.poll(ctx, time.Minute, "sessions of "+node+" after its restart", func(ctx context.Context) error {
		api, err := l.API()
		if err != nil {
			return err
		}
		var nn v1alpha1.NodeNetwork
		if err := api.Get(ctx, client.ObjectKey{Name: node}, &nn); err != nil {
			return err
		}
		fresh := 0
		for _, s := range nn.Status.Sessions {
			// Times in the API are whole seconds.
			if s.State == "Established" && s.Since != nil && !s.Since.Time.Before(started.Truncate(time.Second)) {
				fresh++
			}
		}
		if want := len(l.sessionsOf(node)); fresh != want {
			return fmt.Errorf("%d of %d sessions", fresh, want)
		}
		return nil
	})
}

// sessionsOf names the sessions that a node is to have.
func (l *Lab) sessionsOf(node string) []string {
	var names []string
	if l.Options.BGP == v1alpha1.TopologyMesh {
		for _, n := range l.Top.Nodes {
			if n.Name != node {
				names = append(names, n.Name)
			}
		}
	}
	if n, ok := l.Top.Node(node); !ok || !l.behindRouters(n) {
		return names
	}
	for _, f := range l.sessionFamilies() {
		for _, t := range l.Top.ToRs {
			names = append(names, l.sessionName(t.Name, f))
		}
	}
	return names
}

// WaitConverged waits until every node and router has a route to every block
// in the kernel, and every node one to every network of the hosts.
func (l *Lab) WaitConverged(ctx context.Context) error {
	return l.poll(ctx, time.Minute, "routes", l.checkConverged)
}

func (l *Lab) checkConverged(ctx context.Context) error {
	var missing []string
	for _, m := range l.speakers() {
		for _, f := range l.Options.Family.Each() {
			out, err := l.RunIn(ctx, m, "ip", f.Flag(), "route")
			if err != nil {
				return err
			}
			for _, want := range l.networksFor(m, f) {
				// "blackhole " comes before a node's own block, "\n" and the rest start a line.
				if !strings.Contains("\n"+out, "\n"+want+" ") && !strings.Contains(out, "blackhole "+want+" ") {
					missing = append(missing, m+" has no route to "+want)
				}
			}
		}
	}
	if len(missing) > 0 {
		return errors.New(strings.Join(missing, "; "))
	}
	return l.checkReported(ctx)
}

// checkReported tells whether the figures that people see have caught up with
// what is so, which takes them a moment.
func (l *Lab) checkReported(ctx context.Context) error {
	api, err := l.API()
	if err != nil {
		return err
	}
	var nodes v1alpha1.NodeNetworkList
	if err := api.List(ctx, &nodes); err != nil {
		return err
	}
	reported, want := 0, 0
	for _, p := range l.Pods() {
		want += len(p.Addresses)
	}
	for _, nn := range nodes.Items {
		reported += int(nn.Status.Summary.Pods)
		if got, want := int(nn.Status.Summary.Routes), l.learnedBy(nn.Name); got != want && l.Options.BGP == v1alpha1.TopologyMesh {
			return fmt.Errorf("%s reports %d routes of %d", nn.Name, got, want)
		}
		for _, s := range nn.Status.Sessions {
			if s.Accepted == 0 {
				return fmt.Errorf("%s reports no route from %s", nn.Name, s.Name)
			}
		}
	}
	if reported != want {
		return fmt.Errorf("the nodes report %d pod addresses of %d", reported, want)
	}
	var pools v1alpha1.IPPoolList
	if err := api.List(ctx, &pools); err != nil {
		return err
	}
	counted := 0
	for _, p := range pools.Items {
		counted += int(p.Status.Allocated)
	}
	if counted != want {
		return fmt.Errorf("the pools report %d addresses of %d", counted, want)
	}
	return nil
}

func (l *Lab) speakers() []string {
	var names []string
	for _, n := range l.Top.Nodes {
		names = append(names, n.Name)
	}
	for _, t := range l.Top.ToRs {
		names = append(names, t.Name)
	}
	return names
}

// networksFor lists what a machine's kernel must know in a family.
func (l *Lab) networksFor(machine string, f topology.Family) []string {
	var want []string
	node, isNode := l.Top.Node(machine)
	for _, n := range l.Top.Nodes {
		if isNode || l.behindRouters(n) {
			want = append(want, n.Block.Of(f).String())
		}
	}
	if isNode && l.behindRouters(node) {
		for _, h := range l.Top.Hosts {
			want = append(want, h.Address.Of(f).Masked().String())
		}
	}
	return want
}

// learnedBy counts the networks that a node learns: all but its own blocks.
func (l *Lab) learnedBy(node string) int {
	n := 0
	for _, f := range l.Options.Family.Each() {
		n += len(l.networksFor(node, f)) - 1
	}
	return n
}

// RunIn runs a command in the namespace of a machine or pod.
func (l *Lab) RunIn(ctx context.Context, machine string, argv ...string) (string, error) {
	return namespace.Run(ctx, l.Top.Namespace(machine), argv...)
}

// attachPods attaches each node's pods, one after the other so that their
// addresses are the same in every lab.
func (l *Lab) attachPods(ctx context.Context) error {
	for _, n := range l.Top.Nodes {
		if err := l.AttachPodsOf(ctx, n.Name); err != nil {
			return err
		}
	}
	return nil
}

// AddPod attaches a pod to a node and remembers it. The network namespace of
// n1's pod p1 is that of the machine n1-p1.
func (l *Lab) AddPod(ctx context.Context, node, name string) (pods.Pod, error) {
	return l.AddPodIn(ctx, "default", node, name)
}

// AddPodIn is AddPod for a namespace of Kubernetes.
func (l *Lab) AddPodIn(ctx context.Context, kubeNamespace, node, name string) (pods.Pod, error) {
	full := topology.PodName(node, name)
	p := pods.New(full, kubeNamespace, l.Top.Namespace(full))
	rt := l.Runtime(node)
	list, err := rt.ConfList()
	if err != nil {
		return p, err
	}
	if _, err := rt.Add(ctx, &p, list, nil); err != nil {
		return p, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pods = append(l.pods, p)
	return p, l.savePods()
}

// DelPod detaches a pod and forgets it.
func (l *Lab) DelPod(ctx context.Context, node, name string) error {
	full := topology.PodName(node, name)
	p := pods.New(full, "default", l.Top.Namespace(full))
	rt := l.Runtime(node)
	list, err := rt.ConfList()
	if err != nil {
		return err
	}
	if err := rt.Del(ctx, &p, list, nil); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pods = slices.DeleteFunc(l.pods, func(o pods.Pod) bool { return o.Name == full })
	return l.savePods()
}

// Pods lists the pods that are attached.
func (l *Lab) Pods() []pods.Pod {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.pods)
}

// Pod returns a pod by its full name, such as n1-p1.
func (l *Lab) Pod(full string) (pods.Pod, error) {
	for _, p := range l.Pods() {
		if p.Name == full {
			return p, nil
		}
	}
	return pods.Pod{}, fmt.Errorf("the lab has no pod %s", full)
}

func (l *Lab) podFile() string { return l.path("pods.json") }

// savePods writes down the pods; l.mu is held.
func (l *Lab) savePods() error {
	raw, err := json.Marshal(l.pods)
	if err != nil {
		return err
	}
	return os.WriteFile(l.podFile(), raw, 0o600)
}

func (l *Lab) loadPods() error {
	raw, err := os.ReadFile(l.podFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, &l.pods)
}

// Blocks lists the claimed blocks.
func (l *Lab) Blocks(ctx context.Context) ([]v1alpha1.IPBlock, error) {
	api, err := l.API()
	if err != nil {
		return nil, err
	}
	var list v1alpha1.IPBlockList
	if err := api.List(ctx, &list, &client.ListOptions{}); err != nil {
		return nil, err
	}
	return list.Items, nil
}

// Logs lists the lab's log files.
func (l *Lab) Logs() []string {
	files, _ := filepath.Glob(l.path("log", "*.log"))
	return files
}
