package controller

import (
	"fmt"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// conditionIs waits until a condition of a pool is as given.
func (a api) conditionIs(name, kind, want string) {
	a.t.Helper()
	p := pool(name, "")
	a.hasCondition(p, kind, func() []metav1.Condition { return p.Status.Conditions }, want)
}

// carriedOut is the report that a node's newest plan is carried out.
func carriedOut(a api, name string) func(*v1alpha1.NodeNetworkStatus) {
	a.t.Helper()
	nn := network(name)
	if err := a.Get(a.t.Context(), client.ObjectKeyFromObject(nn), nn); err != nil {
		a.t.Fatal(err)
	}
	return func(s *v1alpha1.NodeNetworkStatus) { s.ObservedGeneration = nn.Generation }
}

func testPoolsFill(t *testing.T, cfg *rest.Config, a api) {
	start(t, cfg, Options{})
	// Ten blocks: of the sixteen six are reserved.
	p := pool("pods", "172.25.0.0/22")
	p.Spec.ReservedCIDRs = []string{"172.25.3.0/24", "172.25.2.128/25", "172.25.0.0/28"}
	a.create(node("n1", "10.0.0.1", nil), p)
	const hasRoom = v1alpha1.ConditionHasRoom
	a.conditionIs("pods", hasRoom, "True Enough: less than 80 % of the blocks are claimed")
	claim := func(from, to int) {
		for i := from; i < to; i++ {
			a.create(block(fmt.Sprintf("172.25.%d.%d/26", i/4, i%4*64), "pods", "n1"))
		}
	}
	figures := func(want string) {
		t.Helper()
		eventually(t, "figures", func() error {
			if err := a.Get(t.Context(), client.ObjectKeyFromObject(p), p); err != nil {
				return err
			}
			if got := fmt.Sprintf("%d of %d blocks, %d free, %d addresses", p.Status.Blocks, p.Status.Capacity, p.Status.Free, p.Status.Addresses); got != want {
				return fmt.Errorf("%s, want %s", got, want)
			}
			return nil
		})
	}
	claim(0, 7)
	figures("7 of 10 blocks, 3 free, 624 addresses")
	a.conditionIs("pods", hasRoom, "True Enough: less than 80 % of the blocks are claimed")
	claim(7, 8)
	a.conditionIs("pods", hasRoom, "False NearlyFull: 80 % of the blocks or more are claimed: add a pool before all are")
	a.hasEvent("IPPool", "pods", "Warning", "NearlyFull")
	claim(8, 10)
	a.conditionIs("pods", hasRoom, "False Full: nodes have claimed all blocks: pods find no address where their node's blocks are used up; add a pool")
	a.hasEvent("IPPool", "pods", "Warning", "Full")
	figures("10 of 10 blocks, 0 free, 624 addresses")
	a.remove(block("172.25.2.64/26", "", ""))
	a.remove(block("172.25.2.0/26", "", ""))
	// It was full a moment ago, so it is quiet below 75 % only.
	a.conditionIs("pods", hasRoom, "False NearlyFull: 75 % of the blocks or more are claimed: add a pool before all are")
	a.remove(block("172.25.1.192/26", "", ""))
	a.conditionIs("pods", hasRoom, "True Enough: less than 80 % of the blocks are claimed")
	a.hasEvent("IPPool", "pods", "Normal", "Enough")
}

// A pool that is disabled says what is left. One that is deleted in use stays, in
// the plans too, until the last block is gone and no node can claim another.
func testPoolsGo(t *testing.T, cfg *rest.Config, a api) {
	start(t, cfg, Options{})
	a.create(node("n1", "10.0.0.1", nil), node("n2", "10.0.0.2", nil), pool("old", "172.25.0.0/16"), pool("unused", "172.26.0.0/16"))
	a.poolIs("old", "True Ready: 2 of 2 nodes take blocks of the pool")
	a.create(block("172.25.0.0/26", "old", "n1"), block("172.25.0.64/26", "old", "n1"), block("172.25.1.0/26", "old", "n2"))
	for name, allocated := range map[string]int32{"n1": 13, "n2": 1} {
		report(a, name, func(s *v1alpha1.NodeNetworkStatus) {
			s.Blocks = []v1alpha1.BlockStatus{{CIDR: "172.25.9.0/26", Pool: "old", Allocated: allocated}}
		})
	}
	left := func(want string) {
		t.Helper()
		eventually(t, "what is left", func() error {
			p := pool("old", "")
			if err := a.Get(t.Context(), client.ObjectKeyFromObject(p), p); err != nil {
				return err
			}
			if p.Status.Left != want {
				return fmt.Errorf("%q is left, want %q", p.Status.Left, want)
			}
			return nil
		})
	}
	const drained = v1alpha1.ConditionDrained
	change(a, pool("old", ""), func(p *v1alpha1.IPPool) { p.Spec.Disabled = true })
	a.conditionIs("old", drained, "False InUse: nodes have blocks of the pool until their pods are gone: n1 (2), n2 (1); "+
		"see kubectl get ipblocks --field-selector spec.pool=old")
	left("3 blocks, 14 addresses")
	change(a, pool("old", ""), func(p *v1alpha1.IPPool) { p.Spec.Disabled = false })
	a.conditionIs("old", v1alpha1.ConditionHasRoom, "True Enough: less than 80 % of the blocks are claimed")
	left("")

	inPlan := func(name string, allocate bool) {
		t.Helper()
		a.planOf(name, fmt.Sprintf("the pool, to allocate: %t", allocate), func(s v1alpha1.NodeNetworkSpec) bool {
			return len(s.Pools) > 0 && s.Pools[0].Name == "old" && s.Pools[0].Allocate == allocate
		})
	}
	inPlan("n1", true)
	a.remove(pool("old", ""))
	a.poolIs("old", "False Deleting: the pool is being deleted: it gives out no new addresses, and goes when no node has a block of it")
	a.hasEvent("IPPool", "old", "Normal", "Deleting")
	inPlan("n1", false)
	inPlan("n2", false)
	left("3 blocks, 14 addresses")
	a.planOf("n2", "n1's blocks", func(s v1alpha1.NodeNetworkSpec) bool { return len(s.Sessions[0].Blocks) == 2 })
	a.remove(block("172.25.0.0/26", "", ""))
	a.remove(block("172.25.0.64/26", "", ""))
	a.conditionIs("old", drained, "False InUse: nodes have blocks of the pool until their pods are gone: n2 (1); "+
		"see kubectl get ipblocks --field-selector spec.pool=old")
	// Agents carry out the last of their plans. n1's has not carried out that the pool
	// is closed: it may claim a block yet.
	a.planOf("n2", "none of n1's blocks", func(s v1alpha1.NodeNetworkSpec) bool { return len(s.Sessions[0].Blocks) == 0 })
	report(a, "n2", carriedOut(a, "n2"))
	report(a, "n1", func(s *v1alpha1.NodeNetworkStatus) { s.ObservedGeneration = 1 })
	a.remove(block("172.25.1.0/26", "", ""))
	a.conditionIs("old", drained, "True Unused: no node has a block of the pool")
	inPlan("n1", false)
	a.planOf("n1", "none of n2's blocks", func(s v1alpha1.NodeNetworkSpec) bool { return len(s.Sessions[0].Blocks) == 0 })
	report(a, "n1", carriedOut(a, "n1"))
	a.isGone(pool("old", ""))
	a.planOf("n1", "the pool unused alone", func(s v1alpha1.NodeNetworkSpec) bool { return len(s.Pools) == 1 && s.Pools[0].Name == "unused" })

	a.remove(pool("unused", ""))
	for _, name := range []string{"n1", "n2"} {
		a.planOf(name, "the pool unused alone, closed", func(s v1alpha1.NodeNetworkSpec) bool {
			return len(s.Pools) == 1 && s.Pools[0].Name == "unused" && !s.Pools[0].Allocate
		})
		report(a, name, carriedOut(a, name))
	}
	a.isGone(pool("unused", ""))
	a.planOf("n1", "no pool", func(s v1alpha1.NodeNetworkSpec) bool { return len(s.Pools) == 0 })
}

// testForeignAddresses: pools with addresses of Services, of which the API server
// tells, or of nodes are refused, and the plans say so.
func testForeignAddresses(t *testing.T, cfg *rest.Config, a api) {
	start(t, cfg, Options{})
	more := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.77.0.0/24"}}}
	// The API server of the tests has 10.0.0.0/24 for Services.
	a.create(node("n1", "10.211.55.1", nil), pool("services", "10.0.0.128/25"), pool("nodes", "10.211.55.0/25"), pool("pods", "10.77.0.0/25"))
	a.conditionIs("services", v1alpha1.ConditionReady, "False OverlapsServices: 10.0.0.128/25 overlaps 10.0.0.0/24, from which Services get their addresses: delete it, and make one of other addresses")
	a.conditionIs("nodes", v1alpha1.ConditionReady, "False OverlapsNodes: 10.211.55.0/25 has the address 10.211.55.1 of node n1 in it: delete it, and make one of other addresses")
	a.conditionIs("pods", v1alpha1.ConditionReady, "True Ready: 1 of 1 nodes take blocks of the pool")
	a.hasEvent("IPPool", "services", "Warning", "OverlapsServices")
	a.hasEvent("IPPool", "nodes", "Warning", "OverlapsNodes")
	plans := func(want string) {
		t.Helper()
		eventually(t, "the plan", func() error {
			nn := network("n1")
			if err := a.Get(t.Context(), client.ObjectKeyFromObject(nn), nn); err != nil {
				return err
			}
			var used, refused []string
			for _, p := range nn.Spec.Pools {
				used = append(used, p.Name)
			}
			for _, p := range nn.Spec.RefusedPools {
				refused = append(refused, p.Name)
			}
			if got := fmt.Sprintf("%v, without %v", used, refused); got != want {
				return fmt.Errorf("has the pools %s, want %s", got, want)
			}
			return nil
		})
	}
	plans("[pods], without [nodes services]")
	a.create(more)
	a.conditionIs("pods", v1alpha1.ConditionReady, "False OverlapsServices: 10.77.0.0/25 overlaps 10.77.0.0/24, from which Services get their addresses: delete it, and make one of other addresses")
	plans("[], without [nodes pods services]")
	a.remove(more)
	a.conditionIs("pods", v1alpha1.ConditionReady, "True Ready: 1 of 1 nodes take blocks of the pool")
	plans("[pods], without [nodes services]")
}
