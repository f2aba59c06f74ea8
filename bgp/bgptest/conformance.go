package bgptest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
)

// Bench is a speaker to be tested, alone in its process, and its surroundings.
type Bench struct {
	Speaker bgp.Speaker
	// Config is what the speaker must be given, but for what the tests are about:
	// AS number, router id and where to listen. Its AS is not 65001 nor 65002.
	Config bgp.Config
	// Local is the speaker's address of a family; that of the sessions' family is
	// its address in its sessions with the routers.
	Local func(f bgp.Families) netip.Addr
	// Router makes the router i (1 to 3) of an AS that offers to restart
	// gracefully within a time.
	Router func(i int, asn uint32, restartTime time.Duration) Router
}

// World is where the suite is run: sessions of one family, which carry routes
// of one or both.
type World struct {
	Session, Carried bgp.Families
}

// String names a test.
func (w World) String() string {
	names := map[bgp.Families]string{bgp.IPv4: "IPv4", bgp.IPv6: "IPv6", bgp.IPv4 | bgp.IPv6: "both families"}
	return names[w.Carried] + " over " + names[w.Session]
}

// route is the family of the routes in tests that need routes of one family
// only: not that of the session, if there is another.
func (w World) route() bgp.Families {
	if other := w.Carried &^ w.Session; other != 0 {
		return other
	}
	return w.Carried
}

// Conformance checks that speakers keep the contract of bgp.Speaker. newBench
// makes a bench whose speaker tells sink, waits syncTimeout at most, and is
// stopped when its test ends.
func Conformance(t *testing.T, newBench func(t *testing.T, w World, sink bgp.Sink, syncTimeout time.Duration) *Bench) {
	const both = bgp.IPv4 | bgp.IPv6
	for _, w := range []World{{bgp.IPv4, bgp.IPv4}, {bgp.IPv6, bgp.IPv6}, {bgp.IPv4, both}, {bgp.IPv6, both}} {
		t.Run(w.String(), func(t *testing.T) {
			t.Parallel()
			for _, c := range cases(w) {
				t.Run(c.name, func(t *testing.T) {
					t.Parallel()
					timeout := time.Hour
					if strings.Contains(c.name, "the time is over") {
						timeout = 300 * time.Millisecond
					}
					f := &fixture{t: t, World: w, sink: NewRecorder()}
					f.Bench = newBench(t, w, f.sink, timeout)
					if w.Carried != bgp.IPv4 { // else a speaker must know by itself
						for _, one := range w.Carried.Each() {
							f.Config.NextHops = append(f.Config.NextHops, f.Local(one))
						}
					}
					for _, one := range w.Carried.Each() {
						f.Config.Blocks = append(f.Config.Blocks, in(one, "172.25.0.0/16", 26, 26))
					}
					f.Config.Advertise = f.prefixes("172.25.0.128/26")
					c.test(t, f)
				})
			}
		})
	}
}

// testCase is one clause of the contract.
type testCase struct {
	name string
	test func(t *testing.T, f *fixture)
}

// cases are the tests that make sense in a world.
func cases(w World) []testCase {
	all := []testCase{
		{"announces its own and learns others", testLearn},
		{"takes only what the policy accepts", testPolicy},
		{"shares equal paths", testEqualPaths},
		{"applies policy without resets", testPolicyChange},
		{"takes of nodes only what is theirs", testOrigins},
		{"takes what is inside of pools of routers by name", testPools},
		{"announces what export rules say", testExport},
		{"announces aggregates outside only", testAggregates},
		{"reflects routes of nodes to nodes", testReflection},
		{"lets in who calls from a range", testCallers},
		{"resets only the peer that changed", testPeerChange},
		{"keeps routes of a restarting peer", testRestart},
		{"drops routes of a peer that stays away", testStaysAway},
		{"drops routes at a cease", testCease},
		{"tells what routers announce", testAnnounced},
		{"is in sync when all have sent all", testInSync},
		{"is in sync when the time is over", testTimeOver},
		{"ends a session above its limit", testLimit},
		{"refuses what makes no sense", testNonsense},
		{"stops for a restart", testStopRestart},
		{"stops to leave", testStopLeave},
	}
	if len(w.Carried.Each()) > 1 {
		all = append(all, casesOfBothFamilies()...)
	}
	return all
}

