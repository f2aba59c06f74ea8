package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/lab"
)

const (
	smallNamespace = "small"
	smallRange     = "172.26.0.0/24"
	// backNamespace's pods have blocks of a pool that are given back soon.
	backNamespace = "back"
	backRange     = "172.26.1.0/24"
	backPods      = 8  // 2 blocks of 4 addresses, and perhaps one ahead
	smallPods     = 28 // of each node: 7 blocks of 4 addresses
	smallClaims   = 20 // at least, on all nodes
)

// testRestored restores etcd from a snapshot that was taken before the last 20
// claims, and before n1 gave back a block that is n2's since: the API then knows
// less than the nodes, and more. At first the agents may not claim blocks,
// so that the check has time to look: it names every block. Then they may, and
// everything is as it was: blocks, pods and their addresses.
func testRestored(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, 4*time.Minute)
	api, err := l.API()
	if err != nil {
		t.Fatal(err)
	}
	makeSmallPool(ctx, t, l, api, smallNamespace, smallRange, nil)
	makeSmallPool(ctx, t, l, api, backNamespace, backRange, new(int32(10)))
	for i := range backPods {
		if _, err := l.AddPodIn(ctx, backNamespace, "n1", fmt.Sprint("b", i)); err != nil {
			t.Fatal(err)
		}
	}
	had := blockOwners(ctx, t, l)
	mustDo(t, mayClaim(ctx, api, false))
	dir := filepath.Join(t.TempDir(), "snapshot")
	mustDo(t, l.CP.Snapshot(ctx, dir), restartController(ctx, l), mayClaim(ctx, api, true))

	for i := range backPods {
		mustDo(t, l.DelPod(ctx, "n1", fmt.Sprint("b", i)))
	}
	for i := range smallPods {
		for _, n := range l.Top.Nodes {
			name := fmt.Sprintf("s%d", i)
			if _, err := l.AddPodIn(ctx, smallNamespace, n.Name, name); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.DelPod(context.WithoutCancel(ctx), n.Name, name) })
		}
	}
	moved := moveBlock(ctx, t, l, api, had)
	agrees(ctx, t, l, 40*time.Second)
	owners, addresses := blockOwners(ctx, t, l), podAddresses(l)
	claimed := 0
	for cidr := range owners {
		if lostClaim(cidr) {
			claimed++
		}
	}
	if claimed < smallClaims {
		t.Fatalf("only %d blocks were claimed since the snapshot", claimed)
	}

	mustDo(t, l.CP.Restore(ctx, dir), restartController(ctx, l))
	restored := time.Now()
	for cidr, owner := range blockOwners(ctx, t, l) {
		if lostClaim(cidr) {
			t.Errorf("after the restore %s is %s's, as if its claim had not been lost", cidr, owner)
		}
	}
	took := eventually(t, 40*time.Second, "the check names every block", func() error {
		unknown, named, err := namedBlocks(ctx, l)
		for cidr := range owners {
			if lostClaim(cidr) && !unknown[cidr] || cidr == moved && !named[v1alpha1.IPBlockName(netip.MustParsePrefix(cidr))] {
				err = errors.Join(err, fmt.Errorf("%s is not named", cidr))
			}
		}
		return err
	})
	t.Logf("%d claims are lost by the restore, and %s was n1's again; the check names them all after %v", claimed, moved, took.Round(time.Millisecond))

	mustDo(t, mayClaim(ctx, api, true))
	agrees(ctx, t, l, 60*time.Second)
	t.Logf("all agrees again %v after the restore", time.Since(restored).Round(time.Millisecond))
	if diff := cmp.Diff(owners, blockOwners(ctx, t, l)); diff != "" {
		t.Errorf("blocks have other owners than before (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(addresses, podAddresses(l)); diff != "" {
		t.Errorf("pods have other addresses than before (-before +after):\n%s", diff)
	}
	for i, n := range l.Top.Nodes {
		to := pod(t, l, l.Top.Nodes[(i+1)%3].Name+fmt.Sprintf("-s%d", smallPods-1))
		eventually(t, 10*time.Second, n.Name+" reaches "+to.Name, func() error {
			_, err := l.Ping(ctx, n.Name+"-s0", to.Address)
			return err
		})
	}
	t.Logf("pods reach each other again %v after the restore at most", time.Since(restored).Round(time.Millisecond))
}

// lostClaim tells whether a block is of those that are claimed after the snapshot.
func lostClaim(cidr string) bool {
	p := netip.MustParsePrefix(cidr)
	return p.Bits() == 30 && netip.MustParsePrefix(smallRange).Contains(p.Addr())
}

