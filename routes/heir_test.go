package routes

import (
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godwit-net/godwit/internal/netnstest"
)

// overBoth makes n routes over two gateways of cluster, or over the second only.
func overBoth(n int, both bool) []Route {
	hops := []NextHop{{Gateway: netip.MustParseAddr("10.211.55.1")}, {Gateway: netip.MustParseAddr("10.211.55.2")}}
	if !both {
		hops = hops[1:]
	}
	rs := manyRoutes(n, 1)
	for i := range rs {
		rs[i].NextHops = hops
	}
	return rs
}

// tally counts what is written, while the table is at work.
type tally struct {
	kernel
	writes atomic.Int64
}

func (c *tally) on(k *netlinkKernel) kernel {
	c.kernel = k
	return c
}

func (c *tally) write(reqs []request) error {
	c.writes.Add(int64(len(reqs)))
	return c.kernel.write(reqs)
}

// TestPeerLost takes one of two ways from many routes, and gives it back.
func TestPeerLost(t *testing.T) {
	const n = 1000
	ns := cluster(t)
	var written tally
	tb := startOn(t, ns, Options{Resync: time.Hour}, written.on)
	syncAll(tb)
	over := func(both bool, most int64) {
		t.Helper()
		rs := overBoth(n, both)
		before := written.writes.Load()
		tb.Update(ClassLearned, rs, nil)
		wait(t, tb, rs...)
		want := map[bool]int{true: n, false: 0}[both]
		out := ns.Run("ip", "route", "show", "proto", "71")
		if first, second := strings.Count(out, "via 10.211.55.1 "), strings.Count(out, "via 10.211.55.2 "); first != want || second != n {
			t.Fatalf("%d routes over the first gateway, want %d; %d over the second, want %d", first, want, second, n)
		}
		took := written.writes.Load() - before
		if took > most {
			t.Errorf("both ways: %t: %d messages for %d routes, want at most %d", both, took, n, most)
		}
		if s := tb.Status(); s.Installed[ClassLearned] != n || len(s.Failed) > 0 {
			t.Errorf("status: %d installed, %d failed", s.Installed[ClassLearned], len(s.Failed))
		}
		t.Logf("both ways: %t: %d messages", both, took)
	}
	over(true, n+3) // two gateways, a group, the routes
	over(false, 2)  // the group; the gateway's object goes
	over(true, 3)   // the gateway, the group; the removal may have come late
	over(false, 2)  //
	over(false, 1)  // nothing changes but what came late
	tb.Update(ClassLearned, nil, dsts(overBoth(n, false)))
	eventually(t, patience, "nothing is left", func() bool {
		return ns.Run("ip", "route", "show", "proto", "71")+ns.Run("ip", "nexthop", "show", "proto", "71") == ""
	})
}

// TestHeirs tells who may have a group that nobody wants any more.
func TestHeirs(t *testing.T) {
	const both = "nexthop via 10.211.55.1 nexthop via 10.211.55.2"
	have := "172.26.0.0/24 " + both + "\n172.26.1.0/24 " + both
	for _, tt := range []struct{ name, want, log string }{
		{
			"all go the same way",
			"172.26.0.0/24 via 10.211.55.2\n172.26.1.0/24 via 10.211.55.2",
			`nexthop replace id 3 group 2
			 nexthop del id 1`,
		},
		{
			"they part",
			"172.26.0.0/24 via 10.211.55.2\n172.26.1.0/24 via 10.211.55.1",
			`route change 172.26.0.0/24 nhid 2
			 route change 172.26.1.0/24 nhid 1
			 nexthop del id 3`,
		},
		{
			"one goes, and must not go another's way meanwhile",
			"172.26.0.0/24 via 10.211.55.3",
			`nexthop add id 4 via 10.211.55.3 dev gw0
			 route change 172.26.0.0/24 nhid 4
			 route del 172.26.1.0/24
			 nexthop del id 3`,
		},
		{
			"one stays",
			"172.26.0.0/24 via 10.211.55.2\n172.26.1.0/24 " + both,
			`route change 172.26.0.0/24 nhid 2`,
		},
		{
			"the heir has routes of its own",
			"172.26.2.0/24 via 10.211.55.2\n172.26.0.0/24 via 10.211.55.2\n172.26.1.0/24 via 10.211.55.2",
			`route add 172.26.2.0/24 nhid 2
			 route change 172.26.0.0/24 nhid 2
			 route change 172.26.1.0/24 nhid 2
			 nexthop del id 3`,
		},
		{
			"another way is added",
			"172.26.0.0/24 " + both + " nexthop via 10.211.55.3\n172.26.1.0/24 " + both + " nexthop via 10.211.55.3",
			`nexthop add id 4 via 10.211.55.3 dev gw0
			 nexthop replace id 3 group 1 2 4`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := newFakeKernel()
			tb := fakeBed{k}.table(t, Options{})
			syncAll(tb)
			rs := parse(t, have)
			tb.Set(ClassLearned, rs)
			wait(t, tb, rs...)
			k.mu.Lock()
			k.log = nil
			k.mu.Unlock()
			tb.Set(ClassLearned, parse(t, tt.want))
			wait(t, tb, append(parse(t, tt.want), rs...)...)
			want := trim(tt.log)
			var got string
			eventually(t, patience, "all is written", func() bool {
				k.mu.Lock()
				defer k.mu.Unlock()
				got = strings.Join(k.log, "\n")
				return len(k.log) > strings.Count(want, "\n")
			})
			// Members that nobody uses go after the group, in their own time.
			if !strings.HasPrefix(got, want) {
				t.Errorf("written was\n%s\nwhere\n%s\nis needed", got, want)
			}
		})
	}
}

// BenchmarkPeerLost is the loss of one of two routers that announce the same.
func BenchmarkPeerLost(b *testing.B) {
	const n = 1000
	ns := netnstest.New(b)
	ns.Run("ip", "link", "add", "gw0", "type", "veth", "peer", "name", "gw1")
	ns.Run("ip", "link", "set", "gw0", "up")
	ns.Run("ip", "link", "set", "gw1", "up")
	ns.Run("ip", "addr", "add", "10.211.55.101/24", "dev", "gw0")
	var written tally
	tb := startOn(b, ns, Options{Resync: time.Hour}, written.on)
	syncAll(tb)
	both, one := overBoth(n, true), overBoth(n, false)
	tb.Update(ClassLearned, both, nil)
	wait(b, tb, both...)
	var messages int64
	for b.Loop() {
		before := written.writes.Load()
		tb.Update(ClassLearned, one, nil)
		wait(b, tb, one...)
		messages += written.writes.Load() - before
		b.StopTimer()
		tb.Update(ClassLearned, both, nil)
		wait(b, tb, both...)
		b.StartTimer()
	}
	b.ReportMetric(float64(messages)/float64(b.N), "messages/op")
}
