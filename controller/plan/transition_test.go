package plan

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// The encapsulations of a pool of each family.
func encapsulations() map[string][]v1alpha1.Encapsulation {
	return map[string][]v1alpha1.Encapsulation{
		"four": {"None", "IPIP", "IPIPCrossSubnet", "VXLAN", "VXLANCrossSubnet"},
		"six":  {"None", "VXLAN", "VXLANCrossSubnet"},
	}
}

// Whatever a person changes, in whatever order agents take plans and report,
// with plans written in part and by a planner that sees old versions: a node
// that counts all the time never sends to another such node by a tunnel that is
// not there, and never is without a route to its blocks. When all has been
// reported, everything is as wanted.
func TestTransitionsTakeNothingAway(t *testing.T) {
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 3))
		s := newSim(t)
		steady := []string{"n1", "n2", "n3", "n4"}
		s.addNode("n1", "10.0.0.1", "fd00::1")
		s.addNode("n2", "10.0.0.2", "fd00::2")
		s.addNode("n3", "10.0.0.3", "fd00::3")
		s.addNode("n4", "10.0.0.4")
		for i, name := range steady {
			s.agents[name].blocks = []v1alpha1.BlockStatus{{CIDR: fmt.Sprintf("172.25.%d.0/26", i), Pool: "four"}}
		}
		s.pool("four").Spec.CIDR = "172.25.0.0/16"
		s.pool("six").Spec.CIDR = "fd00:25::/48"
		s.wish(r)
		s.settle()
		s.flies = func() bool { return r.IntN(3) == 0 }
		var story []string
		for range 800 {
			story = append(story, s.random(r, steady))
			if fault := s.fault(steady); fault != "" {
				t.Fatalf("seed %d: %s\n  %s\nafter:\n  %s", seed, fault, strings.Join(s.scene(), "\n  "), strings.Join(story[max(0, len(story)-160):], "\n  "))
			}
		}
		for _, n := range s.in.Nodes {
			s.setReady(n.Name, corev1.ConditionTrue)
			clear(s.agents[n.Name].fails)
		}
		p := s.settle()
		if p.Waiting || p.TopologyWaits != "" {
			t.Fatalf("seed %d: still waiting (%s) after:\n  %s", seed, strings.Join(s.show(p), "; "), strings.Join(story[max(0, len(story)-160):], "\n  "))
		}
		s.wantReached(p, seed)
	}
}

// wish changes what is configured.
func (s *sim) wish(r *rand.Rand) string {
	s.setTopology([]v1alpha1.Topology{"Mesh", "None", "RouteReflectors", "Auto"}[r.IntN(4)])
	s.setReflectors(1+r.Int32N(3), 1+r.Int32N(5), s.in.Config.Spec.Topology == v1alpha1.TopologyRouteReflectors || r.IntN(2) == 0)
	text := fmt.Sprintf("topology %s, redundancy %d, mesh limit %d, labelled %t", s.in.Config.Spec.Topology, *s.in.Config.Spec.RouteReflectors.Redundancy,
		*s.in.Config.Spec.RouteReflectors.MeshLimit, s.in.Config.Spec.RouteReflectors.NodeSelector != nil)
	for _, name := range []string{"four", "six"} {
		if choices := encapsulations()[name]; r.IntN(2) == 0 {
			s.pool(name).Spec.Encapsulation = choices[r.IntN(len(choices))]
			text += ", pool " + name + " " + string(s.pool(name).Spec.Encapsulation)
		}
	}
	return text
}

