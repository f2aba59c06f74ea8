package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/google/go-cmp/cmp"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/e2e/topology"
)

// findCondition looks whether a condition is so for a generation, and says some
// text, in its reason or in its message.
func findCondition(all []metav1.Condition, generation int64, kind, status, text string) error {
	c := apimeta.FindStatusCondition(all, kind)
	if c == nil {
		return fmt.Errorf("there is no condition %s: %+v", kind, all)
	}
	if string(c.Status) != status || c.ObservedGeneration != generation || !strings.Contains(c.Reason+": "+c.Message, text) {
		return fmt.Errorf("condition %s of generation %d is %s (%s: %s), want %s of %d with %q",
			kind, c.ObservedGeneration, c.Status, c.Reason, c.Message, status, generation, text)
	}
	return nil
}

func testIPIPRefusedForIPv6(t *testing.T, l *lab.Lab) {
	err := l.SetEncapsulation(deadline(t, 10*time.Second), topology.IPv6, v1alpha1.EncapsulationIPIP)
	if err == nil || !strings.Contains(err.Error(), "IPIP carries IPv4 only") {
		t.Errorf("IPIP for an IPv6 pool: %v", err)
	}
}

// testPortInUse: the pool waits for a node where somebody else has the UDP port,
// everything goes on as before, and the change is made when the port is free.
func testPortInUse(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, 2*time.Minute)
	waitNoIdleTunnels(t, l)
	flow := startFlow(t, l)
	var taken net.PacketConn
	if err := namespace.Do(l.Top.Namespace("n2"), func() (err error) {
		taken, err = net.ListenPacket("udp4", ":4789")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	if err := l.SetEncapsulation(ctx, topology.IPv4, v1alpha1.EncapsulationVXLAN); err != nil {
		t.Fatal(err)
	}
	pool := lab.PoolOf(topology.IPv4)
	eventually(t, 20*time.Second, "the pool waits", poolCondition(ctx, l, pool, "False", v1alpha1.ConditionEncapsulationApplied, "WaitingForTunnels: "))
	eventually(t, 20*time.Second, "it names the node", poolCondition(ctx, l, pool, "False", v1alpha1.ConditionEncapsulationApplied, "n2"))
	eventually(t, 20*time.Second, "the node says why", nodeCondition(ctx, l, "n2", "False", v1alpha1.ConditionTunnelsReady, "PortInUse"))
	eventually(t, 20*time.Second, "another node has its tunnel", nodeCondition(ctx, l, "n1", "True", v1alpha1.ConditionTunnelsReady, ""))
	if got := run(t, l, "n1", "ip route show "+nodeOf(t, l, "n2").Block.V4.String()); !strings.Contains(got, "dev eth0") {
		t.Errorf("packets to n2 go another way already: %s", got)
	}
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitEncapsulated(ctx, topology.IPv4, v1alpha1.EncapsulationVXLAN); err != nil {
		t.Fatal(err)
	}
	setEncapsulation(ctx, t, l, topology.IPv4, v1alpha1.EncapsulationNone)
	flow.stop(t)
}

// testDeviceConflict: a device of that name which is somebody else's stays as it
// is.
func testDeviceConflict(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, 2*time.Minute)
	waitNoIdleTunnels(t, l)
	flow := startFlow(t, l)
	run(t, l, "n3", "ip link add godwit.vxlan type vxlan id 7 dstport 4790 local 10.211.55.117")
	before := run(t, l, "n3", "ip -d link show godwit.vxlan")
	if err := l.SetEncapsulation(ctx, topology.IPv4, v1alpha1.EncapsulationVXLAN); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the node says why", nodeCondition(ctx, l, "n3", "False", v1alpha1.ConditionTunnelsReady, "DeviceConflict"))
	eventually(t, 20*time.Second, "the pool waits", poolCondition(ctx, l, lab.PoolOf(topology.IPv4), "False", v1alpha1.ConditionEncapsulationApplied, "n3"))
	if diff := cmp.Diff(before, run(t, l, "n3", "ip -d link show godwit.vxlan")); diff != "" {
		t.Errorf("somebody else's device was changed (- before, + after):\n%s", diff)
	}
	run(t, l, "n3", "ip link del godwit.vxlan")
	if err := l.WaitEncapsulated(ctx, topology.IPv4, v1alpha1.EncapsulationVXLAN); err != nil {
		t.Fatal(err)
	}
	setEncapsulation(ctx, t, l, topology.IPv4, v1alpha1.EncapsulationNone)
	flow.stop(t)
}

