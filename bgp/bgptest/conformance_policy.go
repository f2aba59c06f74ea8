package bgptest

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/godwit-net/godwit/bgp"
)

func testOrigins(t *testing.T, f *fixture) {
	f.Config.ValidateOrigin = true
	a, b := f.add(1, bgp.PeerNode, 0), f.add(2, bgp.PeerNode, 0)
	owned := func(i int, s ...string) {
		f.change(i, func(p *bgp.Peer) { p.Owned = f.prefixes(s...) })
		f.set()
	}
	refused := func(r Router, want ...string) {
		t.Helper()
		f.until(func() string {
			s := f.session(r)
			if s.RefusedCount != len(want) || !slices.Equal(s.Refused, f.prefixes(want...)) {
				return fmt.Sprintf("the session is reported as %+v", s)
			}
			return ""
		})
	}
	owned(0, "172.25.3.0/26", "10.0.0.0/8")
	owned(1, "172.25.4.0/26")
	a.Connect()
	b.Connect()
	f.announce(a, 0, "172.25.3.0/26", "172.25.4.0/26", "10.0.0.0/8", "172.25.0.128/26")
	f.announce(b, 0, "172.25.4.0/26", "172.25.3.64/26")
	f.sink.WaitRoutes(t, f.via("172.25.3.0/26", a), f.via("172.25.4.0/26", b))
	refused(a, "10.0.0.0/8", "172.25.0.128/26", "172.25.4.0/26")
	refused(b, "172.25.3.64/26")

	owned(1, "172.25.3.64/26") // one block is given up, another taken
	f.sink.WaitRoutes(t, f.via("172.25.3.0/26", a), f.via("172.25.3.64/26", b))
	refused(b, "172.25.4.0/26")
	owned(0, "172.25.3.0/26", "172.25.4.0/26")
	f.sink.WaitRoutes(t, f.via("172.25.3.0/26", a), f.via("172.25.3.64/26", b), f.via("172.25.4.0/26", a))

	f.Config.ValidateOrigin = false
	f.set()
	f.sink.WaitRoutes(t, f.via("172.25.3.0/26", a), f.via("172.25.3.64/26", b), f.via("172.25.4.0/26", a, b))
	f.mustBeUp(a, b)
}

func testPools(t *testing.T, f *fixture) {
	node := f.add(1, bgp.PeerNode, 0)
	bits := f.prefix("0.0.0.0/0").Addr().BitLen()
	everything := bgp.Rule{Accept: true}
	wide := f.accept("0.0.0.0/0", 0, 32)
	wide.Ranges[0].MaxLength = bits
	rack := f.add(2, bgp.PeerExternal, 65001, everything)
	f.set()
	node.Connect()
	rack.Connect()
	f.announce(node, 0, "172.25.3.0/26")
	f.announce(rack, 1, "172.25.3.0/26", "172.25.3.0/27", "172.25.4.0/26", "172.25.0.0/16", "172.24.0.0/14", "10.9.1.0/24")
	outside := []string{f.via("172.25.3.0/26", node), f.via("172.24.0.0/14", rack), f.via("10.9.1.0/24", rack)}
	f.sink.WaitRoutes(t, outside...)
	f.change(1, func(p *bgp.Peer) { p.Import = []bgp.Rule{wide} })
	f.set()
	f.sink.WaitRoutes(t, outside...)

	// A rule that names the pool, or a part of it, is meant.
	f.change(1, func(p *bgp.Peer) {
		but := f.accept("172.25.4.0/26", 26, 26)
		but.Accept = false
		p.Import = []bgp.Rule{but, f.accept("172.25.3.0/24", 27, 27), f.accept("172.25.4.0/24", 26, 26), wide}
	})
	f.set()
	f.sink.WaitRoutes(t, append(outside, f.via("172.25.3.0/27", rack))...)
	f.change(1, func(p *bgp.Peer) { p.Import = []bgp.Rule{f.accept("172.25.0.0/16", 16, 26)} })
	f.set()
	f.sink.WaitRoutes(t, f.via("172.25.3.0/26", node), f.via("172.25.4.0/26", rack), f.via("172.25.0.0/16", rack))
	f.mustBeUp(node, rack)
}

