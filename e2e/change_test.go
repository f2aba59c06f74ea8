package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/routewatch"
	"github.com/godwit-net/godwit/e2e/topology"
	"github.com/godwit-net/godwit/e2e/traffic"
	"github.com/godwit-net/godwit/internal/netnstest"
)

// TestChanges changes what can be changed under traffic, in one lab of both
// families that nothing is restarted in.
func TestChanges(t *testing.T) {
	netnstest.RequireRoot(t)
	ctx := deadline(t, 6*time.Minute)
	l := bringUp(ctx, t, lab.Options{Options: topology.Options{Family: topology.Dual}})
	for _, tt := range []struct {
		name string
		run  func(*testing.T, *lab.Lab)
	}{
		{"Encapsulation", func(t *testing.T, l *lab.Lab) {
			testEncapsulationChanges(t, l,
				v1alpha1.EncapsulationVXLAN, v1alpha1.EncapsulationVXLANCrossSubnet, v1alpha1.EncapsulationNone)
		}},
		{"Advertisement", testAdvertisement},
		{"OnePeer", testOnePeer},
		{"SecondPool", testSecondPool},
		{"Topology", testTopologyChanges},
		{"MTU", testMTUFollows},
		{"IPIPRefusedForIPv6", testIPIPRefusedForIPv6},
		{"PortInUse", testPortInUse},
		{"DeviceConflict", testDeviceConflict},
		{"MTUTooSmall", testMTUTooSmall},
		{"Unnumbered", testUnnumbered},
		{"Reboot", testReboot},
	} {
		if !t.Run(tt.name, func(t *testing.T) { tt.run(t, l) }) && ctx.Err() != nil {
			t.Fatal("out of time")
		}
	}
}

// flow is traffic between pods of two nodes that is to suffer nothing.
type flow struct {
	streams []*traffic.Stream
	numbers []*traffic.Datagrams
	watches []*routewatch.Watch
}

const (
	pace = 500 // how many datagrams a flow sends in a second, each way
	few  = 20  // of what went wrong, that much is shown
)

// startFlow starts streams and datagrams between the first pods of all nodes, in
// each family of the lab, and watches the nodes' routes to each other's blocks.
func startFlow(t *testing.T, l *lab.Lab) *flow {
	t.Helper()
	ctx := deadline(t, 20*time.Second)
	f := &flow{}
	for _, from := range l.Top.Nodes {
		var blocks []netip.Prefix
		for _, to := range l.Top.Nodes {
			if from.Name == to.Name {
				continue
			}
			blocks = append(blocks, to.Block.Each()...)
			sender, receiver := pod(t, l, from.Name+"-p1"), pod(t, l, to.Name+"-p1")
			for _, a := range receiver.Addresses {
				name := fmt.Sprintf("%s to %s (%s)", sender.Name, receiver.Name, a)
				s, err := traffic.Start(ctx, name, sender.Netns, receiver.Netns, a)
				if err != nil {
					t.Fatal(err)
				}
				d, err := traffic.StartDatagrams(ctx, name, sender.Netns, receiver.Netns, a, int(pace/l.Patience))
				if err != nil {
					t.Fatal(err)
				}
				f.streams, f.numbers = append(f.streams, s), append(f.numbers, d)
			}
		}
		w, err := routewatch.Start(l.Top.Namespace(from.Name), blocks)
		if err != nil {
			t.Fatal(err)
		}
		f.watches = append(f.watches, w)
	}
	return f
}

// stop ends a flow, which must have lost nothing.
func (f *flow) stop(t *testing.T) {
	t.Helper()
	var sent, asked uint64
	var longest time.Duration
	for _, s := range f.streams {
		r, err := s.Stop()
		if err != nil || r.Received != r.Sent || r.Sent == 0 {
			t.Errorf("stream %s: %d of %d numbers arrived: %v", s.Name, r.Received, r.Sent, err)
		}
		longest = max(longest, r.Longest)
	}
	for _, d := range f.numbers {
		c, err := d.Stop()
		if err != nil || len(c.Lost) > 0 || c.Refused > 0 || c.Sent == 0 {
			t.Errorf("datagrams %s: %d of %d lost, %d refused: %v: %v", d.Name, len(c.Lost), c.Sent, c.Refused, err, c.Lost[:min(len(c.Lost), few)])
		}
		sent += c.Sent
	}
	for _, w := range f.watches {
		missing, n, err := w.Stop()
		if err != nil || len(missing) > 0 || n == 0 {
			t.Errorf("routes were missing %d times, of %d asked: %v, %v", len(missing), n, err, missing[:min(len(missing), few)])
		}
		asked += uint64(n) // #nosec G115 -- a count
	}
	if t.Failed() {
		return
	}
	t.Logf("%d streams lost nothing, with pauses of at most %v; none of %d datagrams was lost; no route was missing, of %d times asked",
		len(f.streams), longest.Round(time.Millisecond), sent, asked)
}