// fixture is a bench in use.
type fixture struct {
	*Bench
	World
	t    *testing.T
	sink *Recorder
}

// add makes a router and adds it to the configuration, which is yet to be set.
func (f *fixture) add(i int, kind bgp.PeerKind, asn uint32, rules ...bgp.Rule) Router {
	if asn == 0 {
		asn = f.Config.ASN
	}
	r := f.Router(i, asn, time.Minute)
	p := r.Peer()
	p.Kind, p.Import, p.GracefulRestart = kind, rules, time.Minute
	f.Config.Peers = append(slices.Clone(f.Config.Peers), p)
	return r
}

func (f *fixture) set() {
	f.t.Helper()
	if err := f.Speaker.Set(context.Background(), f.Config); err != nil {
		f.t.Fatal(err)
	}
}

// change changes the i-th peer of the configuration, which is yet to be set.
func (f *fixture) change(i int, how func(p *bgp.Peer)) {
	f.Config.Peers = slices.Clone(f.Config.Peers)
	how(&f.Config.Peers[i])
}

func (f *fixture) session(r Router) bgp.Session {
	f.t.Helper()
	all, err := f.Speaker.Sessions(context.Background())
	if err != nil {
		f.t.Fatal(err)
	}
	for _, s := range all {
		if s.Address == r.Peer().Address {
			return s
		}
	}
	f.t.Fatalf("no session with %v among %+v", r.Peer().Address, all)
	return bgp.Session{}
}

// until waits until f says nothing is missing.
func (f *fixture) until(missing func() string) {
	f.t.Helper()
	last := ""
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if last = missing(); last == "" {
			return
		}
	}
	f.t.Fatalf("after %v: %s", patience, last)
}

// The tests speak of IPv4. Where routes are of IPv6, a prefix stands for that
// which has it at its end, behind fd00::/96.
func in(family bgp.Families, cidr string, minLength, maxLength int) bgp.Range {
	p := netip.MustParsePrefix(cidr)
	if family == bgp.IPv6 {
		a := p.Addr().As16()
		copy(a[:12], []byte{0xfd, 11: 0})
		p = netip.PrefixFrom(netip.AddrFrom16(a), p.Bits()+96)
		minLength, maxLength = minLength+96, maxLength+96
	}
	return bgp.Range{CIDR: p, MinLength: minLength, MaxLength: maxLength}
}

// prefix is a prefix in the family of the test's routes.
func (f *fixture) prefix(s string) netip.Prefix { return in(f.route(), s, 0, 0).CIDR }

func (f *fixture) prefixes(s ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(s))
	for i := range s {
		out[i] = f.prefix(s[i])
	}
	return out
}

func (f *fixture) accept(cidr string, minLength, maxLength int) bgp.Rule {
	return bgp.Rule{Match: bgp.Match{Ranges: []bgp.Range{in(f.route(), cidr, minLength, maxLength)}}, Accept: true}
}

func (f *fixture) reject(cidr string, minLength, maxLength int) bgp.Rule {
	return bgp.Rule{Match: bgp.Match{Ranges: []bgp.Range{in(f.route(), cidr, minLength, maxLength)}}}
}

// announce announces prefixes by the router's own address.
func (f *fixture) announce(r Router, length int, s ...string) {
	r.Announce(r.Address(f.route()), length, f.prefixes(s...)...)
}

// via is a router's own address as next hop, in the words of Recorder.
func (f *fixture) via(prefix string, routers ...Router) string {
	return f.viaIn(f.route(), prefix, routers...)
}

