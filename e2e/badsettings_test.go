package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/namespace"
)

// testBadSettings makes a person's mistakes in a lab that works. Nodes must say what
// is wrong, in their log, their status and an event, leave nothing of it in the
// kernel or the API, and go on as before.
func testBadSettings(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, 3*time.Minute)
	api, err := l.API()
	if err != nil {
		t.Fatal(err)
	}
	log := markLog(t, l, lab.AgentProcess("n1"))
	flow := startFlow(t, l)
	bad := func(cidr string, encapsulation v1alpha1.Encapsulation) (remove func()) {
		t.Helper()
		pool := &v1alpha1.IPPool{Spec: v1alpha1.IPPoolSpec{CIDR: cidr, Encapsulation: encapsulation}}
		pool.Name = "bad"
		if err := api.Create(ctx, pool); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = api.Delete(deadline(t, 10*time.Second), pool) }) // the test ended early
		return func() {
			t.Helper()
			noneOf(ctx, t, l, cidr)
			if err := api.Delete(ctx, pool); err != nil {
				t.Fatal(err)
			}
			eventually(t, 20*time.Second, "the plan is carried out again", nodeCondition(ctx, l, "n1", "True", v1alpha1.ConditionPlanApplied, ""))
		}
	}
	says := func(what, condition, reason, text string) {
		t.Helper()
		took := eventually(t, 20*time.Second, what+", by the condition", nodeCondition(ctx, l, "n1", "False", condition, text))
		eventually(t, 20*time.Second, what+", by the event", hasEvent(ctx, api, "n1", reason, text))
		eventually(t, 20*time.Second, what+", by the log", log.says(text))
		t.Logf("%s: the node says so after %v", what, took.Round(time.Millisecond))
	}

	remove := bad("10.211.55.128/25", v1alpha1.EncapsulationNone)
	says("a pool of the nodes' network", v1alpha1.ConditionPlanApplied, "PlanNotApplied",
		"10.211.55.128/25 overlaps 10.211.55.0/24, the network of the node's interface eth0")
	remove()

	remove = bad("10.96.128.0/17", v1alpha1.EncapsulationNone)
	eventually(t, 20*time.Second, "the pool says that Services have its addresses",
		poolCondition(ctx, l, "bad", "False", v1alpha1.ConditionReady, "OverlapsServices: 10.96.128.0/17 overlaps 10.96.0.0/16"))
	says("a pool of the Services' range", v1alpha1.ConditionPlanApplied, "PlanNotApplied",
		"10.96.128.0/17 overlaps 10.96.0.0/16, from which Services get their addresses")
	remove()

	if lacksIPIP(t, l, "n1") {
		remove = bad("172.27.0.0/20", v1alpha1.EncapsulationIPIP)
		says("a tunnel that the kernel does not have", v1alpha1.ConditionTunnelsReady, "TunnelsNotReady", "the kernel does not support it")
		eventually(t, 10*time.Second, "no address of it is given out", log.says("a pool gives out no addresses on this node"))
		if links := run(t, l, "n1", "ip -br link"); strings.Contains(links, lab.IPIPDevice) {
			t.Errorf("there is half a tunnel: %s", links)
		}
		remove()
	}

	tor := l.Top.ToRs[0]
	asn := func(n int64) {
		t.Helper()
		if err := l.Change(ctx, &v1alpha1.BGPPeer{}, tor.Name, func(o client.Object) { o.(*v1alpha1.BGPPeer).Spec.PeerASN = n }); err != nil {
			t.Fatal(err)
		}
	}
	asn(int64(tor.ASN) + 1000)
	says("a wrong AS number", v1alpha1.ConditionSessionsEstablished, "BGPSessionDown", "unexpected AS number")
	asn(int64(tor.ASN))
	if err := l.WaitEstablished(ctx); err != nil {
		t.Fatal(err)
	}
	flow.stop(t)
}

