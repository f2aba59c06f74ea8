package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/bgp/bgptest/sender"
	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/e2e/traffic"
	"github.com/godwit-net/godwit/internal/netnstest"
)

const (
	rogueNode = "n3"
	// junk is how many prefixes the rogue makes up, one half inside the pool; with
	// the others that it announces it stays below what a node may send.
	junk = 9900
)

// TestRogueNode replaces the agent of a node by a speaker that announces whatever
// it likes, under traffic between all others. Nothing of it is in any kernel, it
// is named, and nobody else notices.
func TestRogueNode(t *testing.T) {
	netnstest.RequireRoot(t)
	ctx := deadline(t, 3*time.Minute)
	l := bringUp(ctx, t, lab.Options{})
	c := newClaimants(ctx, t, l, "172.26.0.10", "172.26.0.11")
	claimed := netip.MustParseAddr("172.26.0.10")
	c.must("n1", "db", claimed.String())
	c.routed(claimed, "n1")
	before := tables(t, l)
	since := sessionTimes(ctx, t, l)
	flows := startDatagrams(ctx, t, l)

	if err := l.Group.Kill(ctx, lab.AgentProcess(rogueNode)); err != nil {
		t.Fatal(err)
	}
	r := startRogue(ctx, t, l)
	r.announceAll(t, l)
	for _, n := range []string{"n1", "n2"} {
		took := eventually(t, 10*time.Second, n+" counts what it refuses", func() error { return refusedMetric(ctx, l, n, junk) })
		t.Logf("%s counted more than %d prefixes that it refused after %v", n, junk, took)
		eventually(t, 30*time.Second, n+" names the offender", func() error { return namesRogue(ctx, l, n) })
	}
	always(t, time.Second, "routes stay as they were", func() error {
		if diff := cmp.Diff(before, tables(t, l)); diff != "" {
			return fmt.Errorf("- before, + now:\n%s", diff)
		}
		return nil
	})
	if diff := cmp.Diff(since, sessionTimes(ctx, t, l)); diff != "" {
		t.Errorf("sessions of others were touched: - before, + now:\n%s", diff)
	}

	r.leave()
	if err := l.StartAgent(ctx, rogueNode); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"n1", "n2"} {
		eventually(t, 40*time.Second, n+" is content again", func() error { return originsValid(ctx, l, n, metav1.ConditionTrue) })
	}
	if err := l.WaitEstablished(ctx); err != nil {
		t.Fatal(err)
	}
	stopDatagrams(t, flows)
	if diff := cmp.Diff(before, tables(t, l)); diff != "" {
		t.Errorf("after all, routes differ: - before, + now:\n%s", diff)
	}

	// More than a node may send ends its session, and no other.
	if err := l.Group.Kill(ctx, lab.AgentProcess(rogueNode)); err != nil {
		t.Fatal(err)
	}
	flows = startDatagrams(ctx, t, l)
	r = startRogue(ctx, t, l)
	r.send(t, junkPrefixes(l, 11000), r.address)
	for to, s := range r.sessions {
		select {
		case <-s.Done():
		case <-ctx.Done():
			t.Fatalf("the session with %s goes on above the limit", to)
		}
		var n *sender.Notification
		if err := s.Err(); !errors.As(err, &n) || n.Code != 6 {
			t.Errorf("the session with %s ended with %v, want a Cease", to, err)
		}
	}
	stopDatagrams(t, flows)
	if diff := cmp.Diff(since, sessionTimes(ctx, t, l)); diff != "" {
		t.Errorf("sessions of others were touched: - before, + now:\n%s", diff)
	}
	c.routed(claimed, "n1")
	c.del("n1", "db")
}

// tables are the routes of all nodes but the rogue's and of the routers, in all of
// their tables.
func tables(t *testing.T, l *lab.Lab) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, m := range []string{"n1", "n2", "tor1", "tor2"} {
		all[m] = normalise(run(t, l, m, "ip -4 route show table all"))
	}
	return all
}

// sessionTimes tells since when the sessions of n1 and n2 with others than the
// rogue are up, and how many times they were down.
func sessionTimes(ctx context.Context, t *testing.T, l *lab.Lab) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, n := range []string{"n1", "n2"} {
		nn := &v1alpha1.NodeNetwork{}
		if err := get(ctx, l, n, nn); err != nil {
			t.Fatal(err)
		}
		for _, s := range nn.Status.Sessions {
			if s.Name != rogueNode {
				all[n+"–"+s.Name] = fmt.Sprint(s.State, s.Since, s.Flaps)
			}
		}
	}
	return all
}

