package routes

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestFailedChangeKeepsTheRoute wants a route changed to what can't be: what was
// there stays, with the object that nobody else wants any more.
func TestFailedChangeKeepsTheRoute(t *testing.T) {
	modes(t, func(t *testing.T, o Options) {
		ns := cluster(t)
		tb := start(t, ns, o)
		syncAll(tb)
		rs := parse(t, node)
		tb.Set(ClassLearned, rs)
		wait(t, tb, rs...)
		tb.Set(ClassLearned, parse(t, `172.25.0.192/26 dev gwpod9
			172.25.2.0/26 via 192.0.2.1`))
		left := `172.25.0.192/26 via 10.211.55.116 dev gw0
			172.25.2.0/26 nexthop via 10.211.55.117 dev gw0 nexthop via 10.212.0.7 dev gw1`
		expect(t, ns, left)
		wait(t, tb, rs[0])
		tb.Update(ClassPod, parse(t, `blackhole 172.25.9.0/26`), nil) // another round
		expect(t, ns, left+"\nblackhole 172.25.9.0/26")
		if got := len(tb.Status().Failed); got != 2 {
			t.Errorf("%d failures", got)
		}
		tb.Set(ClassLearned, nil)
		expect(t, ns, "blackhole 172.25.9.0/26")
	})
}

// TestFailureIsAlone has one bad route among many.
func TestFailureIsAlone(t *testing.T) {
	modes(t, func(t *testing.T, o Options) {
		ns := cluster(t)
		tb := start(t, ns, o)
		rs := manyRoutes(3000, 1)
		for i := range rs {
			rs[i].NextHops = []NextHop{{Gateway: netip.MustParseAddr("10.211.55.116")}}
		}
		rs[700].NextHops = []NextHop{{Gateway: netip.MustParseAddr("192.0.2.1"), Link: "gw0"}}
		rs[701].NextHops = []NextHop{{Gateway: netip.MustParseAddr("10.212.0.7"), Link: "gw0"}}
		rs[702].NextHops = []NextHop{{Gateway: netip.MustParseAddr("fe80::1")}}
		rs[703].NextHops = nil
		rs[704].Link = "gw0"
		tb.Set(ClassLearned, rs)
		eventually(t, patience, "the others are there", func() bool {
			return tb.Status().Installed[ClassLearned] == len(rs)-5
		})
		if got := strings.Count(ns.Run("ip", "route", "show", "proto", "71"), "\n"); got != len(rs)-5 {
			t.Errorf("the kernel has %d routes", got)
		}
		for _, r := range rs[700:705] {
			err := waitErr(tb, r)
			if err == nil {
				t.Errorf("no error for %v", r)
			}
			t.Log(err)
		}
		// What makes it right is found out by the retries.
		tb.Update(ClassLearned, parse(t, rs[700].Dst.String()+" via 10.211.55.9"), dsts(rs[701:705]))
		wait(t, tb, rs[700:705]...)
		if got := tb.Status().Failed; len(got) > 0 {
			t.Errorf("failures: %v", got)
		}
	})
}

// TestRetry sees an obstacle go away, told of it or not.
func TestRetry(t *testing.T) {
	for name, hears := range map[string]bool{"told": true, "not told": false} {
		t.Run(name, func(t *testing.T) {
			ns := cluster(t)
			tb := startOn(t, ns, Options{Resync: time.Hour}, func(k *netlinkKernel) kernel {
				if hears {
					return k
				}
				return deaf{k}
			})
			rs := parse(t, `172.25.0.192/26 via 192.0.2.7 dev gw0`)
			tb.Set(ClassLearned, rs)
			if err := waitErr(tb, rs...); err == nil || !strings.Contains(err.Error(), "invalid gateway") {
				t.Fatalf("Wait says %v", err)
			}
			ns.Run("ip", "addr", "add", "192.0.2.1/24", "dev", "gw0")
			expect(t, ns, `172.25.0.192/26 via 192.0.2.7 dev gw0`)
			wait(t, tb, rs...)
		})
	}
}
