package bgp

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// shown is an announcement in a line.
func shown(a Announcement, ok bool) string {
	if !ok {
		return "no"
	}
	number := func(n *uint32) string {
		if n == nil {
			return "-"
		}
		return fmt.Sprint(*n)
	}
	return strings.Join([]string{a.ASPath, strings.Join(a.Communities, " "), number(a.LocalPref), number(a.MED)}, ", ")
}

func TestImporterAndExporter(t *testing.T) {
	ptr := func(n uint32) *uint32 { return &n }
	c := Config{
		ASN: 64512, Advertise: []netip.Prefix{netip.MustParsePrefix("172.25.0.128/26")},
		Blocks: []Range{rng("172.25.0.0/16", 26, 26), rng("10.200.0.0/16", 26, 26)},
	}
	change := Rule{Match: Match{Communities: []string{"64999:1"}}, Accept: true, Set: Attributes{
		LocalPref: ptr(200), MED: ptr(5), Prepend: 2, AddCommunities: []string{"64512:1", "64999:1"}, RemoveCommunities: []string{"64999:2"},
	}}
	rules := []Rule{
		change,
		{Match: Match{ASPathRegexp: "_65100_", CommunityRegexp: ":9$"}},
		{Match: Match{Ranges: []Range{rng("10.0.0.0/8", 8, 24)}}, Accept: true},
		{Match: Match{ASPathRegexp: "^65001$"}, Accept: true},
	}
	peer := Peer{Kind: PeerExternal, ASN: 65001, Import: rules, Export: rules}
	for _, tc := range []struct {
		prefix, path, communities string
		in, out                   string // out: as one that was learned
	}{
		{"10.1.0.0/16", "65001", "64999:1 64999:2", "64512 64512 65001, 64512:1 64999:1, 200, 5", "64512 64512 65001, 64512:1 64999:1, 200, 5"},
		{"10.1.0.0/16", "", "64999:1", "64512 64512, 64512:1 64999:1, 200, 5", "64512 64512, 64512:1 64999:1, 200, 5"},
		{"10.1.0.0/16", "65001", "65535:0", "65001, 65535:0, 1, -", "65001, 65535:0, -, -"},
		{"10.1.0.0/16", "65001", "64999:1 65535:0", "64512 64512 65001, 64512:1 64999:1 65535:0, 1, 5", "64512 64512 65001, 64512:1 64999:1 65535:0, 200, 5"},
		{"10.1.0.0/16", "65001 65100", "1:2:9", "no", "no"},
		{"10.1.0.0/16", "65001 65100", "1:2:99", "65001 65100, 1:2:99, -, -", "65001 65100, 1:2:99, -, -"},
		{"11.0.0.0/8", "65001", "", "65001, , -, -", "65001, , -, -"},
		{"11.0.0.0/8", "165001", "", "no", "no"},
		{"0.0.0.0/0", "65001", "", "no", "65001, , -, -"}, // no rule names a default route
		{"127.0.0.0/8", "65001", "", "no", "65001, , -, -"},
		{"172.25.3.0/26", "65001", "", "no", "65001, , -, -"}, // nor what is inside of a pool
		{"172.24.0.0/14", "65001", "", "65001, , -, -", "65001, , -, -"},
		{"10.200.1.0/24", "65001 65100", "", "no", "65001 65100, , -, -"},
		{"10.0.0.0/8", "65001 65100", "", "65001 65100, , -, -", "65001 65100, , -, -"},
		{"172.25.0.128/27", "65001", "", "no", "65001, , -, -"},
	} {
		a := Announcement{Prefix: netip.MustParsePrefix(tc.prefix), ASPath: tc.path, Communities: strings.Fields(tc.communities)}
		if got := shown(c.Importer(peer)(a)); got != tc.in {
			t.Errorf("%+v comes in as %q, not %q", a, got, tc.in)
		}
		a.From = Origin(PeerNode)
		if got := shown(c.Exporter(peer)(a)); got != tc.out {
			t.Errorf("%+v goes out as %q, not %q", a, got, tc.out)
		}
	}

	own, learned := c.Originated(c.Advertise[0]), Announcement{Prefix: netip.MustParsePrefix("10.0.0.0/8"), From: Origin(PeerExternal)}
	node, external := PeerNode, PeerExternal
	for _, tc := range []struct {
		rules        []Rule
		own, learned bool
	}{
		{nil, true, false},
		{[]Rule{{Accept: true}}, true, true},
		{[]Rule{{}}, false, false},
		{[]Rule{{Match: Match{Source: SourceOwn}}}, false, false},
		{[]Rule{{Match: Match{Source: SourceLearned}, Accept: true}}, true, true},
		{[]Rule{{Match: Match{PeerKind: &node}, Accept: true}}, true, false},
		{[]Rule{{Match: Match{PeerKind: &external}, Accept: true}, {}}, false, true},
	} {
		to := Peer{Kind: PeerExternal, Export: tc.rules}
		_, ownSent := c.Exporter(to)(own)
		_, learnedSent := c.Exporter(to)(learned)
		if ownSent != tc.own || learnedSent != tc.learned {
			t.Errorf("%+v: own %v, learned %v", tc.rules, ownSent, learnedSent)
		}
		to.Kind = PeerNode
		if _, sent := c.Exporter(to)(learned); sent {
			t.Error("what was learned is told to a node")
		}
	}
}

func TestOriginated(t *testing.T) {
	ptr := func(n uint32) *uint32 { return &n }
	c := Config{Marks: []Mark{
		{CIDR: netip.MustParsePrefix("172.25.1.0/24"), Communities: []string{"64512:2", "64512:1", "64512:2"}, LocalPref: ptr(300)},
		{CIDR: netip.MustParsePrefix("172.25.0.0/16"), Communities: []string{"64512:3"}},
	}}
	for _, tc := range []struct {
		p, want, draining string
	}{
		{"172.25.1.0/26", ", 64512:1 64512:2, 300, -", ", 64512:1 64512:2 65535:0, 0, -"},
		{"172.25.2.0/26", ", 64512:3, -, -", ", 64512:3 65535:0, 0, -"},
		{"172.24.0.0/14", ", , -, -", ", 65535:0, 0, -"},
		{"fd00::/64", ", , -, -", ", 65535:0, 0, -"},
	} {
		c.Draining = false
		if got := shown(c.Originated(netip.MustParsePrefix(tc.p)), true); got != tc.want {
			t.Errorf("%s is announced with %q, not %q", tc.p, got, tc.want)
		}
		c.Draining = true
		if got := shown(c.Originated(netip.MustParsePrefix(tc.p)), true); got != tc.draining {
			t.Errorf("%s of a node that drains is announced with %q, not %q", tc.p, got, tc.draining)
		}
	}
}

func TestOriginValidation(t *testing.T) {
	c := Config{ValidateOrigin: true, Blocks: []Range{rng("172.25.0.0/16", 26, 26)}}
	p := Peer{Kind: PeerNode, Owned: []netip.Prefix{netip.MustParsePrefix("172.25.0.0/26"), netip.MustParsePrefix("172.25.0.0/16")}}
	for s, want := range map[string]bool{
		"172.25.0.0/26": true, "172.25.0.64/26": false, "172.25.0.0/27": false, "172.25.0.0/16": false, "0.0.0.0/0": false,
	} {
		if got := c.Accepts(p, Announcement{Prefix: netip.MustParsePrefix(s)}); got != want {
			t.Errorf("%s is taken: %v", s, got)
		}
	}
}
