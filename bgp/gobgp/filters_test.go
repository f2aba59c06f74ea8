package gobgp

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/godwit-net/godwit/bgp"
)

// What the routers of a filter testbed announce, where t is the number of their
// link: ToRs and what follows it in the config the networks 10.t.n.0/24 below, and
// what nobody may announce; node3 its own block and another's.
const (
	plainNet   = "10.%d.1.0/24"
	markedNet  = "10.%d.2.0/24"   // communities 64999:1 and 64999:2
	largeNet   = "10.%d.3.0/24"   // community 64999:1:2
	farNet     = "10.%d.4.0/24"   // 65100 is in its AS path
	leavingNet = "10.%d.5.0/24"   // community GRACEFUL_SHUTDOWN
	halfNet    = "10.%d.1.128/25" // a part of plainNet
)

func filterBIRD(i int, asn uint32) string {
	var b strings.Builder
	b.WriteString(strings.Split(birdConf(i, asn), "protocol static")[0])
	b.WriteString("protocol static {\n ipv4;\n")
	route := func(net, attributes string) {
		if strings.Contains(net, "%d") {
			net = fmt.Sprintf(net, i+1)
		}
		fmt.Fprintf(&b, " route %s blackhole %s;\n", net, attributes)
	}
	if asn == 64512 {
		route("172.25.%d.64/26", "")
		route("172.25.77.64/26", "")
	} else {
		route(plainNet, "")
		route(halfNet, "")
		route(markedNet, "{ bgp_community.add((64999,1)); bgp_community.add((64999,2)); }")
		route(largeNet, "{ bgp_large_community.add((64999,1,2)); }")
		route(farNet, "{ bgp_path.prepend(65100); }")
		route(leavingNet, "{ bgp_community.add((65535,0)); }")
		route("0.0.0.0/0", "")
		route("169.254.7.0/24", "")
	}
	b.WriteString("}\nprotocol bgp godwit" + strings.Split(birdConf(i, asn), "protocol bgp godwit")[1])
	return b.String()
}

func filterFRR(i int, asn uint32) string {
	routeMaps := map[string]string{
		plainNet: "", halfNet: "", "0.0.0.0/0": "", "169.254.7.0/24": "",
		markedNet: "community 64999:1 64999:2", largeNet: "large-community 64999:1:2",
		farNet: "as-path prepend 65100", leavingNet: "community 65535:0",
	}
	var b, networks strings.Builder
	for j, net := range slices.Sorted(maps.Keys(routeMaps)) {
		fmt.Fprintf(&b, "route-map R%d permit 10\n", j)
		if routeMaps[net] != "" {
			fmt.Fprintf(&b, " set %s\n", routeMaps[net])
		}
		b.WriteString("exit\n")
		if strings.Contains(net, "%d") {
			net = fmt.Sprintf(net, i+1)
		}
		fmt.Fprintf(&networks, "  network %s route-map R%d\n", net, j)
	}
	for _, line := range strings.SplitAfter(frrConf(i, asn), "\n") {
		switch {
		case strings.HasPrefix(line, "  network"):
			continue
		case strings.HasPrefix(line, "  neighbor"):
			b.WriteString(networks.String())
		}
		b.WriteString(line)
	}
	return b.String()
}

// newFilterBed is a testbed whose node4 is not of the cluster, but a router of
// its AS.
func newFilterBed(t *testing.T) *testbed {
	b := newTestbedWith(t, filterBIRD, filterFRR)
	for i := range b.config.Peers {
		b.config.Peers[i].Import = nil
	}
	b.config.Peers[3].Kind = bgp.PeerExternal
	return b
}

// copyOf is a config whose peers can be changed without changing c's.
func copyOf(c bgp.Config) bgp.Config {
	c.Peers = slices.Clone(c.Peers)
	return c
}

