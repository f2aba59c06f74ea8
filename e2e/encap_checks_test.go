package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/capture"
	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/topology"
	"github.com/godwit-net/godwit/e2e/traffic"
)

// testTunnelGoldens compares the route tables of two nodes, and of a pod of
// each, with files in the operator's language. Each node's first address is its
// tunnel's, so the pods' names are one less than without a tunnel.
func testTunnelGoldens(t *testing.T, l *lab.Lab, folder string) {
	for full, want := range map[string]string{"n1-p2": "172.25.0.130", "n2-p3": "172.25.0.195"} {
		if got := pod(t, l, full).Address.String(); got != want {
			t.Errorf("pod %s has %s, want %s", full, got, want)
		}
	}
	for _, m := range []string{"n1-p2", "n2-p3", "n1", "n2"} {
		golden(t, path.Join(folder, m+".ip-route.txt"), run(t, l, m, "ip -4 route"))
	}
}

// testReach: the sessions are those that the options ask for, no more and no
// less, and everybody reaches everybody.
func testReach(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, time.Minute)
	if err := l.CheckEstablished(ctx); err != nil {
		t.Error(err)
	}
	checkMesh(ctx, t, l)
	m := l.PingMatrix(ctx)
	t.Logf("\n%s", m)
	if err := m.Err(); err != nil {
		t.Error(err)
	}
	// In each family every pod with those of the other nodes, and with 3 hosts both
	// ways where its node speaks with the routers.
	want := 0
	for _, n := range l.Top.Nodes {
		want += len(l.Top.Nodes) - 1
		if n.Subnet == 0 {
			want += 2 * len(l.Top.Hosts)
		}
	}
	want *= len(l.Options.Family.Each())
	if tried, _ := m.Count(); tried != want {
		t.Errorf("%d pairs tried, want %d", tried, want)
	}
}