// testEncapsulationChanges takes the pools from one encapsulation to the next,
// and expects the last one to be the lab's own.
func testEncapsulationChanges(t *testing.T, l *lab.Lab, steps ...v1alpha1.Encapsulation) {
	ctx := deadline(t, 2*time.Minute)
	flow := startFlow(t, l)
	for _, e := range steps {
		for _, f := range l.Options.Family.Each() {
			setEncapsulation(ctx, t, l, f, e)
		}
	}
	flow.stop(t)
	waitNoIdleTunnels(t, l)
}

// waitNoIdleTunnels waits until no node has a tunnel of a kind that the lab's own
// encapsulations don't use.
func waitNoIdleTunnels(t *testing.T, l *lab.Lab) {
	t.Helper()
	for _, n := range l.Top.Nodes {
		for _, kind := range []v1alpha1.TunnelKind{v1alpha1.TunnelIPIP, v1alpha1.TunnelVXLAN} {
			if used := slices.ContainsFunc(l.Options.Family.Each(), func(f topology.Family) bool {
				return l.Options.EncapsulationOf(f).Tunnel() == kind
			}); !used {
				eventually(t, 10*time.Second, "no tunnel is left", noDevices(t, l, n.Name, kind))
			}
		}
	}
}

// noDevices asks whether a node has no tunnel of a kind any more.
func noDevices(t *testing.T, l *lab.Lab, node string, kind v1alpha1.TunnelKind) func() error {
	return func() error {
		links := run(t, l, node, "ip -br link")
		for _, v6 := range []bool{false, true} {
			if name := kind.Interface(v6); name != "" && strings.Contains(links, name+" ") {
				return fmt.Errorf("%s still has %s:\n%s", node, name, links)
			}
		}
		return nil
	}
}

// setEncapsulation changes the pool of a family and waits until all is so.
func setEncapsulation(ctx context.Context, t *testing.T, l *lab.Lab, f topology.Family, e v1alpha1.Encapsulation) {
	t.Helper()
	begin := time.Now()
	if err := l.SetEncapsulation(ctx, f, e); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitEncapsulated(ctx, f, e); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the pool says so", poolCondition(ctx, l, lab.PoolOf(f), "True", v1alpha1.ConditionEncapsulationApplied, ""))
	t.Logf("the %s pool went over to %s within %v", f, e, time.Since(begin).Round(time.Millisecond))
}

// poolCondition asks whether a pool's condition is so, and says some text.
func poolCondition(ctx context.Context, l *lab.Lab, pool, status, condition, text string) func() error {
	return func() error {
		p := &v1alpha1.IPPool{}
		if err := get(ctx, l, pool, p); err != nil {
			return err
		}
		return findCondition(p.Status.Conditions, p.Generation, condition, status, text)
	}
}

// nodeCondition asks whether a node's condition is so, and says some text.
func nodeCondition(ctx context.Context, l *lab.Lab, node, status, condition, text string) func() error {
	return func() error {
		n := &v1alpha1.NodeNetwork{}
		if err := get(ctx, l, node, n); err != nil {
			return err
		}
		return findCondition(n.Status.Conditions, n.Generation, condition, status, text)
	}
}

func get(ctx context.Context, l *lab.Lab, name string, o client.Object) error {
	api, err := l.API()
	if err != nil {
		return err
	}
	return api.Get(ctx, client.ObjectKey{Name: name}, o)
}

