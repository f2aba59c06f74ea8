package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/gate"
	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/topology"
)

const (
	// otherController is one that reaches the API server all the time.
	otherController = "godwit-controller-2"
	// shortLife is how long the agents' tokens are good for: less than the outage.
	shortLife = 10 * time.Second
	// lateChanges are how many pools come while the API server is away.
	lateChanges = 10
)

// testLongAway does to the agents and a controller what an hour without the API
// server does and a minute does not: what they watch from is forgotten, their
// tokens run out, the lease is another's, pauses between tries are as long as they
// get, a checkpoint is old, and much has changed, of which a Node was gone for
// longer than blocks are kept for. Then the way is open again, and after it the
// tokens are renewed, by which all must agree within agreeLimit.
func testLongAway(t *testing.T, l *lab.Lab, g *gate.Gate) {
	ctx := deadline(t, 4*time.Minute)
	api, err := l.API()
	if err != nil {
		t.Fatal(err)
	}
	mustDo(t, l.StartControllerAs(ctx, otherController))
	t.Cleanup(func() { mustDo(t, l.Group.Stop(context.WithoutCancel(ctx), otherController)) })
	for _, n := range l.Top.Nodes {
		mustDo(t, l.IssueToken(n.Name, shortLife), l.Group.Stop(ctx, lab.AgentProcess(n.Name)), l.StartAgent(ctx, n.Name))
	}
	mustDo(t, l.WaitAgentsReady(ctx))
	h := newHerd(t, l)
	knowPool(ctx, t, l, lab.PoolName, 30*time.Second) // all have their watches
	was := leader(ctx, t, api)
	h.pause(ctx, time.Now().Add(2*time.Second)) // what was watched for less than a second is listed anew

	g.Shut()
	began := time.Now()
	h.add(ctx, 5)
	gone := nodeOf(t, l, "n3")
	mustDo(t, l.CP.Forget(ctx), api.Delete(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: gone.Name}}))
	deleted := time.Now()
	took := eventually(t, 90*time.Second, "another controller has the lease", func() error {
		if now := leader(ctx, t, api); now == was || now == "" {
			return fmt.Errorf("it is %s's", now)
		}
		return nil
	})
	t.Logf("another controller has the lease %v after the API server's restart", took.Round(time.Millisecond))
	eventually(t, 60*time.Second, "the controller that lost the lease ends", func() error {
		if l.Alive(lab.ControllerProcess) {
			return errors.New("it runs")
		}
		return nil
	})
	// Kubernetes starts it again at once, but if it ended over and over, later each time.
	waited := markLog(t, l, lab.ControllerProcess)
	mustDo(t, l.Group.Stop(ctx, lab.ControllerProcess), l.StartController(ctx))
	for i := range lateChanges {
		h.makePool(ctx, fmt.Sprint("late", i), netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 27, byte(i), 0}), 24))
	}

	old := time.Now().Add(-2 * time.Hour)
	mustDo(t, l.Group.Kill(ctx, lab.AgentProcess("n1")),
		os.Chtimes(filepath.Join(l.StateDir("n1"), "checkpoint.json"), old, old),
		l.StartAgent(ctx, "n1"), l.WaitAgentReady(ctx, "n1"))
	h.del(ctx, 3)
	h.talk(ctx)
	h.pause(ctx, began.Add(2*shortLife))
	h.pause(ctx, deleted.Add(2*lab.ReleaseDelay))
	var b v1alpha1.IPBlock
	if err := api.Get(ctx, client.ObjectKey{Name: v1alpha1.IPBlockName(gone.Block.Of(topology.IPv4))}, &b); err != nil || b.Spec.NodeName != gone.Name {
		t.Fatalf("a block of a node of which nobody can tell whether it lives is %q's: %v", b.Spec.NodeName, err)
	}
	mustDo(t, l.AddNode(ctx, gone))
	if !l.Alive(lab.ControllerProcess) {
		t.Error("a controller that is started without the API server ends")
	}

	mustDo(t, g.Reset())
	mustDo(t, g.Unshut())
	back := time.Now()
	t.Logf("the API server was away for %v", back.Sub(began).Round(time.Millisecond))
	eventually(t, 30*time.Second, "every agent hears that its token has run out", func() error {
		all := counts(t, g)
		for _, n := range l.Top.Nodes {
			if c := all[n.Address.First()]; c.Refused == 0 {
				return fmt.Errorf("%s: %+v", n.Name, c)
			}
		}
		return nil
	})
	h.talk(ctx)
	for _, n := range l.Top.Nodes {
		mustDo(t, l.IssueToken(n.Name, time.Hour))
	}
	renewed := time.Now()
	took = knowPool(ctx, t, l, fmt.Sprint("late", lateChanges-1), 3*agreeLimit)
	t.Logf("every node has carried out what was changed %v after the tokens were renewed", took.Round(time.Millisecond))
	agrees(ctx, t, l, 3*agreeLimit)
	if took := time.Since(renewed); took > agreeLimit {
		t.Errorf("all agrees %v after the tokens were renewed, want %v", took, agreeLimit)
	}
	mustDo(t, l.WaitEstablished(ctx))
	// The watches of Secrets are gone on with, and so are told that they can't be. An
	// agent that was started meanwhile has none to go on with.
	for _, name := range []string{"n2", "n3"} {
		eventually(t, 20*time.Second, name+" hears that it watches from too long ago", func() error {
			if c := counts(t, g)[nodeOf(t, l, name).Address.First()]; c.Expired == 0 {
				return fmt.Errorf("%+v", c)
			}
			return nil
		})
	}
	checkRequests(t, l, g, max(10*time.Second, time.Since(back)))
	eventually(t, 20*time.Second, "the controller that waited works again", waited.says(`msg="the API server answers"`))
	h.del(ctx, 2)
}

// leader is who holds the controllers' lease.
func leader(ctx context.Context, t *testing.T, api client.Client) string {
	t.Helper()
	var lease coordinationv1.Lease
	err := api.Get(ctx, client.ObjectKey{Namespace: lab.SystemNamespace, Name: "godwit-controller"}, &lease)
	if err != nil || lease.Spec.HolderIdentity == nil {
		t.Fatalf("nobody has the lease: %v", err)
	}
	return *lease.Spec.HolderIdentity
}
