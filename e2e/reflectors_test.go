package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/topology"
	"github.com/godwit-net/godwit/e2e/traffic"
	"github.com/godwit-net/godwit/internal/netnstest"
)

// TestReflectors lets a cluster of six grow out of its mesh under traffic, takes
// away one reflector and then all but one, and goes back to the mesh. No packet is
// lost.
func TestReflectors(t *testing.T) {
	netnstest.RequireRoot(t)
	ctx := deadline(t, 4*time.Minute)
	l := bringUp(ctx, t, lab.Options{Options: topology.Options{Nodes: 6}})
	config := func(topology v1alpha1.Topology) {
		t.Helper()
		if err := l.Change(ctx, &v1alpha1.BGPConfig{}, v1alpha1.BGPConfigName, func(o client.Object) {
			spec := &o.(*v1alpha1.BGPConfig).Spec
			spec.Topology, spec.RouteReflectors = topology, &v1alpha1.RouteReflectors{MeshLimit: new(int32(4))}
		}); err != nil {
			t.Fatal(err)
		}
	}

	var reflectors []string
	underTraffic(t, l, "the change from the mesh to reflectors", func() {
		config(v1alpha1.TopologyAuto)
		took := eventually(t, time.Minute, "the mesh goes", func() (err error) {
			reflectors, err = checkReflected(ctx, l)
			return err
		})
		t.Logf("from a mesh of 15 sessions to reflectors %v, with 12, in %v", reflectors, took)
	})
	// A claimed address moves by way of the reflectors.
	claimed := netip.MustParseAddr("172.26.0.10")
	c := newClaimants(ctx, t, l, claimed.String())
	for _, n := range []string{"n1", "n2"} {
		begin := time.Now()
		c.must(n, "db", claimed.String())
		c.routed(claimed, n)
		t.Logf("a claimed address is routed to %s by all others %v after its pod came there", n, time.Since(begin).Round(time.Millisecond))
		c.del(n, "db")
	}
	c.end()
	for i, lost := range reflectors[:2] {
		underTraffic(t, l, fmt.Sprintf("the loss of reflector %s: %d of %d are left", lost, len(reflectors)-i-1, len(reflectors)), func() {
			if err := l.Group.Kill(ctx, lab.AgentProcess(lost)); err != nil {
				t.Fatal(err)
			}
			// Who has a session with it notices at once, as its connections are closed.
			eventually(t, 20*time.Second, "the loss of "+lost+" is noticed", func() error { return hasNoSession(ctx, l, lost, reflectors[:i+1]) })
		})
	}
	underTraffic(t, l, "the return of the reflectors", func() {
		for _, back := range reflectors[:2] {
			if err := l.StartAgent(ctx, back); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, 40*time.Second, "the reflectors are back", func() error { return allUp(ctx, l) })
	})
	underTraffic(t, l, "the change back to the mesh", func() {
		config(v1alpha1.TopologyMesh)
		took := eventually(t, time.Minute, "the mesh is back", func() error {
			return eachNetwork(ctx, l, func(nn *v1alpha1.NodeNetwork) error {
				if n := nodeSessions(nn); nn.Spec.Reflector || n != 5 || nn.Status.ObservedGeneration != nn.Generation {
					return fmt.Errorf("%s: reflector %t, %d sessions with nodes", nn.Name, nn.Spec.Reflector, n)
				}
				return nil
			})
		})
		t.Logf("back to the mesh in %v", took)
	})
}

