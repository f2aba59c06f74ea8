package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/pods"
	"github.com/godwit-net/godwit/e2e/topology"
)

// testPoolMigration follows docs/pools.md: pods move from one pool to another, and
// what stays loses no packet, whichever pool it is in.
func testPoolMigration(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, 2*time.Minute)
	api, err := l.API()
	if err != nil {
		t.Fatal(err)
	}
	m := migration{t: t, l: l, api: api}
	reference := lab.PoolOf(topology.IPv4)
	m.create("old", "172.28.0.0/24")
	m.disable(reference, true)
	t.Cleanup(func() { m.disable(reference, false) })
	m.carriedOut(func(s *v1alpha1.NodeNetworkSpec) bool { return allocating(s, "old") && !allocating(s, reference) })
	a, b := m.pod("n1", "old", "172.28.0.0/24"), m.pod("n2", "old", "172.28.0.0/24")
	bystander := pod(t, l, "n3-p1")
	staying := startVolley(t, l, m.flows(a, b, bystander))

	begin := time.Now()
	m.create("new", "172.29.0.0/24")
	m.disable("old", true)
	m.carriedOut(func(s *v1alpha1.NodeNetworkSpec) bool { return allocating(s, "new") && !allocating(s, "old") })
	c, d := m.pod("n1", "new", "172.29.0.0/24"), m.pod("n2", "new", "172.29.0.0/24")
	moved := startVolley(t, l, m.flows(c, d, bystander, a, b))
	m.left("old", " blocks, 2 addresses")
	// Deleted while it is in use, it stays.
	if err := api.Delete(ctx, &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "old"}}); err != nil {
		t.Fatal(err)
	}
	m.carriedOut(func(s *v1alpha1.NodeNetworkSpec) bool { return known(s, "old") })
	time.Sleep(2 * time.Second) // the traffic under observation
	staying.stop().lossless(t)
	moved.stop().lossless(t)

	// The old pods go, the others stay.
	staying = startVolley(t, l, m.flows(c, d, bystander))
	for _, node := range []string{"n1", "n2"} {
		if err := l.DelPod(ctx, node, "old"); err != nil {
			t.Fatal(err)
		}
	}
	took := eventually(t, 60*time.Second, "the old pool goes", func() error {
		return m.gone("old")
	})
	t.Logf("the old pool is gone %v after its last pod, %v after the begin", took.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
	staying.stop().lossless(t)

	for _, node := range []string{"n1", "n2"} {
		if err := l.DelPod(ctx, node, "new"); err != nil {
			t.Fatal(err)
		}
	}
	if err := api.Delete(ctx, &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "new"}}); err != nil {
		t.Fatal(err)
	}
	m.disable(reference, false) // the new pool goes by and by
	m.carriedOut(func(s *v1alpha1.NodeNetworkSpec) bool { return allocating(s, reference) && !allocating(s, "new") })
}

type migration struct {
	t   *testing.T
	l   *lab.Lab
	api client.Client
}

// create makes a pool whose empty blocks are given back soon.
func (m migration) create(name, cidr string) {
	m.t.Helper()
	p := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.IPPoolSpec{CIDR: cidr, EmptyBlockSeconds: new(int32(10))}}
	if err := m.api.Create(deadline(m.t, 10*time.Second), p); err != nil {
		m.t.Fatal(err)
	}
}

func (m migration) disable(name string, disabled bool) {
	m.t.Helper()
	if err := m.l.Change(deadline(m.t, 10*time.Second), &v1alpha1.IPPool{}, name, func(o client.Object) {
		o.(*v1alpha1.IPPool).Spec.Disabled = disabled
	}); err != nil {
		m.t.Fatal(err)
	}
}

// carriedOut waits until each node has carried out a plan that is as wanted.
func (m migration) carriedOut(ok func(*v1alpha1.NodeNetworkSpec) bool) {
	m.t.Helper()
	ctx := deadline(m.t, 30*time.Second)
	for _, n := range m.l.Top.Nodes {
		eventually(m.t, 20*time.Second, n.Name+" has carried out the plan", func() error {
			var nn v1alpha1.NodeNetwork
			if err := m.api.Get(ctx, client.ObjectKey{Name: n.Name}, &nn); err != nil {
				return err
			}
			if !ok(&nn.Spec) || nn.Status.ObservedGeneration != nn.Generation {
				return fmt.Errorf("generation %d, observed %d, pools %+v", nn.Generation, nn.Status.ObservedGeneration, nn.Spec.Pools)
			}
			return nil
		})
	}
}

func known(s *v1alpha1.NodeNetworkSpec, pool string) bool {
	return slices.ContainsFunc(s.Pools, func(p v1alpha1.PlannedPool) bool { return p.Name == pool })
}

func allocating(s *v1alpha1.NodeNetworkSpec, pool string) bool {
	return slices.ContainsFunc(s.Pools, func(p v1alpha1.PlannedPool) bool { return p.Name == pool && p.Allocate })
}

// pod attaches a pod, which must get an address of the range and be reached.
func (m migration) pod(node, name, cidr string) pods.Pod {
	m.t.Helper()
	ctx := deadline(m.t, 30*time.Second)
	p, err := m.l.AddPod(ctx, node, name)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		if _, err := m.l.Pod(p.Name); err == nil { // the test ended early
			_ = m.l.DelPod(deadline(m.t, 10*time.Second), node, name)
		}
	})
	if !netip.MustParsePrefix(cidr).Contains(p.Address) {
		m.t.Fatalf("pod %s has %s, want an address of %s", p.Name, p.Address, cidr)
	}
	for _, from := range []string{"n1-p1", "n2-p4", "n3-p1"} {
		eventually(m.t, 20*time.Second, from+" reaches "+p.Name, func() error {
			_, err := m.l.Ping(ctx, from, p.Address)
			return err
		})
	}
	return p
}

// flows are those of a pod with each of the others, both ways.
func (m migration) flows(a pods.Pod, others ...pods.Pod) []volleyFlow {
	var flows []volleyFlow
	for _, o := range others {
		flows = append(flows,
			volleyFlow{name: a.Name + ">" + o.Name, from: a.Netns, to: o.Netns, addr: o.Address},
			volleyFlow{name: o.Name + ">" + a.Name, from: o.Netns, to: a.Netns, addr: a.Address})
	}
	return flows
}

func (m migration) left(name, want string) {
	m.t.Helper()
	ctx := deadline(m.t, 30*time.Second)
	eventually(m.t, 25*time.Second, "what is left of "+name, func() error {
		var p v1alpha1.IPPool
		if err := m.api.Get(ctx, client.ObjectKey{Name: name}, &p); err != nil {
			return err
		}
		if !strings.HasSuffix(p.Status.Left, want) {
			return fmt.Errorf("%q, want …%s", p.Status.Left, want)
		}
		return nil
	})
}

// gone tells what is left of a pool.
func (m migration) gone(name string) error {
	var p v1alpha1.IPPool
	err := m.api.Get(deadline(m.t, 10*time.Second), client.ObjectKey{Name: name}, &p)
	if err == nil {
		return fmt.Errorf("left: %s", p.Status.Left)
	}
	return client.IgnoreNotFound(err)
}
