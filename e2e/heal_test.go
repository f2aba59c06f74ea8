package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/godwit-net/godwit/e2e/lab"
)

const (
	// healLimit is how soon a route of ours is back, in one of healTries: the machine
	// may be busy with something else in the others.
	healLimit = 100 * time.Millisecond
	healTries = 3
	// healEnd is how soon it is back in each.
	healEnd = 5 * time.Second
)

// heals breaks something and waits until all is as it should be.
func heals(t *testing.T, what string, harm func(), whole func() error) {
	t.Helper()
	var took time.Duration
	for range healTries {
		harm()
		took = eventually(t, healEnd, what, whole)
		if took <= patient(t).Times(healLimit) {
			t.Logf("%s after %v", what, took)
			return
		}
		t.Logf("%s only after %v", what, took)
	}
	t.Errorf("%s after %v in the last of %d tries, limit %v", what, took, healTries, healLimit)
}

// ours is a node's routes that are Godwit's.
func ours(t *testing.T, l *lab.Lab, node string) string {
	t.Helper()
	return normalise(run(t, l, node, "ip -4 route show proto 71"))
}

func testRoutesHeal(t *testing.T, l *lab.Lab) {
	want := ours(t, l, "n1")
	if n := strings.Count(want, "\n"); n < 6 {
		t.Fatalf("node n1 has only %d routes of ours:\n%s", n, want)
	}
	nexthop := func() string {
		t.Helper()
		id := regexp.MustCompile(`(?m)^172\.25\.0\.192/26 nhid (\d+)`).FindStringSubmatch(run(t, l, "n1", "ip -4 route show 172.25.0.192/26"))
		if id == nil {
			t.Fatal("the route to n2's block uses no nexthop object")
		}
		return id[1]
	}
	for _, tt := range []struct{ name, command string }{
		{"learned route deleted", "ip route del 172.25.0.192/26"},
		{"own block's route deleted", "ip route del blackhole 172.25.0.128/26"},
		{"pod's route deleted", "ip route del 172.25.0.130/32"},
		{"equal-cost route deleted", "ip route del 192.168.200.0/24"},
		{"learned route altered", "ip route replace 172.25.0.192/26 via 10.211.55.117 dev eth0 proto 71"},
		{"own block's route altered", "ip route replace unreachable 172.25.0.128/26 proto 71"},
		{"equal-cost route loses a way", "ip route replace 192.168.200.0/24 via 10.211.55.2 dev eth0 proto 71"},
		{"nexthop deleted", "ip nexthop del id NEXTHOP"},
		{"all nexthops flushed", "ip nexthop flush proto 71"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			same := func() error {
				if diff := cmp.Diff(want, ours(t, l, "n1")); diff != "" {
					return fmt.Errorf("- want, + got:\n%s", diff)
				}
				return nil
			}
			heals(t, "routes as before", func() { run(t, l, "n1", strings.Replace(tt.command, "NEXTHOP", nexthop(), 1)) }, same)
			always(t, 50*time.Millisecond, "routes stay", same)
		})
	}
}

