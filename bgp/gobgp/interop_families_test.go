package gobgp

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/bgptest/router"
	"github.com/godwit-net/godwit/internal/netnstest"
)

const bothFamilies = bgp.IPv4 | bgp.IPv6

// lan is a node with four routers on one link, with addresses of both families:
//
//	node  10.0.0.1  fd00::1
//	tor1  10.0.0.11 fd00::11  BIRD, AS 65001, with a password
//	tor2  10.0.0.12 fd00::12  FRR,  AS 65002, with a password
//	node3 10.0.0.13 fd00::13  BIRD, our AS 64512
//	node4 10.0.0.14 fd00::14  FRR,  our AS 64512
type lan struct {
	node    *netnstest.NS
	config  bgp.Config
	layout  layout
	routers []*router.Router
}

// layout is which sessions there are between the node and each router, and
// which families the router carries over each.
type layout struct {
	node     bgp.Families // that the node speaks
	sessions map[bgp.Families]bgp.Families
}

func lanAddress(f bgp.Families, i int) string {
	if f == bgp.IPv4 {
		return fmt.Sprint("10.0.0.", i)
	}
	return fmt.Sprint("fd00::", i)
}

// routerNames are those of the routers; the even ones are BIRD, the others FRR.
func routerNames() []string { return []string{"tor1", "tor2", "node3", "node4"} }

func isBIRD(i int) bool { return i%2 == 0 }

func newLAN(t *testing.T, l layout) *lan {
	t.Helper()
	n := &lan{node: netnstest.New(t), layout: l}
	n.config = bgp.Config{
		ASN: 64512, RouterID: addr("10.0.0.1"),
		Blocks:    []bgp.Range{rng("172.25.0.0/16", 26), rng("fd01::/64", 122)},
		Advertise: []netip.Prefix{pfx("172.25.0.128/26"), pfx("fd01::80/122")},
	}
	n.node.Run("ip", "link", "add", "gwbr", "type", "bridge")
	n.node.Run("ip", "link", "set", "gwbr", "up")
	for _, f := range l.node.Each() {
		n.config.NextHops = append(n.config.NextHops, addr(lanAddress(f, 1)))
	}
	giveAddresses(n.node, "gwbr", 1)
	for i, name := range routerNames() {
		ns := netnstest.New(t)
		link := fmt.Sprint("gw", i+1)
		n.node.Run("ip", "link", "add", link, "type", "veth", "peer", "name", "up0", "netns", ns.Name)
		n.node.Run("ip", "link", "set", link, "master", "gwbr", "up")
		ns.Run("ip", "link", "set", "up0", "up")
		giveAddresses(ns, "up0", 11+i)
		asn := uint32(64512)
		if strings.HasPrefix(name, "tor") {
			asn = uint32(65001 + i)
		}
		for f := range l.sessions {
			n.config.Peers = append(n.config.Peers, lanPeer(i, name, f, asn))
		}
		start, conf := router.StartFRR, n.frrConf
		if isBIRD(i) {
			start, conf = router.StartBIRD, n.birdConf
		}
		r, err := start(context.Background(), ns.Name, routerDir(t), conf(i, asn))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("%s: %s", name, r.Log())
			}
			if err := r.Stop(); err != nil {
				t.Error(err)
			}
		})
		n.routers = append(n.routers, r)
	}
	return n
}

func giveAddresses(ns *netnstest.NS, link string, i int) {
	ns.Run("ip", "addr", "add", lanAddress(bgp.IPv4, i)+"/24", "dev", link)
	ns.Run("ip", "addr", "add", lanAddress(bgp.IPv6, i)+"/64", "dev", link, "nodad")
}

func lanPeer(i int, name string, f bgp.Families, asn uint32) bgp.Peer {
	p := bgp.Peer{
		Name: name + suffix(f), Kind: bgp.PeerNode, Address: addr(lanAddress(f, 11+i)), ASN: asn,
		GracefulRestart: 60 * time.Second,
	}
	if asn != 64512 {
		p.Kind, p.Password = bgp.PeerExternal, password
		p.Import = []bgp.Rule{
			{Match: bgp.Match{Ranges: []bgp.Range{rng("10.9.66.0/24", 24)}}},
			{Match: bgp.Match{Ranges: []bgp.Range{rng("fd09:0:0:66::/64", 64)}}},
			{Match: bgp.Match{Ranges: []bgp.Range{rng("10.9.0.0/16", 24)}}, Accept: true},
			{Match: bgp.Match{Ranges: []bgp.Range{rng("fd09::/32", 64)}}, Accept: true},
		}
	}
	return p
}

