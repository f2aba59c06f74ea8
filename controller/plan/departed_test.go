package plan

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// settledCluster is a cluster of n nodes, each with a block, whose agents have
// carried out and reported everything. Odd nodes have rack a and a session with
// its router, as the plan says.
func settledCluster(n int, topology v1alpha1.Topology) Input {
	in := Input{
		Config: &v1alpha1.BGPConfig{Spec: v1alpha1.BGPConfigSpec{Topology: topology, RouteReflectors: &v1alpha1.RouteReflectors{Redundancy: new(int32(2)), MeshLimit: new(int32(3))}}},
		Pools:  []v1alpha1.IPPool{{ObjectMeta: metav1.ObjectMeta{Name: "pods"}, Spec: v1alpha1.IPPoolSpec{CIDR: "172.25.0.0/16", NodeSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"pods": "yes"}}}}},
		Peers: []v1alpha1.BGPPeer{{ObjectMeta: metav1.ObjectMeta{Name: "tor-a"}, Spec: v1alpha1.BGPPeerSpec{
			PeerAddress: "10.0.9.1", PeerASN: 65001, NodeSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"rack": "a"}},
		}}},
	}
	for i := range n {
		node := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", i+1), Labels: map[string]string{"pods": "yes"}}}
		if i%2 == 0 {
			node.Labels["rack"] = "a"
		}
		node.Status.Addresses = []corev1.NodeAddress{internalIP(fmt.Sprintf("10.0.0.%d", i+1))}
		in.Nodes = append(in.Nodes, node)
		in.Blocks = append(in.Blocks, ownBlock(node.Name, fmt.Sprintf("172.25.%d.0/26", i+1)))
	}
	return settle(in)
}

func ownBlock(node, cidr string) v1alpha1.IPBlock {
	return v1alpha1.IPBlock{Spec: v1alpha1.IPBlockSpec{CIDR: cidr, Pool: "pods", NodeName: node}}
}

// settle lets all plans be written and carried out, until they stay.
func settle(in Input) Input {
	for range 20 {
		in = carryOut(in)
		if len(changed(in)) == 0 {
			break
		}
	}
	return in
}

// carryOut lets all plans as they are now be written and carried out.
func carryOut(in Input) Input {
	p := Make(in)
	in.Networks = nil
	for _, name := range p.Nodes() {
		spec, _ := p.Spec(name)
		nn := v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: name, Generation: 1}, Spec: spec}
		nn.Status.ObservedGeneration, nn.Status.BlocksFromAPI = 1, spec.BlocksFromAPI
		for _, s := range spec.Sessions {
			nn.Status.Sessions = append(nn.Status.Sessions, v1alpha1.SessionStatus{
				Name: s.Name, Kind: s.Kind, PeerAddress: s.PeerAddress, State: established, Accepted: 100,
			})
		}
		in.Networks = append(in.Networks, nn)
	}
	return in
}

// without returns the input without the Node of a name.
func (in Input) withoutNode(name string) Input {
	in.Nodes = slices.DeleteFunc(slices.Clone(in.Nodes), func(n corev1.Node) bool { return n.Name == name })
	return in
}

// changed says which plans are others now than they are in the API, and how.
func changed(in Input) (lines []string) {
	p := Make(in)
	old := map[string]v1alpha1.NodeNetworkSpec{}
	for _, nn := range in.Networks {
		old[nn.Name] = nn.Spec
	}
	for _, name := range p.Nodes() {
		spec, _ := p.Spec(name)
		was := old[name]
		if reflect.DeepEqual(spec, was) {
			continue
		}
		var departed []string
		for _, s := range spec.Sessions {
			if s.Departed {
				departed = append(departed, s.Name)
			}
		}
		line := fmt.Sprintf("%s: %d sessions, %d before, with departed [%s], asked [%s]",
			name, len(spec.Sessions), len(was.Sessions), strings.Join(departed, " "), strings.Join(spec.DepartedBlocks, " "))
		lines = append(lines, line)
	}
	return lines
}