// testSecondPool: pods of a second pool go through a tunnel while those of the
// first go bare.
func testSecondPool(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, time.Minute)
	api, err := l.API()
	if err != nil {
		t.Fatal(err)
	}
	second := &v1alpha1.IPPool{Spec: v1alpha1.IPPoolSpec{CIDR: "172.29.0.0/16", Encapsulation: v1alpha1.EncapsulationVXLAN}}
	second.Name = "second"
	disable := func(disabled bool) {
		t.Helper()
		if err := l.Change(ctx, &v1alpha1.IPPool{}, lab.PoolOf(topology.IPv4), func(o client.Object) {
			o.(*v1alpha1.IPPool).Spec.Disabled = disabled
		}); err != nil {
			t.Fatal(err)
		}
	}
	flow := startFlow(t, l)
	if err := api.Create(ctx, second); err != nil {
		t.Fatal(err)
	}
	disable(true) // so that new pods are of the second
	inSecond := netip.MustParsePrefix(second.Spec.CIDR)
	for _, n := range []string{"n1", "n2"} {
		eventually(t, 20*time.Second, n+" has the plan", func() error {
			nn := &v1alpha1.NodeNetwork{}
			if err := get(ctx, l, n, nn); err != nil {
				return err
			}
			for _, p := range nn.Spec.Pools {
				if p.CIDR == second.Spec.CIDR && p.Encapsulation == v1alpha1.EncapsulationVXLAN && nn.Status.ObservedGeneration == nn.Generation {
					return nil
				}
			}
			return errors.New("its plan lacks the second pool, or is not carried out yet")
		})
	}
	a, b := addPod(t, l, "n1", "second"), addPod(t, l, "n2", "second")
	if !inSecond.Contains(a.Address) || !inSecond.Contains(b.Address) {
		t.Fatalf("pods have %s and %s, want addresses of %s", a.Address, b.Address, inSecond)
	}
	eventually(t, 20*time.Second, "the route to the second pod", contains(l, "n1", "ip route get "+b.Address.String(), "dev "+lab.VXLANDevice, true))
	packets, err := l.Capture("n1", func() error {
		for _, to := range []netip.Addr{b.Address, pod(t, l, "n2-p1").Address} {
			if _, err := l.Ping(ctx, a.Name, to); err != nil {
				return err
			}
		}
		_, err := l.Ping(ctx, "n1-p1", pod(t, l, "n2-p1").Address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, pair := range []struct {
		from, to netip.Addr
		tunnel   bool
	}{
		{a.Address, b.Address, true},
		{pod(t, l, "n1-p1").Address, pod(t, l, "n2-p1").Address, false},
		{a.Address, pod(t, l, "n2-p1").Address, false}, // it is the destination's pool that says so
	} {
		p, found := lab.Between(packets, pair.from, pair.to)
		if !found || strings.Contains(p.String(), "VXLAN") != pair.tunnel {
			t.Errorf("%s to %s: captured %q, want a tunnel: %t", pair.from, pair.to, p, pair.tunnel)
		}
	}
	disable(false)
	flow.stop(t)
	t.Cleanup(func() { // after the pods
		ctx := context.WithoutCancel(ctx)
		eventually(t, 30*time.Second, "the second pool goes", func() error {
			blocks, err := l.Blocks(ctx)
			for i := range blocks {
				if blocks[i].Spec.Pool == second.Name {
					err = errors.Join(err, client.IgnoreNotFound(api.Delete(ctx, &blocks[i])))
				}
			}
			return errors.Join(err, client.IgnoreNotFound(api.Delete(ctx, second)))
		})
	})
}

// testMTUFollows: tunnels and new pods have the MTU that the node's interface
// leaves them, whatever it becomes. Pods that run keep theirs.
func testMTUFollows(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, time.Minute)
	setEncapsulation(ctx, t, l, topology.IPv4, v1alpha1.EncapsulationVXLAN)
	t.Cleanup(func() { widen(t, l) }) // after the pod
	run(t, l, "n1", "ip link set eth0 mtu 1400")
	took := eventually(t, 5*time.Second, "the tunnel follows", contains(l, "n1", "ip link show "+lab.VXLANDevice, "mtu 1350", true))
	t.Logf("the tunnel has the new MTU after %v", took)
	eventually(t, 10*time.Second, "the node reports it", func() error {
		nn := &v1alpha1.NodeNetwork{}
		if err := get(ctx, l, "n1", nn); err != nil {
			return err
		}
		// Pods have addresses of both pools, and that of IPv6 goes bare.
		if nn.Status.MTU != 1350 {
			return fmt.Errorf("reported is an MTU of %d for pods", nn.Status.MTU)
		}
		return nil
	})
	p := addPod(t, l, "n1", "narrow")
	for name, mtu := range map[string]string{p.Name: "mtu 1350", "n1-p1": "mtu 1500"} {
		if got := run(t, l, name, "ip link show eth0"); !strings.Contains(got, mtu) {
			t.Errorf("pod %s: want %s: %s", name, mtu, got)
		}
	}
}

// widen brings n1's MTU and the pool's encapsulation back.
func widen(t *testing.T, l *lab.Lab) {
	t.Helper()
	run(t, l, "n1", "ip link set eth0 mtu 1500")
	eventually(t, 5*time.Second, "the tunnel follows back", contains(l, "n1", "ip link show "+lab.VXLANDevice, "mtu 1450", true))
	setEncapsulation(deadline(t, 30*time.Second), t, l, topology.IPv4, v1alpha1.EncapsulationNone)
}

// testTopologyChanges takes BGP between the nodes away and brings it back, under
// traffic. The routers outside keep their sessions.
func testTopologyChanges(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, 2*time.Minute)
	since := sessionWithTor1(t, l)
	flow := startFlow(t, l)
	for _, topo := range []v1alpha1.Topology{v1alpha1.TopologyNone, v1alpha1.TopologyMesh} {
		begin := time.Now()
		if err := l.Change(ctx, &v1alpha1.BGPConfig{}, v1alpha1.BGPConfigName, func(o client.Object) {
			o.(*v1alpha1.BGPConfig).Spec.Topology = topo
		}); err != nil {
			t.Fatal(err)
		}
		for _, n := range l.Top.Nodes {
			eventually(t, 60*time.Second, "topology "+string(topo)+" on "+n.Name, func() error { return checkTopology(ctx, l, n.Name, topo) })
		}
		t.Logf("topology %s within %v", topo, time.Since(begin).Round(time.Millisecond))
		if err := l.PingMatrix(ctx).Err(); err != nil {
			t.Error(err)
		}
	}
	flow.stop(t)
	mustHaveStayed(t, l, since)
	if err := l.WaitEstablished(ctx); err != nil {
		t.Error(err)
	}
}