func (f *fixture) viaIn(family bgp.Families, prefix string, routers ...Router) string {
	out := in(family, prefix, 0, 0).CIDR.String() + " via"
	for _, r := range routers {
		out += " " + r.Address(family).String()
	}
	return out
}

// waitOwn waits until a router was told exactly these prefixes, by way of us.
func (f *fixture) waitOwn(r Router, own ...string) {
	f.t.Helper()
	f.waitOwnPrefixes(r, f.prefixes(own...)...)
}

func (f *fixture) waitOwnPrefixes(r Router, own ...netip.Prefix) {
	f.t.Helper()
	want := make(map[netip.Prefix]netip.Addr)
	for _, p := range own {
		want[p] = f.Local(bgp.FamilyOf(p.Addr()))
	}
	f.until(func() string {
		got := r.Routes()
		if maps.Equal(got, want) {
			return ""
		}
		ended, cease := r.Ended()
		return fmt.Sprintf("%v was told %v, not %v; its session ended: %v, with a cease: %v", r.Peer().Address, got, want, ended, cease)
	})
}

func (f *fixture) waitEnded(r Router, wantCease bool) {
	f.t.Helper()
	f.until(func() string {
		if ended, cease := r.Ended(); !ended || cease != wantCease {
			return fmt.Sprintf("ended %v, with a cease %v", ended, cease)
		}
		return ""
	})
}

func (f *fixture) mustBeUp(routers ...Router) {
	f.t.Helper()
	for _, r := range routers {
		if ended, _ := r.Ended(); ended {
			f.t.Errorf("the session with %v was ended", r.Peer().Address)
		}
	}
}

func testLearn(t *testing.T, f *fixture) {
	node := f.add(1, bgp.PeerNode, 0)
	rack := f.add(2, bgp.PeerExternal, 65001, f.accept("10.9.0.0/16", 24, 24))
	f.set()
	node.Connect()
	rack.Connect()
	f.announce(node, 0, "172.25.0.192/26")
	f.announce(rack, 1, "10.9.1.0/24")
	f.sink.WaitRoutes(t, f.via("172.25.0.192/26", node), f.via("10.9.1.0/24", rack))
	f.waitOwn(node, "172.25.0.128/26")
	f.waitOwn(rack, "172.25.0.128/26")
	for prefix, fromNode := range map[string]bool{"172.25.0.192/26": true, "10.9.1.0/24": false} {
		if r, _ := f.sink.Route(f.prefix(prefix)); r.FromNode != fromNode {
			t.Errorf("%s is said to come from a node: %v", prefix, r.FromNode)
		}
	}
	s := f.session(rack)
	if s.State != bgp.StateEstablished || s.Received != 1 || s.Accepted != 1 || s.Advertised != 1 || s.Since.IsZero() || s.Message != "" {
		t.Errorf("the session is reported as %+v", s)
	}
	f.Config.Advertise = f.prefixes("172.25.1.0/26", "172.25.2.0/26")
	f.set()
	f.waitOwn(node, "172.25.1.0/26", "172.25.2.0/26")
	f.waitOwn(rack, "172.25.1.0/26", "172.25.2.0/26")
	node.Withdraw(f.prefixes("172.25.0.192/26")...)
	f.sink.WaitRoutes(t, f.via("10.9.1.0/24", rack))
	f.mustBeUp(node, rack)
}

