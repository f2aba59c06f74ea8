package bgptest

import (
	"fmt"
	"maps"
	"net/netip"
	"testing"

	"github.com/godwit-net/godwit/bgp"
)

// testReflection makes the speaker a route reflector and no reflector any more,
// and changes the parts of nodes, all without a reset.
func testReflection(t *testing.T, f *fixture) {
	f.Config.ValidateOrigin = true
	a, b := f.add(1, bgp.PeerNode, 0), f.add(2, bgp.PeerNode, 0)
	server, plain := f.add(3, bgp.PeerNode, 0), f.add(4, bgp.PeerNode, 0)
	rack := f.add(5, bgp.PeerExternal, 65001, bgp.Rule{Accept: true})
	core := f.add(6, bgp.PeerExternal, 0)
	f.change(5, func(p *bgp.Peer) { p.Export = []bgp.Rule{{Match: bgp.Match{Source: bgp.SourceLearned}, Accept: true}} })
	owned := map[int]string{0: "172.25.3.0/26", 1: "172.25.4.0/26", 3: "172.25.6.0/26"}
	for i, s := range owned {
		f.change(i, func(p *bgp.Peer) { p.Owned = f.prefixes(s) })
	}
	parts := func(reflector bool, parts ...bgp.Reflection) {
		t.Helper()
		f.Config.Reflector = reflector
		for i, part := range parts {
			f.change(i, func(p *bgp.Peer) { p.Reflection = part })
		}
		f.set()
	}
	parts(false, bgp.ReflectionNone, bgp.ReflectionNone, bgp.ReflectionServer, bgp.ReflectionNone)
	routers := []Router{a, b, server, plain, rack, core}
	for _, r := range routers {
		r.Connect()
	}
	f.announce(a, 0, "172.25.3.0/26", "172.25.9.0/26")
	f.announce(b, 0, "172.25.4.0/26")
	f.announce(server, 0, "172.25.5.0/26", "172.25.7.0/26") // of whomever: a reflector is believed
	f.announce(plain, 0, "172.25.6.0/26")
	f.announce(rack, 1, "10.9.1.0/24")
	f.sink.WaitRoutes(t, f.via("172.25.3.0/26", a), f.via("172.25.4.0/26", b), f.via("172.25.5.0/26", server),
		f.via("172.25.7.0/26", server), f.via("172.25.6.0/26", plain), f.via("10.9.1.0/24", rack))
	told := func(r Router, from map[string]Router) {
		t.Helper()
		want := map[netip.Prefix]netip.Addr{f.prefix("172.25.0.128/26"): f.Local(f.route())}
		for p, who := range from {
			want[f.prefix(p)] = who.Address(f.route())
		}
		f.until(func() string {
			if got := r.Routes(); !maps.Equal(got, want) {
				return fmt.Sprintf("%v was told %v, not %v", r.Peer().Address, got, want)
			}
			return ""
		})
	}
	nobody := func() {
		t.Helper()
		for _, r := range []Router{a, b, server, plain, rack} {
			told(r, nil)
		}
		told(core, map[string]Router{"10.9.1.0/24": rack})
	}
	nobody() // who is no reflector passes nothing on

	parts(true, bgp.ReflectionClient, bgp.ReflectionNone, bgp.ReflectionServer, bgp.ReflectionNone)
	ofA := map[string]Router{"172.25.4.0/26": b, "172.25.5.0/26": server, "172.25.7.0/26": server, "172.25.6.0/26": plain}
	told(a, ofA)
	told(server, map[string]Router{"172.25.3.0/26": a, "172.25.4.0/26": b, "172.25.6.0/26": plain})
	told(b, nil)
	told(plain, nil)
	told(rack, nil)
	told(core, map[string]Router{"10.9.1.0/24": rack})

	// What another reflector passes on of the same node is no better, so that the two
	// don't take their own back from each other.
	server.Announce(plain.Address(f.route()), 0, f.prefixes("172.25.6.0/26", "172.25.10.0/26")...)
	f.sink.WaitRoutes(t, f.via("172.25.3.0/26", a), f.via("172.25.4.0/26", b), f.via("172.25.5.0/26", server), f.via("172.25.10.0/26", plain),
		f.via("172.25.7.0/26", server), f.via("172.25.6.0/26", plain), f.via("10.9.1.0/24", rack))
	ofA["172.25.10.0/26"] = plain
	told(a, ofA)
	told(server, map[string]Router{"172.25.3.0/26": a, "172.25.4.0/26": b, "172.25.6.0/26": plain})
	server.Withdraw(f.prefixes("172.25.6.0/26", "172.25.10.0/26")...)
	delete(ofA, "172.25.10.0/26")
	told(a, ofA)

	parts(true, bgp.ReflectionClient, bgp.ReflectionClient, bgp.ReflectionServer, bgp.ReflectionServer)
	f.announce(plain, 0, "172.25.8.0/26")
	ofA["172.25.8.0/26"] = plain
	told(a, ofA)
	told(b, map[string]Router{
		"172.25.3.0/26": a, "172.25.5.0/26": server, "172.25.7.0/26": server, "172.25.6.0/26": plain, "172.25.8.0/26": plain,
	})
	told(server, map[string]Router{"172.25.3.0/26": a, "172.25.4.0/26": b})
	told(plain, map[string]Router{"172.25.3.0/26": a, "172.25.4.0/26": b})
	b.Withdraw(f.prefixes("172.25.4.0/26")...)
	delete(ofA, "172.25.4.0/26")
	told(a, ofA)
	told(plain, map[string]Router{"172.25.3.0/26": a})
	if s := f.session(a); s.RefusedCount != 1 || s.Advertised != 1+len(ofA) {
		t.Errorf("the client's session is reported as %+v", s)
	}
	if s := f.session(server); s.RefusedCount != 0 || s.Advertised != 2 {
		t.Errorf("the reflector's session is reported as %+v", s)
	}

	parts(false, bgp.ReflectionNone, bgp.ReflectionNone, bgp.ReflectionServer, bgp.ReflectionServer)
	nobody()
	f.mustBeUp(routers...)
}