func startDatagrams(ctx context.Context, t *testing.T, l *lab.Lab) []*traffic.Datagrams {
	t.Helper()
	var flows []*traffic.Datagrams
	for _, way := range [][2]string{{"n1-p1", "n2-p1"}, {"n2-p1", "n1-p1"}, {"host1", "n2-p1"}, {"host2", "n1-p1"}} {
		to := pod(t, l, way[1])
		d, err := traffic.StartDatagrams(ctx, way[0]+" to "+way[1], l.Top.Namespace(way[0]), to.Netns, to.Address, int(1000/l.Patience))
		if err != nil {
			t.Fatal(err)
		}
		flows = append(flows, d)
	}
	return flows
}

// stopDatagrams ends flows, which must have lost nothing.
func stopDatagrams(t *testing.T, flows []*traffic.Datagrams) {
	t.Helper()
	for _, d := range flows {
		c, err := d.Stop()
		t.Logf("%s: %d datagrams, %d lost", d.Name, c.Sent, len(c.Lost)+c.Refused)
		if err != nil || len(c.Lost) > 0 || c.Refused > 0 || c.Sent == 0 {
			t.Errorf("datagrams %s: %d of %d lost, %d refused: %v: %v", d.Name, len(c.Lost), c.Sent, c.Refused, err, c.Lost[:min(len(c.Lost), few)])
		}
	}
}

// rogue is a speaker in the place of a node's agent, without a policy.
type rogue struct {
	address  netip.Addr
	sessions map[string]*sender.Session // by the node at the other end
}

func startRogue(ctx context.Context, t *testing.T, l *lab.Lab) *rogue {
	t.Helper()
	node, ok := l.Top.Node(rogueNode)
	if !ok {
		t.Fatal("the lab has no " + rogueNode)
	}
	r := &rogue{address: node.Address.V4.Addr(), sessions: map[string]*sender.Session{}}
	for _, name := range []string{"n1", "n2"} {
		peer, _ := l.Top.Node(name)
		// The other end may still think that the session with the agent is there.
		eventually(t, 20*time.Second, "the rogue's session with "+name, func() error {
			return namespace.Do(l.Top.Namespace(rogueNode), func() error {
				s, err := sender.Dial(ctx, netip.AddrPortFrom(peer.Address.V4.Addr(), 179), sender.Options{
					Local: r.address, ASN: l.Top.NodeASN, RouterID: r.address,
				})
				if err == nil {
					r.sessions[name] = s
				}
				return err
			})
		})
	}
	t.Cleanup(r.leave)
	return r
}

func (r *rogue) leave() {
	for _, s := range r.sessions {
		s.Close()
	}
}

func (r *rogue) send(t *testing.T, prefixes []netip.Prefix, hop netip.Addr) {
	t.Helper()
	for to, s := range r.sessions {
		if err := s.Send(sender.Update(sender.Route{NextHop: hop, LocalPref: 4000}, prefixes...)); err != nil {
			t.Fatalf("send to %s: %v", to, err)
		}
	}
}

// announceAll announces the node's own block, and what is not its own: another
// node's block, a pod of another node, parts of both, claimed addresses, the
// default route, the nodes' own network, that of a host, that of Services, and junk.
func (r *rogue) announceAll(t *testing.T, l *lab.Lab) {
	t.Helper()
	own, _ := l.Top.Node(rogueNode)
	r.send(t, []netip.Prefix{own.Block.V4}, r.address)
	victim, _ := l.Top.Node("n1")
	stolen := []netip.Prefix{
		victim.Block.V4, netip.PrefixFrom(pod(t, l, "n1-p1").Address, 32), netip.PrefixFrom(pod(t, l, "n2-p1").Address, 32),
		netip.MustParsePrefix("172.25.0.128/27"), netip.MustParsePrefix("172.25.0.0/16"), netip.MustParsePrefix("172.0.0.0/8"),
		netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("0.0.0.0/1"), netip.MustParsePrefix("128.0.0.0/1"),
		netip.MustParsePrefix("10.211.55.0/24"), netip.MustParsePrefix("10.211.55.0/25"), netip.MustParsePrefix("10.211.55.101/32"),
		// Claimed addresses: one that a pod of n1 has, one that nobody has, one that
		// nobody has claimed.
		netip.MustParsePrefix("172.26.0.10/32"), netip.MustParsePrefix("172.26.0.11/32"), netip.MustParsePrefix("172.26.0.12/32"),
		netip.MustParsePrefix("192.168.101.0/24"), netip.MustParsePrefix("192.168.101.10/32"), netip.MustParsePrefix("10.96.0.0/12"),
	}
	r.send(t, stolen, r.address)
	// The same by a next hop that would send it elsewhere.
	r.send(t, stolen[:3], netip.MustParseAddr("10.211.55.254"))
	r.send(t, junkPrefixes(l, junk), r.address)
}

