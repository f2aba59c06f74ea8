package bgp

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func rng(cidr string, minLength, maxLength int) Range {
	return Range{CIDR: netip.MustParsePrefix(cidr), MinLength: minLength, MaxLength: maxLength}
}

func TestRangeContains(t *testing.T) {
	for _, c := range []struct {
		r    Range
		p    string
		want bool
	}{
		{rng("172.25.0.0/16", 26, 26), "172.25.0.128/26", true},
		{rng("172.25.0.0/16", 26, 26), "172.25.0.128/27", false},
		{rng("172.25.0.0/16", 26, 26), "172.25.0.0/25", false},
		{rng("172.25.0.0/16", 26, 26), "172.26.0.0/26", false},
		{rng("172.25.0.0/16", 0, 32), "172.25.0.0/16", true},
		{rng("172.25.0.0/16", 0, 32), "172.0.0.0/8", false}, // not inside, whatever the lengths say
		{rng("0.0.0.0/0", 0, 0), "0.0.0.0/0", true},
		{rng("0.0.0.0/0", 0, 32), "::/0", false},
		{rng("fd00::/48", 122, 122), "fd00::40/122", true},
		{rng("fd00::/48", 122, 122), "fd01::40/122", false},
	} {
		if got := c.r.Contains(netip.MustParsePrefix(c.p)); got != c.want {
			t.Errorf("%+v contains %s: %v", c.r, c.p, got)
		}
	}
	if rng("0.0.0.0/0", 0, 32).Contains(netip.Prefix{}) {
		t.Error("the invalid prefix is in a range")
	}
}

func TestAccepts(t *testing.T) {
	c := Config{
		Advertise: []netip.Prefix{netip.MustParsePrefix("172.25.0.128/26"), netip.MustParsePrefix("fd00::/122")},
		Blocks:    []Range{rng("172.25.0.0/16", 26, 32), rng("fd00::/48", 122, 128)},
	}
	node := Peer{Kind: PeerNode, Import: []Rule{{Match: Match{Ranges: []Range{rng("0.0.0.0/0", 0, 32)}}, Accept: true}}}
	router := Peer{Kind: PeerExternal, Import: []Rule{
		{Match: Match{Ranges: []Range{rng("10.9.66.0/24", 24, 32)}}},
		{Match: Match{Ranges: []Range{rng("10.9.0.0/16", 24, 24)}}, Accept: true},
		{Match: Match{Ranges: []Range{rng("172.25.0.0/16", 16, 32)}}, Accept: true},
		{Match: Match{Ranges: []Range{rng("10.9.66.0/24", 24, 24)}}, Accept: true},
	}}
	for _, tc := range []struct {
		peer Peer
		p    string
		want bool
	}{
		{node, "172.25.0.192/26", true},
		{node, "172.25.0.128/26", false}, // our own
		{node, "172.25.0.130/32", false}, // inside of our own
		{node, "172.25.0.0/24", false},   // too short
		{node, "10.9.1.0/24", false},     // a node's rules are the blocks
		{node, "fd00::/122", false},
		{node, "fd00::40/122", true},
		{router, "10.9.1.0/24", true},
		{router, "10.9.66.0/24", false}, // the first rule that matches decides
		{router, "10.9.0.0/16", false},
		{router, "0.0.0.0/0", false},
		{router, "172.25.9.0/26", true},
		{router, "172.25.0.128/27", false},
		{Peer{Kind: PeerExternal}, "10.9.1.0/24", false},
	} {
		if got := c.Accepts(tc.peer, Announcement{Prefix: netip.MustParsePrefix(tc.p)}); got != tc.want {
			t.Errorf("%v of %+v is accepted: %v", tc.p, tc.peer, got)
		}
	}
}