func testExport(t *testing.T, f *fixture) {
	const own = "172.25.0.128/26"
	node := f.add(1, bgp.PeerNode, 0)
	rack := f.add(2, bgp.PeerExternal, 65001, bgp.Rule{Accept: true})
	far := f.add(3, bgp.PeerExternal, 65002)
	core := f.add(4, bgp.PeerExternal, 0)
	routers := []Router{node, rack, far, core}
	f.set()
	for _, r := range routers {
		r.Connect()
	}
	f.announce(node, 0, "172.25.3.0/26")
	f.announce(rack, 1, "10.9.1.0/24", "10.9.2.0/24")
	f.sink.WaitRoutes(t, f.via("172.25.3.0/26", node), f.via("10.9.1.0/24", rack), f.via("10.9.2.0/24", rack))
	for _, r := range routers { // nobody is told of others without rules
		f.waitOwn(r, own)
	}

	export := func(i int, rules ...bgp.Rule) {
		f.change(i, func(p *bgp.Peer) { p.Export = rules })
		f.set()
	}
	learned := bgp.Rule{Match: bgp.Match{Source: bgp.SourceLearned}, Accept: true}
	export(2, f.reject("10.9.2.0/24", 24, 24), learned)
	f.waitOwn(far, own, "172.25.3.0/26", "10.9.1.0/24")
	f.until(func() string {
		if s := f.session(far); s.Advertised != 3 {
			return fmt.Sprintf("the session is reported as %+v", s)
		}
		return ""
	})
	export(2, bgp.Rule{Match: bgp.Match{Source: bgp.SourceOwn}}, bgp.Rule{Match: bgp.Match{PeerKind: bgp.Origin(bgp.PeerNode)}, Accept: true})
	f.waitOwn(far, "172.25.3.0/26")
	export(2, bgp.Rule{Match: bgp.Match{PeerKind: bgp.Origin(bgp.PeerExternal)}, Accept: true})
	f.waitOwn(far, own, "10.9.1.0/24", "10.9.2.0/24")
	rack.Withdraw(f.prefixes("10.9.2.0/24")...)
	f.waitOwn(far, own, "10.9.1.0/24")
	export(2)
	f.waitOwn(far, own)

	// A router of our own AS is told the next hop as it is, and nothing of nodes.
	export(3, learned)
	f.until(func() string {
		want := map[netip.Prefix]netip.Addr{f.prefix(own): f.Local(f.route()), f.prefix("10.9.1.0/24"): rack.Address(f.route())}
		if got := core.Routes(); fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Sprintf("told %v, not %v", got, want)
		}
		return ""
	})
	f.change(3, func(p *bgp.Peer) { p.NextHop = bgp.NextHopSelf })
	f.set()
	f.waitOwn(core, own, "10.9.1.0/24")
	for _, r := range []Router{node, rack, far} {
		f.waitOwn(r, own)
	}
	f.mustBeUp(routers...)
}

// testExportBothFamilies sends routes on whose family is not that of the session.
func testExportBothFamilies(t *testing.T, f *fixture) {
	f.advertiseBoth("172.25.0.128/26")
	rack := f.add(1, bgp.PeerExternal, 65001, bgp.Rule{Accept: true})
	far := f.add(2, bgp.PeerExternal, 65002)
	core := f.add(3, bgp.PeerExternal, 0)
	f.change(1, func(p *bgp.Peer) { p.Export = []bgp.Rule{{Accept: true}} })
	f.change(2, func(p *bgp.Peer) { p.Export, p.NextHop = []bgp.Rule{{Accept: true}}, bgp.NextHopSelf })
	f.set()
	routers := []Router{rack, far, core}
	for _, r := range routers {
		r.Connect()
	}
	f.announceBoth(rack, 1, "10.9.1.0/24")
	f.sink.WaitRoutes(t, f.viaBoth("10.9.1.0/24", rack)...)
	learned := both("10.9.1.0/24")
	all := slices.Concat(f.Config.Advertise, learned[bgp.IPv4], learned[bgp.IPv6])
	f.waitOwnPrefixes(rack, f.Config.Advertise...)
	f.waitOwnPrefixes(far, all...)
	f.waitOwnPrefixes(core, all...)

	f.change(1, func(p *bgp.Peer) {
		p.Export = []bgp.Rule{{Match: bgp.Match{Ranges: []bgp.Range{in(bgp.IPv6, "10.9.0.0/16", 24, 24)}}, Accept: true}}
	})
	f.set()
	f.waitOwnPrefixes(far, slices.Concat(f.Config.Advertise, learned[bgp.IPv6])...)
	f.mustBeUp(routers...)
}
