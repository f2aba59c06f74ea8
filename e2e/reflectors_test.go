package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/topology"
	"github.com/godwit-net/godwit/e2e/traffic"
	"github.com/godwit-net/godwit/internal/netnstest"
)

// meshNodes is up to how many nodes the lab of TestReflectors is a mesh with Auto.
const meshNodes = 6

// zoneOf are the zones of the lab of TestReflectors: a node and the next share one.
var zoneOf = map[string]string{"n1": "a", "n2": "a", "n3": "b", "n4": "b", "n5": "c", "n6": "c"}

// TestReflectors lets a cluster of six grow out of its mesh under traffic, by the
// node that is one too many. It takes away a zone, one reflector and then all but
// one, and goes back to the mesh. No packet is lost.
func TestReflectors(t *testing.T) {
	netnstest.RequireRoot(t)
	ctx := deadline(t, 5*time.Minute)
	l := bringUp(ctx, t, lab.Options{Options: topology.Options{Nodes: meshNodes}})
	config := func(topology v1alpha1.Topology) {
		t.Helper()
		if err := l.Change(ctx, &v1alpha1.BGPConfig{}, v1alpha1.BGPConfigName, func(o client.Object) {
			spec := &o.(*v1alpha1.BGPConfig).Spec
			spec.Topology, spec.RouteReflectors = topology, &v1alpha1.RouteReflectors{MeshLimit: new(int32(meshNodes))}
		}); err != nil {
			t.Fatal(err)
		}
	}
	for name, zone := range zoneOf {
		mustDo(t, l.Change(ctx, &corev1.Node{}, name, func(o client.Object) { o.GetLabels()[corev1.LabelTopologyZone] = zone }))
	}

	var reflectors []string
	config(v1alpha1.TopologyAuto)
	always(t, time.Second, "six nodes are a mesh", func() error { return meshed(ctx, l) })
	underTraffic(t, l, l.Top.Nodes, "the change from the mesh to reflectors", func() {
		reflectors = joinAndLeave(ctx, t, l)
	})
	reflectors = loseZone(ctx, t, l, reflectors)
	for i, lost := range reflectors[:2] {
		underTraffic(t, l, l.Top.Nodes, fmt.Sprintf("the loss of reflector %s: %d of %d are left", lost, len(reflectors)-i-1, len(reflectors)), func() {
			if err := l.Group.Kill(ctx, lab.AgentProcess(lost)); err != nil {
				t.Fatal(err)
			}
			// Who has a session with it notices at once, as its connections are closed.
			eventually(t, 20*time.Second, "the loss of "+lost+" is noticed", func() error { return hasNoSession(ctx, l, lost, reflectors[:i+1]) })
		})
	}
	underTraffic(t, l, l.Top.Nodes, "the return of the reflectors", func() {
		for _, back := range reflectors[:2] {
			if err := l.StartAgent(ctx, back); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, 40*time.Second, "the reflectors are back", func() error { return allUp(ctx, l) })
	})
	underTraffic(t, l, l.Top.Nodes, "the change back to the mesh", func() {
		config(v1alpha1.TopologyMesh)
		took := eventually(t, time.Minute, "the mesh is back", func() error { return meshed(ctx, l) })
		t.Logf("back to the mesh in %v", took)
	})
}

// joinAndLeave lets a seventh node join, by which the cluster is too large for a
// mesh, and leave again, by which it is not yet small enough for one. It returns the
// reflectors. The seventh has no agent: nobody may wait for it.
func joinAndLeave(ctx context.Context, t *testing.T, l *lab.Lab) (reflectors []string) {
	t.Helper()
	api, err := l.API()
	if err != nil {
		t.Fatal(err)
	}
	seventh := topology.Node{Name: "n7", Address: topology.Pair{V4: netip.MustParsePrefix("10.211.55.190/24")}}
	mustDo(t, l.AddNode(ctx, seventh))
	took := eventually(t, time.Minute, "the mesh goes", func() error {
		var all v1alpha1.NodeNetworkList
		if err := api.List(ctx, &all); err != nil {
			return err
		}
		for i := range all.Items {
			nn := &all.Items[i]
			want := 3
			if nn.Spec.Reflector {
				want = 6 // the two others, three clients, and the seventh or another client
			}
			if n := nodeSessions(nn); n > want || n < 3 || nn.Status.ObservedGeneration != nn.Generation && nn.Name != seventh.Name {
				return fmt.Errorf("%s has %d sessions with nodes in generation %d of %d, want %d", nn.Name, n, nn.Status.ObservedGeneration, nn.Generation, want)
			}
		}
		return nil
	})
	mustDo(t, api.Delete(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: seventh.Name}}))
	eventually(t, time.Minute, "the seventh node goes, and the reflectors stay", func() (err error) {
		reflectors, err = checkReflected(ctx, l)
		return err
	})
	t.Logf("from a mesh of 15 sessions to reflectors %v, with 12, %v after the seventh node joined", reflectors, took.Round(time.Millisecond))
	return reflectors
}