func testPolicy(t *testing.T, f *fixture) {
	node := f.add(1, bgp.PeerNode, 0)
	rack := f.add(2, bgp.PeerExternal, 65001, f.reject("10.9.66.0/24", 24, 24), f.accept("10.9.0.0/16", 24, 24))
	bare := f.add(3, bgp.PeerExternal, 65002)
	f.set()
	for i, r := range []Router{node, rack, bare} {
		r.Connect()
		f.announce(r, min(i, 1),
			"0.0.0.0/0", "10.9.66.0/24", "10.9.0.0/16", "10.9.1.0/25", "8.8.8.0/24", "172.24.0.0/26",
			"172.25.0.0/16", "172.25.0.128/26", "172.25.0.128/27", "172.25.9.0/27")
	}
	f.announce(node, 0, "172.25.9.0/26", "10.9.1.0/24")
	f.announce(rack, 1, "172.25.9.0/26", "10.9.1.0/24")
	f.sink.WaitRoutes(t, f.via("172.25.9.0/26", node), f.via("10.9.1.0/24", rack))
	if s := f.session(bare); s.Accepted != 0 {
		t.Errorf("a peer without rules is reported as %+v", s)
	}
	for _, entry := range f.sink.Log() {
		if !strings.HasPrefix(entry, "+"+f.prefix("172.25.9.0/26").String()+" ") && !strings.HasPrefix(entry, "+"+f.prefix("10.9.1.0/24").String()+" ") {
			t.Errorf("the sink was told %q", entry)
		}
	}
}

func testEqualPaths(t *testing.T, f *fixture) {
	all := f.accept("0.0.0.0/0", 0, 32)
	a, b := f.add(1, bgp.PeerExternal, 65001, all), f.add(2, bgp.PeerExternal, 65002, all)
	f.set()
	a.Connect()
	b.Connect()
	f.announce(a, 1, "0.0.0.0/0", "10.9.1.0/24")
	f.announce(b, 1, "0.0.0.0/0")
	f.announce(b, 2, "10.9.1.0/24")
	f.sink.WaitRoutes(t, f.via("0.0.0.0/0", a, b), f.via("10.9.1.0/24", a))
	f.announce(b, 1, "10.9.1.0/24")
	a.Withdraw(f.prefixes("0.0.0.0/0")...)
	f.sink.WaitRoutes(t, f.via("0.0.0.0/0", b), f.via("10.9.1.0/24", a, b))
	a.Cease()
	f.sink.WaitRoutes(t, f.via("0.0.0.0/0", b), f.via("10.9.1.0/24", b))
}

func testPolicyChange(t *testing.T, f *fixture) {
	node := f.add(1, bgp.PeerNode, 0)
	rack := f.add(2, bgp.PeerExternal, 65001)
	f.set()
	node.Connect()
	rack.Connect()
	f.announce(node, 0, "172.25.3.0/26", "172.26.0.0/26")
	f.announce(rack, 1, "10.9.1.0/24", "10.9.2.0/24")
	f.sink.WaitRoutes(t, f.via("172.25.3.0/26", node))

	f.change(1, func(p *bgp.Peer) { p.Import = []bgp.Rule{f.accept("10.9.0.0/16", 24, 24)} })
	f.set()
	f.sink.WaitRoutes(t, f.via("172.25.3.0/26", node), f.via("10.9.1.0/24", rack), f.via("10.9.2.0/24", rack))

	f.change(1, func(p *bgp.Peer) {
		p.Import = []bgp.Rule{f.reject("10.9.1.0/24", 24, 24), f.accept("10.9.0.0/16", 24, 24)}
	})
	f.Config.Blocks = []bgp.Range{in(f.route(), "172.26.0.0/16", 26, 26)}
	f.set()
	f.sink.WaitRoutes(t, f.via("172.26.0.0/26", node), f.via("10.9.2.0/24", rack))

	// What becomes our own is not taken from others; given up, it is.
	f.Config.Advertise = f.prefixes("172.25.0.128/26", "172.26.0.0/26")
	f.set()
	f.sink.WaitRoutes(t, f.via("10.9.2.0/24", rack))
	f.Config.Advertise = f.prefixes("172.25.0.128/26")
	f.set()
	f.sink.WaitRoutes(t, f.via("172.26.0.0/26", node), f.via("10.9.2.0/24", rack))

	f.change(1, func(p *bgp.Peer) { p.Kind = bgp.PeerNode })
	f.set()
	f.sink.WaitRoutes(t, f.via("172.26.0.0/26", node))
	f.mustBeUp(node, rack)
}

