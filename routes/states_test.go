package routes

import (
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// states are what a node may want to have, each written as `ip route` shows it.
var states = []string{
	``,
	`blackhole 172.25.0.128/26
	 172.25.0.130 dev gwpod0 scope link
	 172.25.0.192/26 via 10.211.55.116 dev gw0
	 172.25.1.0/26 via 10.211.55.116 dev gw0
	 172.25.2.0/26 via 10.211.55.117 dev gw0`,
	// A pod more, a block that moved, a block that came.
	`blackhole 172.25.0.128/26
	 172.25.0.130 dev gwpod0 scope link
	 172.25.0.131 dev gwpod1 scope link
	 172.25.0.192/26 via 10.211.55.117 dev gw0
	 172.25.1.0/26 via 10.211.55.116 dev gw0
	 172.25.3.0/26 via 10.212.0.7 dev gw1`,
	// Two ways, and onlink.
	`blackhole 172.25.0.128/26
	 172.25.0.130 dev gwpod1 scope link
	 172.25.0.192/26 nexthop via 10.211.55.116 dev gw0 nexthop via 10.212.0.7 dev gw1
	 172.25.1.0/26 nexthop via 10.211.55.116 dev gw0 nexthop via 10.212.0.7 dev gw1
	 172.25.2.0/26 nexthop via 10.211.55.117 dev gw0 nexthop via 10.212.0.7 dev gw1
	 172.25.3.0/26 via 192.0.2.9 dev gw1 onlink`,
	// What was a gateway's is a blackhole, and the other way round.
	`172.25.0.128/26 via 10.211.55.116 dev gw0
	 blackhole 172.25.0.192/26
	 blackhole 172.25.1.0/26
	 172.25.2.0/26 dev gw0 scope link`,
	`blackhole fd00:25:0:128::/122
	 fd00:25:0:128::2 dev gwpod0
	 fd00:25:0:192::/122 via fd00:55::116 dev gw0
	 fd00:25:1::/122 via fd00:55::117 dev gw0`,
	`blackhole 172.25.0.128/26
	 blackhole fd00:25:0:128::/122
	 172.25.0.192/26 via 10.211.55.116 dev gw0
	 fd00:25:0:128::3 dev gwpod1
	 fd00:25:0:192::/122 nexthop via fd00:55::116 dev gw0 nexthop via fd00:56::7 dev gw1
	 fd00:25:1::/122 nexthop via fd00:55::116 dev gw0 nexthop via fd00:56::7 dev gw1`,
	// IPv4 over IPv6 (RFC 8950).
	`172.25.0.192/26 via inet6 fe80::1 dev gw1
	 172.25.1.0/26 nexthop via 10.211.55.116 dev gw0 nexthop via inet6 fe80::1 dev gw1
	 172.25.2.0/26 via inet6 fd00:55::116 dev gw0`,
	`fd00:25:0:128::/122 via fd00:55::116 dev gw0
	 fd00:25:0:192::/122 via fd00:56::7 dev gw1
	 blackhole fd00:25:1::/122
	 fd00:25:2::/122 via fe80::1 dev gw1`,
}

// TestStates goes from every state to others, in random order, by Set and by
// Update, and looks at the kernel each time.
func TestStates(t *testing.T) {
	modes(t, func(t *testing.T, o Options) {
		ns := cluster(t)
		tb := start(t, ns, o)
		syncAll(tb)
		others := show(ns, "proto", "kernel")
		seed := uint64(time.Now().UnixNano())
		t.Logf("seed %d", seed)
		rnd := rand.New(rand.NewPCG(seed, 0))
		var have []Route
		for range 60 {
			want := parse(t, states[rnd.IntN(len(states))])
			var gone []Route
			for _, r := range have {
				if !slices.ContainsFunc(want, func(w Route) bool { return w.Dst == r.Dst }) {
					gone = append(gone, r)
				}
			}
			if rnd.IntN(2) == 0 {
				tb.Set(ClassLearned, want)
			} else {
				tb.Update(ClassLearned, want, dsts(gone))
			}
			wait(t, tb, append(gone, want...)...)
			if got, want := show(ns), render(want); got != want {
				t.Fatalf("the kernel has\n%s\nwhere\n%s\nis desired", got, want)
			}
			have = want
		}
		if got := show(ns, "proto", "kernel"); got != others {
			t.Errorf("the kernel's own routes were\n%s\nand are\n%s", others, got)
		}
		tb.Set(ClassLearned, nil)
		eventually(t, patience, "no route and no nexthop object is left", func() bool {
			return show(ns) == "" && ns.Run("ip", "nexthop") == ""
		})
	})
}

// TestStatesWithoutLinks lets the table find the links by itself.
func TestStatesWithoutLinks(t *testing.T) {
	dev := regexp.MustCompile(`(via (?:10|fd|inet6 fd)\S+) dev \S+`)
	modes(t, func(t *testing.T, o Options) {
		ns := cluster(t)
		tb := start(t, ns, o)
		syncAll(tb)
		for _, state := range states {
			tb.Set(ClassLearned, parse(t, dev.ReplaceAllString(state, "$1")))
			expect(t, ns, state)
		}
	})
}

// TestObjectsAreShared counts objects: one for each gateway, one for each group.
func TestObjectsAreShared(t *testing.T) {
	ns := cluster(t)
	tb := start(t, ns, Options{})
	syncAll(tb)
	for _, tt := range []struct{ state, objects int }{{1, 2}, {3, 6}, {2, 3}, {0, 0}, {6, 4}} {
		tb.Set(ClassLearned, parse(t, states[tt.state]))
		expect(t, ns, states[tt.state])
		eventually(t, patience, "the objects are as many as are needed", func() bool {
			return strings.Count(ns.Run("ip", "nexthop", "show", "proto", "71"), "\n") == tt.objects
		})
		if got := tb.Status().NextHops; got != tt.objects {
			t.Errorf("state %d: status says %d objects, not %d", tt.state, got, tt.objects)
		}
	}
}

// render writes routes as show does.
func render(rs []Route) string {
	var lines []string
	for _, r := range rs {
		dst := r.Dst.String()
		if r.Dst.IsSingleIP() {
			dst = r.Dst.Addr().String()
		}
		switch {
		case r.Blackhole:
			lines = append(lines, "blackhole "+dst)
		case r.Link != "" && r.Dst.Addr().Is4():
			lines = append(lines, dst+" dev "+r.Link+" scope link")
		case r.Link != "":
			lines = append(lines, dst+" dev "+r.Link)
		default:
			var hops []string
			for _, nh := range r.NextHops {
				hop := "via " + nh.Gateway.String() + " dev " + nh.Link
				if nh.Gateway.Is6() && r.Dst.Addr().Is4() {
					hop = strings.Replace(hop, "via", "via inet6", 1)
				}
				if nh.OnLink {
					hop += " onlink"
				}
				hops = append(hops, hop)
			}
			line := dst
			for _, hop := range hops {
				if len(hops) > 1 {
					line += " nexthop"
				}
				line += " " + hop
			}
			lines = append(lines, line)
		}
	}
	return tidyAll(strings.Join(lines, "\n"))
}
