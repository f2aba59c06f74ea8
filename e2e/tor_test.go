package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/topology"
	"github.com/godwit-net/godwit/e2e/traffic"
	"github.com/godwit-net/godwit/internal/netnstest"
)

// TestRouters takes top-of-rack routers away and brings them back, in a lab
// with four of them that all announce host3's network.
func TestRouters(t *testing.T) {
	netnstest.RequireRoot(t)
	ctx := deadline(t, 5*time.Minute)
	l := bringUp(ctx, t, lab.Options{Options: topology.Options{ToRs: 4}})
	for _, tt := range []struct {
		name string
		run  func(*testing.T, *lab.Lab)
	}{
		{"Spread", testSpread},
		{"RestartsUnnoticed", func(t *testing.T, l *lab.Lab) { testRouterRestart(t, l, kept, 0, 3) }},
		{"Crashes", func(t *testing.T, l *lab.Lab) { testRouterRestart(t, l, dropped, 2, 1) }},
		{"SilentLink", testSilentLink},
	} {
		if !t.Run(tt.name, func(t *testing.T) { tt.run(t, l) }) && ctx.Err() != nil {
			t.Fatal("out of time")
		}
	}
}

// How the peers of TestRouters are set up, from testSpread on. tor1 (BIRD) and
// tor4 (FRR) have graceful restart, as is the default; tor2 (FRR) and tor3 (BIRD)
// have not. tor4 has the shortest timers: nothing else tells of a silent loss.
func setUpRouters(ctx context.Context, t *testing.T, l *lab.Lab) {
	t.Helper()
	for _, tor := range []int{1, 2} {
		changePeer(ctx, t, l, tor, func(s *v1alpha1.BGPPeerSpec) { s.GracefulRestart = &v1alpha1.GracefulRestart{Disabled: true} })
	}
	hold, keepalive := int32(shortHold/time.Second), int32(1)
	changePeer(ctx, t, l, 3, func(s *v1alpha1.BGPPeerSpec) {
		s.Timers = &v1alpha1.BGPTimers{HoldSeconds: &hold, KeepaliveSeconds: &keepalive}
	})
}

func changePeer(ctx context.Context, t *testing.T, l *lab.Lab, tor int, change func(*v1alpha1.BGPPeerSpec)) {
	t.Helper()
	err := l.Change(ctx, &v1alpha1.BGPPeer{}, l.Top.ToRs[tor].Name, func(o client.Object) { change(&o.(*v1alpha1.BGPPeer).Spec) })
	if err != nil {
		t.Fatal(err)
	}
}

const (
	// shortHold is the least hold time that there is (RFC 4271, section 4.2).
	shortHold = 3 * time.Second
	// backLimit is how soon sessions are up after a router's return. This is the
	// project's promise, of which the busiest machine gets a second more.
	backLimit = 7 * time.Second
	// awayFor is for how long a router is away under traffic.
	awayFor = 2 * time.Second
)

// What becomes of the routes of a router whose process was killed: with graceful
// restart nodes keep them (RFC 4724, section 4.2), without they drop them.
type upon string

const (
	kept    upon = "kept"
	dropped upon = "dropped"
)

