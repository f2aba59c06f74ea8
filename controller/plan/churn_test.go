package plan

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// churn is a cluster of three zones whose reflectors are looked at.
type churn struct {
	*sim
	t *testing.T
}

func (c *churn) join(i int) string {
	name := fmt.Sprintf("n%03d", i)
	c.addNode(name, fmt.Sprintf("10.0.%d.%d", i/250, i%250+1))
	c.label(name, corev1.LabelTopologyZone, string("abc"[i%3]))
	c.agents[name].blocks = []v1alpha1.BlockStatus{{CIDR: fmt.Sprintf("172.%d.%d.0/26", 16+i/250, i%250), Pool: "pods"}}
	return name
}

// generations are those of all plans.
func (c *churn) generations() map[string]int64 {
	out := map[string]int64{}
	for name, n := range c.networks {
		out[name] = n.now().Generation
	}
	return out
}

func (c *churn) reflectors() []string {
	var out []string
	for name, n := range c.networks {
		if n.now().Spec.Reflector {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// stays does something and wants the same reflectors after it, and no plan written
// but those that touch says.
func (c *churn) stays(what string, touch func(name string) bool, do func()) {
	c.t.Helper()
	reflectors, before := c.reflectors(), c.generations()
	do()
	c.settle()
	if now := c.reflectors(); !slices.Equal(now, reflectors) {
		c.t.Errorf("%s: the reflectors are %v and were %v", what, now, reflectors)
	}
	for _, name := range slices.Sorted(maps.Keys(c.generations())) {
		if g, had := c.generations()[name], before[name]; g != had && !touch(name) && !slices.Contains(reflectors, name) {
			c.t.Errorf("%s: the plan of %s was written %d times", what, name, g-had)
		}
	}
}

// Reflectors don't change without need: not by nodes that join or leave, by what
// becomes of clients, or by a zone that got more nodes. Only the plans of the node
// itself and of reflectors are written. When a reflector's node fails another takes
// its part, and goes on with it when the first is back.
func TestReflectorsChangeOnlyByNeed(t *testing.T) {
	c := &churn{newSim(t), t}
	c.pool("pods").Spec.CIDR = "172.16.0.0/12"
	c.setTopology(v1alpha1.TopologyAuto)
	c.setReflectors(3, 5, false)
	for i := range 9 {
		c.setReady(c.join(i), corev1.ConditionTrue)
	}
	c.settle()
	reflectors := c.reflectors()
	if zones := c.zones(reflectors); len(reflectors) != 3 || len(zones) != 3 {
		t.Fatalf("the reflectors %v are of the zones %v, want 3 of 3", reflectors, zones)
	}
	nobody := func(string) bool { return false }
	for i := 9; i < 40; i++ {
		name := fmt.Sprintf("n%03d", i)
		c.stays(name+" joins", func(n string) bool { return n == name }, func() { c.setReady(c.join(i), corev1.ConditionTrue) })
	}
	var clients []string
	for _, n := range c.in.Nodes {
		if !slices.Contains(reflectors, n.Name) {
			clients = append(clients, n.Name)
		}
	}
	c.stays("a client fails", nobody, func() { c.setReady(clients[0], corev1.ConditionUnknown) })
	c.stays("it is back", nobody, func() { c.setReady(clients[0], corev1.ConditionTrue) })
	c.stays("a client moves to another rack", nobody, func() { c.label(clients[1], rackLabel, "7") })
	for _, name := range clients[10:20] {
		c.stays(name+" leaves", nobody, func() { c.removeNode(name) })
	}

	c.setReady(reflectors[0], corev1.ConditionFalse)
	c.settle()
	c.settle()
	now := c.reflectors()
	if slices.Contains(now, reflectors[0]) || !slices.Contains(now, reflectors[1]) || !slices.Contains(now, reflectors[2]) || len(c.zones(now)) != 3 {
		t.Errorf("after the loss of %s the reflectors are %v of %v, and were %v", reflectors[0], now, c.zones(now), reflectors)
	}
	c.stays("the reflector that failed is back", func(name string) bool { return name == reflectors[0] }, func() { c.setReady(reflectors[0], corev1.ConditionTrue) })
}

func (c *churn) zones(names []string) map[string]bool {
	out := map[string]bool{}
	for _, name := range names {
		out[c.node(name).Labels[corev1.LabelTopologyZone]] = true
	}
	return out
}