// lanAnnounced is what a router announces: of what it may, a ToR 10.9.0.0/24
// like the other and 10.9.<i>.0/24, a node 172.25.<i>.64/26; and more of what it
// may not. Likewise of IPv6.
func lanAnnounced(f bgp.Families, i int, internal bool) []string {
	switch {
	case internal && f == bgp.IPv4:
		return []string{fmt.Sprintf("172.25.%d.64/26", i), "172.25.0.128/26", "10.9.0.0/24"}
	case internal:
		return []string{fmt.Sprintf("fd01::%d:40/122", i), "fd01::80/122", "fd09::/64"}
	case f == bgp.IPv4:
		return []string{"10.9.0.0/24", fmt.Sprintf("10.9.%d.0/24", i), "0.0.0.0/0", "10.9.66.0/24", "172.25.7.0/26"}
	}
	return []string{"fd09::/64", fmt.Sprintf("fd09:0:0:%d::/64", i), "::/0", "fd09:0:0:66::/64", "fd01::7:0/122"}
}

// lanLearned is what the node takes of all that.
func lanLearned(f bgp.Families) []string {
	var out []string
	if f.Has(bgp.IPv4) {
		out = append(out, "10.9.0.0/24 via 10.0.0.11 10.0.0.12", "10.9.1.0/24 via 10.0.0.11", "10.9.2.0/24 via 10.0.0.12",
			"172.25.3.64/26 via 10.0.0.13", "172.25.4.64/26 via 10.0.0.14")
	}
	if f.Has(bgp.IPv6) {
		out = append(out, "fd09::/64 via fd00::11 fd00::12", "fd09:0:0:1::/64 via fd00::11", "fd09:0:0:2::/64 via fd00::12",
			"fd01::3:40/122 via fd00::13", "fd01::4:40/122 via fd00::14")
	}
	return out
}

// birdConf has the router wait for our call, as frrConf has: where both call at
// once GoBGP may call again on a session that is up, which the others take for a
// restart.
func (n *lan) birdConf(i int, asn uint32) string {
	var b strings.Builder
	fmt.Fprintf(&b, "log stderr all;\nrouter id 10.0.0.%d;\nprotocol device {}\n", 11+i)
	for _, f := range bothFamilies.Each() {
		channel := map[bgp.Families]string{bgp.IPv4: "ipv4", bgp.IPv6: "ipv6"}[f]
		fmt.Fprintf(&b, "protocol kernel { %s { export where source = RTS_BGP; }; }\nprotocol static {\n %s;\n", channel, channel)
		for _, p := range lanAnnounced(f, i+1, asn == 64512) {
			fmt.Fprintf(&b, " route %s blackhole;\n", p)
		}
		b.WriteString("}\n")
	}
	for session, carried := range n.layout.sessions {
		fmt.Fprintf(&b, "protocol bgp godwit%d {\n local %s as %d;\n neighbor %s as 64512;\n direct;\n graceful restart on;\n passive on;\n",
			session, lanAddress(session, 11+i), asn, lanAddress(session, 1))
		if asn != 64512 {
			fmt.Fprintf(&b, " password %q;\n", password)
		}
		if carried.Has(bgp.IPv4) {
			b.WriteString(" ipv4 { import all; export all; next hop self; };\n")
		}
		if carried.Has(bgp.IPv6) {
			b.WriteString(" ipv6 { import all; export all; next hop self; };\n")
		}
		b.WriteString("}\n")
	}
	return b.String()
}