func TestCheck(t *testing.T) {
	good := Config{ASN: 64512, RouterID: netip.MustParseAddr("10.0.0.1")}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for want, spoil := range map[string]func(c *Config){
		"AS number": func(c *Config) { c.ASN = 0 },
		"router id": func(c *Config) { c.RouterID = netip.MustParseAddr("fd00::1") },
		"fd00::1 and fd00::2 are of one": func(c *Config) {
			c.NextHops = []netip.Addr{netip.MustParseAddr("fd00::1"), netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::2")}
		},
		"next hops: fe80::1":         func(c *Config) { c.NextHops = []netip.Addr{netip.MustParseAddr("fe80::1")} },
		"next hops: ::ffff:10.0.0.1": func(c *Config) { c.NextHops = []netip.Addr{netip.MustParseAddr("::ffff:10.0.0.1")} },
		"next hops: invalid":         func(c *Config) { c.NextHops = make([]netip.Addr, 1) },
		"advertise:":                 func(c *Config) { c.Advertise = []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")} },
		"blocks:":                    func(c *Config) { c.Blocks = []Range{rng("10.0.0.0/24", 26, 25)} },
	} {
		bad := good
		spoil(&bad)
		if err := bad.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error about %q, got %v", want, err)
		}
	}
}

func TestFamilies(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")
	for _, c := range []struct {
		hops []netip.Addr
		peer netip.Addr
		want Families
	}{
		{nil, v4, IPv4},
		{nil, v6, IPv6},
		{[]netip.Addr{v4}, v6, IPv4},
		{[]netip.Addr{v6}, v4, IPv6},
		{[]netip.Addr{v6, v4}, v4, IPv4 | IPv6},
	} {
		config := Config{ASN: 1, RouterID: v4, NextHops: c.hops}
		if err := config.Check(); err != nil {
			t.Error(err)
		}
		if got := config.Families(c.peer); got != c.want {
			t.Errorf("with %v a session with %v carries %v, not %v", c.hops, c.peer, got, c.want)
		}
		for _, f := range (IPv4 | IPv6).Each() {
			hop, given := config.NextHop(f)
			if given != (len(c.hops) > 0 && c.want.Has(f)) || given && FamilyOf(hop) != f {
				t.Errorf("the next hop of %v among %v is %v, %v", f, c.hops, hop, given)
			}
		}
	}
}

func TestNextHopOf(t *testing.T) {
	const v4, v6 = "10.0.0.0/8", "fd00::/64"
	for _, c := range []struct{ peer, prefix, hop, want string }{
		{"10.0.0.2", v4, "10.0.0.1", "10.0.0.1"},
		{"10.0.0.2", v4, "fd00::1", ""},
		{"10.0.0.2", v4, "fe80::1", ""},
		{"10.0.0.2", v4, "::ffff:10.0.0.1", ""},
		{"10.0.0.2", v4, "0.0.0.0", ""},
		{"10.0.0.2", v4, "224.0.0.1", ""},
		{"fd00::2", v4, "10.0.0.1", "10.0.0.1"},
		{"fd00::2", v4, "fd00::1", ""},
		{"fd00::2", v6, "fd00::1", "fd00::1"},
		{"fd00::2", v6, "fe80::1", ""},
		{"fd00::2", v6, "10.0.0.1", ""},
		{"fd00::2", v6, "::ffff:10.0.0.1", ""},
		{"fd00::2", v6, "::", ""},
		{"fd00::2", v6, "ff02::1", ""},

		{"fe80::2%eth0", v4, "10.0.0.1", "10.0.0.1"},
		{"fe80::2%eth0", v4, "0.0.0.0", ""},
		{"fe80::2%eth0", v4, "fe80::2", "fe80::2%eth0"},
		{"fe80::2%eth0", v4, "fd00::1", "fe80::2%eth0"},
		{"fe80::2%eth0", v4, "::", "fe80::2%eth0"},
		{"fe80::2%eth0", v4, "::ffff:10.0.0.1", ""},
		{"fe80::2%eth0", v6, "fe80::2", "fe80::2%eth0"},
		{"fe80::2%eth0", v6, "fd00::1", "fe80::2%eth0"},
		{"fe80::2%eth0", v6, "::", "fe80::2%eth0"},
		{"fe80::2%eth0", v6, "ff02::1", ""},
		{"fe80::2%eth0", v6, "10.0.0.1", ""},
	} {
		got := NextHopOf(netip.MustParseAddr(c.peer), netip.MustParsePrefix(c.prefix), netip.MustParseAddr(c.hop))
		if want, _ := netip.ParseAddr(c.want); got != want {
			t.Errorf("of %s with next hop %s %s leads to %v, not %q", c.peer, c.hop, c.prefix, got, c.want)
		}
	}
	if NextHopOf(netip.Addr{}, netip.MustParsePrefix(v4), netip.Addr{}).IsValid() {
		t.Error("no address is an address of a next hop")
	}
}

func TestUsable(t *testing.T) {
	good := Peer{Name: "good", Address: netip.MustParseAddr("10.0.0.2"), ASN: 64512, Hold: 9 * time.Second}
	for want, spoil := range map[string]func(p *Peer){
		"AS number":                      func(p *Peer) { p.ASN = 0 },
		"not an address":                 func(p *Peer) { p.Address = netip.Addr{} },
		"has the address":                func(p *Peer) { p.Address = good.Address },
		"81 bytes":                       func(p *Peer) { p.Password = strings.Repeat("x", 81) },
		"hold time":                      func(p *Peer) { p.Hold = time.Second },
		"less than the hold":             func(p *Peer) { p.Keepalive = time.Minute },
		"restart time":                   func(p *Peer) { p.GracefulRestart = 2 * time.Hour },
		"limit of prefixes":              func(p *Peer) { p.MaxPrefixes = -1 },
		"import: rule 1: the lengths":    func(p *Peer) { p.Import = []Rule{{Match: Match{Ranges: []Range{rng("10.0.0.0/8", 8, 33)}}}} },
		"import: rule 1: invalid Prefix": func(p *Peer) { p.Import = []Rule{{Match: Match{Ranges: make([]Range, 1)}}} },
	} {
		bad := good
		bad.Name, bad.Address = "bad", netip.MustParseAddr("10.0.0.3")
		spoil(&bad)
		usable, err := Config{Peers: []Peer{good, bad}}.Usable()
		var pe *PeerError
		if !errors.As(err, &pe) || pe.Peer != "bad" || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error about %q of bad, got %v", want, err)
		}
		if len(usable.Peers) != 1 || usable.Peers[0].Name != "good" {
			t.Errorf("%s: usable are %v", want, usable.Peers)
		}
		if err != nil && strings.Contains(err.Error(), "xxx") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
	if got := good.EffectiveKeepalive(); got != 3*time.Second {
		t.Errorf("the keepalive time is %v", got)
	}
}