// testRouterRestart kills routers and starts them, one after the other. A killed
// process leaves its routes in its kernel, and closes its connections.
func testRouterRestart(t *testing.T, l *lab.Lab, routes upon, tors ...int) {
	ctx := deadline(t, time.Minute)
	for _, i := range tors {
		tor := l.Top.ToRs[i]
		t.Run(tor.Name+" "+l.Routers[i].Program(ctx), func(t *testing.T) {
			flows := startFlows(ctx, t, l, 100, 50)
			back, err := traffic.StartDatagrams(ctx, "from behind "+tor.Name, l.Top.Namespace(hostBehind(t, l, tor.Name).Name),
				pod(t, l, "n1-p1").Netns, pod(t, l, "n1-p1").Address, 500)
			if err != nil {
				t.Fatal(err)
			}
			over := waitWays(t, flows)
			if over[wayOver(t, l, tor.Name)] == 0 {
				t.Fatalf("no flow goes over %s: %v", tor.Name, over)
			}
			flows.Reset()
			killed := time.Now()
			if err := l.Routers[i].Kill(ctx); err != nil {
				t.Fatal(err)
			}
			if routes == kept {
				always(t, awayFor, "the routes are kept", ways(l, "n1", len(l.Top.ToRs)))
				flows.Reset()
				if n := waitWays(t, flows)[wayOver(t, l, tor.Name)]; n == 0 {
					t.Errorf("no flow goes over %s while its process is away", tor.Name)
				}
			} else {
				eventually(t, 5*time.Second, "the other ways stay", ways(l, "n1", len(l.Top.ToRs)-1))
				gone := time.Since(killed)
				moved := waitLeft(t, l, flows, tor.Name)
				t.Logf("%s killed: its way is gone after %v; its flows came over others within %v", tor.Name, gone.Round(time.Millisecond), (gone + moved).Round(time.Millisecond))
				time.Sleep(time.Until(killed.Add(awayFor)))
			}
			waitBack(ctx, t, l, i, func() error { return l.Routers[i].Start(ctx) })
			stopFlows(t, flows, burstLimit)
			c, err := back.Stop()
			if err != nil {
				t.Error(err)
			}
			t.Logf("from behind %s to a pod: %d of %d datagrams lost: for %v while %s had no routes to the pods",
				tor.Name, len(c.Lost), c.Sent, time.Duration(len(c.Lost))*time.Second/500, tor.Name)
		})
	}
}

// testSilentLink takes the switch's link to a router down. The nodes' links stay
// up, no connection is closed: only the hold time tells. It is no restart, so
// graceful restart, which the peer has, must not keep its routes.
func testSilentLink(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, time.Minute)
	const i = 3
	tor := l.Top.ToRs[i]
	link := func(state string) error {
		_, err := l.RunIn(ctx, topology.Fabric, "ip", "link", "set", tor.Name, state)
		return err
	}
	t.Cleanup(func() { run(t, l, topology.Fabric, "ip link set "+tor.Name+" up") })
	flows := startFlows(ctx, t, l, 100, 50)
	waitWays(t, flows)
	flows.Reset()
	begin := time.Now()
	if err := link("down"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 3*shortHold, "the other ways stay", ways(l, "n1", len(l.Top.ToRs)-1))
	gone := time.Since(begin)
	moved := waitLeft(t, l, flows, tor.Name)
	t.Logf("link of %s down with a hold time of %v: its way is gone after %v; its flows came over others within %v; pause %v",
		tor.Name, shortHold, gone.Round(time.Millisecond), (gone + moved).Round(time.Millisecond), flows.Longest().Round(time.Millisecond))
	// Long enough for attempts to connect to run into the void.
	time.Sleep(awayFor)
	waitBack(ctx, t, l, i, func() error { return link("up") })
	stopFlows(t, flows, shortHold+2*time.Second)
}