func testPeerChange(t *testing.T, f *fixture) {
	a, b := f.add(1, bgp.PeerNode, 0), f.add(2, bgp.PeerNode, 0)
	f.set()
	a.Connect()
	b.Connect()
	f.announce(b, 0, "172.25.3.0/26")
	f.sink.WaitRoutes(t, f.via("172.25.3.0/26", b))
	// Until a router was told something, the session may be up on its side only,
	// and one that is not up yet ends without a Cease.
	f.waitOwn(a, "172.25.0.128/26")
	for _, how := range []func(p *bgp.Peer){
		func(p *bgp.Peer) { p.Hold = 30 * time.Second },
		func(p *bgp.Peer) { p.GracefulRestart = 2 * time.Minute },
		func(p *bgp.Peer) { p.ConnectRetry = 9 * time.Second },
	} {
		f.change(0, how)
		f.set()
		f.waitEnded(a, true)
		a.Connect()
		f.waitOwn(a, "172.25.0.128/26")
	}
	c := f.add(3, bgp.PeerNode, 0)
	f.set()
	c.Connect()
	f.waitOwn(c, "172.25.0.128/26")
	f.mustBeUp(a, b, c)
	f.Config.Peers = slices.Clone(f.Config.Peers[1:2])
	f.set()
	f.waitEnded(a, true)
	f.waitEnded(c, true)
	f.set()
	f.mustBeUp(b)
	f.sink.WaitRoutes(t, f.via("172.25.3.0/26", b))
	if slices.Contains(f.sink.Log(), "-"+f.prefix("172.25.3.0/26").String()) {
		t.Error("the route of the peer that stayed went away")
	}
	if all, err := f.Speaker.Sessions(context.Background()); err != nil || len(all) != 1 {
		t.Errorf("reported are %+v, %v", all, err)
	}
}

func testRestart(t *testing.T, f *fixture) {
	r := f.add(1, bgp.PeerNode, 0)
	f.set()
	r.Connect()
	f.announce(r, 0, "172.25.3.0/26", "172.25.4.0/26")
	r.EndOfRIB(f.Carried)
	f.sink.WaitRoutes(t, f.via("172.25.3.0/26", r), f.via("172.25.4.0/26", r))
	f.sink.WaitInSync(t)
	if s := f.session(r); s.Accepted != 2 {
		t.Errorf("reported is %+v", s)
	}
	r.Break()
	f.until(func() string {
		if s := f.session(r); s.State == bgp.StateEstablished || !strings.Contains(s.Message, "is kept") {
			return fmt.Sprintf("reported is %+v", s)
		}
		return ""
	})
	r.Connect()
	f.announce(r, 0, "172.25.3.0/26")
	for _, entry := range f.sink.Log() {
		if strings.HasPrefix(entry, "-") {
			t.Errorf("while the peer restarted, the sink was told %q", entry)
		}
	}
	r.EndOfRIB(f.Carried)
	f.sink.WaitRoutes(t, f.via("172.25.3.0/26", r))
	if slices.Contains(f.sink.Log(), "-"+f.prefix("172.25.3.0/26").String()) {
		t.Error("a route that was announced again went in between")
	}
}

func testStaysAway(t *testing.T, f *fixture) {
	f.add(1, bgp.PeerNode, 0)
	r := f.Router(1, f.Config.ASN, time.Second)
	f.set()
	r.Connect()
	f.announce(r, 0, "172.25.3.0/26")
	f.sink.WaitRoutes(t, f.via("172.25.3.0/26", r))
	r.Break()
	f.sink.WaitRoutes(t)
}