// underTraffic does something while each node's first pod sends to the next
// node's, and for a second more. Nothing of it may be lost.
func underTraffic(t *testing.T, l *lab.Lab, what string, do func()) {
	t.Helper()
	ctx := deadline(t, 20*time.Second)
	var flows []*traffic.Datagrams
	for i, from := range l.Top.Nodes {
		to := l.Top.Nodes[(i+1)%len(l.Top.Nodes)]
		sender, receiver := pod(t, l, from.Name+"-p1"), pod(t, l, to.Name+"-p1")
		d, err := traffic.StartDatagrams(ctx, sender.Name+" to "+receiver.Name, sender.Netns, receiver.Netns, receiver.Address, int(pace/l.Patience))
		if err != nil {
			t.Fatal(err)
		}
		flows = append(flows, d)
	}
	do()
	time.Sleep(time.Second)
	var sent uint64
	lost := 0
	for _, d := range flows {
		c, err := d.Stop()
		if err != nil || len(c.Lost) > 0 || c.Refused > 0 || c.Sent == 0 {
			t.Errorf("%s: datagrams %s: %d of %d lost, %d refused: %v: %v", what, d.Name, len(c.Lost), c.Sent, c.Refused, err, c.Lost[:min(len(c.Lost), few)])
		}
		sent += c.Sent
		lost += len(c.Lost) + c.Refused
	}
	t.Logf("%s: %d of %d datagrams lost", what, lost, sent)
}

// checkReflected says what is missing until all have given up the mesh, and
// returns the reflectors.
func checkReflected(ctx context.Context, l *lab.Lab) (reflectors []string, err error) {
	err = eachNetwork(ctx, l, func(nn *v1alpha1.NodeNetwork) error {
		want := 3
		if nn.Spec.Reflector {
			reflectors = append(reflectors, nn.Name)
			want = 5 // the two others and three clients
		}
		if n := nodeSessions(nn); n != want || nn.Status.ObservedGeneration != nn.Generation {
			return fmt.Errorf("%s has %d sessions with nodes in generation %d of %d, want %d", nn.Name, n, nn.Status.ObservedGeneration, nn.Generation, want)
		}
		return nil
	})
	if err == nil && len(reflectors) != 3 {
		err = fmt.Errorf("the reflectors are %v, want 3", reflectors)
	}
	return reflectors, err
}

func nodeSessions(nn *v1alpha1.NodeNetwork) int {
	n := 0
	for i := range nn.Spec.Sessions {
		if nn.Spec.Sessions[i].Kind == v1alpha1.SessionNode {
			n++
		}
	}
	return n
}

// hasNoSession says who still reports a session with a node. Those away report
// nothing.
func hasNoSession(ctx context.Context, l *lab.Lab, gone string, away []string) error {
	return eachNetwork(ctx, l, func(nn *v1alpha1.NodeNetwork) error {
		for _, s := range nn.Status.Sessions {
			if s.Name == gone && s.State == "Established" && !slices.Contains(away, nn.Name) {
				return fmt.Errorf("%s reports a session with %s", nn.Name, gone)
			}
		}
		return nil
	})
}

func allUp(ctx context.Context, l *lab.Lab) error {
	return eachNetwork(ctx, l, func(nn *v1alpha1.NodeNetwork) error {
		if len(nn.Status.Sessions) != len(nn.Spec.Sessions) {
			return fmt.Errorf("%s reports %d of %d sessions", nn.Name, len(nn.Status.Sessions), len(nn.Spec.Sessions))
		}
		for _, s := range nn.Status.Sessions {
			if s.State != "Established" {
				return fmt.Errorf("%s: session %s is %s: %s", nn.Name, s.Name, s.State, s.Message)
			}
		}
		return nil
	})
}

// eachNetwork calls check with each node's NodeNetwork.
func eachNetwork(ctx context.Context, l *lab.Lab, check func(*v1alpha1.NodeNetwork) error) error {
	api, err := l.API()
	if err != nil {
		return err
	}
	var all v1alpha1.NodeNetworkList
	if err := api.List(ctx, &all); err != nil {
		return err
	}
	if len(all.Items) != len(l.Top.Nodes) {
		return fmt.Errorf("%d NodeNetworks of %d nodes", len(all.Items), len(l.Top.Nodes))
	}
	var errs []error
	for i := range all.Items {
		errs = append(errs, check(&all.Items[i]))
	}
	return errors.Join(errs...)
}
