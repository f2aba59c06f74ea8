package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/gate"
	"github.com/godwit-net/godwit/e2e/lab"
)

const (
	gatePort = 6444
	// slowLatency is how much later everything is heard that a slow API server says.
	slowLatency = 2 * time.Second
	// flapUp and flapDown are how long a flapping API server is there, and not, in each
	// of flaps rounds.
	flapUp, flapDown, flaps = 3 * time.Second, 3 * time.Second, 6
	// silentTime is how long the API server is silent: not for so long that HTTP/2 would
	// have given up its connections, and for longer than TCP would soon send again.
	silentTime = 28 * time.Second
	// fewRequests is what an agent may ask in a second on average while the API server
	// comes and goes, connections that fail included. A loop without a pause would make
	// thousands.
	fewRequests = 10
)

// testGated: the agents and the controller reach the API server through a gate,
// which makes it slow, flapping, or shuts it while everything else goes on.
func testGated(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, 6*time.Minute)
	g, err := gate.Open(l.CP, gatePort)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	mustDo(t, l.Redirect(ctx, g.URL()), l.WaitAgentsReady(ctx))
	agrees(ctx, t, l, 60*time.Second)
	for _, tt := range []struct {
		name string
		run  func(*testing.T, *lab.Lab, *gate.Gate)
	}{
		{"Slow", testSlowAPI},
		{"Flapping", testFlappingAPI},
		{"Silent", testSilentAPI},
		{"LongAway", testLongAway},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// However it ends, what it cleans up and the next find the way open.
			defer func() {
				g.Delay(0)
				mustDo(t, g.Silence(), g.Unshut())
			}()
			tt.run(t, l, g)
		})
	}
}

// testSlowAPI: everything that the API server says is heard 2 s later. Pods come
// and go as always, also from blocks that are claimed meanwhile; a new pool
// reaches every node, and an agent starts.
func testSlowAPI(t *testing.T, l *lab.Lab, g *gate.Gate) {
	ctx := deadline(t, 3*time.Minute)
	h := newHerd(t, l)
	// A node's very first pods of a namespace wait for the API server where pools have
	// namespace selectors, as earlier tests have left some.
	h.add(ctx, 1)
	g.Delay(slowLatency)
	h.add(ctx, 43)
	h.talk(ctx)
	h.del(ctx, 22)
	// Whoever asked the API server would take longer than that. On a busy machine a
	// few do, too.
	if h.late*20 > h.added+h.deleted {
		t.Errorf("%d pods took longer than %v: did they wait for the API server?", h.late, slowLatency)
	}
	t.Logf("the API server answers %v late: %d pods added and %d deleted, the slowest of them in %v",
		slowLatency, h.added, h.deleted, h.slowest.Round(time.Millisecond))

	h.makePool(ctx, "slow", gatedPool())
	took := knowPool(ctx, t, l, "slow", 60*time.Second)
	t.Logf("a new pool is known everywhere after %v", took.Round(time.Millisecond))
	if err := l.Group.Kill(ctx, lab.AgentProcess("n1")); err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	mustDo(t, l.StartAgent(ctx, "n1"), l.WaitAgentReady(ctx, "n1"))
	t.Logf("n1's agent takes pods again %v after its start", time.Since(started).Round(time.Millisecond))
	// More than the blocks hold that there are: others are claimed, and known everywhere.
	h.add(ctx, 44)
	h.talk(ctx)
	h.del(ctx, 66)
	agrees(ctx, t, l, 60*time.Second)
}

// testFlappingAPI: the API server comes and goes. Nothing is lost,
// nobody asks in a storm, and soon after all agrees, what was changed while it was
// away last included.
func testFlappingAPI(t *testing.T, l *lab.Lab, g *gate.Gate) {
	ctx := deadline(t, 3*time.Minute)
	h := newHerd(t, l)
	v := startVolley(t, l, volleyAround(t, l, "n1"))
	v.watchAround(t, "n1")
	mustDo(t, g.Reset())
	begin := time.Now()
	for i := range flaps {
		g.Shut()
		until := time.Now().Add(flapDown)
		h.add(ctx, 3)
		if i == flaps-1 {
			h.makePool(ctx, "flap", gatedPool())
		}
		h.pause(ctx, until)
		mustDo(t, g.Unshut())
		until = time.Now().Add(flapUp)
		h.del(ctx, 3)
		if i < flaps-1 {
			h.pause(ctx, until)
		}
	}
	back, away := time.Now(), time.Since(begin)
	took := knowPool(ctx, t, l, "flap", 3*agreeLimit)
	t.Logf("every node has carried out the last change %v after the last return", took.Round(time.Millisecond))
	agrees(ctx, t, l, 3*agreeLimit)
	if took := time.Since(back); took > agreeLimit {
		t.Errorf("all agrees %v after the last return, want %v", took, agreeLimit)
	}
	checkRequests(t, l, g, away)
	if !l.Alive(lab.ControllerProcess) {
		t.Error("the controller has ended")
	}
	v.stop().lossless(t)
	t.Logf("%d pods added and %d deleted, the slowest of them in %v", h.added, h.deleted, h.slowest.Round(time.Millisecond))
}