func (n *lan) frrConf(i int, asn uint32) string {
	var b strings.Builder
	fmt.Fprintf(&b, "router bgp %d\n bgp router-id 10.0.0.%d\n no bgp default ipv4-unicast\n no bgp ebgp-requires-policy\n"+
		" no bgp network import-check\n bgp log-neighbor-changes\n bgp graceful-restart\n", asn, 11+i)
	for session := range n.layout.sessions {
		peer := lanAddress(session, 1)
		fmt.Fprintf(&b, " neighbor %s remote-as 64512\n neighbor %s passive\n", peer, peer)
		if asn != 64512 {
			fmt.Fprintf(&b, " neighbor %s password %s\n", peer, password)
		}
	}
	for _, f := range bothFamilies.Each() {
		fmt.Fprintf(&b, " address-family %s unicast\n", map[bgp.Families]string{bgp.IPv4: "ipv4", bgp.IPv6: "ipv6"}[f])
		for _, p := range lanAnnounced(f, i+1, asn == 64512) {
			fmt.Fprintf(&b, "  network %s\n", p)
		}
		for session, carried := range n.layout.sessions {
			if carried.Has(f) {
				fmt.Fprintf(&b, "  neighbor %s activate\n", lanAddress(session, 1))
			}
		}
		b.WriteString(" exit-address-family\n")
	}
	return b.String()
}