// random does something that may happen to a cluster and says what. Nodes other
// than the steady ones come, go and fail.
func (s *sim) random(r *rand.Rand, steady []string) string {
	node := s.in.Nodes[r.IntN(len(s.in.Nodes))].Name
	other := s.in.Nodes[r.IntN(len(s.in.Nodes))].Name
	isSteady := slices.Contains(steady, node)
	switch n := r.IntN(44); {
	case n == 0:
		return s.wish(r)
	case n == 1:
		kind := []v1alpha1.TunnelKind{v1alpha1.TunnelIPIP, v1alpha1.TunnelVXLAN}[r.IntN(2)]
		s.agents[node].fails[kind] = []string{"Failed", "no"}
		return fmt.Sprintf("%s can't make %s", node, kind)
	case n == 2:
		clear(s.agents[node].fails)
		return node + " can make tunnels"
	case n == 3 && s.agents["x"] == nil:
		s.addNode("x", "10.0.0.9", "fd00::9")
		return "x joins"
	case n == 4 && !isSteady:
		s.removeNode(node)
		return node + " leaves"
	case n == 5 && !isSteady:
		s.setReady(node, []corev1.ConditionStatus{corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionUnknown}[r.IntN(3)])
		return node + " changes readiness"
	case n == 6 && !isSteady:
		s.node(node).DeletionTimestamp = new(metav1.Unix(1e9, 0))
		return node + " is being deleted"
	case n == 7:
		for _, n := range s.in.Nodes {
			s.report(n.Name)
			s.see(n.Name)
		}
		return "all report"
	case n == 8 || n == 9:
		value := []string{"", "yes"}[r.IntN(2)]
		s.label(node, "rr", value)
		return fmt.Sprintf("%s gets the label rr=%s", node, value)
	case n < 14:
		s.take(node)
		return node + " takes its plan"
	case n < 22:
		s.report(node)
		return node + " reports"
	case n < 26:
		s.connect(node, other)
		return node + " and " + other + " connect"
	case n < 32:
		if nn := s.networks[node]; nn != nil {
			nn.seen += r.IntN(len(nn.versions) - nn.seen)
		}
		return "the planner learns of " + node
	case n < 34:
		s.networks[node].land()
		return "what was written of " + node + " is there"
	case n < 36:
		s.networks[node].answer()
		return "the write of " + node + " is answered"
	}
	var written []string
	s.pass(func(name string) bool {
		if r.IntN(3) == 0 {
			return false
		}
		written = append(written, name)
		return true
	})
	return fmt.Sprintf("a pass writes %v", written)
}

// settle lets everybody do all that there is to do.
func (s *sim) settle() *Plan {
	s.flies = nil
	for range 20 {
		for name, n := range s.networks {
			n.land()
			n.answer()
			s.see(name)
		}
		p, wrote := s.pass(func(string) bool { return true })
		for i := range s.in.Nodes {
			s.take(s.in.Nodes[i].Name)
		}
		for i := range s.in.Nodes {
			for j := range i {
				s.connect(s.in.Nodes[i].Name, s.in.Nodes[j].Name)
			}
		}
		reported := false
		for name, n := range s.networks {
			s.report(name)
			reported = reported || n.seen != len(n.versions)-1
		}
		if !wrote && !reported {
			return p
		}
	}
	s.t.Fatal("the plan changes for ever")
	return nil
}

// fault says which packets between the nodes would be lost; empty: none.
func (s *sim) fault(nodes []string) string {
	all := s.knowledge()
	for _, from := range nodes {
		a := s.agents[from]
		for _, to := range nodes {
			if from == to {
				continue
			}
			b := s.agents[to]
			for _, block := range b.blocks {
				if _, knows := all[from][block.CIDR]; !knows && !a.spec.BlocksFromAPI {
					return fmt.Sprintf("%s has no route to block %s of %s", from, block.CIDR, to)
				}
			}
			for _, pl := range a.spec.Pools {
				six := pl.Name == "six"
				if six && (len(a.spec.Addresses) < 2 || len(b.spec.Addresses) < 2) || pl.Encapsulation.Tunnel() == "" {
					continue
				}
				if device := pl.Encapsulation.Tunnel().Interface(six); !slices.Contains(b.devices, device) {
					return fmt.Sprintf("%s sends pool %s by %s to %s, which has %v", from, pl.Name, pl.Encapsulation, to, b.devices)
				}
			}
		}
	}
	return ""
}