// sinceOf is since when each session is up.
func sinceOf(t *testing.T, sp bgp.Speaker) string {
	t.Helper()
	sessions, err := sp.Sessions(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	out := ""
	for _, s := range sessions {
		out += fmt.Sprintln(s.Name, s.State, s.Since.UnixNano())
	}
	return out
}

func TestFilters(t *testing.T) {
	t.Parallel()
	b := newFilterBed(t)
	sp := startChild(t, b.node.Name, false)
	set(t, sp, b.config)
	sp.sink.waitRoutes(t, "172.25.3.64/26 via 10.0.3.2", "172.25.77.64/26 via 10.0.3.2")
	b.waitOwn(t, "172.25.0.128/26", "172.25.1.0/26")
	eventually(t, func() string { return b.allReceived(t, sp) })
	since := sinceOf(t, sp)

	t.Run("import", func(t *testing.T) { testImport(t, b, sp) })
	t.Run("export", func(t *testing.T) { testExport(t, b, sp) })
	t.Run("origin validation", func(t *testing.T) { testOrigins(t, b, sp) })

	if now := sinceOf(t, sp); now != since {
		t.Errorf("the sessions did not stay up. Before:\n%safter:\n%s", since, now)
	}
}

// allReceived says which ToR has not sent everything yet.
func (b *testbed) allReceived(t *testing.T, sp bgp.Speaker) string {
	for _, name := range []string{"tor1", "tor2", "node4"} {
		if s := sessionOf(t, sp, name); s.Received < 8 {
			return fmt.Sprintf("%+v", s)
		}
	}
	return ""
}

func testImport(t *testing.T, b *testbed, sp *child) {
	match := func(m bgp.Match) []bgp.Rule { return []bgp.Rule{{Match: m, Accept: true}} }
	for _, c := range []struct {
		name  string
		rules []bgp.Rule
		want  []string // of what each ToR announces
	}{
		{"nothing without rules", nil, nil},
		{"anything but a default route and martians", match(bgp.Match{}), []string{plainNet, halfNet, markedNet, largeNet, farNet, leavingNet}},
		{"a default route by name", match(bgp.Match{Ranges: []bgp.Range{{CIDR: pfx("0.0.0.0/0")}}}), []string{"0.0.0.0/0"}},
		{"no martian by name", match(bgp.Match{Ranges: []bgp.Range{rng("169.254.0.0/16", 24)}}), nil},
		{"ranges", match(bgp.Match{Ranges: []bgp.Range{rng("10.1.1.0/24", 25), rng("10.2.1.0/24", 25)}}), []string{halfNet}},
		{"what is rejected first", []bgp.Rule{
			{Match: bgp.Match{Ranges: []bgp.Range{rng("10.0.0.0/8", 25)}}}, {Match: bgp.Match{Communities: []string{"64999:2"}}}, {Accept: true},
		}, []string{plainNet, largeNet, farNet, leavingNet}},
		{"a community", match(bgp.Match{Communities: []string{"64999:1"}}), []string{markedNet}},
		{"communities", match(bgp.Match{Communities: []string{"64999:2", "64999:1"}}), []string{markedNet}},
		{"communities, one of which is not there", match(bgp.Match{Communities: []string{"64999:2", "64999:3"}}), nil},
		{"communities of both kinds, one of which is not there", match(bgp.Match{Communities: []string{"64999:2", "64999:1:2"}}), nil},
		{"a large community", match(bgp.Match{Communities: []string{"64999:1:2"}}), []string{largeNet}},
		{"an expression for a community of any kind", match(bgp.Match{CommunityRegexp: "^64999:1"}), []string{markedNet, largeNet}},
		{"an expression that is not anchored", match(bgp.Match{CommunityRegexp: "4999:2"}), []string{markedNet}},
		{"an expression beside a community", match(bgp.Match{CommunityRegexp: ":2$", Communities: []string{"64999:1"}}), []string{markedNet}},
		{"where a path begins", match(bgp.Match{ASPathRegexp: "_65100$"}), []string{farNet}},
		{"where a path ends", match(bgp.Match{ASPathRegexp: "^6500[12]$", Communities: []string{"64999:1:2"}}), []string{largeNet}},
		{"all conditions at once", match(bgp.Match{
			Ranges: []bgp.Range{rng("10.0.0.0/8", 24)}, Communities: []string{"64999:2"}, CommunityRegexp: "1$", ASPathRegexp: "^[0-9]+$",
		}), []string{markedNet}},
	} {
		t.Run(c.name, func(t *testing.T) {
			conf := copyOf(b.config)
			want := []string{"172.25.3.64/26 via 10.0.3.2", "172.25.77.64/26 via 10.0.3.2"}
			conf.Peers[0].Import, conf.Peers[1].Import = c.rules, c.rules
			for _, net := range c.want {
				if !strings.Contains(net, "%d") {
					want = append(want, net+" via 10.0.1.2 10.0.2.2")
					continue
				}
				for tor := 1; tor <= 2; tor++ {
					want = append(want, fmt.Sprintf(net+" via 10.0.%d.2", tor, tor))
				}
			}
			set(t, sp, conf)
			sp.sink.waitRoutes(t, want...)
			for _, name := range []string{"tor1", "tor2"} {
				if s := sessionOf(t, sp, name); s.Accepted != len(c.want) {
					t.Errorf("%d accepted, but reported is %+v", len(c.want), s)
				}
			}
		})
	}
}

// seen is a route in a router's words: "" when it has none of us.
type seen struct {
	router, prefix string
	want           string
}

// attributes is how a router sees a route of ours.
func (b *testbed) attributes(t *testing.T, name, prefix string) string {
	t.Helper()
	if name == "tor1" || name == "node3" {
		var path, communities, large, pref, med, hop string
		found := false
		text, err := b.routers[name].Show(context.Background(), "show route "+prefix+" protocol godwit all")
		if err != nil && !strings.Contains(err.Error(), "not found") {
			t.Fatal(err)
		}
		for _, line := range strings.Split(text, "\n") {
			key, value, ok := strings.Cut(strings.TrimSpace(line), ":")
			value = strings.TrimSpace(value)
			found = found || ok
			switch key {
			case "BGP.as_path":
				path = value
			case "BGP.community":
				communities = strings.NewReplacer("(", "", ")", "", ",", ":").Replace(value)
			case "BGP.large_community":
				large = strings.NewReplacer("(", "", ")", "", ", ", ":", ",", ":").Replace(value)
			case "BGP.local_pref":
				pref = value
			case "BGP.med":
				med = value
			case "BGP.next_hop":
				hop = value
			}
		}
		if !found || hop == "" {
			return ""
		}
		return inWords(path, communities, large, pref, med, hop)
	}
	var table struct {
		Paths []struct {
			ASPath         struct{ String string }
			Community      struct{ String string }
			LargeCommunity struct{ String string }
			LocPrf, Metric *uint32
			// ExtendedCommunity must not be: nobody here announces any.
			ExtendedCommunity struct{ String string }
			Nexthops          []struct{ IP string }
			Peer              struct{ PeerID string }
		}
	}
	text := b.show(t, name, "show bgp ipv4 unicast "+prefix+" json")
	if err := json.Unmarshal([]byte(text), &table); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	for _, p := range table.Paths {
		if strings.HasPrefix(p.Peer.PeerID, "10.0.") && strings.HasSuffix(p.Peer.PeerID, ".1") {
			number := func(n *uint32) string {
				if n == nil {
					return ""
				}
				return fmt.Sprint(*n)
			}
			if p.ExtendedCommunity.String != "" {
				return "extended communities " + p.ExtendedCommunity.String
			}
			return inWords(strings.TrimSuffix(p.ASPath.String, "Local"), strings.ReplaceAll(p.Community.String, "graceful-shutdown", "65535:0"),
				p.LargeCommunity.String, number(p.LocPrf), number(p.Metric), p.Nexthops[0].IP)
		}
	}
	return ""
}

// inWords leaves out a local preference of 100 and a MED of 0: some routers show
// what is not there as these.
func inWords(path, communities, large, pref, med, hop string) string {
	out := []string{"via " + hop}
	for _, one := range [][2]string{{"path", path}, {"communities", communities}, {"large", large}, {"pref", pref}, {"med", med}} {
		if one[1] != "" && one != [2]string{"pref", "100"} && one != [2]string{"med", "0"} {
			out = append(out, one[0]+" "+one[1])
		}
	}
	return strings.Join(out, ", ")
}

func testExport(t *testing.T, b *testbed, sp *child) {
	const own, own2 = "172.25.0.128/26", "172.25.1.0/26"
	ptr := func(n uint32) *uint32 { return &n }
	base := copyOf(b.config)
	for _, i := range []int{0, 1, 3} {
		base.Peers[i].Import = []bgp.Rule{{Accept: true}}
	}
	const tor1, tor2, core = 0, 1, 3
	rule := func(m bgp.Match, a bgp.Attributes) []bgp.Rule { return []bgp.Rule{{Match: m, Accept: true, Set: a}} }
	learned := func(m bgp.Match) []bgp.Rule {
		m.Source = bgp.SourceLearned
		return rule(m, bgp.Attributes{})
	}
	const toTor2 = "via 10.0.2.1, path 64512 65001"
	all := bgp.Attributes{
		LocalPref: ptr(250), MED: ptr(77), Prepend: 2,
		AddCommunities: []string{"64512:9", "64512:1:9"}, RemoveCommunities: []string{"64999:1"},
	}
	for _, c := range []struct {
		name   string
		change func(*bgp.Config)
		want   []seen
	}{
		{"rejecting an own prefix", func(c *bgp.Config) {
			c.Peers[tor1].Export = []bgp.Rule{{Match: bgp.Match{Ranges: []bgp.Range{rng(own2, 26)}}}}
		}, []seen{{"tor1", own, "via 10.0.1.1, path 64512"}, {"tor1", own2, ""}, {"tor2", own2, "via 10.0.2.1, path 64512"}}},
		{"rejecting all own prefixes", func(c *bgp.Config) {
			c.Peers[tor2].Export = []bgp.Rule{{Match: bgp.Match{Source: bgp.SourceOwn}}, {Accept: true}}
		}, []seen{{"tor2", own, ""}, {"tor2", own2, ""}, {"tor2", "10.1.1.0/24", toTor2}, {"tor1", own, "via 10.0.1.1, path 64512"}}},
		{"learned routes", func(c *bgp.Config) { c.Peers[tor2].Export = learned(bgp.Match{}) }, []seen{
			{"tor2", own, "via 10.0.2.1, path 64512"},
			{"tor2", "10.1.1.0/24", toTor2},
			{"tor2", "10.1.2.0/24", toTor2 + ", communities 64999:1 64999:2"},
			{"tor2", "10.1.3.0/24", toTor2 + ", large 64999:1:2"},
			{"tor2", "172.25.3.64/26", "via 10.0.2.1, path 64512"}, // from an internal peer to an external one
			{"tor1", "10.2.1.0/24", ""},
		}},
		{"learned routes to an internal router", func(c *bgp.Config) { c.Peers[core].Export = learned(bgp.Match{}) }, []seen{
			{"node4", "10.1.1.0/24", "via 10.0.1.2, path 65001"},
			{"node4", "172.25.3.64/26", ""}, // never from an internal peer to another
		}},
		{"routes of nodes", func(c *bgp.Config) {
			c.Peers[tor2].Export = rule(bgp.Match{PeerKind: bgp.Origin(bgp.PeerNode)}, bgp.Attributes{})
		}, []seen{{"tor2", "172.25.3.64/26", "via 10.0.2.1, path 64512"}, {"tor2", "10.4.1.0/24", ""}, {"tor2", "10.1.1.0/24", ""}, {"tor2", own, "via 10.0.2.1, path 64512"}}},
		{"routes of routers", func(c *bgp.Config) {
			c.Peers[tor2].Export = rule(bgp.Match{PeerKind: bgp.Origin(bgp.PeerExternal)}, bgp.Attributes{})
		}, []seen{{"tor2", "172.25.3.64/26", ""}, {"tor2", "10.4.1.0/24", "via 10.0.2.1, path 64512"}, {"tor2", "10.1.1.0/24", toTor2}}},
		{"routes with a community", func(c *bgp.Config) { c.Peers[tor2].Export = learned(bgp.Match{Communities: []string{"64999:1"}}) }, []seen{
			{"tor2", "10.1.2.0/24", toTor2 + ", communities 64999:1 64999:2"}, {"tor2", "10.1.3.0/24", ""}, {"tor2", "10.1.1.0/24", ""},
		}},
		{"routes with a community that matches", func(c *bgp.Config) { c.Peers[tor2].Export = learned(bgp.Match{CommunityRegexp: ":2$"}) }, []seen{
			{"tor2", "10.1.2.0/24", toTor2 + ", communities 64999:1 64999:2"}, {"tor2", "10.1.3.0/24", toTor2 + ", large 64999:1:2"}, {"tor2", "10.1.1.0/24", ""},
		}},
		{"routes with a path", func(c *bgp.Config) { c.Peers[tor2].Export = learned(bgp.Match{ASPathRegexp: "^65001$"}) }, []seen{
			{"tor2", "10.1.1.0/24", toTor2}, {"tor2", "10.1.4.0/24", ""}, {"tor2", "10.4.1.0/24", ""},
		}},
		{"routes with a number in the path", func(c *bgp.Config) { c.Peers[tor2].Export = learned(bgp.Match{ASPathRegexp: "_65100_"}) }, []seen{
			{"tor2", "10.1.1.0/24", ""}, {"tor2", "10.1.4.0/24", toTor2 + " 65100"},
		}},
		{"ranges of learned routes", func(c *bgp.Config) {
			c.Peers[tor2].Export = rule(bgp.Match{Ranges: []bgp.Range{rng("10.1.0.0/16", 25)}}, bgp.Attributes{})
		}, []seen{{"tor2", "10.1.1.128/25", toTor2}, {"tor2", "10.1.1.0/24", ""}}},
		{"changing own prefixes", func(c *bgp.Config) {
			for _, i := range []int{tor1, tor2, core} {
				c.Peers[i].Export = rule(bgp.Match{Ranges: []bgp.Range{rng(own, 26)}}, all)
			}
		}, []seen{
			{"tor1", own, "via 10.0.1.1, path 64512 64512 64512, communities 64512:9, large 64512:1:9, med 77"},
			{"tor2", own, "via 10.0.2.1, path 64512 64512 64512, communities 64512:9, large 64512:1:9, med 77"},
			{"tor1", own2, "via 10.0.1.1, path 64512"},
		}},
		{"changing own prefixes for an internal router", func(c *bgp.Config) {
			few := all
			few.Prepend = 0 // it would see a loop
			c.Peers[core].Export = rule(bgp.Match{Ranges: []bgp.Range{rng(own, 26)}}, few)
		}, []seen{{"node4", own, "via 10.0.4.1, communities 64512:9, large 64512:1:9, pref 250, med 77"}}},
		{"changing learned routes as they are sent", func(c *bgp.Config) {
			c.Peers[tor2].Export = rule(bgp.Match{Communities: []string{"64999:1"}}, all)
		}, []seen{{"tor2", "10.1.2.0/24", "via 10.0.2.1, path 64512 64512 64512 65001, communities 64512:9 64999:2, large 64512:1:9, med 77"}}},
		{"changing learned routes as they come", func(c *bgp.Config) {
			few := all
			few.Prepend = 0
			c.Peers[tor1].Import = rule(bgp.Match{}, few)
			c.Peers[core].Export = learned(bgp.Match{})
		}, []seen{
			{"node4", "10.1.2.0/24", "via 10.0.1.2, path 65001, communities 64512:9 64999:2, large 64512:1:9, pref 250, med 77"},
			{"node4", "10.1.5.0/24", "via 10.0.1.2, path 65001, communities 64512:9 65535:0, large 64512:1:9, pref 1, med 77"}, // its sender will go away
		}},
		{"prepending to learned routes as they come", func(c *bgp.Config) {
			c.Peers[tor1].Import = rule(bgp.Match{}, bgp.Attributes{Prepend: 2})
			c.Peers[tor2].Export = learned(bgp.Match{})
		}, []seen{{"tor2", "10.1.1.0/24", "via 10.0.2.1, path 64512 64512 64512 65001"}}},
		{"ourselves as next hop", func(c *bgp.Config) {
			c.Peers[core].Export, c.Peers[core].NextHop = learned(bgp.Match{}), bgp.NextHopSelf
		}, []seen{{"node4", "10.1.1.0/24", "via 10.0.4.1, path 65001"}, {"node4", own, "via 10.0.4.1"}}},
		{"the next hop as it came", func(c *bgp.Config) {
			c.Peers[tor2].Export, c.Peers[tor2].NextHop = learned(bgp.Match{}), bgp.NextHopKeep
		}, []seen{{"tor2", "10.1.1.0/24", "via 10.0.1.2, path 64512 65001"}, {"tor2", own, "via 10.0.2.1, path 64512"}}},
		{"marks", func(c *bgp.Config) {
			c.Marks = []bgp.Mark{
				{CIDR: pfx(own2), Communities: []string{"64512:77", "64512:7:7"}, LocalPref: ptr(300)},
				{CIDR: pfx("172.25.0.0/16"), Communities: []string{"64512:78"}},
			}
		}, []seen{
			{"tor1", own2, "via 10.0.1.1, path 64512, communities 64512:77, large 64512:7:7"},
			{"tor2", own, "via 10.0.2.1, path 64512, communities 64512:78"},
			{"node3", own2, "via 10.0.3.1, communities 64512:77, large 64512:7:7, pref 300"},
			{"node4", own, "via 10.0.4.1, communities 64512:78"},
		}},
		{"draining", func(c *bgp.Config) { c.Draining = true }, []seen{
			{"tor1", own, "via 10.0.1.1, path 64512, communities 65535:0"},
			{"tor2", own2, "via 10.0.2.1, path 64512, communities 65535:0, pref 0"}, // FRR makes it so
			{"node3", own, "via 10.0.3.1, communities 65535:0, pref 0"},
			{"node4", own2, "via 10.0.4.1, communities 65535:0, pref 0"},
		}},
		{"draining with marks", func(c *bgp.Config) {
			c.Draining, c.Marks = true, []bgp.Mark{{CIDR: pfx("172.25.0.0/16"), Communities: []string{"64512:78"}, LocalPref: ptr(300)}}
		}, []seen{{"node3", own, "via 10.0.3.1, communities 64512:78 65535:0, pref 0"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			set(t, sp, base)
			b.waitOwn(t, own, own2)
			conf := copyOf(base)
			c.change(&conf)
			before := make([]string, len(c.want))
			for i, w := range c.want {
				before[i] = b.attributes(t, w.router, w.prefix)
			}
			set(t, sp, conf)
			changed := false
			for i, w := range c.want {
				eventually(t, func() string {
					if got := b.attributes(t, w.router, w.prefix); got != w.want {
						return fmt.Sprintf("%s has %s %q, not %q", w.router, w.prefix, got, w.want)
					}
					return ""
				})
				t.Logf("%s: %s: %q before, %q after", w.router, w.prefix, before[i], w.want)
				changed = changed || before[i] != w.want
			}
			if !changed {
				t.Error("it was so before")
			}
		})
	}
	set(t, sp, base)
	b.waitOwn(t, own, own2)
}

func testOrigins(t *testing.T, b *testbed, sp *child) {
	conf := copyOf(b.config)
	refused := func(want ...string) {
		t.Helper()
		eventually(t, func() string {
			if s := sessionOf(t, sp, "node3"); fmt.Sprint(s.Refused) != fmt.Sprint(want) || s.RefusedCount != len(want) {
				return fmt.Sprintf("%+v", s)
			}
			return ""
		})
	}
	set(t, sp, conf)
	sp.sink.waitRoutes(t, "172.25.3.64/26 via 10.0.3.2", "172.25.77.64/26 via 10.0.3.2")
	refused()
	conf.ValidateOrigin = true
	set(t, sp, conf)
	sp.sink.waitRoutes(t)
	refused("172.25.3.64/26", "172.25.77.64/26")
	conf = copyOf(conf)
	conf.Peers[2].Owned = []netip.Prefix{pfx("172.25.3.64/26")}
	set(t, sp, conf)
	sp.sink.waitRoutes(t, "172.25.3.64/26 via 10.0.3.2")
	refused("172.25.77.64/26")
	conf = copyOf(conf)
	conf.Peers[2].Owned = []netip.Prefix{pfx("172.25.77.64/26"), pfx("10.0.0.0/8")}
	set(t, sp, conf)
	sp.sink.waitRoutes(t, "172.25.77.64/26 via 10.0.3.2")
	refused("172.25.3.64/26")
}