// startFlows starts flows from a pod to host3.
func startFlows(ctx context.Context, t *testing.T, l *lab.Lab, count, rate int) *traffic.Flows {
	t.Helper()
	f, err := traffic.StartFlows(ctx, traffic.FlowsSpec{
		From: pod(t, l, "n1-p1").Netns, To: l.Top.Namespace(topology.Host3), Link: "eth0",
		Addr: hostOf(t, l, topology.Host3).Address.First(), Count: count, Rate: rate,
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// stopFlows ends flows, of which none may have paused for longer than most since
// the last reset.
func stopFlows(t *testing.T, f *traffic.Flows, most time.Duration) {
	t.Helper()
	pause := f.Longest()
	if most = patient(t).Times(most); pause > most {
		t.Errorf("a flow paused for %v, want at most %v", pause, most)
	}
	sent, got, err := f.Stop()
	if err != nil || got == 0 {
		t.Errorf("flows: %d of %d came: %v", got, sent, err)
		return
	}
	t.Logf("pods to %s: %d of %d datagrams lost, no flow paused for more than %v", topology.Host3, sent-got, sent, pause.Round(time.Millisecond))
}

// waitWays waits until every flow has come since the last reset, and counts
// them by their ways.
func waitWays(t *testing.T, f *traffic.Flows) map[traffic.Way]int {
	t.Helper()
	count := map[traffic.Way]int{}
	for _, w := range waysOfAll(t, f) {
		count[w]++
	}
	return count
}

func waysOfAll(t *testing.T, f *traffic.Flows) (all []traffic.Way) {
	t.Helper()
	eventually(t, 10*time.Second, "all flows come", func() (err error) {
		all, err = f.Ways()
		return err
	})
	return all
}

// waitLeft waits until all flows come over other routers, and returns how long
// that took.
func waitLeft(t *testing.T, l *lab.Lab, f *traffic.Flows, tor string) time.Duration {
	t.Helper()
	over := wayOver(t, l, tor)
	return eventually(t, 5*time.Second, "no flow goes over "+tor, func() error {
		all, err := f.Ways()
		n := 0
		for _, w := range all {
			if w == over {
				n++
			}
		}
		if err == nil && n > 0 {
			err = fmt.Errorf("%d flows do", n)
		}
		return err
	})
}

// waitBack brings a router back and waits for all that was there before.
func waitBack(ctx context.Context, t *testing.T, l *lab.Lab, i int, bring func() error) {
	t.Helper()
	begin := time.Now()
	if err := bring(); err != nil {
		t.Fatal(err)
	}
	started := time.Since(begin)
	eventually(t, backLimit, "the sessions are back", established(ctx, l, i, len(l.Top.Nodes)))
	t.Logf("%s is back: sessions with %d nodes after %v (its programs took %v of it)",
		l.Top.ToRs[i].Name, len(l.Top.Nodes), time.Since(begin).Round(time.Millisecond), started.Round(time.Millisecond))
	for _, n := range l.Top.Nodes {
		eventually(t, 5*time.Second, "all ways are back", ways(l, n.Name, len(l.Top.ToRs)))
	}
	if err := l.WaitConverged(ctx); err != nil {
		t.Fatal(err)
	}
}

// ways asks whether a node's kernel has so many ways to host3's network.
func ways(l *lab.Lab, node string, want int) func() error {
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		out, err := l.RunIn(ctx, node, "ip", "-4", "route", "show", "192.168.200.0/24")
		if got := strings.Count(out, "via "); err == nil && got != want {
			err = fmt.Errorf("%s has %d ways, want %d:\n%s", node, got, want, out)
		}
		return err
	}
}

// established asks a router whether so many of its sessions are.
func established(ctx context.Context, l *lab.Lab, i, want int) func() error {
	command, word := "show protocols", "Established"
	if i%2 == 1 { // FRR
		command, word = "show bgp ipv4 unicast summary json", `"state":"Established"`
	}
	return func() error {
		out, err := l.Routers[i].Show(ctx, command)
		if got := strings.Count(out, word); err == nil && got != want {
			err = fmt.Errorf("%s has %d sessions, want %d:\n%s", l.Top.ToRs[i].Name, got, want, out)
		}
		return err
	}
}

// wayOver is how host3 sees a router.
func wayOver(t *testing.T, l *lab.Lab, tor string) traffic.Way {
	t.Helper()
	fields := strings.Fields(run(t, l, tor, "ip -br link show dev shared"))
	if len(fields) < 3 {
		t.Fatalf("%s has no link to the shared network: %q", tor, fields)
	}
	return traffic.Way(fields[2])
}

// hostBehind is the host that only one router leads to.
func hostBehind(t *testing.T, l *lab.Lab, tor string) topology.Host {
	t.Helper()
	for _, h := range l.Top.Hosts {
		if len(h.Behind) == 1 && h.Behind[0] == tor {
			return h
		}
	}
	t.Fatalf("no host is behind %s alone", tor)
	return topology.Host{}
}
