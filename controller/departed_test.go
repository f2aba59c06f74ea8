package controller

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

const resources = "/apis/godwit.dev/v1alpha1/"

// threeNodes makes a mesh of nodes with a block each, n1 with two, and waits for
// their plans.
func threeNodes(a api) {
	a.t.Helper()
	a.create(node("n1", "10.0.0.1", nil), node("n2", "10.0.0.2", nil), node("n3", "10.0.0.3", nil), pool("pods", "172.25.0.0/16"))
	a.create(block("172.25.0.0/26", "pods", "n1"), block("172.25.0.64/26", "pods", "n1"),
		block("172.25.1.0/26", "pods", "n2"), block("172.25.2.0/26", "pods", "n3"))
	a.hasSessions("n1", "n2", "n3")
	for _, name := range []string{"n2", "n3"} {
		a.planOf(name, "n1's blocks", func(s v1alpha1.NodeNetworkSpec) bool {
			return len(s.Sessions) == 2 && len(s.Sessions[0].Blocks) == 2
		})
	}
	a.planOf("n1", "the others' blocks", func(s v1alpha1.NodeNetworkSpec) bool {
		return len(s.Sessions[0].Blocks) == 1 && len(s.Sessions[1].Blocks) == 1
	})
	a.poolIs("pods", "True Ready: 3 of 3 nodes take blocks of the pool")
	a.poolHas("pods", "4/1024", 0)
}

// departs deletes n1's Node and waits until the other nodes are asked about its
// blocks and keep their sessions with it.
func departs(a api) {
	a.t.Helper()
	a.remove(node("n1", "", nil))
	for _, name := range []string{"n2", "n3"} {
		a.planOf(name, "the session with n1, and the question", func(s v1alpha1.NodeNetworkSpec) bool {
			return len(s.Sessions) == 2 && s.Sessions[0].Departed && !s.Sessions[1].Departed &&
				slices.Equal(s.DepartedBlocks, []string{"172.25.0.0/26", "172.25.0.64/26"})
		})
	}
}

// hear lets a node report which of n1's blocks it hears of.
func hear(a api, name string, announced ...string) {
	a.t.Helper()
	report(a, name, func(s *v1alpha1.NodeNetworkStatus) {
		s.ObservedGeneration = 1
		s.DepartedBlocks = nil
		for _, cidr := range []string{"172.25.0.0/26", "172.25.0.64/26"} {
			s.DepartedBlocks = append(s.DepartedBlocks, v1alpha1.DepartedBlock{CIDR: cidr, Announced: slices.Contains(announced, cidr)})
		}
	})
}

// owners are the owners of the blocks, by CIDR.
func (a api) owners() map[string]string {
	a.t.Helper()
	var blocks v1alpha1.IPBlockList
	if err := a.List(a.t.Context(), &blocks); err != nil {
		a.t.Fatal(err)
	}
	owners := map[string]string{}
	for _, b := range blocks.Items {
		owners[b.Spec.CIDR] = b.Spec.NodeName
	}
	return owners
}

var allOwners = map[string]string{
	"172.25.0.0/26": "n1", "172.25.0.64/26": "n1", "172.25.1.0/26": "n2", "172.25.2.0/26": "n3",
}

// since returns what was written after the first n writes, figures of pools left
// out, those that come at once sorted.
func (c *instance) since(n int) []string {
	var out []string
	for _, w := range c.written()[n:] {
		if !strings.Contains(w, "/ippools/") {
			out = append(out, w)
		}
	}
	for i := 0; i < len(out); { // plans are written several at once
		j := i
		for j < len(out) && strings.HasPrefix(out[j], "PATCH "+resources+"nodenetworks/") {
			j++
		}
		slices.Sort(out[i:j])
		i = max(j, i+1)
	}
	return out
}

// A Node is deleted and made anew before the delay is over: the node's plan and
// blocks stay, and the others keep their sessions with it all the time.
func testNodeIsBack(t *testing.T, cfg *rest.Config, a api) {
	c := start(t, cfg, Options{BlockReleaseDelay: time.Hour})
	threeNodes(a)
	uid := uidOf(a, network("n1"))
	before := len(c.written())
	departs(a)
	hear(a, "n2")
	hear(a, "n3")
	a.create(node("n1", "10.0.0.1", nil))
	for _, name := range []string{"n2", "n3"} {
		a.planOf(name, "n1 as it was", func(s v1alpha1.NodeNetworkSpec) bool {
			return len(s.Sessions) == 2 && !s.Sessions[0].Departed && s.DepartedBlocks == nil
		})
	}
	want := []string{
		"PATCH " + resources + "nodenetworks/n2", "PATCH " + resources + "nodenetworks/n2",
		"PATCH " + resources + "nodenetworks/n3", "PATCH " + resources + "nodenetworks/n3",
	}
	if diff := cmp.Diff(want, c.since(before)); diff != "" {
		t.Errorf("written (- want, + got):\n%s", diff)
	}
	if diff := cmp.Diff(allOwners, a.owners()); diff != "" {
		t.Errorf("owners of the blocks (- want, + got):\n%s", diff)
	}
	if now := uidOf(a, network("n1")); now != uid {
		t.Errorf("the NodeNetwork of n1 is another one")
	}
}