func (n *lan) show(t *testing.T, i int, command string) string {
	t.Helper()
	out, err := n.routers[i].Show(context.Background(), command)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// view is what a router has of the node that it can use: "prefix via next hop",
// once for each session that it came by.
func (n *lan) view(t *testing.T, i int) []string {
	t.Helper()
	var out []string
	if isBIRD(i) {
		for session := range n.layout.sessions {
			for _, table := range []string{"master4", "master6"} {
				last := ""
				for _, line := range strings.Split(n.show(t, i, fmt.Sprintf("show route table %s protocol godwit%d", table, session)), "\n") {
					f := strings.Fields(line)
					switch {
					case len(f) > 1 && strings.Contains(f[0], "/"):
						last = f[0]
						if f[1] == "unreachable" {
							out = append(out, last+" unreachable")
						}
					case len(f) > 1 && f[0] == "via":
						out = append(out, last+" via "+f[1])
					}
				}
			}
		}
		slices.Sort(out)
		return out
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		var table struct {
			Routes map[string][]struct {
				PeerID   string `json:"peerId"`
				Valid    bool
				Nexthops []struct{ IP string }
			}
		}
		text := n.show(t, i, "show bgp "+family+" unicast json")
		if err := json.Unmarshal([]byte(text), &table); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		for p, paths := range table.Routes {
			for _, path := range paths {
				if path.PeerID == lanAddress(bgp.IPv4, 1) || path.PeerID == lanAddress(bgp.IPv6, 1) {
					if path.Valid {
						out = append(out, p+" via "+path.Nexthops[0].IP)
					} else {
						out = append(out, p+" invalid")
					}
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

// waitOwn waits until every router has exactly our prefixes, by our addresses.
func (n *lan) waitOwn(t *testing.T, own ...netip.Prefix) {
	t.Helper()
	want := []string{}
	for _, p := range own {
		f := bgp.FamilyOf(p.Addr())
		for _, carried := range n.layout.sessions {
			if (carried & n.layout.node).Has(f) {
				want = append(want, fmt.Sprintf("%v via %s", p, lanAddress(f, 1)))
			}
		}
	}
	slices.Sort(want)
	for i, name := range routerNames() {
		eventually(t, func() string {
			if got := n.view(t, i); !slices.Equal(got, want) {
				return fmt.Sprintf("%s has %q, not %q", name, got, want)
			}
			return ""
		})
	}
}

func TestBothFamiliesWithBIRDAndFRR(t *testing.T) {
	t.Parallel()
	for name, l := range map[string]layout{
		"both over IPv4":           {bothFamilies, map[bgp.Families]bgp.Families{bgp.IPv4: bothFamilies}},
		"both over IPv6":           {bothFamilies, map[bgp.Families]bgp.Families{bgp.IPv6: bothFamilies}},
		"a session of each family": {bothFamilies, map[bgp.Families]bgp.Families{bgp.IPv4: bgp.IPv4, bgp.IPv6: bgp.IPv6}},
		"crossed":                  {bothFamilies, map[bgp.Families]bgp.Families{bgp.IPv4: bgp.IPv6, bgp.IPv6: bgp.IPv4}},
		"both over each of two":    {bothFamilies, map[bgp.Families]bgp.Families{bgp.IPv4: bothFamilies, bgp.IPv6: bothFamilies}},
		"a node of IPv6 only":      {bgp.IPv6, map[bgp.Families]bgp.Families{bgp.IPv6: bothFamilies}},
		"a node of IPv4 only":      {bgp.IPv4, map[bgp.Families]bgp.Families{bgp.IPv4: bothFamilies}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newLAN(t, l)
			sp := startChild(t, n.node.Name, false)
			set(t, sp, n.config)
			sp.sink.waitRoutes(t, lanLearned(l.node)...)
			sp.sink.wait(t, "in sync", func() bool { return sp.sink.synced == 1 })
			n.waitOwn(t, n.config.Advertise...)
			n.checkSessions(t, sp)

			n.config.Advertise = []netip.Prefix{pfx("172.25.2.0/26"), pfx("fd01::200/122")}
			set(t, sp, n.config)
			n.waitOwn(t, n.config.Advertise...)
			if err := sp.Stop(context.Background(), bgp.StopLeave); err != nil {
				t.Fatal(err)
			}
			n.waitOwn(t)
		})
	}
}

// checkSessions compares what is reported of the sessions with what the routers
// announce.
func (n *lan) checkSessions(t *testing.T, sp bgp.Speaker) {
	t.Helper()
	sessions, err := sp.Sessions(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if len(sessions) != len(n.config.Peers) {
		t.Errorf("there are %d sessions with %d peers", len(sessions), len(n.config.Peers))
	}
	for _, s := range sessions {
		carried := n.layout.sessions[bgp.FamilyOf(s.Address)] & n.layout.node
		families := len(carried.Each())
		received, accepted := 3*families, families
		if s.Kind == bgp.PeerExternal {
			received, accepted = 5*families, 2*families
		}
		// FRR, and BIRD from one session to the other, gives us our own prefixes back.
		returned := s.Received - received
		if s.Kind == bgp.PeerNode && returned != 0 || returned < 0 || returned > families {
			t.Errorf("%+v; want %d received", s, received)
		}
		if s.State != bgp.StateEstablished || s.Accepted != accepted || s.Advertised != families {
			t.Errorf("%+v; want %d accepted, %d advertised", s, accepted, families)
		}
	}
}

func TestRoutersKeepBothFamiliesOverAKill(t *testing.T) {
	t.Parallel()
	for name, sessions := range map[string]map[bgp.Families]bgp.Families{
		"over IPv4": {bgp.IPv4: bothFamilies},
		"over IPv6": {bgp.IPv6: bothFamilies},
		// With routers that take less than they are offered.
		"a session of each family": {bgp.IPv4: bgp.IPv4, bgp.IPv6: bgp.IPv6},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newLAN(t, layout{bothFamilies, sessions})
			sp := startChild(t, n.node.Name, false)
			set(t, sp, n.config)
			sp.sink.waitRoutes(t, lanLearned(bothFamilies)...)
			n.waitOwn(t, n.config.Advertise...)
			watches := watchKernels(t, n.byName())

			sp.kill()
			// The routers notice, and keep what they have.
			eventually(t, func() string {
				if out := n.show(t, 0, "show protocols"); strings.Contains(out, "Established") {
					return out
				}
				return ""
			})
			n.waitOwn(t, n.config.Advertise...)
			sp = startChild(t, n.node.Name, true)
			set(t, sp, n.config)
			sp.sink.wait(t, "in sync", func() bool { return sp.sink.synced == 1 })
			sp.sink.waitRoutes(t, lanLearned(bothFamilies)...)
			n.waitOwn(t, n.config.Advertise...)
			eventually(t, func() string { return n.stale(t) })
			for name, stop := range watches {
				if log := stop(); strings.Contains(log, "172.25.0.128") || strings.Contains(log, "fd01::80") {
					t.Errorf("the routes of %s changed while the speaker restarted:\n%s", name, log)
				}
			}
		})
	}
}

func (n *lan) byName() map[string]*router.Router {
	out := make(map[string]*router.Router)
	for i, name := range routerNames() {
		out[name] = n.routers[i]
	}
	return out
}

// stale says which router still holds routes as stale.
func (n *lan) stale(t *testing.T) string {
	t.Helper()
	for i, name := range routerNames() {
		if isBIRD(i) {
			continue
		}
		for _, family := range []string{"ipv4", "ipv6"} {
			for _, line := range strings.Split(n.show(t, i, "show bgp "+family+" unicast"), "\n") {
				if strings.HasPrefix(line, "S") && !strings.HasPrefix(line, "Status") {
					return name + ": " + line
				}
			}
		}
	}
	return ""
}