// moveBlock waits until n1 has given back one of the blocks that there were, and
// gives it to n2, with a pod in it.
func moveBlock(ctx context.Context, t *testing.T, l *lab.Lab, api client.Client, had map[string]string) (moved string) {
	t.Helper()
	pool := netip.MustParsePrefix(backRange)
	took := eventually(t, 60*time.Second, "n1 gives a block back", func() error {
		now := blockOwners(ctx, t, l)
		for cidr := range had {
			if now[cidr] == "" && pool.Contains(netip.MustParsePrefix(cidr).Addr()) {
				moved = cidr
				return nil
			}
		}
		return fmt.Errorf("the blocks are %v and were %v", now, had)
	})
	t.Logf("n1 gave back %s after %v more", moved, took.Round(time.Millisecond))
	b := lab.Block("n2", netip.MustParsePrefix(moved))
	b.Spec.Pool = backNamespace
	mustDo(t, api.Create(ctx, b), l.Group.Stop(ctx, lab.AgentProcess("n2")), l.StartAgent(ctx, "n2"), l.WaitAgentReady(ctx, "n2"))
	p, err := l.AddPodIn(ctx, backNamespace, "n2", "moved")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.DelPod(context.WithoutCancel(ctx), "n2", "moved") })
	if !netip.MustParsePrefix(moved).Contains(p.Address) {
		t.Fatalf("the pod of n2 has %s, want one of %s", p.Address, moved)
	}
	eventually(t, 20*time.Second, "n1 reaches the pod in the block that was its own", func() error {
		_, err := l.Ping(ctx, "n1-p1", p.Address)
		return err
	})
	return moved
}

// makeSmallPool makes a pool of small blocks for the pods of a namespace of its
// name, and waits until every node knows of it.
func makeSmallPool(ctx context.Context, t *testing.T, l *lab.Lab, api client.Client, name, cidr string, emptySeconds *int32) {
	t.Helper()
	size := int32(30)
	labels := map[string]string{"pool": name}
	mustDo(t,
		api.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}),
		api.Create(ctx, &v1alpha1.IPPool{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: v1alpha1.IPPoolSpec{
				CIDR: cidr, BlockSize: &size, EmptyBlockSeconds: emptySeconds, NamespaceSelector: &metav1.LabelSelector{MatchLabels: labels},
			},
		}))
	knowPool(ctx, t, l, name, 30*time.Second)
}

// mayClaim gives the agents the right to create blocks, or takes it away.
func mayClaim(ctx context.Context, api client.Client, yes bool) error {
	var role rbacv1.ClusterRole
	if err := api.Get(ctx, client.ObjectKey{Name: "godwit-agent"}, &role); err != nil {
		return err
	}
	for i := range role.Rules {
		r := &role.Rules[i]
		if !slices.Contains(r.Resources, "ipblocks") {
			continue
		}
		r.Verbs = slices.DeleteFunc(r.Verbs, func(v string) bool { return v == "create" })
		if yes {
			r.Verbs = append(r.Verbs, "create")
		}
	}
	return api.Update(ctx, &role)
}

func restartController(ctx context.Context, l *lab.Lab) error {
	if err := l.Group.Stop(ctx, lab.ControllerProcess); err != nil {
		return err
	}
	return l.StartController(ctx)
}

func blockOwners(ctx context.Context, t *testing.T, l *lab.Lab) map[string]string {
	t.Helper()
	blocks, err := l.Blocks(ctx)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for i := range blocks {
		out[blocks[i].Spec.CIDR] = blocks[i].Spec.NodeName
	}
	return out
}

func podAddresses(l *lab.Lab) map[string]string {
	out := map[string]string{}
	for _, p := range l.Pods() {
		out[p.Name] = p.Address.String()
	}
	return out
}

// namedBlocks returns the blocks that nodes hold and the API does not have, by the
// check, and the names of all that it names.
func namedBlocks(ctx context.Context, l *lab.Lab) (unknown, named map[string]bool, err error) {
	out, _ := l.CheckIPAM(ctx, "--settle=0", "-o", "json") // it exits with 2
	var found struct {
		Differences []struct{ Name, Node, Reason string }
	}
	if err := json.Unmarshal([]byte(out), &found); err != nil {
		return nil, nil, fmt.Errorf("%w: %s", err, out)
	}
	api, err := l.API()
	if err != nil {
		return nil, nil, err
	}
	unknown, named = map[string]bool{}, map[string]bool{}
	for _, d := range found.Differences {
		named[d.Name] = true
	}
	var all v1alpha1.NodeNetworkList
	if err := api.List(ctx, &all); err != nil {
		return nil, nil, err
	}
	for i := range all.Items {
		for _, b := range all.Items[i].Status.Blocks {
			for _, d := range found.Differences {
				if d.Reason == "UnknownBlock" && d.Node == all.Items[i].Name && d.Name == v1alpha1.IPBlockName(netip.MustParsePrefix(b.CIDR)) {
					unknown[b.CIDR] = true
				}
			}
		}
	}
	return unknown, named, nil
}

func mustDo(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
