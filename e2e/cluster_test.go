package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/controlplane"
	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/topology"
)

// testDeletedNode: the blocks of a node that is gone are freed, those of the
// others are not, and a node that does not answer disturbs nobody.
func testDeletedNode(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, time.Minute)
	api, err := l.API()
	if err != nil {
		t.Fatal(err)
	}
	gone := topology.Node{Name: "n4", Address: topology.Pair{V4: netip.MustParsePrefix("10.211.55.118/24")}}
	block := netip.MustParsePrefix("172.25.200.0/26")
	if err := l.AddNode(ctx, gone); err != nil {
		t.Fatal(err)
	}
	if err := api.Create(ctx, lab.Block(gone.Name, block)); err != nil {
		t.Fatal(err)
	}
	name := v1alpha1.IPBlockName(block)
	blocks := func() (map[string]string, error) {
		list, err := l.Blocks(ctx)
		owner := map[string]string{}
		for _, b := range list {
			owner[b.Name] = b.Spec.NodeName
		}
		return owner, err
	}
	// One that is there keeps its block for longer than a controller waits before it
	// takes a node for gone for good.
	always(t, lab.ReleaseDelay+2*time.Second, "the node's block stays", func() error {
		owner, err := blocks()
		if err == nil && owner[name] != gone.Name {
			err = fmt.Errorf("block %s of a node that is there is %q's", name, owner[name])
		}
		return err
	})
	if m := l.PingMatrix(ctx); m.Err() != nil {
		t.Errorf("with a node that does not answer: %v", m.Err())
	}
	if err := api.Delete(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: gone.Name}}); err != nil {
		t.Fatal(err)
	}
	took := eventually(t, 30*time.Second, "the deleted node's block is freed", func() error {
		owner, err := blocks()
		if _, there := owner[name]; err == nil && there {
			err = fmt.Errorf("block %s is still there", name)
		}
		return err
	})
	t.Logf("freed %v after the node was deleted", took)
	owner, err := blocks()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range l.Top.Nodes {
		if owner[v1alpha1.IPBlockName(n.Block.V4)] != n.Name {
			t.Errorf("block %s of node %s is %q's now", n.Block.V4, n.Name, owner[v1alpha1.IPBlockName(n.Block.V4)])
		}
	}
	if err := l.WaitEstablished(ctx); err != nil {
		t.Error(err)
	}
}

// testAPIServerAway: without the API server pods start and talk, routes heal
// and an agent restarts, from what it wrote down.
func testAPIServerAway(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, 2*time.Minute)
	if err := l.Group.Kill(ctx, controlplane.ServerProcess); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.CP.StartServer(ctx); err != nil {
			t.Fatal(err)
		}
		// It ends when it can't renew its lease, for its pod's kubelet to start it again.
		if err := l.Group.Stop(ctx, lab.ControllerProcess); err != nil {
			t.Fatal(err)
		}
		if err := l.StartController(ctx); err != nil {
			t.Fatal(err)
		}
		if err := l.WaitEstablished(ctx); err != nil {
			t.Error(err)
		}
	})
	talk := func(p string) {
		t.Helper()
		from, to := pod(t, l, p), pod(t, l, "n2-p4")
		eventually(t, 10*time.Second, p+" reaches n2-p4", func() error {
			_, err := l.Ping(ctx, from.Name, to.Address)
			return err
		})
	}
	addPod(t, l, "n1", "away1")
	talk("n1-away1")

	before := ours(t, l, "n1")
	if err := l.Group.Crash(ctx, lab.AgentProcess("n1")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, ours(t, l, "n1")); diff != "" {
		t.Errorf("the agent's crash changes the node's routes (- before, + after):\n%s", diff)
	}
	talk("n1-away1")
	if err := l.StartAgent(ctx, "n1"); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := l.WaitAgentReady(ctx, "n1"); err != nil {
		t.Fatal(err)
	}
	t.Logf("agent ready %v after its start, without the API server", time.Since(begin))
	addPod(t, l, "n1", "away2")
	talk("n1-away1")
	talk("n1-away2")
	// Its sessions come up as well, but for those whose password is in the API.
	took := eventually(t, 40*time.Second, "n1's session with tor2", func() error {
		out, err := l.Routers[1].Show(ctx, "show bgp neighbors 10.211.55.101")
		if err == nil && !strings.Contains(out, "BGP state = Established") {
			err = fmt.Errorf("%s", out)
		}
		return err
	})
	t.Logf("session with tor2 established after another %v", took)
}