// wantReached checks that a plan is what is configured and no more.
func (s *sim) wantReached(p *Plan, seed uint64) {
	s.t.Helper()
	none := s.in.Config.Spec.Topology == v1alpha1.TopologyNone
	for _, name := range p.Nodes() {
		spec, _ := p.Spec(name)
		tunnels := map[v1alpha1.TunnelKind]bool{}
		for _, pl := range spec.Pools {
			if want := (&pool{obj: s.pool(pl.Name)}).wanted(); pl.Encapsulation != want {
				s.t.Errorf("seed %d: %s has pool %s with %s, want %s", seed, name, pl.Name, pl.Encapsulation, want)
			}
			if k := pl.Encapsulation.Tunnel(); k != "" {
				tunnels[k] = true
			}
		}
		if len(spec.Tunnels) != len(tunnels) {
			s.t.Errorf("seed %d: %s has the tunnels %v, want %v", seed, name, spec.Tunnels, tunnels)
		}
		if p.ReflectorsLack != "" {
			continue // it stays as it was
		}
		if talks := len(spec.Sessions) > 0; talks == none || spec.BlocksFromAPI != none {
			s.t.Errorf("seed %d: topology None %t, but %s has %d sessions, blocks from the API %t", seed, none, name, len(spec.Sessions), spec.BlocksFromAPI)
		}
		s.wantReflected(p, name, &spec, seed)
	}
}

// wantReflected checks that a node has sessions with as many reflectors as asked,
// or is one of those that are asked for.
func (s *sim) wantReflected(p *Plan, name string, spec *v1alpha1.NodeNetworkSpec, seed uint64) {
	s.t.Helper()
	rr := s.in.Config.Spec.RouteReflectors
	selected := 0
	for _, n := range s.in.Nodes {
		if n.DeletionTimestamp == nil && (rr.NodeSelector == nil || n.Labels["rr"] != "") {
			selected++
		}
	}
	reflectors, servers, sessions := 0, 0, 0
	for _, other := range p.Nodes() {
		if spec, _ := p.Spec(other); spec.Reflector {
			reflectors++
		}
	}
	for _, session := range spec.Sessions {
		sessions++
		if session.Reflection == v1alpha1.ReflectionServer {
			servers++
		}
	}
	nodes := len(p.Nodes())
	switch s.in.Config.Spec.Topology {
	case v1alpha1.TopologyRouteReflectors:
		if selected > 0 && reflectors != selected {
			s.t.Errorf("seed %d: %d reflectors, want %d", seed, reflectors, selected)
		}
	case v1alpha1.TopologyAuto:
		if nodes <= int(*rr.MeshLimit)*4/5 && reflectors > 0 {
			s.t.Errorf("seed %d: %d reflectors for %d nodes with the mesh limit %d", seed, reflectors, nodes, *rr.MeshLimit)
		}
		if nodes > int(*rr.MeshLimit) && selected > 0 && reflectors == 0 {
			s.t.Errorf("seed %d: no reflectors for %d nodes with the mesh limit %d", seed, nodes, *rr.MeshLimit)
		}
	default:
		if reflectors > 0 {
			s.t.Errorf("seed %d: %d reflectors with topology %s", seed, reflectors, s.in.Config.Spec.Topology)
		}
	}
	if reflectors == 0 {
		return
	}
	want := min(reflectors, int(*rr.Redundancy))
	if spec.Reflector {
		want = reflectors - 1
	}
	if servers != want {
		s.t.Errorf("seed %d: %s has %d reflectors of %d, want %d", seed, name, servers, reflectors, want)
	}
	if !spec.Reflector && sessions != servers {
		s.t.Errorf("seed %d: %s has %d sessions with nodes and only %d reflectors", seed, name, sessions, servers)
	}
}

// scene shows what agents do and what the API has, for a person who looks for a fault.
func (s *sim) scene() []string {
	var lines []string
	for _, n := range s.in.Nodes {
		lines = append(lines, n.Name+" does "+describe(&s.agents[n.Name].spec, len(s.in.Nodes)-1))
		if nn := s.networks[n.Name]; nn != nil {
			lines = append(lines, n.Name+" is to "+describe(&nn.now().Spec, len(s.in.Nodes)-1))
		}
	}
	for ends := range s.up {
		lines = append(lines, "up: "+ends[0]+" "+ends[1])
	}
	slices.Sort(lines)
	return lines
}