// checkTopology looks whether a node has gone over to a topology as a whole.
func checkTopology(ctx context.Context, l *lab.Lab, node string, topo v1alpha1.Topology) error {
	nn := &v1alpha1.NodeNetwork{}
	if err := get(ctx, l, node, nn); err != nil {
		return err
	}
	inside, up := 0, 0
	for _, s := range nn.Status.Sessions {
		if s.Kind == v1alpha1.SessionNode {
			inside++
			if s.State == "Established" {
				up++
			}
		}
	}
	none := topo == v1alpha1.TopologyNone
	families := len(l.Options.Family.Each())
	switch {
	case nn.Status.ObservedGeneration != nn.Generation:
		return errors.New("the plan is not carried out yet")
	case nn.Spec.BlocksFromAPI != none || nn.Status.BlocksFromAPI != none:
		return fmt.Errorf("blocks from the API: planned %t, so %t, want %t", nn.Spec.BlocksFromAPI, nn.Status.BlocksFromAPI, none)
	case none && inside > 0:
		return fmt.Errorf("there are %d sessions with nodes, want none", inside)
	case !none && (up != inside || inside == 0 || inside%(len(l.Top.Nodes)-1) != 0 || inside > families*(len(l.Top.Nodes)-1)):
		return fmt.Errorf("%d of %d sessions with nodes are established", up, inside)
	}
	return nil
}

// TestIPIPChanges needs a kernel with ipip.
func TestIPIPChanges(t *testing.T) {
	netnstest.RequireRoot(t)
	l := bringUp(deadline(t, 5*time.Minute), t, lab.Options{Encapsulation: v1alpha1.EncapsulationIPIP})
	testEncapsulationChanges(t, l, v1alpha1.EncapsulationVXLANCrossSubnet, v1alpha1.EncapsulationIPIP)
}
