package routes

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/internal/netnstest"
)

// testbed is a kernel to test against.
type testbed interface {
	table(t testing.TB, o Options) *Table
	show() string
	objects() int
	setLink(name string, up bool)
	hand(dst string) // deletes a route as somebody else
}

type realBed struct{ *netnstest.NS }

func (b realBed) table(t testing.TB, o Options) *Table { return start(t, b.NS, o) }
func (b realBed) show() string                         { return show(b.NS) }
func (b realBed) objects() int                         { return strings.Count(b.Run("ip", "nexthop"), "\n") }
func (b realBed) hand(dst string)                      { b.Run("ip", "route", "del", dst) }
func (b realBed) setLink(name string, up bool) {
	b.Run("ip", "link", "set", name, map[bool]string{true: "up", false: "down"}[up])
}

type fakeBed struct{ *fakeKernel }

func (b fakeBed) table(t testing.TB, o Options) *Table {
	tb := newTable(o, b.fakeKernel)
	run(t, tb)
	return tb
}

func (b fakeBed) objects() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.fakeKernel.objects)
}

// TestConformance runs the same on the real kernel and on the fake, so that
// what is tested on the fake alone means something.
func TestConformance(t *testing.T) {
	for name, bed := range map[string]func() testbed{
		"real": func() testbed {
			ns := cluster(t)
			ns.Run("sysctl", "-qw", "net.ipv6.conf.all.keep_addr_on_down=1")
			return realBed{ns}
		},
		"fake": func() testbed { return fakeBed{newFakeKernel()} },
	} {
		t.Run(name, func(t *testing.T) { modes(t, func(t *testing.T, o Options) { conform(t, bed(), o) }) })
	}
}

func conform(t *testing.T, bed testbed, o Options) {
	o.Resync = time.Hour
	tb := bed.table(t, o)
	syncAll(tb)
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		want := parse(t, states[rnd.IntN(len(states))])
		tb.Set(ClassLearned, want)
		wait(t, tb, want...)
		seen(t, bed, render(want))
	}
	rs := parse(t, node)
	tb.Set(ClassLearned, rs)
	wait(t, tb, rs...)
	for _, l := range []string{"gw0", "gw1", "gwpod0"} {
		bed.setLink(l, false)
		eventually(t, patience, "no route goes over "+l, func() bool { return !strings.Contains(bed.show(), "dev "+l) })
		bed.setLink(l, true)
		seen(t, bed, node)
	}
	for _, r := range rs {
		if r.Dst.Addr().Is4() {
			bed.hand(r.Dst.String())
			seen(t, bed, node)
		}
	}
	if err := tb.Close(); err != nil {
		t.Fatal(err)
	}
	tb = bed.table(t, o)
	tb.Set(ClassPod, rs[:3])
	tb.Synced(ClassPod)
	wait(t, tb, rs[:3]...)
	seen(t, bed, node)
	tb.Synced(ClassBlock)
	tb.Synced(ClassRemote)
	tb.Synced(ClassLearned)
	seen(t, bed, render(rs[:3]))
	tb.Update(ClassPod, nil, []netip.Prefix{rs[0].Dst, rs[1].Dst, rs[2].Dst})
	eventually(t, patience, "nothing is left", func() bool { return bed.show() == "" && bed.objects() == 0 })
}

func seen(t testing.TB, bed testbed, want string) {
	t.Helper()
	want = tidyAll(want)
	eventually(t, patience, "the kernel has\n"+want, func() bool { return bed.show() == want })
}

// TestPlan looks at what is written, message by message.
func TestPlan(t *testing.T) {
	for _, tt := range []struct{ name, have, want, log string }{
		{
			"one object serves two routes, and comes first", ``,
			`172.25.0.192/26 via 10.211.55.116
			 172.25.1.0/26 via 10.211.55.116`,
			`nexthop add id 1 via 10.211.55.116 dev gw0
			 route add 172.25.0.192/26 nhid 1
			 route add 172.25.1.0/26 nhid 1`,
		},
		{
			"what is right is left alone",
			`172.25.0.192/26 via 10.211.55.116 dev gw0
			 blackhole 172.25.0.128/26`,
			`172.25.0.192/26 via 10.211.55.116
			 blackhole 172.25.0.128/26
			 172.25.0.130 dev gwpod0`,
			`route add 172.25.0.130 dev gwpod0 scope link`,
		},
		{
			"a route is changed in one message; what is not used goes last",
			`172.25.0.192/26 via 10.211.55.116 dev gw0`,
			`172.25.0.192/26 via 10.211.55.117`,
			`nexthop add id 2 via 10.211.55.117 dev gw0
			 route change 172.25.0.192/26 nhid 2
			 nexthop del id 1`,
		},
		{
			"adds come before deletes, groups go before their members",
			`172.25.0.192/26 nexthop via 10.211.55.116 dev gw0 nexthop via 10.212.0.7 dev gw1`,
			`172.25.0.128/25 via 10.211.55.116`,
			`route add 172.25.0.128/25 nhid 1
			 route del 172.25.0.192/26
			 nexthop del id 3
			 nexthop del id 2`,
		},
		{
			"a group shares the objects of single routes",
			`172.25.0.192/26 via 10.211.55.116 dev gw0`,
			`172.25.0.192/26 nexthop via 10.211.55.116 nexthop via 10.212.0.7`,
			`nexthop add id 2 via 10.212.0.7 dev gw1
			 nexthop add id 3 group 1 2
			 route change 172.25.0.192/26 nhid 3`,
		},
		{
			"a gateway's becomes a blackhole",
			`172.25.0.192/26 via 10.211.55.116 dev gw0`,
			`blackhole 172.25.0.192/26`,
			`route change blackhole 172.25.0.192/26
			 nexthop del id 1`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := newFakeKernel()
			first := fakeBed{k}.table(t, Options{})
			have := parse(t, tt.have)
			first.Set(ClassLearned, have)
			wait(t, first, have...)
			if err := first.Close(); err != nil {
				t.Fatal(err)
			}
			k.log = nil
			tb := fakeBed{k}.table(t, Options{})
			want := parse(t, tt.want)
			tb.Set(ClassLearned, want)
			syncAll(tb)
			wait(t, tb, append(want, have...)...)
			settled := trim(tt.log)
			var got string
			eventually(t, patience, "all is written", func() bool {
				k.mu.Lock()
				defer k.mu.Unlock()
				got = strings.Join(k.log, "\n")
				return len(k.log) >= strings.Count(settled, "\n")+1
			})
			if got != settled {
				t.Errorf("written was\n%s\nwhere\n%s\nis needed", got, settled)
			}
		})
	}
}

func trim(s string) string {
	lines := slices.Collect(strings.Lines(s))
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "\n")
}

func mustPrefix(s string) netip.Prefix {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p
	}
	a := netip.MustParseAddr(s)
	return netip.PrefixFrom(a, a.BitLen())
}