func testCease(t *testing.T, f *fixture) {
	r := f.add(1, bgp.PeerNode, 0)
	f.set()
	r.Connect()
	f.announce(r, 0, "172.25.3.0/26")
	f.sink.WaitRoutes(t, f.via("172.25.3.0/26", r))
	r.Cease()
	f.sink.WaitRoutes(t)
	f.until(func() string {
		s := f.session(r)
		if s.State == bgp.StateEstablished || s.Message != "it closed the session: administrative shutdown" || s.Since.IsZero() {
			return fmt.Sprintf("reported is %+v", s)
		}
		return ""
	})
}

func testAnnounced(t *testing.T, f *fixture) {
	node := f.add(1, bgp.PeerNode, 0)
	rack := f.add(2, bgp.PeerExternal, 65001, f.accept("10.9.0.0/16", 24, 24))
	bare := f.add(3, bgp.PeerExternal, 65002)
	f.set()
	asked := f.prefixes("10.9.1.0/24", "172.25.0.0/26", "172.25.0.64/26", "172.25.9.0/26")
	wait := func(want ...string) {
		t.Helper()
		f.until(func() string {
			got, err := f.Speaker.Announced(context.Background(), asked)
			if err != nil || !slices.Equal(got, f.prefixes(want...)) {
				return fmt.Sprintf("said to be announced: %v, %v; want %v", got, err, want)
			}
			return ""
		})
	}
	wait()
	for _, r := range []Router{node, rack, bare} {
		r.Connect()
	}
	f.announce(node, 0, "172.25.9.0/26")
	f.announce(rack, 1, "10.9.1.0/24", "172.25.0.0/26", "172.25.0.0/27")
	f.announce(bare, 1, "172.25.0.0/26", "172.25.0.64/26")
	wait("10.9.1.0/24", "172.25.0.0/26", "172.25.0.64/26")
	rack.Withdraw(f.prefixes("172.25.0.0/26", "10.9.1.0/24")...)
	wait("172.25.0.0/26", "172.25.0.64/26")
	bare.Cease()
	wait()
}

func testInSync(t *testing.T, f *fixture) {
	a, b := f.add(1, bgp.PeerNode, 0), f.add(2, bgp.PeerNode, 0)
	f.set()
	a.Connect()
	f.announce(a, 0, "172.25.3.0/26")
	a.EndOfRIB(f.Carried)
	b.Connect()
	f.announce(b, 0, "172.25.4.0/26")
	f.sink.WaitRoutes(t, f.via("172.25.3.0/26", a), f.via("172.25.4.0/26", b))
	if slices.Contains(f.sink.Log(), "in sync") {
		t.Error("in sync before the last End-of-RIB")
	}
	b.EndOfRIB(f.Carried)
	f.sink.WaitInSync(t)
	f.set()
	a.EndOfRIB(f.Carried)
	f.announce(a, 0, "172.25.5.0/26")
	f.sink.WaitRoutes(t, f.via("172.25.3.0/26", a), f.via("172.25.4.0/26", b), f.via("172.25.5.0/26", a))
	if log := f.sink.Log(); len(log) != 4 || log[2] != "in sync" {
		t.Errorf("the sink was told %q", log)
	}
}

func testTimeOver(t *testing.T, f *fixture) {
	f.add(1, bgp.PeerNode, 0)
	f.set()
	f.sink.WaitInSync(t)
}