// testMTUTooSmall: an MTU that leaves a tunnel less than IPv6 needs changes
// nothing in the tunnel that there is.
func testMTUTooSmall(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, 2*time.Minute)
	setEncapsulation(ctx, t, l, topology.IPv6, v1alpha1.EncapsulationVXLAN)
	flow := startFlow(t, l)
	api, err := l.API()
	if err != nil {
		t.Fatal(err)
	}
	mtu := int32(1349) // less 70 for VXLAN: one byte below 1280 (RFC 8200, section 5)
	small := &v1alpha1.NetworkConfig{Spec: v1alpha1.NetworkConfigSpec{MTU: &mtu}}
	small.Name = v1alpha1.NetworkConfigName
	if err := api.Create(ctx, small); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the node says why", nodeCondition(ctx, l, "n1", "False", v1alpha1.ConditionTunnelsReady, "MTUTooSmall"))
	if got := run(t, l, "n1", "ip -br link show "+lab.VXLAN6Device); !strings.Contains(got, "UP") {
		t.Errorf("the tunnel is not up any more: %s", got)
	}
	if err := l.Change(ctx, &v1alpha1.NetworkConfig{}, small.Name, func(o client.Object) {
		enough := mtu + 1
		o.(*v1alpha1.NetworkConfig).Spec.MTU = &enough
	}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "an MTU that is enough", nodeCondition(ctx, l, "n1", "True", v1alpha1.ConditionTunnelsReady, ""))
	eventually(t, 10*time.Second, "the tunnel has it", contains(l, "n1", "ip link show "+lab.VXLAN6Device, "mtu 1280", true))
	p := addPod(t, l, "n1", "small")
	if got := run(t, l, p.Name, "ip link show eth0"); !strings.Contains(got, "mtu 1280") {
		t.Errorf("a new pod has another MTU: %s", got)
	}
	if err := api.Delete(ctx, small); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the interface's MTU counts again", contains(l, "n1", "ip link show "+lab.VXLAN6Device, "mtu 1430", true))
	setEncapsulation(ctx, t, l, topology.IPv6, v1alpha1.EncapsulationNone)
	flow.stop(t)
}

// testReboot: a node that comes back with the same address needs no change in
// the tunnels of the others.
func testReboot(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, 3*time.Minute)
	for _, f := range l.Options.Family.Each() {
		setEncapsulation(ctx, t, l, f, v1alpha1.EncapsulationVXLAN)
	}
	tunnels := func(node string) string {
		var all []string
		for _, device := range []string{lab.VXLANDevice, lab.VXLAN6Device} {
			all = append(all, run(t, l, node, "bridge fdb show dev "+device), run(t, l, node, "ip neigh show nud permanent dev "+device))
		}
		return strings.Join(all, "\n")
	}
	before := tunnels("n2")
	if n := strings.Count(before, "\n"); n < 2*2*2 {
		t.Fatalf("n2's tunnels have %d entries, want two for each of two nodes in each family:\n%s", n, before)
	}
	if err := l.CutPower(ctx, "n3"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Ping(ctx, "n1-p3", pod(t, l, "n2-p4").Address); err != nil {
		t.Error(err)
	}
	if err := l.Boot(ctx, "n3"); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitAgentReady(ctx, "n3"); err != nil {
		t.Fatal(err)
	}
	if err := l.AttachPodsOf(ctx, "n3"); err != nil {
		t.Fatal(err)
	}
	// The others learn that the old connections are dead when they send a keepalive
	// over them, which they do every 30 s, and refuse new ones until then.
	took := eventually(t, 75*time.Second, "the way to another node's pods", contains(l, "n3", "ip -4 route", nodeOf(t, l, "n1").Block.V4.String(), true))
	t.Logf("n3 has routes %v after it has pods", took.Round(time.Millisecond))
	eventually(t, 20*time.Second, "everybody reaches everybody", func() error { return l.PingMatrix(ctx).Err() })
	if diff := cmp.Diff(before, tunnels("n2")); diff != "" {
		t.Errorf("n2's tunnels have other entries after n3's reboot (- before, + after):\n%s", diff)
	}
	for _, f := range l.Options.Family.Each() {
		setEncapsulation(ctx, t, l, f, v1alpha1.EncapsulationNone)
	}
}
