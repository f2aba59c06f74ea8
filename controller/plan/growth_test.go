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

// autoCluster is a cluster of n nodes in three zones, without any plan yet.
func autoCluster(n int) Input {
	in := Input{
		Config: &v1alpha1.BGPConfig{Spec: v1alpha1.BGPConfigSpec{Topology: v1alpha1.TopologyAuto}},
		Pools:  []v1alpha1.IPPool{{ObjectMeta: metav1.ObjectMeta{Name: "pods"}, Spec: v1alpha1.IPPoolSpec{CIDR: "172.16.0.0/12"}}},
	}
	return in.grown(n)
}

// grown returns the input with nodes more, each with a block, until there are n.
func (in Input) grown(n int) Input {
	in.Nodes, in.Blocks = slices.Clone(in.Nodes), slices.Clone(in.Blocks)
	for i := len(in.Nodes); i < n; i++ {
		node := corev1.Node{ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("n%05d", i), CreationTimestamp: metav1.Unix(int64(i), 0),
			Labels: map[string]string{corev1.LabelTopologyZone: fmt.Sprint("z", i%3)},
		}}
		node.Status.Addresses = []corev1.NodeAddress{internalIP(fmt.Sprintf("10.0.%d.%d", i/250, i%250+1))}
		in.Nodes = append(in.Nodes, node)
		in.Blocks = append(in.Blocks, ownBlock(node.Name, fmt.Sprintf("172.%d.%d.%d/26", 16+i>>10, i>>2&0xff, i&3<<6)))
	}
	return in
}

func (in Input) reflectors() int {
	n := 0
	for i := range in.Networks {
		if in.Networks[i].Spec.Reflector {
			n++
		}
	}
	return n
}

// What a node that joins or leaves changes is the same in a cluster of any size:
// its own plan, and those of its reflectors.
func TestAJoinChangesTheSameInAnyCluster(t *testing.T) {
	for _, size := range []int{150, 600, 1900} {
		in := settle(autoCluster(size))
		joined := in.grown(size + 1)
		if got := changed(joined); len(got) != 1+defaultRedundancy {
			t.Errorf("a node that joins %d others changes %d plans, want %d:\n%v", size, len(got), 1+defaultRedundancy, got)
		}
		joined = settle(joined)
		gone := joined.withoutNode(joined.Nodes[size].Name)
		gone.Blocks = gone.Blocks[:size]
		if got := changed(gone); len(got) != defaultRedundancy {
			t.Errorf("a node that leaves %d others changes %d plans, want %d:\n%v", size, len(got), defaultRedundancy, got)
		}
		last := in.Nodes[size-1].DeepCopy()
		last.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionFalse}}
		away := in
		away.Nodes = append(slices.Clone(in.Nodes[:size-1]), *last)
		if got := changed(away); len(got) != 0 {
			t.Errorf("a client that is not ready changes %d of %d plans:\n%v", len(got), size, got)
		}
	}
}

// A cluster that grows fast gets its reflectors many at a time, spread over zones,
// and keeps those that it had.
func TestReflectorsGrowTogether(t *testing.T) {
	in := settle(autoCluster(120))
	if got := in.reflectors(); got != 4 {
		t.Fatalf("%d reflectors, want 4", got)
	}
	had := map[string]bool{}
	for i := range in.Networks {
		had[in.Networks[i].Name] = in.Networks[i].Spec.Reflector
	}
	in = in.grown(1000)
	rounds := 0
	for ; rounds < 40; rounds++ {
		if in = carryOut(in); len(changed(in)) == 0 {
			break
		}
	}
	t.Logf("%d rounds", rounds)
	if got := in.reflectors(); got != 30 || rounds > 15 {
		t.Errorf("%d reflectors after %d rounds, want 30 after at most 15", got, rounds)
	}
	zones := map[string]int{}
	for i := range in.Networks {
		if in.Networks[i].Spec.Reflector {
			zones[in.Nodes[i].Labels[corev1.LabelTopologyZone]]++
		} else if had[in.Networks[i].Name] {
			t.Errorf("%s is no reflector any more", in.Networks[i].Name)
		}
	}
	for zone, n := range zones {
		if n < 9 || n > 11 {
			t.Errorf("zone %s has %d of 30 reflectors", zone, n)
		}
	}
}

// More reflectors change the plans of reflectors, and of the nodes that become some:
// the others keep theirs.
func TestMoreReflectorsChangeFewPlans(t *testing.T) {
	in := settle(autoCluster(300)).grown(301)
	before := in.reflectors()
	others := 0
	for range 20 {
		lines := changed(in)
		if len(lines) == 0 {
			break
		}
		reflectors := map[string]bool{}
		for i := range in.Networks {
			reflectors[in.Networks[i].Name] = in.Networks[i].Spec.Reflector
		}
		for _, line := range lines {
			if name, _, _ := strings.Cut(line, ":"); !reflectors[name] {
				t.Log(line)
				others++
			}
		}
		in = carryOut(in)
	}
	if got := in.reflectors(); before != 9 || got != 12 {
		t.Fatalf("%d reflectors, then %d, want 9 and 12", before, got)
	}
	// The new node's, and those of the new reflectors twice.
	if others > 1+2*3 {
		t.Errorf("%d plans of others were changed, want at most 7", others)
	}
}

// BenchmarkMakeOfThousands is a pass over a cluster with reflectors in which
// nothing changes.
func BenchmarkMakeOfThousands(b *testing.B) {
	benchmarkMake(b, carryOut(autoCluster(5000)))
}