func testLimit(t *testing.T, f *fixture) {
	r := f.add(1, bgp.PeerNode, 0)
	f.change(0, func(p *bgp.Peer) { p.MaxPrefixes = 2 })
	f.set()
	r.Connect()
	f.announce(r, 0, "172.25.3.0/26", "172.25.4.0/26")
	f.sink.WaitRoutes(t, f.via("172.25.3.0/26", r), f.via("172.25.4.0/26", r))
	f.mustBeUp(r)
	f.announce(r, 0, "172.25.5.0/26")
	f.waitEnded(r, true)
	f.sink.WaitRoutes(t)
	if s := f.session(r); s.State == bgp.StateEstablished || !strings.Contains(s.Message, "more") || !strings.Contains(s.Message, "limit") {
		t.Errorf("reported is %+v", s)
	}
	// A session that is reset for something else, or with all others, comes up at
	// once, and its limit holds.
	for _, reset := range []func(){
		func() { f.change(0, func(p *bgp.Peer) { p.Hold = 30 * time.Second }) },
		func() { f.Config.RouterID = f.Config.RouterID.Next() },
	} {
		reset()
		f.set()
		r.Connect()
		f.announce(r, 0, "172.25.3.0/26", "172.25.4.0/26", "172.25.5.0/26")
		f.waitEnded(r, true)
	}
	f.change(0, func(p *bgp.Peer) { p.MaxPrefixes = 3 })
	f.set()
	r.Connect()
	f.waitOwn(r, "172.25.0.128/26")
}

func testNonsense(t *testing.T, f *fixture) {
	r := f.add(1, bgp.PeerNode, 0)
	bad := bgp.Peer{Name: "bad", Address: netip.MustParseAddr("10.1.1.1")}
	f.Config.Peers = append(slices.Clone(f.Config.Peers), bad)
	var pe *bgp.PeerError
	if err := f.Speaker.Set(context.Background(), f.Config); !errors.As(err, &pe) || pe.Peer != "bad" {
		t.Fatalf("a peer without AS number gave %v", err)
	}
	r.Connect()
	f.waitOwn(r, "172.25.0.128/26")
	whole := f.Config
	whole.ASN = 0
	if err := f.Speaker.Set(context.Background(), whole); err == nil || errors.As(err, &pe) {
		t.Errorf("AS 0 gave %v", err)
	}
	f.mustBeUp(r)

	// A known peer whose new properties make no sense keeps its old ones, but not
	// without the password that it is to have.
	good := f.Config
	f.change(0, func(p *bgp.Peer) { p.Keepalive = -time.Second })
	refused := func() {
		t.Helper()
		if err := f.Speaker.Set(context.Background(), f.Config); !errors.As(err, &pe) {
			t.Fatalf("a peer that makes no sense gave %v", err)
		}
	}
	refused()
	f.mustBeUp(r)
	f.session(r)
	f.change(0, func(p *bgp.Peer) { p.Keepalive, p.Password = 0, strings.Repeat("x", 81) })
	refused()
	f.waitEnded(r, true)
	if all, err := f.Speaker.Sessions(context.Background()); err != nil || len(all) != 0 {
		t.Errorf("there are sessions left: %+v, %v", all, err)
	}
	f.Config = good
	f.Config.Peers = f.Config.Peers[:1]
	f.set()
	r.Connect()
	f.waitOwn(r, "172.25.0.128/26")
}

func testStopRestart(t *testing.T, f *fixture) {
	r := f.add(1, bgp.PeerNode, 0)
	f.set()
	r.Connect()
	f.announce(r, 0, "172.25.3.0/26")
	f.sink.WaitRoutes(t, f.via("172.25.3.0/26", r))
	if err := f.Speaker.Stop(context.Background(), bgp.StopRestart); err != nil {
		t.Fatal(err)
	}
	f.waitEnded(r, false)
	f.sink.WaitRoutes(t, f.via("172.25.3.0/26", r))
	if err := f.Speaker.Set(context.Background(), f.Config); err == nil {
		t.Error("a stopped speaker took a configuration")
	}
}

func testStopLeave(t *testing.T, f *fixture) {
	r := f.add(1, bgp.PeerNode, 0)
	f.set()
	r.Connect()
	f.waitOwn(r, "172.25.0.128/26")
	if err := f.Speaker.Stop(context.Background(), bgp.StopLeave); err != nil {
		t.Fatal(err)
	}
	f.waitEnded(r, true)
	f.waitOwn(r)
}
