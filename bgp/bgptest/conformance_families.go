package bgptest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/godwit-net/godwit/bgp"
)

// casesOfBothFamilies are those of sessions that carry both families. The
// routes are those of the other tests, of IPv4, beside their like in IPv6.
func casesOfBothFamilies() []testCase {
	return []testCase{
		{"announces routes of the other family by its own address", testExportBothFamilies},
		{"carries both families over one session", testBothFamilies},
		{"has what a peer has in common", testOneFamily},
		{"is in sync when both families are", testInSyncBoth},
		{"keeps both families of a restarting peer", testRestartBoth},
		{"counts both families towards the limit", testLimitBoth},
		{"takes no next hop of another family", testForeignNextHops},
		{"moves its next hop without resets", testNextHopChange},
		{"resets all when the families change", testFamiliesChange},
	}
}

// announceBoth announces, by the router's addresses, prefixes in both families.
func (f *fixture) announceBoth(r Router, length int, s ...string) {
	for _, family := range f.Carried.Each() {
		r.Announce(r.Address(family), length, both(s...)[family]...)
	}
}

// both are prefixes in both families.
func both(s ...string) map[bgp.Families][]netip.Prefix {
	out := make(map[bgp.Families][]netip.Prefix)
	for _, family := range (bgp.IPv4 | bgp.IPv6).Each() {
		for _, p := range s {
			out[family] = append(out[family], in(family, p, 0, 0).CIDR)
		}
	}
	return out
}

// viaBoth are the words for a prefix in both families.
func (f *fixture) viaBoth(prefix string, r ...Router) []string {
	return []string{f.viaIn(bgp.IPv4, prefix, r...), f.viaIn(bgp.IPv6, prefix, r...)}
}

func (f *fixture) advertiseBoth(s ...string) {
	f.Config.Advertise = slices.Concat(both(s...)[bgp.IPv4], both(s...)[bgp.IPv6])
}

func testBothFamilies(t *testing.T, f *fixture) {
	f.advertiseBoth("172.25.0.128/26")
	node := f.add(1, bgp.PeerNode, 0)
	rack := f.add(2, bgp.PeerExternal, 65001)
	f.change(1, func(p *bgp.Peer) {
		for _, family := range f.Carried.Each() {
			p.Import = append(p.Import, bgp.Rule{Match: bgp.Match{Ranges: []bgp.Range{in(family, "10.9.0.0/16", 24, 24)}}, Accept: true})
		}
	})
	f.set()
	node.Connect()
	rack.Connect()
	f.announceBoth(node, 0, "172.25.0.192/26", "10.9.1.0/24")
	f.announceBoth(rack, 1, "172.25.7.0/26", "10.9.1.0/24")
	f.sink.WaitRoutes(t, slices.Concat(f.viaBoth("172.25.0.192/26", node), f.viaBoth("10.9.1.0/24", rack))...)
	for _, r := range []Router{node, rack} {
		f.waitOwnPrefixes(r, f.Config.Advertise...)
		if s := f.session(r); s.State != bgp.StateEstablished || s.Received != 4 || s.Accepted != 2 || s.Advertised != 2 {
			t.Errorf("the session is reported as %+v", s)
		}
	}
	// Each family is by itself.
	f.Config.Advertise = f.prefixes("172.25.0.128/26", "172.25.1.0/26")
	f.set()
	f.waitOwn(node, "172.25.0.128/26", "172.25.1.0/26")
	f.waitOwn(rack, "172.25.0.128/26", "172.25.1.0/26")
	node.Withdraw(both("172.25.0.192/26")[bgp.IPv4]...)
	f.sink.WaitRoutes(t, append(f.viaBoth("10.9.1.0/24", rack), f.viaIn(bgp.IPv6, "172.25.0.192/26", node))...)
	rack.Withdraw(both("10.9.1.0/24")[bgp.IPv6]...)
	f.sink.WaitRoutes(t, f.viaIn(bgp.IPv4, "10.9.1.0/24", rack), f.viaIn(bgp.IPv6, "172.25.0.192/26", node))
	f.mustBeUp(node, rack)
}