// testLeftovers has an agent start on a node where another network was.
func testLeftovers(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, 2*time.Minute)
	api, err := l.API()
	if err != nil {
		t.Fatal(err)
	}
	before := filepath.Join(filepath.Dir(l.ConfList("n2")), "05-cilium.conflist")
	if err := os.WriteFile(before, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, l, "n2", "ip link add cali0123 type bridge")
	run(t, l, "n2", "ip route add 203.0.113.64/26 dev eth0 proto bird")
	run(t, l, "n2", "nft add table ip left")
	run(t, l, "n2", "nft add chain ip left cali-FORWARD")
	log := markLog(t, l, lab.AgentProcess("n2"))
	started := time.Now()
	if err := l.Group.Stop(ctx, lab.AgentProcess("n2")); err != nil {
		t.Fatal(err)
	}
	if err := l.StartAgent(ctx, "n2"); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"05-cilium.conflist in ", "links of Calico: cali0123", "routes of BIRD, as Calico", "rules of Calico: chain cali-FORWARD"} {
		eventually(t, 20*time.Second, "the condition", nodeCondition(ctx, l, "n2", "False", v1alpha1.ConditionHostSound, text))
		eventually(t, 10*time.Second, "the log", log.says(text))
	}
	eventually(t, 20*time.Second, "the event", hasEvent(ctx, api, "n2", "HostNotSound", "05-cilium.conflist in "))
	if err := os.Remove(before); err != nil {
		t.Fatal(err)
	}
	run(t, l, "n2", "ip link delete cali0123")
	run(t, l, "n2", "ip route flush proto 12")
	run(t, l, "n2", "nft delete table ip left")
	eventually(t, 20*time.Second, "all is gone", nodeCondition(ctx, l, "n2", "True", v1alpha1.ConditionHostSound, "Sound"))
	if err := l.WaitRestarted(ctx, "n2", started); err != nil {
		t.Fatal(err)
	}
}

// noneOf holds nodes to have nothing of a range: no block, no route.
func noneOf(ctx context.Context, t *testing.T, l *lab.Lab, cidr string) {
	t.Helper()
	blocks, err := l.Blocks(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blocks {
		if b.Spec.Pool == "bad" {
			t.Errorf("%s has claimed %s", b.Spec.NodeName, b.Spec.CIDR)
		}
	}
	for _, n := range l.Top.Nodes {
		if routes := run(t, l, n.Name, "ip route show proto 71 root "+cidr); routes != "" {
			t.Errorf("%s has routes of the pool: %s", n.Name, routes)
		}
	}
}

// hasEvent asks whether there is an event about a node, with a text.
func hasEvent(ctx context.Context, api client.Client, node, reason, text string) func() error {
	return func() error {
		var all corev1.EventList
		if err := api.List(ctx, &all); err != nil {
			return err
		}
		for i := range all.Items {
			e := &all.Items[i]
			if e.InvolvedObject.Kind == "Node" && e.InvolvedObject.Name == node && e.Reason == reason && strings.Contains(e.Message, text) {
				return nil
			}
		}
		return fmt.Errorf("of %d events none is %s of %s with %q", len(all.Items), reason, node, text)
	}
}

// logMark is a place in the log of a process.
type logMark struct {
	file string
	at   int
}

// markLog marks the end of a log: what tests before have made a process say does
// not count.
func markLog(t *testing.T, l *lab.Lab, process string) logMark {
	t.Helper()
	m := logMark{file: l.Group.Log(process)}
	data, err := os.ReadFile(m.file)
	if err != nil {
		t.Fatal(err)
	}
	m.at = len(data)
	return m
}

// says asks whether a log has a text since it was marked.
func (m logMark) says(text string) func() error {
	return func() error {
		data, err := os.ReadFile(m.file)
		if err == nil && !strings.Contains(string(data[m.at:]), text) {
			err = fmt.Errorf("%s does not say %q", m.file, text)
		}
		return err
	}
}

// lacksIPIP tells whether the kernel has no IPIP, by trying.
func lacksIPIP(t *testing.T, l *lab.Lab, node string) bool {
	t.Helper()
	err := namespace.Do(l.Top.Namespace(node), func() error {
		probe := &netlink.Iptun{LinkAttrs: netlink.LinkAttrs{Name: "probe"}, Local: net.IPv4(192, 0, 2, 1)}
		if err := netlink.LinkAdd(probe); err != nil {
			return err
		}
		return netlink.LinkDel(probe)
	})
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		t.Fatal(err)
	}
	return err != nil
}