// junkPrefixes makes prefixes up, half of them inside the pool: first blocks as
// nodes have them, but nobody owns, then smaller ones.
func junkPrefixes(l *lab.Lab, n int) []netip.Prefix {
	out := make([]netip.Prefix, 0, n)
	at := func(base netip.Addr, offset uint32, bits int) netip.Prefix {
		a := base.As4()
		return netip.PrefixFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(a[:])+offset))), bits)
	}
	pool := l.Top.Pool.V4.Addr()
	for i := 0; len(out) < n/2 && i < 900; i++ { // the lab's own blocks are the first of the pool
		out = append(out, at(pool, uint32(64*(i+64)), 26))
	}
	for i := 0; len(out) < n/2; i++ {
		out = append(out, at(pool, uint32(0x2000+4*i), 30))
	}
	for i := 0; len(out) < n; i++ {
		out = append(out, at(netip.MustParseAddr("100.64.0.0"), uint32(256*i), 24))
	}
	return out
}

// refusedMetric asks an agent's metrics whether more than so many prefixes of the
// rogue are refused.
func refusedMetric(ctx context.Context, l *lab.Lab, node string, want float64) error {
	text, err := metrics(ctx, l, node)
	if err != nil {
		return err
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "godwit_bgp_session_refused_origins{") && strings.Contains(line, `peer="`+rogueNode+`"`) {
			var got float64
			if _, err := fmt.Sscan(line[strings.LastIndex(line, " ")+1:], &got); err != nil {
				return err
			}
			if got <= want {
				return fmt.Errorf("%s refuses %g prefixes, want more than %g", node, got, want)
			}
			return nil
		}
	}
	return fmt.Errorf("the metrics of %s have no refused prefixes of %s", node, rogueNode)
}

// metrics are what the agent of a node serves to Prometheus.
func metrics(ctx context.Context, l *lab.Lab, node string) (string, error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		err = namespace.Do(l.Top.Namespace(node), func() error {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
			return err
		})
		return conn, err
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+lab.MetricsAddress+"/metrics", http.NoBody)
	if err != nil {
		return "", err
	}
	resp, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// namesRogue asks whether a node's status and an event name the rogue.
func namesRogue(ctx context.Context, l *lab.Lab, node string) error {
	if err := originsValid(ctx, l, node, metav1.ConditionFalse); err != nil {
		return err
	}
	api, err := l.API()
	if err != nil {
		return err
	}
	var events corev1.EventList
	if err := api.List(ctx, &events); err != nil {
		return err
	}
	for _, e := range events.Items {
		if e.InvolvedObject.Name == node && e.Reason == "BGPOriginRefused" && strings.Contains(e.Message, rogueNode) {
			return nil
		}
	}
	return fmt.Errorf("no event about %s names %s", node, rogueNode)
}

func originsValid(ctx context.Context, l *lab.Lab, node string, want metav1.ConditionStatus) error {
	nn := &v1alpha1.NodeNetwork{}
	if err := get(ctx, l, node, nn); err != nil {
		return err
	}
	c := apimeta.FindStatusCondition(nn.Status.Conditions, v1alpha1.ConditionOriginsValid)
	switch {
	case c == nil || c.Status != want:
		return fmt.Errorf("the condition of %s is %+v, want %s", node, c, want)
	case want == metav1.ConditionFalse && (!strings.Contains(c.Message, rogueNode) || c.Reason != "OriginRefused"):
		return fmt.Errorf("the condition of %s names nobody: %+v", node, c)
	}
	return nil
}
