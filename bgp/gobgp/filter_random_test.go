package gobgp

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/bgptest/sender"
)

// TestFiltersAreThoseOfTheConfig compares what GoBGP makes of routes with all
// kinds of attributes, on their way in and out, with Config.Importer and
// Config.Exporter, over random rules.
func TestFiltersAreThoseOfTheConfig(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 2))
	sp := start(t, Options{Sink: newSink()})
	c := baseConfig(t)
	node := nodePeer("127.0.0.2", 1)
	node.GracefulRestart = 0
	from := bgp.Peer{Name: "x1", Kind: bgp.PeerExternal, Address: addr("127.0.0.3"), Port: 1, ASN: 65001}
	to := bgp.Peer{Name: "x2", Kind: bgp.PeerExternal, Address: addr("127.0.0.4"), Port: 1, ASN: 65002}
	c.Peers = []bgp.Peer{node, from, to}
	set(t, sp, c)
	routers := make([]*remote, 3)
	for i, o := range []sender.Options{internal("127.0.0.2"), external("127.0.0.3", 65001), external("127.0.0.4", 65002)} {
		routers[i] = newPeerAt(t, speakerAddr(c), o)
		routers[i].connect()
	}
	blocks := []string{"172.25.1.0/26", "172.25.2.0/26", "172.25.3.0/27"}
	routers[0].announce(sender.Route{NextHop: addr("127.0.0.2"), LocalPref: 100, Communities: []uint32{64999<<16 | 1}}, blocks...)
	received := make(map[netip.Prefix]bool)
	for len(received) < 40 {
		p := randomPrefix(rnd, 8, 26)
		route := sender.Route{NextHop: addr("127.0.0.3"), ASPath: []uint32{65001}}
		for range rnd.IntN(3) {
			route.ASPath = append(route.ASPath, []uint32{65100, 65001, 65101}[rnd.IntN(3)])
			route.LargeCommunities = append(route.LargeCommunities, [3]uint32{64999, 1, uint32(len(route.ASPath))})
		}
		if rnd.IntN(2) == 0 {
			route.Communities, route.MED = []uint32{64999<<16 | 1, 64999<<16 | uint32(rnd.IntN(4)+2)}, 5
		}
		if rnd.IntN(4) == 0 {
			route.Communities = append(route.Communities, 65535<<16)
		}
		if !received[p] {
			received[p] = true
			routers[1].announce(route, p.String())
		}
	}
	eventually(t, func() string {
		if s := sessionOf(t, sp, "x1"); s.Received != len(received) {
			return fmt.Sprint(s)
		}
		return ""
	})
	for round := range 60 {
		c.Peers = slices.Clone(c.Peers)
		c.Peers[1].Import, c.Peers[2].Export = randomRules(rnd, false), randomRules(rnd, true)
		c.ValidateOrigin = rnd.IntN(2) == 0
		c.Peers[0].Owned = []netip.Prefix{pfx(blocks[rnd.IntN(len(blocks))])}
		set(t, sp, c)
		rules := slices.Concat(c.Peers[1].Import, c.Peers[2].Export)
		wantTable, wantSent := reference(t, sp, c)
		eventually(t, func() string {
			got := seenIn(sp, rules, api.TableType_TABLE_TYPE_GLOBAL, "", packet.RF_IPv4_UC)
			if got != wantTable {
				return fmt.Sprintf("round %d: %s\ntable:\n%swant:\n%s", round, rulesOf(c), got, wantTable)
			}
			got = seenIn(sp, rules, api.TableType_TABLE_TYPE_ADJ_OUT, "127.0.0.4", packet.RF_IPv4_UC)
			if got != wantSent {
				return fmt.Sprintf("round %d: %s\nsent:\n%swant:\n%s", round, rulesOf(c), got, wantSent)
			}
			return ""
		})
	}
}

func rulesOf(c bgp.Config) string {
	return fmt.Sprintf("import %+v, export %+v, owned %v (%v)", c.Peers[1].Import, c.Peers[2].Export, c.Peers[0].Owned, c.ValidateOrigin)
}