func testOneFamily(t *testing.T, f *fixture) {
	f.advertiseBoth("172.25.0.128/26")
	routers := map[bgp.Families]Router{bgp.IPv4: f.add(1, bgp.PeerNode, 0), bgp.IPv6: f.add(2, bgp.PeerNode, 0)}
	f.set()
	want := []string{}
	for family, r := range routers {
		r.Offer(family)
		r.Connect()
		r.Announce(r.Address(family), 0, both("172.25.3.0/26")[family]...)
		want = append(want, f.viaIn(family, "172.25.3.0/26", r))
	}
	f.sink.WaitRoutes(t, want...)
	for family, r := range routers {
		f.waitOwnPrefixes(r, both("172.25.0.128/26")[family]...)
		if s := f.session(r); s.Received != 1 || s.Accepted != 1 || s.Advertised != 1 {
			t.Errorf("the session is reported as %+v", s)
		}
		r.EndOfRIB(family)
	}
	f.sink.WaitInSync(t)
	f.mustBeUp(routers[bgp.IPv4], routers[bgp.IPv6])
}

func testInSyncBoth(t *testing.T, f *fixture) {
	a, b := f.add(1, bgp.PeerNode, 0), f.add(2, bgp.PeerNode, 0)
	f.set()
	a.Connect()
	b.Connect()
	f.announceBoth(a, 0, "172.25.3.0/26")
	a.EndOfRIB(f.Carried)
	b.EndOfRIB(f.Session)
	b.EndOfRIB(f.Session) // twice is not both
	f.announceBoth(b, 0, "172.25.4.0/26")
	f.sink.WaitRoutes(t, slices.Concat(f.viaBoth("172.25.3.0/26", a), f.viaBoth("172.25.4.0/26", b))...)
	if slices.Contains(f.sink.Log(), "in sync") {
		t.Error("in sync before the last End-of-RIB")
	}
	// A session that comes again begins from the beginning.
	b.Break()
	f.until(func() string {
		if s := f.session(b); s.State == bgp.StateEstablished {
			return fmt.Sprintf("reported is %+v", s)
		}
		return ""
	})
	b.Connect()
	b.EndOfRIB(f.Carried &^ f.Session)
	f.announceBoth(b, 0, "172.25.4.0/26", "172.25.5.0/26")
	f.sink.WaitRoutes(t, slices.Concat(f.viaBoth("172.25.3.0/26", a), f.viaBoth("172.25.4.0/26", b), f.viaBoth("172.25.5.0/26", b))...)
	if slices.Contains(f.sink.Log(), "in sync") {
		t.Error("in sync with an End-of-RIB of an earlier session")
	}
	b.EndOfRIB(f.Session)
	f.sink.WaitInSync(t)
}

func testRestartBoth(t *testing.T, f *fixture) {
	r := f.add(1, bgp.PeerNode, 0)
	f.set()
	r.Connect()
	f.announceBoth(r, 0, "172.25.3.0/26", "172.25.4.0/26")
	r.EndOfRIB(f.Carried)
	f.sink.WaitRoutes(t, slices.Concat(f.viaBoth("172.25.3.0/26", r), f.viaBoth("172.25.4.0/26", r))...)
	f.sink.WaitInSync(t)
	r.Break()
	f.until(func() string {
		if s := f.session(r); s.State == bgp.StateEstablished || !strings.Contains(s.Message, "is kept") {
			return fmt.Sprintf("reported is %+v", s)
		}
		return ""
	})
	r.Connect()
	f.announceBoth(r, 0, "172.25.3.0/26")
	for _, entry := range f.sink.Log() {
		if strings.HasPrefix(entry, "-") {
			t.Errorf("while the peer restarted, the sink was told %q", entry)
		}
	}
	for _, family := range f.Carried.Each() {
		r.EndOfRIB(family)
	}
	f.sink.WaitRoutes(t, f.viaBoth("172.25.3.0/26", r)...)
	for _, p := range slices.Concat(both("172.25.3.0/26")[bgp.IPv4], both("172.25.3.0/26")[bgp.IPv6]) {
		if slices.Contains(f.sink.Log(), "-"+p.String()) {
			t.Errorf("%v, which was announced again, went in between", p)
		}
	}
}

func testLimitBoth(t *testing.T, f *fixture) {
	r := f.add(1, bgp.PeerNode, 0)
	f.change(0, func(p *bgp.Peer) { p.MaxPrefixes = 2 })
	f.set()
	r.Connect()
	f.announceBoth(r, 0, "172.25.3.0/26")
	f.sink.WaitRoutes(t, f.viaBoth("172.25.3.0/26", r)...)
	f.mustBeUp(r)
	f.announce(r, 0, "172.25.4.0/26")
	f.waitEnded(r, true)
	f.sink.WaitRoutes(t)
}