// testForeignRoutesStay: what bears another protocol number is nobody's
// business of ours, also where it lies inside the pool, and also across a
// restart of the agent, which sweeps what nobody wants.
func testForeignRoutesStay(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, time.Minute)
	foreign := []string{
		"203.0.113.0/24 via 10.211.55.254 dev eth0 proto static",
		"172.25.99.0/26 via 10.211.55.254 dev eth0 proto static",
		"172.25.98.0/26 via 10.211.55.254 dev eth0 proto bird",
		"blackhole 172.25.97.0/26 proto static",
	}
	for _, r := range foreign {
		run(t, l, "n1", "ip route add "+r)
		t.Cleanup(func() { run(t, l, "n1", "ip route del "+r) })
	}
	run(t, l, "n1", "ip nexthop add id 4242 via 10.211.55.254 dev eth0 proto static")
	t.Cleanup(func() { run(t, l, "n1", "ip nexthop del id 4242") })
	// A route of ours that nobody wants is swept, in contrast.
	heals(t, "stray route of ours is gone",
		func() { run(t, l, "n1", "ip route add 172.25.96.0/26 via 10.211.55.117 dev eth0 proto 71") },
		contains(l, "n1", "ip -4 route", "172.25.96.0/26", false))
	run(t, l, "n1", "ip nexthop flush proto 71")

	stay := func() error {
		out := run(t, l, "n1", "ip -4 route")
		for _, r := range foreign {
			if !strings.Contains(out, r) {
				return fmt.Errorf("%s is gone:\n%s", r, out)
			}
		}
		if nh := run(t, l, "n1", "ip nexthop show"); !strings.Contains(nh, "id 4242 ") {
			return fmt.Errorf("nexthop 4242 is gone:\n%s", nh)
		}
		return nil
	}
	always(t, 300*time.Millisecond, "foreign routes", stay)
	if err := l.Group.Stop(ctx, lab.AgentProcess("n1")); err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	if err := l.StartAgent(ctx, "n1"); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitRestarted(ctx, "n1", started); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitEstablished(ctx); err != nil { // as the others report it
		t.Fatal(err)
	}
	if err := stay(); err != nil {
		t.Error(err)
	}
}

// testLinkFlap: the kernel drops the routes over a link that goes down.
func testLinkFlap(t *testing.T, l *lab.Lab) {
	want := ours(t, l, "n1")
	session := sessionWithTor1(t, l)
	same := func() error {
		if diff := cmp.Diff(want, ours(t, l, "n1")); diff != "" {
			return fmt.Errorf("- want, + got:\n%s", diff)
		}
		return nil
	}
	t.Run("uplink", func(t *testing.T) {
		// The default route is the lab's, not ours to heal.
		defer func() { run(t, l, "n1", "ip route replace default via "+l.Top.Gateways[0].First().String()) }()
		run(t, l, "n1", "ip link set eth0 down")
		eventually(t, healEnd, "routes are gone", contains(l, "n1", "ip -4 route", "172.25.0.192/26", false))
		run(t, l, "n1", "ip link set eth0 up")
		took := eventually(t, healEnd, "routes as before", same)
		t.Logf("back %v after the link", took)
		if _, err := l.Ping(deadline(t, 5*time.Second), "n1-p3", pod(t, l, "n2-p4").Address); err != nil {
			t.Error(err)
		}
		mustHaveStayed(t, l, session)
	})
	t.Run("veth", func(t *testing.T) {
		veth := regexp.MustCompile(`dev (\S+)`).FindStringSubmatch(run(t, l, "n1", "ip -4 route show 172.25.0.130/32"))
		if veth == nil {
			t.Fatal("no route to pod n1-p3")
		}
		run(t, l, "n1", "ip link set "+veth[1]+" down")
		run(t, l, "n1", "ip link set "+veth[1]+" up")
		took := eventually(t, healEnd, "routes as before", same)
		t.Logf("back %v after the link", took)
	})
}

// sessionWithTor1 is since when n1 has its session with tor1, in the router's words.
func sessionWithTor1(t *testing.T, l *lab.Lab) time.Time {
	t.Helper()
	out, err := l.Routers[0].Show(deadline(t, 5*time.Second), "show protocols n1")
	found := regexp.MustCompile(`(?m)^n1 .* up +(\S+) +Established`).FindStringSubmatch(out)
	if err != nil || found == nil {
		t.Fatalf("n1's session with tor1: %v\n%s", err, out)
	}
	since, err := time.Parse("15:04:05.999", found[1])
	if err != nil {
		t.Fatalf("since when n1 has its session with tor1: %v", err)
	}
	return since
}

// mustHaveStayed fails the test when n1's session with tor1 is not the one that it
// had. BIRD's times are some milliseconds off at times, when the clock is set.
func mustHaveStayed(t *testing.T, l *lab.Lab, since time.Time) {
	t.Helper()
	if now := sessionWithTor1(t, l); now.Sub(since).Abs() > time.Second/2 {
		t.Errorf("n1's session with tor1 is up since %s, and was since %s", now.Format(time.TimeOnly), since.Format(time.TimeOnly))
	}
}