// checkMesh: where the nodes' blocks come from the API, no node has a session
// with another, and every node says so.
func checkMesh(ctx context.Context, t *testing.T, l *lab.Lab) {
	t.Helper()
	api, err := l.API()
	if err != nil {
		t.Fatal(err)
	}
	var list v1alpha1.NodeNetworkList
	if err := api.List(ctx, &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != len(l.Top.Nodes) {
		t.Errorf("%d nodes report, want %d", len(list.Items), len(l.Top.Nodes))
	}
	for _, nn := range list.Items {
		mesh := 0
		for _, s := range nn.Status.Sessions {
			if _, isNode := l.Top.Node(s.Name); isNode {
				mesh++
			}
		}
		want := len(l.Top.Nodes) - 1
		if l.Options.BGP == v1alpha1.TopologyNone {
			want = 0
		}
		if mesh != want {
			t.Errorf("%s has sessions with %d nodes, want %d", nn.Name, mesh, want)
		}
		if got, want := nn.Status.BlocksFromAPI, l.Options.BGP == v1alpha1.TopologyNone; got != want {
			t.Errorf("%s has blocks from the API: %t, want %t", nn.Name, got, want)
		}
	}
}

// pairs calls do for each two different nodes.
func pairs(l *lab.Lab, do func(from, to topology.Node)) {
	for _, from := range l.Top.Nodes {
		for _, to := range l.Top.Nodes {
			if from.Name != to.Name {
				do(from, to)
			}
		}
	}
}

// podOf returns the name of the n-th pod of a node, from 1 on, and its address
// of a family.
func podOf(t *testing.T, l *lab.Lab, node topology.Node, n int, f topology.Family) (string, netip.Addr) {
	t.Helper()
	p := pod(t, l, topology.PodName(node.Name, "p"+strconv.Itoa(n)))
	a, ok := p.Of(f == topology.IPv6)
	if !ok {
		t.Fatalf("pod %s has no %s address", p.Name, f)
	}
	return p.Name, a
}

// innermost is what a packet carries in the end: itself, without a tunnel.
func innermost(p capture.Packet) capture.Packet {
	for p.Inner != nil {
		p = *p.Inner
	}
	return p
}

// checkForm tells what is wrong with a packet between the pods of two nodes, as
// it is between these nodes: in the one tunnel that the options ask for, or in
// none.
func checkForm(l *lab.Lab, f topology.Family, from, to topology.Node, p capture.Packet) error {
	o := l.Options
	e := o.EncapsulationOf(f)
	if !lab.Encapsulated(e, from, to) {
		if p.Inner != nil {
			return fmt.Errorf("from %s to %s packets are to go bare, this is in a tunnel: %s", from.Name, to.Name, p)
		}
		return nil
	}
	good := p.Src == from.Address.Of(f).Addr() && p.Dst == to.Address.Of(f).Addr() &&
		p.Inner != nil && p.Inner.Inner == nil && !p.Fragment
	want := "IPIP (protocol 4)"
	switch e.Tunnel() {
	case v1alpha1.TunnelIPIP:
		good = good && p.Protocol == capture.IPIP
	default:
		port, vni := cmp.Or(o.VXLANPort, v1alpha1.DefaultVXLANPort), cmp.Or(o.VNI, v1alpha1.DefaultVXLANVNI)
		want = fmt.Sprintf("VXLAN (UDP port %d, VNI %d)", port, vni)
		good = good && p.Protocol == capture.UDP && p.DstPort == uint16(port) && p.VNI == uint32(vni)
	}
	if !good {
		return fmt.Errorf("from %s to %s packets are to be in %s from %s to %s, this is %s", from.Name, to.Name, want,
			from.Address.Of(f).Addr(), to.Address.Of(f).Addr(), p)
	}
	return nil
}

// checkWay looks, in a record of a node's uplink, at the packets between one end
// at this node and one at another: there are some both ways, and each has the
// form that it is to have.
func checkWay(t *testing.T, l *lab.Lab, f topology.Family, packets []capture.Packet, here, there topology.Node, a, b netip.Addr) {
	t.Helper()
	var out, back int
	for _, p := range packets {
		var err error
		switch in := innermost(p); {
		case in.Src == a && in.Dst == b:
			out++
			err = checkForm(l, f, here, there, p)
		case in.Src == b && in.Dst == a:
			back++
			err = checkForm(l, f, there, here, p)
		}
		if err != nil {
			t.Error(err)
			return
		}
	}
	if out == 0 || back == 0 {
		t.Errorf("%d packets from %s to %s on the wire of %s, and %d back; want some both ways", out, a, b, here.Name, back)
	}
}

// testWire looks at each node's uplink while a pod of the node pings pods of all
// others. What is in a tunnel there is for another node and in the form for it,
// whoever sent it.
func testWire(t *testing.T, l *lab.Lab, f topology.Family) {
	ctx := deadline(t, time.Minute)
	for _, from := range l.Top.Nodes {
		name, source := podOf(t, l, from, 1, f)
		packets, err := l.Capture(from.Name, func() error {
			var errs []error
			for _, to := range l.Top.Nodes {
				if _, target := podOf(t, l, to, 2, f); to.Name != from.Name {
					_, err := l.Ping(ctx, name, target)
					errs = append(errs, err)
				}
			}
			return errors.Join(errs...)
		})
		if err != nil {
			t.Error(err)
		}
		for _, to := range l.Top.Nodes {
			if _, target := podOf(t, l, to, 2, f); to.Name != from.Name {
				checkWay(t, l, f, packets, from, to, source, target)
				if p, ok := lab.Between(packets, source, target); ok {
					t.Logf("%s to %s: %s", from.Name, to.Name, p)
				}
			}
		}
		checkTunnelled(t, l, packets)
	}
}

// checkTunnelled: packets in tunnels are between two nodes whose packets are to
// be in one.
func checkTunnelled(t *testing.T, l *lab.Lab, packets []capture.Packet) {
	t.Helper()
	for _, p := range packets {
		if p.Inner == nil && p.Protocol != capture.IPIP && p.Protocol != capture.IPv6 && p.VNI == 0 {
			continue
		}
		from, fromOK := l.Top.Node(l.Top.NameOf(p.Src))
		to, toOK := l.Top.Node(l.Top.NameOf(p.Dst))
		if !fromOK || !toOK {
			t.Errorf("a tunnel that is not between nodes: %s", p)
			return
		}
		if err := checkForm(l, topology.FamilyOf(innermost(p).Dst), from, to, p); err != nil {
			t.Error(err)
			return
		}
	}
}

// testSources observes, at the other end of a connection, who it comes from.
// Where packets go in a tunnel, a node is known to the pods of others by its
// tunnel's address, so that answers come by the same way; and pods of a pool with
// a tunnel are known to other nodes by their own node's address, since they come
// to these without a tunnel, and are answered so.
func testSources(t *testing.T, l *lab.Lab, f topology.Family) {
	ctx := deadline(t, 2*time.Minute)
	e := l.Options.EncapsulationOf(f)
	device, _ := lab.Tunnel(e, f)
	expect := func(what, from string, own netip.Addr, to string, addr, want netip.Addr) {
		t.Helper()
		got, err := traffic.SourceAs(ctx, l.Top.Namespace(from), own, l.Top.Namespace(to), addr)
		if err != nil || got != want {
			t.Errorf("%s, %s to %s (%s): the other end sees %v (%v), want %v", what, from, to, addr, got, err, want)
		}
	}
	var none netip.Addr
	pairs(l, func(from, to topology.Node) {
		own, other := from.Address.Of(f).Addr(), to.Address.Of(f).Addr()
		near, nearAddr := podOf(t, l, from, 1, f)
		far, farAddr := podOf(t, l, to, 2, f)
		asNode, asPod := own, nearAddr
		if lab.Encapsulated(e, from, to) {
			var err error
			if asNode, err = l.TunnelAddress(ctx, from.Name, device); err != nil {
				t.Fatal(err)
			}
		}
		if device != "" {
			asPod = own
		}
		expect("pod to pod of another node", near, none, far, farAddr, nearAddr)
		expect("pod to another node", near, none, to.Name, other, asPod)
		packets, err := l.Capture(from.Name, func() error {
			expect("node to pod of another node", from.Name, none, far, farAddr, asNode)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		checkWay(t, l, f, packets, from, to, asNode, farAddr)
		// A program that binds, or a connection to a service, has the node's address
		// before it is known that there is a tunnel.
		expect("node's own address to pod of another node", from.Name, own, far, farAddr, asNode)
	})
	for _, n := range l.Top.Nodes {
		own := n.Address.Of(f).Addr()
		name, addr := podOf(t, l, n, 1, f)
		second, secondAddr := podOf(t, l, n, 2, f)
		expect("pod to pod of its node", name, none, second, secondAddr, addr)
		expect("pod to its own node", name, none, n.Name, own, addr)
		expect("pod to internet", name, none, topology.Internet, l.Top.InternetAddr.Of(f).Addr(), own)
		if n.Subnet > 0 {
			continue
		}
		for _, h := range l.Top.Hosts {
			host := h.Address.Of(f).Addr()
			expect("host behind a router to pod", h.Name, none, name, addr, host)
			expect("pod to host behind a router", name, none, h.Name, host, own)
		}
	}
}

// headers are those that ping's payload comes in, by family: of IP and of ICMP.
func headers(f topology.Family) int {
	if f == topology.IPv6 {
		return 40 + 8
	}
	return 20 + 8
}

// pingWhole sends packets of a size that nobody may take apart, and returns what
// ping printed.
func pingWhole(ctx context.Context, l *lab.Lab, f topology.Family, from string, to netip.Addr, size int) (string, error) {
	wait := strconv.FormatFloat(l.Patience.Times(time.Second).Seconds(), 'f', -1, 64)
	return l.RunIn(ctx, from, "ping", "-n", "-c", "3", "-i", "0.01", "-W", wait, "-M", "do",
		"-s", strconv.Itoa(size-headers(f)), to.String())
}

// refusal is what ping prints of a packet that is longer than an MTU: of its own
// machine, or of another's on the way.
func refusal(by netip.Addr, mtu int) *regexp.Regexp {
	if !by.IsValid() {
		return regexp.MustCompile(fmt.Sprintf(`message too long, mtu[=:] ?%d\b`, mtu))
	}
	return regexp.MustCompile(fmt.Sprintf(`From %s icmp_seq=1 (Frag needed and DF set \(mtu = %d\)|Packet too big: mtu=%d\b)`,
		regexp.QuoteMeta(by.String()), mtu, mtu))
}

// testMTU: what is as long as the pods' MTU comes through whole, by whatever way
// it goes; one byte more is refused, with the MTU that would do.
func testMTU(t *testing.T, l *lab.Lab, f topology.Family) {
	ctx := deadline(t, 2*time.Minute)
	mtu := l.PodMTU()
	checkMTU := func(machine, device string, want int) {
		t.Helper()
		if got := mtuOf(t, l, machine, device); got != want {
			t.Errorf("%s of %s has an MTU of %d, want %d", device, machine, got, want)
		}
	}
	refused := func(from string, to netip.Addr, size int, by netip.Addr, want int) {
		t.Helper()
		out, err := pingWhole(ctx, l, f, from, to, size)
		text := out
		if err != nil {
			text = err.Error()
		}
		if err == nil || !refusal(by, want).MatchString(text) {
			t.Errorf("%s to %s with %d bytes: want it refused as %q, got %s", from, to, size, refusal(by, want), text)
		}
	}
	for _, p := range l.Pods() {
		checkMTU(p.Name, "eth0", mtu)
	}
	device, overhead := lab.Tunnel(l.Options.EncapsulationOf(f), f)
	if device != "" {
		for _, n := range l.Top.Nodes {
			checkMTU(n.Name, device, l.Options.MTU-overhead)
		}
	}
	pairs(l, func(from, to topology.Node) {
		name, _ := podOf(t, l, from, 1, f)
		_, target := podOf(t, l, to, 2, f)
		if _, err := pingWhole(ctx, l, f, name, target, mtu); err != nil {
			t.Errorf("%d bytes from %s to %s: %v", mtu, name, target, err)
		}
		refused(name, target, mtu+1, netip.Addr{}, mtu)
	})
	if device == "" {
		return // the pods' MTU is that of everybody
	}
	// Hosts may send longer packets than pods. Where these go bare to the pod's node,
	// it is the one to refuse them.
	n1, n2 := nodeOf(t, l, "n1"), nodeOf(t, l, "n2")
	_, target := podOf(t, l, n2, 1, f)
	if _, err := pingWhole(ctx, l, f, "host1", target, mtu); err != nil {
		t.Errorf("%d bytes from host1 to %s: %v", mtu, target, err)
	}
	refused("host1", target, mtu+1, n2.Address.Of(f).Addr(), mtu)

	// And where a node forwards them into its tunnel, that node. A router that takes a
	// way round lets it.
	behind := l.Top.Nodes[slices.IndexFunc(l.Top.Nodes, func(n topology.Node) bool {
		return n.Name != n1.Name && lab.Encapsulated(l.Options.EncapsulationOf(f), n1, n)
	})]
	_, target = podOf(t, l, behind, 2, f)
	one := netip.PrefixFrom(target, target.BitLen()).String()
	run(t, l, "tor1", fmt.Sprintf("ip %s route add %s via %s dev fabric", f.Flag(), one, n1.Address.Of(f).Addr()))
	t.Cleanup(func() { run(t, l, "tor1", fmt.Sprintf("ip %s route del %s dev fabric", f.Flag(), one)) })
	tunnel := l.Options.MTU - overhead
	refused("host1", target, tunnel+1, n1.Address.Of(f).Addr(), tunnel)
}

// mtuOf is the MTU of a link of a machine or pod.
func mtuOf(t *testing.T, l *lab.Lab, machine, device string) int {
	t.Helper()
	out := run(t, l, machine, "ip -o link show dev "+device)
	m := regexp.MustCompile(` mtu (\d+) `).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no MTU in %q", out)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// bulkSize is how much is sent in bulk.
const bulkSize = 1 << 30

// testBulk sends a lot over one connection, by each way that packets go from
// n1's pods, and looks whether the nodes send parts of packets meanwhile.
func testBulk(t *testing.T, l *lab.Lab, f topology.Family) {
	ctx := deadline(t, 3*time.Minute)
	n1 := l.Top.Nodes[0]
	seen := map[bool]bool{}
	for _, to := range l.Top.Nodes[1:] {
		tunnel := lab.Encapsulated(l.Options.EncapsulationOf(f), n1, to)
		if seen[tunnel] {
			continue
		}
		seen[tunnel] = true
		from, _ := podOf(t, l, n1, 1, f)
		target, addr := podOf(t, l, to, 2, f)
		var took time.Duration
		send := func() (err error) {
			took, err = traffic.Bulk(ctx, l.Top.Namespace(from), l.Top.Namespace(target), addr, bulkSize)
			return err
		}
		for _, n := range []topology.Node{to, n1} {
			send = recordFragments(t, l, n, send)
		}
		if err := send(); err != nil {
			t.Error(err)
		}
		t.Logf("%d MB from %s to %s (tunnel: %t) in %v", bulkSize>>20, from, target, tunnel, took)
	}
}

// recordFragments wraps what is done in a look at a node's uplink, by which no
// part of a packet is to pass.
func recordFragments(t *testing.T, l *lab.Lab, n topology.Node, do func() error) func() error {
	return func() error {
		packets, err := capture.During(capture.Config{
			Netns: l.Top.Namespace(n.Name), Interface: "eth0", Fragments: true,
		}, do)
		if len(packets) > 0 {
			t.Errorf("%d fragments by the uplink of %s, the first is %s", len(packets), n.Name, packets[0])
		}
		return err
	}
}
