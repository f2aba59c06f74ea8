package gobgp

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/godwit-net/godwit/bgp"
)

// sourceOption is the option whose sessions the node learns of what it sends on.
const sourceOption = "routes to send on"

// relayed says whether the router has, by this session, the route of the other
// ToR, or of both ToRs one of our AS, with an AS path. The path is made of our
// number and the ToR's; an empty one is that the router has no such route.
func relayed(t *testing.T, s *seat, route string, path func(tor int) string, hop func(tor int) string) string {
	t.Helper()
	for tor := 1; tor <= 2; tor++ {
		if tor == s.i {
			continue
		}
		want := ""
		if p := path(tor); p != "" {
			want = words(p, hop(tor), "")
		}
		if missing := s.sees(t, fmt.Sprintf(route, tor), want); missing != "" {
			return missing
		}
	}
	return ""
}

// through is the AS path of a ToR's route, as the router has it: after our AS
// number, where it is not its own.
func through(s *seat, ours, behind string) func(int) string {
	return func(tor int) string {
		if s.internal() {
			ours = ""
		}
		return fmt.Sprintf("%s %d %s", ours, 65000+tor, behind)
	}
}

func always(path string) func(int) string { return func(int) string { return path } }

// pathOptions have to do with AS paths and next hops.
func pathOptions() []option {
	self := func(s *seat) func(int) string { return func(int) string { return s.ours() } }
	unchanged := func(t *testing.T, s *seat) func(int) string {
		return func(tor int) string {
			return s.rack.seat(t, fmt.Sprint("tor", tor), sourceOption).theirs()
		}
	}
	// BIRD refuses next hops that are not on the link, but if it is to look for them.
	const elsewhere = "gateway recursive;"
	return []option{
		{
			name: sourceOption, sends: sendsAll, peer: takeAll,
			proof: func(*testing.T, *seat) string { return "" },
		},
		{
			name: "next hop as BGP has it", internal: true, channel: elsewhere, peer: relay,
			proof: func(t *testing.T, s *seat) string {
				hop := self(s)
				if s.internal() {
					hop = unchanged(t, s)
				}
				return first(
					relayed(t, s, plainRoute, through(s, "64512", ""), hop),
					relayed(t, s, viaPrivate, through(s, "64512", "3356 65100"), hop),
				)
			},
		},
		{
			name: "next hop self", internal: true,
			peer: func(p *bgp.Peer) { relay(p); p.NextHop = bgp.NextHopSelf },
			proof: func(t *testing.T, s *seat) string {
				return relayed(t, s, plainRoute, through(s, "64512", ""), self(s))
			},
		},
		{
			name: "next hop kept", internal: true, channel: elsewhere,
			peer: func(p *bgp.Peer) { relay(p); p.NextHop = bgp.NextHopKeep },
			proof: func(t *testing.T, s *seat) string {
				return relayed(t, s, plainRoute, through(s, "64512", ""), unchanged(t, s))
			},
		},
		{
			name: "no AS override", peer: relay,
			proof: func(t *testing.T, s *seat) string {
				return first(relayed(t, s, plainRoute, through(s, "64512", ""), self(s)), relayed(t, s, viaOtherTor, always(""), self(s)))
			},
		},
		{
			name: "AS override", peer: func(p *bgp.Peer) { relay(p); p.ASOverride = true },
			proof: func(t *testing.T, s *seat) string {
				return relayed(t, s, viaOtherTor, through(s, "64512", "64512"), self(s))
			},
		},
		{
			name: "private AS numbers removed",
			peer: func(p *bgp.Peer) { relay(p); p.RemovePrivateAS = bgp.PrivateASRemove },
			proof: func(t *testing.T, s *seat) string {
				return relayed(t, s, viaPrivate, always("64512 3356"), self(s))
			},
		},
		{
			name: "private AS numbers replaced",
			peer: func(p *bgp.Peer) { relay(p); p.RemovePrivateAS = bgp.PrivateASReplace },
			proof: func(t *testing.T, s *seat) string {
				return relayed(t, s, viaPrivate, always("64512 64512 3356 64512"), self(s))
			},
		},
		{
			name: "own AS not allowed", sends: sendsViaUs, peer: takeAll,
			proof: func(t *testing.T, s *seat) string { return hasOwn(t, s, "64512") },
		},
		{
			name: "own AS allowed", sends: sendsViaUs,
			peer: func(p *bgp.Peer) { takeAll(p); relay(p); p.AllowOwnASN = 1 },
			proof: func(t *testing.T, s *seat) string { // the other ToR's, that we have taken
				return relayed(t, s, viaUs, through(s, "64512", "64512"), self(s))
			},
		},
		{
			name: "local AS", asn: 65010, sends: sendsViaUs,
			peer: func(p *bgp.Peer) { takeAll(p); relay(p); p.LocalASN = 65010 },
			proof: func(t *testing.T, s *seat) string {
				return first(
					expect("our AS", s.look(t).remoteAS, "65010"), hasOwn(t, s, "65010"),
					relayed(t, s, plainRoute, through(s, "65010", ""), self(s)),
				)
			},
		},
		{
			name: "local AS, own AS allowed", asn: 65010, sends: sendsViaUs,
			peer:  func(p *bgp.Peer) { takeAll(p); p.LocalASN, p.AllowOwnASN = 65010, 1 },
			proof: func(t *testing.T, s *seat) string { return hasOwn(t, s, "65010") },
		},
	}
}

// testCounts compares what we report of some sessions with what the routers
// send, of which the proofs are above.
func testCounts(t *testing.T, b *rack, sp *child) {
	for tor := 1; tor <= 2; tor++ { // only those that may send routes through us give ways
		name := fmt.Sprint("tor", tor)
		hops := []netip.Addr{b.seat(t, name, "own AS allowed").peer.Address, b.seat(t, name, "local AS, own AS allowed").peer.Address}
		prefix := pfx(fmt.Sprintf(viaUs, tor))
		sp.sink.wait(t, fmt.Sprintf("%v is via %v", prefix, hops), func() bool { return slices.Equal(sp.sink.routes[prefix].NextHops, hops) })
	}
	for option, want := range map[string]struct{ received, accepted int }{
		sourceOption:               {4, 3}, // one is through us
		"own AS not allowed":       {1, 0},
		"own AS allowed":           {1, 1},
		"local AS":                 {1, 0},
		"local AS, own AS allowed": {1, 1},
	} {
		for _, tor := range []string{"tor1", "tor2"} {
			name := b.seat(t, tor, option).name()
			soon(t, func() string {
				if s := sessionOf(t, sp, name); s.Received != want.received || s.Accepted != want.accepted {
					return fmt.Sprintf("%s: %+v; want %+v", option, s, want)
				}
				return ""
			})
		}
	}
	for option, want := range map[string]string{
		"as many prefixes as are warned of": "it sends 6 of at most 10 prefixes; with more its session ends",
		"fewer prefixes than are warned of": "",
	} {
		for _, tor := range []string{"tor1", "tor2"} {
			if s := sessionOf(t, sp, b.seat(t, tor, option).name()); s.Warning != want {
				t.Errorf("%s: %+v; want the warning %q", option, s, want)
			}
		}
	}
}
