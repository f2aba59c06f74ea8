package bgp

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// optionsConfig is a node of both families in AS 64512, without peers.
func optionsConfig() Config {
	return Config{
		ASN: 64512, RouterID: netip.MustParseAddr("10.0.0.1"),
		NextHops: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")},
	}
}

func optionsPeer(asn uint32) Peer {
	return Peer{Name: "p", Kind: PeerExternal, Address: netip.MustParseAddr("10.0.0.2"), ASN: asn}
}

func TestUsableOptions(t *testing.T) {
	for name, set := range map[string]func(c *Config, p *Peer){
		"local AS":      func(_ *Config, p *Peer) { p.LocalASN = 64700 },
		"multihop":      func(_ *Config, p *Peer) { p.MultihopTTL = 255 },
		"TTL security":  func(_ *Config, p *Peer) { p.GTSMHops = 255 },
		"internal, TTL": func(_ *Config, p *Peer) { p.ASN, p.GTSMHops = 64512, 1 },
		"long-lived":    func(_ *Config, p *Peer) { p.GracefulRestart, p.LongLived = time.Second, 1<<24*time.Second-time.Second },
		"source":        func(_ *Config, p *Peer) { p.SourceAddress = netip.MustParseAddr("10.0.0.1") },
		"source, link-local": func(_ *Config, p *Peer) {
			p.Address, p.SourceAddress = netip.MustParseAddr("fe80::2%eth0"), netip.MustParseAddr("fe80::1%eth0")
		},
		"link-local": func(_ *Config, p *Peer) { p.Address, p.GTSMHops = netip.MustParseAddr("fe80::2%eth0"), 1 },
		"passive":    func(_ *Config, p *Peer) { p.Passive = true },
		"passive, on one": func(c *Config, p *Peer) {
			p.Passive, c.ListenAddresses = true, []netip.Addr{netip.MustParseAddr("10.0.0.1")}
		},
		"one family":          func(_ *Config, p *Peer) { p.Families = IPv6 },
		"more than there are": func(c *Config, p *Peer) { c.NextHops, p.Families = nil, IPv4|IPv6 },
		"own AS":              func(_ *Config, p *Peer) { p.AllowOwnASN = 10 },
		"AS paths": func(_ *Config, p *Peer) {
			p.ASOverride, p.RemovePrivateAS, p.NextHop = true, PrivateASReplace, NextHopKeep
		},
		"AS paths, looked at as they come": func(_ *Config, p *Peer) {
			p.ASOverride, p.RemovePrivateAS = true, PrivateASReplace
			p.Import, p.Export = []Rule{{Match: Match{ASPathRegexp: "_65001_"}}}, []Rule{{Match: Match{Communities: []string{"1:1"}}}}
		},
		"limits":        func(_ *Config, p *Peer) { p.MaxPrefixes, p.WarnPrefixes = 10, 10 },
		"warning alone": func(_ *Config, p *Peer) { p.WarnPrefixes = 10 },
		"rules": func(_ *Config, p *Peer) {
			p.Import = []Rule{{Match: Match{
				Communities: []string{"0:0", "65535:65535", "4294967295:0:4294967295"}, CommunityRegexp: "^64512:1..$", ASPathRegexp: "^65001_(65002_)*",
			}}}
			p.Export = []Rule{{Match: Match{Source: SourceLearned}, Set: Attributes{Prepend: 3, AddCommunities: []string{"1:2"}, RemoveCommunities: []string{"1:2:3"}}}}
		},
	} {
		c, p := optionsConfig(), optionsPeer(65001)
		set(&c, &p)
		c.Peers = []Peer{p}
		if u, err := c.Usable(); err != nil || len(u.Peers) != 1 {
			t.Errorf("%s: %d peers, %v", name, len(u.Peers), err)
		}
	}
}