// reference is what the table and the last peer must have of what was received.
func reference(t *testing.T, sp *Speaker, c bgp.Config) (table, sent string) {
	var inTable, out []string
	rules := slices.Concat(c.Peers[1].Import, c.Peers[2].Export)
	export := c.Exporter(c.Peers[2])
	send := func(a bgp.Announcement) {
		a.LocalPref = nil
		if a, ok := export(a); ok && !strings.Contains(a.ASPath, "65002") {
			a.LocalPref = nil
			if a.From != nil && c.Peers[2].Export == nil {
				return
			}
			a.ASPath = strings.TrimSpace(a.ASPath)
			out = append(out, shown(rules, withNumber(a)))
		}
	}
	for _, p := range c.Advertise {
		a := c.Originated(p)
		pref := uint32(defaultLocalPref)
		a.LocalPref = &pref
		inTable = append(inTable, shown(rules, a))
		send(a)
	}
	for _, peer := range c.Peers {
		take := c.Importer(peer)
		err := sp.server.ListPath(apiutil.ListPathRequest{
			TableType: api.TableType_TABLE_TYPE_ADJ_IN, Name: peer.Address.String(), Family: packet.RF_IPv4_UC,
		}, func(_ packet.NLRI, paths []*apiutil.Path) {
			a, _ := announcement(paths[0])
			a, ok := take(a)
			if !ok {
				return
			}
			inTable = append(inTable, shown(rules, a))
			a.From, a.MED = bgp.Origin(peer.Kind), nil // GoBGP tells no external peer another's MED
			send(a)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return lines(inTable), lines(out)
}

// withNumber puts our AS number where BGP does: GoBGP before it does what rules
// say, so it is the first of them all the same.
func withNumber(a bgp.Announcement) bgp.Announcement {
	a.ASPath = strings.TrimSpace("64512 " + a.ASPath)
	return a
}

func seenIn(sp *Speaker, rules []bgp.Rule, table api.TableType, peer string, f packet.Family) string {
	var out []string
	_ = sp.server.ListPath(apiutil.ListPathRequest{TableType: table, Name: peer, Family: f}, func(_ packet.NLRI, paths []*apiutil.Path) {
		for _, p := range paths {
			if a, ok := announcement(p); ok {
				out = append(out, shown(rules, a))
			}
		}
	})
	return lines(out)
}

func shown(rules []bgp.Rule, a bgp.Announcement) string {
	cs := slices.Clone(a.Communities)
	slices.Sort(cs)
	if slices.ContainsFunc(rules, func(r bgp.Rule) bool {
		return r.CommunityRegexp != "" || slices.Contains(r.Set.AddCommunities, bgp.GracefulShutdown)
	}) {
		cs = slices.Compact(cs) // GoBGP may have some twice
	}
	number := func(n *uint32) string {
		if n == nil {
			return "-"
		}
		return fmt.Sprint(*n)
	}
	return fmt.Sprintf("%v path %q %v pref %s med %s", a.Prefix, a.ASPath, cs, number(a.LocalPref), number(a.MED))
}

func lines(all []string) string {
	slices.Sort(all)
	return strings.Join(all, "\n") + "\n"
}

func randomRules(rnd *rand.Rand, export bool) []bgp.Rule {
	var out []bgp.Rule
	one := func(of ...string) string { return of[rnd.IntN(len(of))] }
	some := func(of ...string) (out []string) {
		for _, s := range of {
			if rnd.IntN(4) == 0 {
				out = append(out, s)
			}
		}
		return out
	}
	number := func() *uint32 {
		if n := uint32(rnd.IntN(3) * 100); n > 0 {
			return &n
		}
		return nil
	}
	for range rnd.IntN(5) {
		r := bgp.Rule{Accept: rnd.IntN(3) > 0}
		for range rnd.IntN(3) {
			r.Ranges = append(r.Ranges, randomRange(rnd))
		}
		r.Communities = some("64999:1", "64999:2", "64999:1:2", "64999:1:3")
		r.CommunityRegexp = one("", "", "", "^64999:", ":[34]$", "999:1")
		r.ASPathRegexp = one("", "", "", "_65100_", "^65001$", "^65001_65101", "65101$", "^$")
		if r.Accept {
			r.Set = bgp.Attributes{
				LocalPref: number(), MED: number(), Prepend: rnd.IntN(3),
				AddCommunities: some("64512:1", "64512:1:1", "64999:1", bgp.GracefulShutdown), RemoveCommunities: some("64999:1", "64999:1:2", "64512:1"),
			}
		}
		if export {
			r.Source = bgp.Source(rnd.IntN(3))
			r.PeerKind = []*bgp.PeerKind{nil, nil, bgp.Origin(bgp.PeerNode), bgp.Origin(bgp.PeerExternal)}[rnd.IntN(4)]
		}
		out = append(out, r)
	}
	return out
}
