package routes

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/internal/netnstest"
)

// manyRoutes makes n routes over hops next hops in 10.0.0.0/8.
func manyRoutes(n, hops int) []Route {
	rs := make([]Route, n)
	for i := range rs {
		h := i % hops
		rs[i] = Route{
			Dst: netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(16 + i>>16), byte(i >> 8), byte(i)}), 32),
			NextHops: []NextHop{{
				Gateway: netip.AddrFrom4([4]byte{10, byte(1 + h>>16), byte(h >> 8), byte(h)}),
			}},
		}
	}
	return rs
}

// BenchmarkInstall is from Update to the last route in the kernel, each time in
// a fresh namespace.
func BenchmarkInstall(b *testing.B) {
	for _, bm := range []struct{ routes, hops int }{{5000, 2500}, {20000, 10000}} {
		for _, plain := range []bool{false, true} {
			name := fmt.Sprintf("%d-over-%d/objects", bm.routes, bm.hops)
			if plain {
				name = strings.Replace(name, "objects", "plain", 1)
			}
			b.Run(name, func(b *testing.B) {
				rs := manyRoutes(bm.routes, bm.hops)
				for b.Loop() {
					b.StopTimer()
					ns := netnstest.New(b)
					ns.Run("ip", "link", "add", "gw0", "type", "veth", "peer", "name", "gw1")
					ns.Run("ip", "link", "set", "gw0", "up")
					ns.Run("ip", "link", "set", "gw1", "up")
					ns.Run("ip", "addr", "add", "10.0.0.1/8", "dev", "gw0")
					tb := start(b, ns, Options{PlainRoutes: plain})
					settle(b, tb)
					b.StartTimer()
					begin := time.Now()
					for chunk := rs; len(chunk) > 0; {
						n := min(1000, len(chunk))
						tb.Update(ClassLearned, chunk[:n], nil)
						chunk = chunk[n:]
					}
					wait(b, tb, rs...)
					b.ReportMetric(time.Since(begin).Seconds(), "s/install")
					b.StopTimer()
					if got := tb.Status().Installed[ClassLearned]; got != len(rs) {
						b.Fatalf("%d of %d routes are installed: %v", got, len(rs), tb.Status().Failed[:1])
					}
					b.StartTimer()
				}
			})
		}
	}
}

// BenchmarkLarge is what small things cost beside 20,000 installed routes.
func BenchmarkLarge(b *testing.B) {
	ns := netnstest.New(b)
	ns.Run("ip", "link", "add", "gw0", "type", "veth", "peer", "name", "gw1")
	ns.Run("ip", "link", "set", "gw0", "up")
	ns.Run("ip", "link", "set", "gw1", "up")
	ns.Run("ip", "addr", "add", "10.0.0.1/8", "dev", "gw0")
	tb := start(b, ns, Options{Resync: time.Hour})
	rs := manyRoutes(20000, 10000)
	tb.Set(ClassLearned, rs)
	syncAll(tb)
	wait(b, tb, rs...)
	if got := strings.Count(ns.Run("ip", "route", "show", "proto", "71"), "\n"); got != len(rs) {
		b.Fatalf("the kernel has %d routes", got)
	}
	pod := []Route{{Dst: netip.MustParsePrefix("172.30.0.1/32"), Link: "gw0"}}
	b.Run("pod", func(b *testing.B) {
		for b.Loop() {
			tb.Update(ClassPod, pod, nil)
			wait(b, tb, pod...)
			tb.Update(ClassPod, nil, dsts(pod))
			wait(b, tb, pod...)
		}
	})
	b.Run("set-unchanged", func(b *testing.B) {
		for b.Loop() {
			tb.Set(ClassLearned, rs)
			wait(b, tb, rs[0])
		}
	})
	b.Run("resync", func(b *testing.B) {
		for b.Loop() {
			s, err := tb.kernel.snapshot()
			if err != nil {
				b.Fatal(err)
			}
			newCore(Protocol, 254, time.Now).ingest(s, false)
		}
	})
	b.Run("flap", func(b *testing.B) {
		for b.Loop() {
			ns.Run("sh", "-c", "ip link set gw0 down; ip link set gw0 up")
			eventually(b, patience, "all routes are back", func() bool {
				s := tb.Status()
				return s.Installed[ClassLearned] == len(rs) && len(s.Failed) == 0 && s.Pending == 0
			})
		}
	})
}