func uidOf(a api, o client.Object) string {
	a.t.Helper()
	if err := a.Get(a.t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
		a.t.Fatal(err)
	}
	return string(o.GetUID())
}

// A node is deleted for good: nobody announces its blocks, and after the delay its
// plan goes, then its blocks, then the sessions with it.
func testNodeIsGone(t *testing.T, cfg *rest.Config, a api) {
	const delay = 2 * time.Second
	c := start(t, cfg, Options{BlockReleaseDelay: delay})
	threeNodes(a)
	// A block of a node that never was is freed in the same way.
	a.create(block("172.25.9.0/26", "pods", "ghost"))
	a.planOf("n2", "the question about the ghost", func(s v1alpha1.NodeNetworkSpec) bool { return len(s.DepartedBlocks) == 1 })
	for _, name := range []string{"n1", "n2", "n3"} {
		report(a, name, func(s *v1alpha1.NodeNetworkStatus) {
			s.ObservedGeneration = 1
			s.DepartedBlocks = []v1alpha1.DepartedBlock{{CIDR: "172.25.9.0/26"}}
		})
	}
	a.isGone(block("172.25.9.0/26", "", ""))
	for _, name := range []string{"n1", "n2", "n3"} {
		a.planOf(name, "no question", func(s v1alpha1.NodeNetworkSpec) bool { return s.DepartedBlocks == nil })
	}

	before := len(c.written())
	departs(a)
	asked := time.Now()
	hear(a, "n2")
	hear(a, "n3")
	a.isGone(block("172.25.0.0/26", "", ""))
	if took := time.Since(asked); took < delay {
		t.Errorf("a block was freed %s after the first answer, want at least %s", took, delay)
	}
	a.isGone(block("172.25.0.64/26", "", ""))
	a.hasSessions("n2", "n3")
	a.hasSessions("n3", "n2")
	for _, name := range []string{"n2", "n3"} {
		a.planOf(name, "no question", func(s v1alpha1.NodeNetworkSpec) bool { return s.DepartedBlocks == nil })
	}
	a.isGone(network("n1"))
	// When the plans of the others lose n1 depends on when its blocks' end is seen.
	got := c.since(before)
	end := slices.Index(got, "DELETE "+resources+"nodenetworks/n1")
	if diff := cmp.Diff([]string{"PATCH " + resources + "nodenetworks/n2", "PATCH " + resources + "nodenetworks/n3"}, got[:max(end, 0)]); diff != "" {
		t.Errorf("written before the plan of n1 is deleted (- want, + got):\n%s", diff)
	}
	want := []string{
		"DELETE " + resources + "nodenetworks/n1",
		"DELETE " + resources + "ipblocks/172-25-0-0-26", "DELETE " + resources + "ipblocks/172-25-0-64-26",
	}
	if diff := cmp.Diff(want, deletions(got)); diff != "" {
		t.Errorf("deleted (- want, + got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"172.25.1.0/26": "n2", "172.25.2.0/26": "n3"}, a.owners()); diff != "" {
		t.Errorf("owners of the blocks (- want, + got):\n%s", diff)
	}
}

// A node is cut off from the API and its Node deleted, but it lives and announces
// its blocks: they stay its own until it does not any more.
func testNodeLivesOn(t *testing.T, cfg *rest.Config, a api) {
	const delay = time.Second
	c := start(t, cfg, Options{BlockReleaseDelay: delay})
	threeNodes(a)
	departs(a)
	hear(a, "n2")
	hear(a, "n3", "172.25.0.64/26")
	a.hasEvent("NodeNetwork", "n1", "Warning", "BlocksKept")
	deadline := time.Now().Add(3 * delay)
	for time.Now().Before(deadline) {
		if diff := cmp.Diff(allOwners, a.owners()); diff != "" {
			t.Fatalf("while n3 hears of a block of n1 its blocks are (- want, + got):\n%s", diff)
		}
		time.Sleep(delay / 10)
	}
	if deleted := deletions(c.written()); len(deleted) > 0 {
		t.Errorf("deleted: %q", deleted)
	}
	quiet := time.Now()
	hear(a, "n3")
	a.isGone(block("172.25.0.64/26", "", ""))
	if took := time.Since(quiet); took < delay {
		t.Errorf("freed %s after the last announcement, want at least %s", took, delay)
	}
	want := []string{
		"DELETE " + resources + "nodenetworks/n1",
		"DELETE " + resources + "ipblocks/172-25-0-0-26", "DELETE " + resources + "ipblocks/172-25-0-64-26",
	}
	if diff := cmp.Diff(want, deletions(c.written())); diff != "" {
		t.Errorf("deleted (- want, + got):\n%s", diff)
	}
}

// deletions are those writes that delete.
func deletions(writes []string) []string {
	return slices.DeleteFunc(slices.Clone(writes), func(w string) bool { return !strings.HasPrefix(w, "DELETE ") })
}
