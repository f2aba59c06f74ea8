package e2e

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/lab"
)

// testDepartedNode: a node is cut off from the API server and its Node deleted,
// for longer than the controller waits (10 s here). It lives on, so nothing may be
// taken from it: neither its blocks, as others still hear of them, nor a packet.
// Then its Node is there again, and all is as it was.
func testDepartedNode(t *testing.T, l *lab.Lab) {
	const name = "n3"
	ctx := deadline(t, 2*time.Minute)
	api, err := l.API()
	if err != nil {
		t.Fatal(err)
	}
	n, _ := l.Top.Node(name)
	block := v1alpha1.IPBlockName(n.Block.V4)
	owner := func() error {
		var b v1alpha1.IPBlock
		err := api.Get(ctx, client.ObjectKey{Name: block}, &b)
		if err == nil && b.Spec.NodeName != name {
			err = fmt.Errorf("block %s is %q's", block, b.Spec.NodeName)
		}
		return err
	}
	var plan v1alpha1.NodeNetwork
	if err := api.Get(ctx, client.ObjectKey{Name: name}, &plan); err != nil {
		t.Fatal(err)
	}
	apiServer := l.Top.ControlPlane.First().String()
	cut := func(verb string) {
		t.Helper()
		run(t, l, name, "ip route "+verb+" blackhole "+apiServer)
	}
	flows := startVolley(t, l, volleyAround(t, l, name))
	flows.watchAround(t, name)
	cut("add")
	t.Cleanup(func() {
		_, _ = l.RunIn(deadline(t, 10*time.Second), name, "ip", "route", "del", "blackhole", apiServer)
	})
	if err := api.Delete(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
		t.Fatal(err)
	}
	took := eventually(t, 10*time.Second, "n1 reports that it hears of the block", func() error {
		var nn v1alpha1.NodeNetwork
		if err := api.Get(ctx, client.ObjectKey{Name: "n1"}, &nn); err != nil {
			return err
		}
		for _, b := range nn.Status.DepartedBlocks {
			if b.CIDR == n.Block.V4.String() && b.Announced {
				return nil
			}
		}
		return fmt.Errorf("it reports %v", nn.Status.DepartedBlocks)
	})
	t.Logf("n1 reports that it hears of the block %v after the Node was deleted", took)
	always(t, lab.ReleaseDelay+3*time.Second, "the block stays the node's", owner)
	cut("del")
	if err := l.AddNode(ctx, n); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitEstablished(ctx); err != nil {
		t.Error(err)
	}
	eventually(t, 20*time.Second, "nobody is asked about the block any more", func() error {
		var all v1alpha1.NodeNetworkList
		if err := api.List(ctx, &all); err != nil {
			return err
		}
		for _, nn := range all.Items {
			if len(nn.Spec.DepartedBlocks)+len(nn.Status.DepartedBlocks) > 0 {
				return fmt.Errorf("%s is asked about %v and answers %v", nn.Name, nn.Spec.DepartedBlocks, nn.Status.DepartedBlocks)
			}
			if nn.Name == name && nn.UID != plan.UID {
				t.Fatalf("%s has another plan than before", name)
			}
		}
		return nil
	})
	flows.stop().lossless(t)
	if err := owner(); err != nil {
		t.Error(err)
	}
}