// testSilentAPI: what the agents send to the API server vanishes for a while, and
// nothing tells them. When it does not vanish any more they notice within seconds.
func testSilentAPI(t *testing.T, l *lab.Lab, g *gate.Gate) {
	ctx := deadline(t, 2*time.Minute)
	var agents []netip.Addr
	for _, n := range l.Top.Nodes {
		agents = append(agents, n.Address.First())
	}
	h := newHerd(t, l)
	mustDo(t, g.Silence(agents...))
	begin := time.Now()
	h.add(ctx, 5)
	h.makePool(ctx, "silent", gatedPool())
	h.talk(ctx)
	h.pause(ctx, begin.Add(silentTime))
	mustDo(t, eachNetwork(ctx, l, func(nn *v1alpha1.NodeNetwork) error {
		if nn.Status.ObservedGeneration == nn.Generation {
			return fmt.Errorf("%s knows the new pool though the API server is silent", nn.Name)
		}
		return nil
	}), g.Silence())
	back := time.Now()
	took := knowPool(ctx, t, l, "silent", 6*agreeLimit)
	t.Logf("every node has carried out the change %v after the end of a silence of %v", took.Round(time.Millisecond), silentTime)
	agrees(ctx, t, l, 3*agreeLimit)
	if took := time.Since(back); took > agreeLimit {
		t.Errorf("all agrees %v after the end of the silence, want %v", took, agreeLimit)
	}
	h.del(ctx, 5)
}

// gatedPool is a range for a pool of a test.
func gatedPool() netip.Prefix { return netip.MustParsePrefix("172.27.0.0/24") }

// counts is what came through a gate, or was tried.
func counts(t *testing.T, g *gate.Gate) map[netip.Addr]gate.Count {
	t.Helper()
	all, err := g.Counts()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// checkRequests holds that every agent has asked, and not in a storm, in so long a
// time.
func checkRequests(t *testing.T, l *lab.Lab, g *gate.Gate, over time.Duration) {
	t.Helper()
	all := counts(t, g)
	for from, c := range all {
		t.Logf("from %v in %v: %+v", from, over.Round(time.Millisecond), c)
	}
	for _, n := range l.Top.Nodes {
		c := all[n.Address.First()]
		if tried := c.Connections + c.Requests; tried == 0 || float64(tried) > fewRequests*over.Seconds() {
			t.Errorf("%s has asked %d times in %v, want at most %d a second", n.Name, tried, over, fewRequests)
		}
	}
}

func (h *herd) pause(ctx context.Context, until time.Time) {
	h.t.Helper()
	select {
	case <-ctx.Done():
		h.t.Fatal(ctx.Err())
	case <-time.After(time.Until(until)):
	}
}

// makePool makes a pool that goes with the test. It is there so that plans change.
func (h *herd) makePool(ctx context.Context, name string, cidr netip.Prefix) {
	h.t.Helper()
	api, err := h.l.API()
	if err != nil {
		h.t.Fatal(err)
	}
	pool := &v1alpha1.IPPool{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.IPPoolSpec{CIDR: cidr.String(), NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"pool": name}}},
	}
	mustDo(h.t, api.Create(ctx, pool))
	h.t.Cleanup(func() {
		ctx := deadline(h.t, 60*time.Second)
		mustDo(h.t, api.Delete(ctx, pool))
		eventually(h.t, 40*time.Second, "pool "+name+" is gone", func() error {
			err := api.Get(ctx, client.ObjectKey{Name: name}, &v1alpha1.IPPool{})
			if err == nil {
				err = fmt.Errorf("pool %s is there", name)
			}
			return client.IgnoreNotFound(err)
		})
	})
}

// knowPool waits until every node has a pool in its plan and has carried that out.
func knowPool(ctx context.Context, t *testing.T, l *lab.Lab, name string, limit time.Duration) time.Duration {
	t.Helper()
	return eventually(t, limit, "every node knows pool "+name, func() error {
		return eachNetwork(ctx, l, func(nn *v1alpha1.NodeNetwork) error {
			if !known(&nn.Spec, name) || nn.Status.ObservedGeneration != nn.Generation {
				return fmt.Errorf("%s has carried out generation %d of %d, with the pool: %t", nn.Name, nn.Status.ObservedGeneration, nn.Generation, known(&nn.Spec, name))
			}
			return nil
		})
	})
}