// The sessions with a node whose Node is gone stay while it has blocks, its own
// plan stays as it is, and those are asked who would hear of the blocks.
func TestDeparted(t *testing.T) {
	for _, tt := range []struct {
		name     string
		topology v1alpha1.Topology
		nodes    int
		gone     string
		want     []string
	}{
		{"mesh", v1alpha1.TopologyMesh, 3, "n1", []string{
			"n2: 2 sessions, 2 before, with departed [n1], asked [172.25.1.0/26]",
			"n3: 3 sessions, 3 before, with departed [n1], asked [172.25.1.0/26]",
		}},
		// n1 and n10 are the reflectors; n1 also speaks with the router.
		{"a client of reflectors", v1alpha1.TopologyAuto, 12, "n7", []string{
			"n1: 12 sessions, 12 before, with departed [n7], asked [172.25.7.0/26]",
			"n10: 11 sessions, 11 before, with departed [n7], asked [172.25.7.0/26]",
		}},
		{"blocks from the API, a router", v1alpha1.TopologyNone, 4, "n2", []string{
			"n1: 1 sessions, 1 before, with departed [], asked [172.25.2.0/26]",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := settledCluster(tt.nodes, tt.topology)
			if diff := changed(in); diff != nil {
				t.Fatalf("not settled: %q", diff)
			}
			gone := in.withoutNode(tt.gone)
			if diff := cmp.Diff(tt.want, changed(gone)); diff != "" {
				t.Errorf("plans that change when %s is gone (- want, + got):\n%s", tt.gone, diff)
			}
			// It is back: everything is as it was.
			gone = settle(gone)
			back := gone
			back.Nodes = in.Nodes
			back = settle(back)
			for i := range in.Networks {
				if diff := cmp.Diff(in.Networks[i].Spec, back.Networks[i].Spec); diff != "" {
					t.Errorf("plan of %s after %s is back (- before, + after):\n%s", in.Networks[i].Name, tt.gone, diff)
				}
			}
			// Its blocks are freed: the plans know nothing of it any more.
			gone.Blocks = slices.DeleteFunc(slices.Clone(gone.Blocks), func(b v1alpha1.IPBlock) bool { return b.Spec.NodeName == tt.gone })
			p := Make(gone)
			for _, name := range p.Nodes() {
				spec, _ := p.Spec(name)
				if name == tt.gone || spec.DepartedBlocks != nil || slices.ContainsFunc(spec.Sessions, func(s v1alpha1.PlannedSession) bool { return s.Name == tt.gone }) {
					t.Errorf("plan of %s after the blocks were freed: %+v", name, spec)
				}
			}
		})
	}
}

// An address that another node has is not that of a node whose Node is gone, and
// where only departed nodes and unready ones are, one that is there is asked.
func TestDepartedYieldsItsAddress(t *testing.T) {
	in := settledCluster(2, v1alpha1.TopologyMesh).withoutNode("n1")
	in.Nodes = append(in.Nodes, corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n9", CreationTimestamp: metav1.Now()},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{internalIP("10.0.0.1")}},
	})
	p := Make(in)
	if diff := cmp.Diff([]string{"n2", "n9"}, p.Nodes()); diff != "" || len(p.Problems) > 0 || !p.Departed("n1") {
		t.Errorf("nodes (- want, + got):\n%s\nproblems %v, departed %t", diff, p.Problems, p.Departed("n1"))
	}
}

func TestHear(t *testing.T) {
	blocks := []string{"172.25.1.0/26", "172.25.1.64/26"}
	answer := func(name string, announced ...bool) v1alpha1.NodeNetwork {
		nn := v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: name, Generation: 3}}
		nn.Status.ObservedGeneration = 2
		for i, a := range announced {
			nn.Status.DepartedBlocks = append(nn.Status.DepartedBlocks, v1alpha1.DepartedBlock{CIDR: blocks[i], Announced: a})
		}
		return nn
	}
	nodes := map[string]*corev1.Node{"n2": {}, "n3": {}, "unready": {}}
	nodes["unready"].Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}}
	for _, tt := range []struct {
		name     string
		networks []v1alpha1.NodeNetwork
		want     Heard
	}{
		{"nobody was asked", nil, Heard{}},
		{"one hears nothing, one does not answer", []v1alpha1.NodeNetwork{answer("n2", false, false), answer("n3")}, Heard{Answers: 1}},
		{"one knows of half of the blocks", []v1alpha1.NodeNetwork{answer("n2", false)}, Heard{}},
		{
			"one of two hears a block",
			[]v1alpha1.NodeNetwork{answer("n2", false, false), answer("n3", false, true)},
			Heard{Answers: 2, Announced: blocks[1:], By: []string{"n3"}},
		},
		{
			"a block that is heard counts even of half an answer",
			[]v1alpha1.NodeNetwork{answer("n2", true)},
			Heard{Announced: blocks[:1], By: []string{"n2"}},
		},
		{"an unready node's word is old", []v1alpha1.NodeNetwork{answer("n2", false, false), answer("unready", true, true)}, Heard{Answers: 1}},
		{"and so is that of a node that is gone", []v1alpha1.NodeNetwork{answer("gone", false, false)}, Heard{}},
	} {
		if diff := cmp.Diff(tt.want, Hear(blocks, nodes, tt.networks)); diff != "" {
			t.Errorf("%s (- want, + got):\n%s", tt.name, diff)
		}
	}
}