func TestUnusableOptions(t *testing.T) {
	communities := func(cs ...string) []Rule { return []Rule{{Match: Match{Communities: cs}}} }
	for _, tc := range []struct {
		want     string
		internal bool
		spoil    func(c *Config, p *Peer)
	}{
		{"give a restart time", false, func(_ *Config, p *Peer) { p.LongLived = time.Hour }},
		{"long-lived stale time", false, func(_ *Config, p *Peer) { p.GracefulRestart, p.LongLived = time.Second, 1<<24*time.Second }},
		{"attempts to connect", false, func(_ *Config, p *Peer) { p.ConnectRetry = -time.Second }},
		{"must be at least 2s", false, func(_ *Config, p *Peer) { p.ConnectRetry = time.Second }},
		{"exclude each other", false, func(_ *Config, p *Peer) { p.MultihopTTL, p.GTSMHops = 2, 2 }},
		{"multihop TTL is for external", true, func(_ *Config, p *Peer) { p.MultihopTTL = 2 }},
		{"AS override is for external", true, func(_ *Config, p *Peer) { p.ASOverride = true }},
		{"for external sessions only", true, func(_ *Config, p *Peer) { p.RemovePrivateAS = PrivateASRemove }},
		{"local AS number is for external", true, func(_ *Config, p *Peer) { p.LocalASN = 64700 }},
		{"is the peer's own", false, func(_ *Config, p *Peer) { p.LocalASN = 65001 }},
		{"from 0 to 10 times", false, func(_ *Config, p *Peer) { p.AllowOwnASN = 11 }},
		{"from 0 to 10 times", true, func(_ *Config, p *Peer) { p.AllowOwnASN = -1 }},
		{"to treat private AS", false, func(_ *Config, p *Peer) { p.RemovePrivateAS = 3 }},
		{"next-hop mode", false, func(_ *Config, p *Peer) { p.NextHop = 3 }},
		{"must be of one family", false, func(_ *Config, p *Peer) { p.SourceAddress = netip.MustParseAddr("fd00::1") }},
		{"not an address of a node", false, func(_ *Config, p *Peer) { p.SourceAddress = netip.MustParseAddr("0.0.0.0") }},
		{"is the peer's own", false, func(_ *Config, p *Peer) { p.SourceAddress = p.Address }},
		{"say of which link", false, func(_ *Config, p *Peer) {
			p.Address, p.SourceAddress = netip.MustParseAddr("fe80::2%eth0"), netip.MustParseAddr("fe80::1")
		}},
		{"say of which link", false, func(_ *Config, p *Peer) { p.Address = netip.MustParseAddr("fe80::2") }},
		{"is not of the link of the peer", false, func(_ *Config, p *Peer) {
			p.Address, p.SourceAddress = netip.MustParseAddr("fe80::2%eth0"), netip.MustParseAddr("fe80::1%eth1")
		}},
		{"is not of the link of the peer", false, func(_ *Config, p *Peer) {
			p.Address, p.SourceAddress = netip.MustParseAddr("fe80::2%eth0"), netip.MustParseAddr("fd00::1")
		}},
		{"peers that are not on a link", false, func(_ *Config, p *Peer) {
			p.Address, p.MultihopTTL = netip.MustParseAddr("fe80::2%eth0"), 2
		}},
		{"must be able to call us", false, func(c *Config, p *Peer) {
			p.Passive, c.ListenAddresses = true, []netip.Addr{netip.MustParseAddr("fd00::1")}
		}},
		{"must be able to call us", false, func(c *Config, p *Peer) {
			p.Passive, p.SourceAddress = true, netip.MustParseAddr("10.0.0.9")
			c.ListenAddresses = []netip.Addr{netip.MustParseAddr("10.0.0.1")}
		}},
		{"no address of the families", false, func(c *Config, p *Peer) { p.Families, c.NextHops = IPv6, c.NextHops[:1] }},
		{"no address of the families", false, func(c *Config, p *Peer) { p.Families, c.NextHops = IPv6, nil }},
		{"not a set of address families", false, func(_ *Config, p *Peer) { p.Families = 4 }},
		{"warn at -1", false, func(_ *Config, p *Peer) { p.WarnPrefixes = -1 }},
		{"above the limit 10", false, func(_ *Config, p *Peer) { p.MaxPrefixes, p.WarnPrefixes = 10, 11 }},
		{"owned:", true, func(_ *Config, p *Peer) { p.Owned = []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")} }},
		{`import: rule 1: the community "64512"`, false, func(_ *Config, p *Peer) { p.Import = communities("64512") }},
		{`"65536" must be a decimal number from 0 to 65535`, false, func(_ *Config, p *Peer) { p.Import = communities("1:1", "65536:1") }},
		{`"4294967296" must be`, false, func(_ *Config, p *Peer) { p.Export = communities("1:1:4294967296") }},
		{`"01" must be`, false, func(_ *Config, p *Peer) { p.Export = communities("01:1") }},
		{`"" must be`, false, func(_ *Config, p *Peer) { p.Export = communities("1:") }},
		{`"-1" must be`, false, func(_ *Config, p *Peer) { p.Export = communities("-1:1") }},
		{"export: rule 2: the regular expression of communities", false, func(_ *Config, p *Peer) { p.Export = []Rule{{}, {Match: Match{CommunityRegexp: "("}}} }},
		{"import: rule 1: the regular expression of AS paths", false, func(_ *Config, p *Peer) { p.Import = []Rule{{Match: Match{ASPathRegexp: "_65001_)"}}} }},
		{"import: rule 1: 3 is not a source", false, func(_ *Config, p *Peer) { p.Import = []Rule{{Match: Match{Source: 3}}} }},
		{"export: rule 1: our AS number may be prepended", false, func(_ *Config, p *Peer) { p.Export = []Rule{{Set: Attributes{Prepend: 33}}} }},
		{"export: rule 2: AS override replaces numbers", false, func(_ *Config, p *Peer) {
			p.ASOverride, p.Export = true, []Rule{{}, {Match: Match{ASPathRegexp: "_65001_"}}}
		}},
		{"export: rule 1: private AS numbers are taken out", false, func(_ *Config, p *Peer) {
			p.RemovePrivateAS, p.Export = PrivateASRemove, []Rule{{Match: Match{ASPathRegexp: "_65001_"}}}
		}},
		{"export: rule 1: private AS numbers are taken out", false, func(_ *Config, p *Peer) {
			p.RemovePrivateAS, p.Export = PrivateASReplace, []Rule{{Match: Match{ASPathRegexp: "_65001_"}, Accept: true}}
		}},
		{`export: rule 1: the community "x"`, false, func(_ *Config, p *Peer) { p.Export = []Rule{{Set: Attributes{AddCommunities: []string{"x"}}}} }},
		{`export: rule 1: the community "y"`, false, func(_ *Config, p *Peer) { p.Export = []Rule{{Set: Attributes{RemoveCommunities: []string{"y"}}}} }},
	} {
		c, p := optionsConfig(), optionsPeer(65001)
		if tc.internal {
			p.ASN = c.ASN
		}
		tc.spoil(&c, &p)
		c.Peers = []Peer{p}
		usable, err := c.Usable()
		var pe *PeerError
		if !errors.As(err, &pe) || !strings.Contains(err.Error(), tc.want) || len(usable.Peers) != 0 {
			t.Errorf("want an error about %q, got %v and %d peers", tc.want, err, len(usable.Peers))
		}
	}
}

func TestFamiliesOfAPeer(t *testing.T) {
	c := optionsConfig()
	p := optionsPeer(65001)
	p.Families = IPv6
	c.Peers = []Peer{p}
	if got := c.Families(p.Address); got != IPv6 {
		t.Errorf("a session that is to carry IPv6 carries %v", got)
	}
	if got := c.Families(netip.MustParseAddr("10.0.0.3")); got != IPv4|IPv6 {
		t.Errorf("the session of another peer carries %v", got)
	}
}

func TestCheckMarks(t *testing.T) {
	for want, m := range map[string]Mark{
		"marks: the community": {CIDR: netip.MustParsePrefix("10.0.0.0/8"), Communities: []string{"1"}},
		"marks: 10.0.0.1/8":    {CIDR: netip.MustParsePrefix("10.0.0.1/8")},
	} {
		c := optionsConfig()
		c.Marks = []Mark{m}
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error about %q, got %v", want, err)
		}
	}
}

// Routers on two links may have the same link-local address; what they announce is
// told apart by that alone.
func TestSameLinkLocalAddress(t *testing.T) {
	all := []Rule{{Accept: true}}
	for name, tc := range map[string]struct {
		set  func(p *Peer)
		want string
	}{
		"the same rules":            {func(p *Peer) { p.Import = all }, ""},
		"another AS":                {func(p *Peer) { p.Import, p.ASN = all, 65002 }, ""},
		"other rules":               {func(*Peer) {}, "has the address fe80::1 of peer a on another link, and other rules"},
		"another next hop":          {func(p *Peer) { p.Import, p.NextHop = all, NextHopKeep }, "has the address"},
		"the same password":         {func(p *Peer) { p.Import, p.Password, p.Passive = all, "secret", true }, ""},
		"another password":          {func(p *Peer) { p.Import, p.Password = all, "other" }, "has the address fe80::1 of peer a on another link, and another password"},
		"no password":               {func(p *Peer) { p.Import = all }, ""},
		"no password, and it calls": {func(p *Peer) { p.Import, p.Passive = all, true }, "another password"},
		"the same link":             {func(p *Peer) { p.Import, p.Address = all, netip.MustParseAddr("fe80::1%eth0") }, "sessions are told apart by address"},
		"another router":            {func(p *Peer) { p.Address = netip.MustParseAddr("fe80::2%eth1") }, ""},
		"one without links":         {func(p *Peer) { p.Address = netip.MustParseAddr("10.0.0.2") }, ""},
	} {
		c := optionsConfig()
		a, b := optionsPeer(65001), optionsPeer(65001)
		a.Name, a.Address, a.Import, a.Password = "a", netip.MustParseAddr("fe80::1%eth0"), all, "secret"
		b.Name, b.Address = "b", netip.MustParseAddr("fe80::1%eth1")
		tc.set(&b)
		c.Peers = []Peer{a, b}
		usable, err := c.Usable()
		if tc.want == "" && (err != nil || len(usable.Peers) != 2) || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want) || len(usable.Peers) != 1) {
			t.Errorf("%s: %d peers, %v", name, len(usable.Peers), err)
		}
	}
}
