package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// reflectorNodes makes nodes, "count" in each of the racks given as zone/rack, the
// first being the oldest. Those of the names in acted were reflectors so far.
func reflectorNodes(count int, racks []string, acted ...string) []*node {
	var nodes []*node
	for i := range count {
		for j, at := range racks {
			zone, rack, _ := strings.Cut(at, "/")
			name := fmt.Sprintf("%s%s%d", zone, rack, i)
			a, _ := parseAddr(fmt.Sprintf("10.%d.%d.%d", j, i/250, i%250+1))
			n := &node{name: name, addrs: nil, labels: map[string]string{corev1.LabelTopologyZone: zone, rackLabel: rack}}
			n.addrs = append(n.addrs, a)
			n.created = metav1.Unix(int64(len(nodes)), 0)
			n.counts, n.ready = true, true
			n.acted = slices.Contains(acted, name)
			nodes = append(nodes, n)
		}
	}
	return nodes
}

func namesOf(nodes []*node) string {
	var names []string
	for _, n := range nodes {
		names = append(names, n.name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func TestReflectorsAreSpreadAndStay(t *testing.T) {
	racks := []string{"a/1", "a/2", "b/1", "c/1"}
	for _, tt := range []struct {
		name  string
		nodes []*node
		want  int
		got   string
	}{
		{"a zone each, the oldest of each", reflectorNodes(3, racks), 3, "a10 b10 c10"},
		{"then the rack that has none", reflectorNodes(3, racks), 4, "a10 a20 b10 c10"},
		{"those that are reflectors stay, though badly spread", reflectorNodes(3, racks, "a11", "a12"), 3, "a11 a12 b10"},
		{"more than asked stay", reflectorNodes(3, racks, "a11", "a12", "b11", "c12"), 2, "a11 a12 b11 c12"},
		{"but not without bound", reflectorNodes(3, racks, "a11", "a12", "b11", "c12"), 1, "a11 b11"},
		{"fewer nodes than asked", reflectorNodes(1, racks[:2]), 3, "a10 a20"},
	} {
		slices.SortStableFunc(tt.nodes, func(a, b *node) int { return boolCompare(b.acted, a.acted) })
		if got := namesOf(spread(tt.nodes, tt.want)); got != tt.got {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.got)
		}
	}
}

func TestAutoHasMoreReflectorsInALargerCluster(t *testing.T) {
	for nodes, want := range map[int]int{101: 4, 133: 4, 134: 5, 1000: 30, 1001: 38, 5000: 185} {
		p := &Plan{nodes: make([]*node, nodes)}
		if got := p.reflectorsWanted(); got != want {
			t.Errorf("%d nodes have %d reflectors, want %d", nodes, got, want)
		}
	}
}

// Each node has the reflectors that it is to have: one of its own zone, the others
// of other zones. All have about as many clients. Nodes keep them when there are
// more, and what joins then gets the new ones.
func TestNodesChooseReflectors(t *testing.T) {
	nodes := reflectorNodes(250, []string{"a/1", "b/1", "c/1", "d/1"})
	reflectors, clients, later := nodes[:12], nodes[16:700], nodes[700:]
	p := &Plan{}
	chosen := func(nodes []*node) (load map[string]int) {
		t.Helper()
		load = map[string]int{}
		for _, n := range nodes {
			in := map[string]int{}
			for _, r := range n.servers {
				in[r.zone()]++
				load[r.name]++
			}
			if len(n.servers) != defaultRedundancy || len(in) != defaultRedundancy || in[n.zone()] != 1 {
				t.Fatalf("%s chooses %s", n.name, namesOf(n.servers))
			}
		}
		return load
	}
	p.assign(clients, reflectors)
	mean := len(clients) * defaultRedundancy / len(reflectors)
	for name, got := range chosen(clients) {
		if got < mean*3/4 || got > mean*5/4 {
			t.Errorf("%s has %d clients, the mean is %d", name, got, mean)
		}
	}
	had := map[*node]string{}
	for _, n := range clients {
		had[n] = namesOf(n.servers)
		n.before = &v1alpha1.NodeNetworkSpec{}
		for _, r := range n.servers {
			n.before.Sessions = append(n.before.Sessions, v1alpha1.PlannedSession{Name: r.name, Kind: v1alpha1.SessionNode, Reflection: v1alpha1.ReflectionServer})
		}
	}
	p.assign(nodes[16:], nodes[:16])
	for _, n := range clients {
		if now := namesOf(n.servers); now != had[n] {
			t.Fatalf("%s had %s and has %s", n.name, had[n], now)
		}
	}
	load := chosen(nodes[16:])
	mean = len(nodes[16:]) * defaultRedundancy / 16
	for name, got := range load {
		if got < mean*3/4 || got > mean*5/4 {
			t.Errorf("then %s has %d clients, the mean is %d", name, got, mean)
		}
	}
	if got := chosen(later); got[nodes[12].name] < mean*3/4 {
		t.Errorf("a new reflector has %d of the new nodes", got[nodes[12].name])
	}
	// With far too many clients, reflectors give some of them to others.
	p.assign(clients, nodes[:24])
	limit := (3*len(clients)*defaultRedundancy/24 + 1) / 2
	for name, got := range chosen(clients) {
		if got > limit+1 {
			t.Errorf("with twice as many reflectors %s has %d clients, want at most %d", name, got, limit)
		}
	}
}

// A node is not told of a family that its reflector has no address of, as long as
// there is another.
func TestReflectorsOfAllFamiliesGoFirst(t *testing.T) {
	six, _ := parseAddr("fd00::1")
	nodes := reflectorNodes(8, []string{"a/1"})
	nodes[0].addrs = append(nodes[0].addrs, six.Next())
	nodes[4].addrs = append(nodes[4].addrs, six.Next().Next())
	p := &Plan{config: v1alpha1.BGPConfigSpec{RouteReflectors: &v1alpha1.RouteReflectors{Redundancy: new(int32(2))}}}
	n := nodes[7]
	n.addrs = append(n.addrs, six)
	if got := namesOf(p.choose(n, nodes[:6], nil, nil, 10)); got != "a10 a14" {
		t.Errorf("the reflectors are %s", got)
	}
}