func testForeignNextHops(t *testing.T, f *fixture) {
	all := []bgp.Rule{{Match: bgp.Match{Ranges: []bgp.Range{in(bgp.IPv4, "172.25.0.0/16", 26, 26)}}, Accept: true}, {Match: bgp.Match{Ranges: []bgp.Range{in(bgp.IPv6, "172.25.0.0/16", 26, 26)}}, Accept: true}}
	a, b := f.add(1, bgp.PeerExternal, 65001, all...), f.add(2, bgp.PeerExternal, 65002, all...)
	f.set()
	a.Connect()
	b.Connect()
	p4, p6 := both("172.25.3.0/26")[bgp.IPv4], both("172.25.3.0/26")[bgp.IPv6]
	a.Announce(a.Address(bgp.IPv6), 1, p4...)
	a.Announce(netip.AddrFrom16(a.Address(bgp.IPv4).As16()), 1, p6...)
	f.announceBoth(a, 1, "172.25.4.0/26")
	f.announceBoth(b, 1, "172.25.3.0/26")
	f.sink.WaitRoutes(t, slices.Concat(f.viaBoth("172.25.3.0/26", b), f.viaBoth("172.25.4.0/26", a))...)
	if s := f.session(a); s.Received != 4 || s.Accepted != 2 {
		t.Errorf("the session is reported as %+v", s)
	}
	b.Withdraw(p4...)
	b.Withdraw(p6...)
	f.sink.WaitRoutes(t, f.viaBoth("172.25.4.0/26", a)...)
	f.mustBeUp(a, b)
}

func testNextHopChange(_ *testing.T, f *fixture) {
	f.advertiseBoth("172.25.0.128/26")
	node, rack := f.add(1, bgp.PeerNode, 0), f.add(2, bgp.PeerExternal, 65001)
	f.set()
	for _, r := range []Router{node, rack} {
		r.Connect()
		f.waitOwnPrefixes(r, f.Config.Advertise...)
	}
	// The session's own address can't change without it; the other can.
	former := f.Local
	moved := map[bgp.Families]netip.Addr{bgp.IPv4: netip.MustParseAddr("10.77.0.1"), bgp.IPv6: netip.MustParseAddr("fd77::1")}[f.route()]
	f.Local = func(family bgp.Families) netip.Addr {
		if family == f.route() {
			return moved
		}
		return former(family)
	}
	f.Config.NextHops = []netip.Addr{f.Local(bgp.IPv6), f.Local(bgp.IPv4)}
	f.set()
	for _, r := range []Router{node, rack} {
		f.waitOwnPrefixes(r, f.Config.Advertise...)
	}
	f.mustBeUp(node, rack)
}

func testFamiliesChange(t *testing.T, f *fixture) {
	f.advertiseBoth("172.25.0.128/26")
	r := f.add(1, bgp.PeerNode, 0)
	f.set()
	r.Connect()
	f.announceBoth(r, 0, "172.25.3.0/26")
	f.sink.WaitRoutes(t, f.viaBoth("172.25.3.0/26", r)...)
	f.waitOwnPrefixes(r, f.Config.Advertise...)

	all := f.Config.NextHops
	f.Config.NextHops = []netip.Addr{f.Local(f.route())}
	f.set()
	f.waitEnded(r, true)
	r.Connect()
	f.waitOwn(r, "172.25.0.128/26")
	f.announce(r, 0, "172.25.3.0/26")
	f.sink.WaitRoutes(t, f.via("172.25.3.0/26", r))
	if s := f.session(r); s.Received != 1 || s.Accepted != 1 || s.Advertised != 1 {
		t.Errorf("the session is reported as %+v", s)
	}

	f.Config.NextHops = all
	f.set()
	f.waitEnded(r, true)
	r.Connect()
	f.waitOwnPrefixes(r, f.Config.Advertise...)
	f.announceBoth(r, 0, "172.25.3.0/26")
	f.sink.WaitRoutes(t, f.viaBoth("172.25.3.0/26", r)...)
	f.mustBeUp(r)
}
