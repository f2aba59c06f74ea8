package gobgp

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/bgptest/sender"
)

// TestPolicyIsThatOfTheConfig compares GoBGP's decisions with Config.Accepts
// over random configurations.
func TestPolicyIsThatOfTheConfig(t *testing.T) {
	s := newSink()
	sp := start(t, Options{Sink: s})
	c := baseConfig(t)
	c.Blocks, c.Advertise = nil, nil
	external1 := bgp.Peer{Name: "x1", Kind: bgp.PeerExternal, Address: addr("127.0.0.3"), Port: 1, ASN: 65001}
	external2 := bgp.Peer{Name: "x2", Kind: bgp.PeerExternal, Address: addr("127.0.0.4"), Port: 1, ASN: 65002}
	node := nodePeer("127.0.0.2", 1)
	node.GracefulRestart = 0
	c.Peers = []bgp.Peer{node, external1, external2}
	set(t, sp, c)

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	prefixes := []netip.Prefix{pfx("0.0.0.0/0")}
	for range 300 {
		prefixes = append(prefixes, randomPrefix(rnd, 1, 32))
	}
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	prefixes = slices.Compact(prefixes)

	options := []sender.Options{internal("127.0.0.2"), external("127.0.0.3", 65001), external("127.0.0.4", 65002)}
	routers := make([]*remote, len(options))
	for i, o := range options {
		routers[i] = newPeerAt(t, speakerAddr(c), o)
		routers[i].connect()
		// Paths of different length each, so that the first that is accepted decides.
		path := []uint32{}
		for range i {
			path = append(path, o.ASN)
		}
		route := sender.Route{NextHop: o.Local, ASPath: path}
		if i == 0 {
			route.LocalPref = 100
		}
		routers[i].send(sender.Update(route, prefixes...))
	}
	eventually(t, func() string {
		for _, p := range c.Peers {
			if got := sessionOf(t, sp, p.Name); got.Received != len(prefixes) {
				return fmt.Sprint(got)
			}
		}
		return ""
	})

	for round := range 25 {
		c.Blocks, c.Advertise = nil, nil
		for range rnd.IntN(4) {
			c.Blocks = append(c.Blocks, randomRange(rnd))
		}
		for range rnd.IntN(3) {
			c.Advertise = append(c.Advertise, randomPrefix(rnd, 6, 20))
		}
		c.Peers = []bgp.Peer{node, withRules(rnd, external1), withRules(rnd, external2)}
		if rnd.IntN(3) == 0 {
			c.Peers[2].Import = c.Peers[1].Import
		}
		set(t, sp, c)
		want := []string{}
		for _, p := range prefixes {
			for i, peer := range c.Peers {
				if c.Accepts(peer, bgp.Announcement{Prefix: p}) {
					want = append(want, fmt.Sprintf("%v via %v", p, options[i].Local))
					break
				}
			}
		}
		slices.Sort(want)
		s.wait(t, fmt.Sprintf("round %d: %+v", round, c), func() bool { return slices.Equal(s.list(), want) })
		for _, p := range c.Peers {
			n := 0
			for _, prefix := range prefixes {
				if c.Accepts(p, bgp.Announcement{Prefix: prefix}) {
					n++
				}
			}
			if got := sessionOf(t, sp, p.Name); got.Accepted != n {
				t.Fatalf("round %d: %d accepted, but reported is %+v", round, n, got)
			}
		}
	}
}

func withRules(rnd *rand.Rand, p bgp.Peer) bgp.Peer {
	p.Import = nil
	for range rnd.IntN(6) {
		p.Import = append(p.Import, bgp.Rule{Match: bgp.Match{Ranges: []bgp.Range{randomRange(rnd)}}, Accept: rnd.IntN(2) == 0})
	}
	return p
}

func randomPrefix(rnd *rand.Rand, minBits, maxBits int) netip.Prefix {
	bits := minBits + rnd.IntN(maxBits-minBits+1)
	// Few leading bits, so that prefixes overlap; no 127/8 and no multicast.
	a := netip.AddrFrom4([4]byte{byte(8 + rnd.IntN(8)), byte(rnd.IntN(4) << 6), byte(rnd.Uint32()), byte(rnd.Uint32())})
	return netip.PrefixFrom(a, bits).Masked()
}

func randomRange(rnd *rand.Rand) bgp.Range {
	r := bgp.Range{CIDR: randomPrefix(rnd, 0, 16), MaxLength: 32}
	r.MinLength = rnd.IntN(33)
	r.MaxLength = r.MinLength + rnd.IntN(33-r.MinLength)
	return r
}

func TestPolicyDocumentHasNoSetThatMatchesEveryone(t *testing.T) {
	c := bgp.Config{
		NextHops:  []netip.Addr{addr("10.0.0.9"), addr("fd00::9")},
		Advertise: []netip.Prefix{pfx("172.25.0.0/26"), pfx("fd00::/122")},
		Blocks:    []bgp.Range{rng("172.25.0.0/16", 26), {CIDR: pfx("fd00::/64"), MinLength: 122, MaxLength: 122}},
		Peers: []bgp.Peer{
			{Kind: bgp.PeerExternal, Address: addr("10.0.0.1")},
			{Kind: bgp.PeerExternal, Address: addr("10.0.0.2"), Import: []bgp.Rule{{Match: bgp.Match{Ranges: []bgp.Range{rng("10.0.0.0/8", 24)}}, Accept: true}}},
		},
	}
	d := newPolicy(c).document()
	names := make(map[string]bool)
	for _, set := range d.sets {
		if len(set.List) == 0 && len(set.Prefixes) == 0 {
			t.Errorf("the set %s is empty, and so matches everything", set.Name)
		}
		names[set.Name] = true
	}
	for _, statements := range d.statements {
		for _, st := range statements {
			if n := st.Conditions.NeighborSet; n != nil && !names[n.Name] {
				t.Errorf("%s refers to the set %s, which is missing", st.Name, n.Name)
			}
			if p := st.Conditions.PrefixSet; p != nil && !names[p.Name] {
				t.Errorf("%s refers to the set %s, which is missing", st.Name, p.Name)
			}
		}
	}
	// Without node peers no statement may speak of blocks.
	for _, st := range d.statements[importPolicy] {
		if strings.HasPrefix(st.Name, "node") || strings.HasPrefix(st.Name, "owner") {
			t.Errorf("there is a statement %s without a node peer", st.Name)
		}
	}
}