// loseZone takes a zone with one of the reflectors away: its links, its agents and
// then what its kubelets say. A reflector of another zone is elected for the one that
// is lost, and none of the others' packets is. Then the zone is back. It returns the
// reflectors.
func loseZone(ctx context.Context, t *testing.T, l *lab.Lab, reflectors []string) []string {
	t.Helper()
	const lost = "c"
	zones := map[string]string{}
	for _, name := range reflectors {
		zones[zoneOf[name]] = name
	}
	if len(zones) != 3 {
		t.Errorf("the reflectors %v are of the zones %v, want one of each", reflectors, zones)
	}
	var gone, left []topology.Node
	for _, n := range l.Top.Nodes {
		if zoneOf[n.Name] == lost {
			gone = append(gone, n)
		} else {
			left = append(left, n)
		}
	}
	var now []string
	underTraffic(t, l, left, "the loss of a zone", func() {
		for _, n := range gone {
			run(t, l, n.Name, "ip link set eth0 down")
			mustDo(t, l.Group.Kill(ctx, lab.AgentProcess(n.Name)))
		}
		for _, n := range gone {
			mustDo(t, setReady(ctx, l, n.Name, corev1.ConditionUnknown))
		}
		took := eventually(t, time.Minute, "another reflector is elected", func() error {
			now = nil
			var missing []error
			err := eachNetwork(ctx, l, func(nn *v1alpha1.NodeNetwork) error {
				if zoneOf[nn.Name] == lost {
					return nil
				}
				if nn.Spec.Reflector {
					now = append(now, nn.Name)
				}
				if nn.Status.ObservedGeneration != nn.Generation {
					missing = append(missing, fmt.Errorf("%s has carried out %d of %d", nn.Name, nn.Status.ObservedGeneration, nn.Generation))
				}
				return nil
			})
			if len(now) != 3 {
				missing = append(missing, fmt.Errorf("the reflectors left are %v", now))
			}
			return errors.Join(append(missing, err)...)
		})
		t.Logf("zone %s is lost: the reflectors were %v and are %v, after %v", lost, reflectors, now, took.Round(time.Millisecond))
	})
	for _, name := range reflectors {
		if zoneOf[name] != lost && !slices.Contains(now, name) {
			t.Errorf("%s, which was not lost, is no reflector any more", name)
		}
	}
	underTraffic(t, l, left, "the return of the zone", func() {
		for _, n := range gone {
			run(t, l, n.Name, "ip link set eth0 up")
			run(t, l, n.Name, "ip route replace default via "+l.Top.Gateways[0].First().String())
			mustDo(t, l.StartAgent(ctx, n.Name), setReady(ctx, l, n.Name, corev1.ConditionTrue))
		}
		eventually(t, 40*time.Second, "the zone is back", func() (err error) {
			if reflectors, err = checkReflected(ctx, l); err == nil {
				err = allUp(ctx, l)
			}
			return err
		})
	})
	if slices.Sort(now); !slices.Equal(now, slices.Sorted(slices.Values(reflectors))) {
		t.Errorf("the reflectors are %v after the zone's return, and were %v before it", reflectors, now)
	}
	return reflectors
}

// setReady says what a node's kubelet would of its being ready.
func setReady(ctx context.Context, l *lab.Lab, name string, ready corev1.ConditionStatus) error {
	api, err := l.API()
	if err != nil {
		return err
	}
	var n corev1.Node
	if err := api.Get(ctx, client.ObjectKey{Name: name}, &n); err != nil {
		return err
	}
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == corev1.NodeReady {
			n.Status.Conditions[i].Status = ready
		}
	}
	return api.Status().Update(ctx, &n)
}

// meshed says what is missing until all have a session with each other.
func meshed(ctx context.Context, l *lab.Lab) error {
	return eachNetwork(ctx, l, func(nn *v1alpha1.NodeNetwork) error {
		if n := nodeSessions(nn); nn.Spec.Reflector || n != meshNodes-1 || nn.Status.ObservedGeneration != nn.Generation {
			return fmt.Errorf("%s: reflector %t, %d sessions with nodes", nn.Name, nn.Spec.Reflector, n)
		}
		return nil
	})
}

// underTraffic does something while the first pod of each of some nodes sends to
// the next one's, and for a second more. Nothing of it may be lost.
func underTraffic(t *testing.T, l *lab.Lab, nodes []topology.Node, what string, do func()) {
	t.Helper()
	ctx := deadline(t, 20*time.Second)
	var flows []*traffic.Datagrams
	for i, from := range nodes {
		to := nodes[(i+1)%len(nodes)]
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
