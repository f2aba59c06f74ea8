package gobgp

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/bgptest/router"
	"github.com/godwit-net/godwit/bgp/unnumbered"
	"github.com/godwit-net/godwit/internal/netnstest"
)

// links is a node with a router on each of two links, on which nobody has other
// addresses than link-local ones, the two routers the same:
//
//	node fe80::a%gw1 ── fe80::1 tor1, BIRD, AS 65001
//	     fe80::a%gw2 ── fe80::1 tor2, FRR,  AS 65002, with a password and TTL security
type links struct {
	node    *netnstest.NS
	config  bgp.Config
	spaces  map[string]*netnstest.NS
	routers map[string]*router.Router
	found   *unnumbered.Finder
}

// birdUnnumbered is BIRD on a link; options are those of its channel for IPv4.
func birdUnnumbered(options string) string {
	return `log stderr all;
router id 10.0.1.2;
protocol device {}
protocol radv { interface "up0" { max ra interval 10; }; }
protocol kernel { ipv4 { export where source = RTS_BGP; }; }
protocol kernel { ipv6 { export where source = RTS_BGP; }; }
protocol static { ipv4; route 10.9.0.0/24 blackhole; route 10.9.1.0/24 blackhole; }
protocol static { ipv6; route fd09::/64 blackhole; route fd09:0:0:1::/64 blackhole; }
protocol bgp godwit {
 local fe80::1 as 65001;
 neighbor fe80::a as 64512;
 interface "up0";
 direct;
 connect retry time 3;
 ipv4 { import all; export where source = RTS_STATIC; next hop self; ` + options + ` };
 ipv6 { import all; export where source = RTS_STATIC; next hop self; };
}
`
}

func frrUnnumbered() string {
	return `router bgp 65002
 bgp router-id 10.0.2.2
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor up0 interface remote-as external
 neighbor up0 timers connect 3
 neighbor up0 password ` + password + `
 neighbor up0 ttl-security hops 1
 address-family ipv4 unicast
  network 10.9.0.0/24
  network 10.9.2.0/24
 exit-address-family
 address-family ipv6 unicast
  network fd09::/64
  network fd09:0:0:2::/64
  neighbor up0 activate
 exit-address-family
`
}

func newLinks(t *testing.T, bird string) *links {
	t.Helper()
	l := &links{
		node: netnstest.New(t), spaces: make(map[string]*netnstest.NS), routers: make(map[string]*router.Router),
		found: unnumbered.New(unnumbered.Options{}),
	}
	l.config = bgp.Config{
		ASN: 64512, RouterID: addr("10.0.0.1"), NextHops: []netip.Addr{addr("10.0.0.1"), addr("fd00::1")},
		Blocks:    []bgp.Range{rng("172.25.0.0/16", 26), rng("fd01::/64", 122)},
		Advertise: []netip.Prefix{pfx("172.25.0.128/26"), pfx("fd01::80/122")},
	}
	for i, name := range []string{"tor1", "tor2"} {
		ns := netnstest.New(t)
		l.spaces[name] = ns
		link := fmt.Sprint("gw", i+1)
		l.node.Run("ip", "link", "add", link, "type", "veth", "peer", "name", "up0", "netns", ns.Name)
		setLinkLocal(l.node, link, "fe80::a/64")
		setLinkLocal(ns, "up0", "fe80::1/64")
		start, conf := router.StartBIRD, bird
		if name == "tor2" {
			start, conf = router.StartFRR, frrUnnumbered()
		}
		r, err := start(context.Background(), ns.Name, routerDir(t), conf)
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
		l.routers[name] = r
	}
	l.find(t)
	for i, n := range l.found.Neighbors() {
		p := bgp.Peer{
			Name: fmt.Sprint("tor", i+1), Kind: bgp.PeerExternal, Address: n.Address, SourceAddress: n.Source, ASN: uint32(65001 + i),
			Import: []bgp.Rule{{Match: bgp.Match{Ranges: []bgp.Range{rng("10.9.0.0/16", 24), rng("fd09::/48", 64)}}, Accept: true}},
		}
		if i == 1 {
			p.Password, p.GTSMHops = password, 1
		}
		l.config.Peers = append(l.config.Peers, p)
	}
	return l
}

// find finds the routers, who find the node meanwhile.
func (l *links) find(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { l.node.Do(func() { _ = l.found.Run(ctx) }) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	l.found.Set([]string{"gw1", "gw2"})
	eventually(t, func() string {
		for _, n := range l.found.Neighbors() {
			if !n.Address.IsValid() {
				return n.Problem
			}
		}
		return ""
	})
}

// kernel waits until a router's kernel has a route by way of the node.
func (l *links) kernel(t *testing.T, name, prefix string, there bool) {
	t.Helper()
	family := "-4"
	want := "via inet6 fe80::a dev up0"
	if strings.Contains(prefix, ":") {
		family, want = "-6", "via fe80::a dev up0"
	}
	eventually(t, func() string {
		if out := l.spaces[name].Run("ip", family, "route", "show", prefix); strings.Contains(out, want) != there {
			return fmt.Sprintf("the route of %s to %s is %q", name, prefix, out)
		}
		return ""
	})
}

func TestUnnumberedSessions(t *testing.T) {
	t.Parallel()
	l := newLinks(t, birdUnnumbered("extended next hop on;"))
	began := time.Now()
	sp := startChild(t, l.node.Name, false)
	set(t, sp, l.config)
	sp.sink.waitRoutes(t,
		"10.9.0.0/24 via fe80::1%gw1 fe80::1%gw2", "10.9.1.0/24 via fe80::1%gw1", "10.9.2.0/24 via fe80::1%gw2",
		"fd09::/64 via fe80::1%gw1 fe80::1%gw2", "fd09:0:0:1::/64 via fe80::1%gw1", "fd09:0:0:2::/64 via fe80::1%gw2",
	)
	t.Logf("all learned after %v", time.Since(began).Round(time.Millisecond))
	for _, name := range []string{"tor1", "tor2"} {
		l.kernel(t, name, "172.25.0.128/26", true)
		l.kernel(t, name, "fd01::80/122", true)
		s := sessionOf(t, sp, name)
		if s.State != bgp.StateEstablished || s.Accepted != 4 || s.Advertised != 2 || s.Warning != "" ||
			!strings.Contains(strings.Join(s.Capabilities, ","), "IPv6 next hops of IPv4") {
			t.Errorf("%+v", s)
		}
	}
	// In the routers' own words.
	for name, asked := range map[string][2]string{
		"tor1": {"show route all 172.25.0.128/26", "via fe80::a on up0"},
		"tor2": {"show bgp ipv4 unicast 172.25.0.128/26", "fe80::a from up0 (10.0.0.1)"},
	} {
		if out, err := l.routers[name].Show(context.Background(), asked[0]); err != nil || !strings.Contains(out, asked[1]) {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}

	// The other link, with the same address at its end, is not touched.
	since := sessionOf(t, sp, "tor2").Since
	c := copyOf(l.config)
	c.Peers = c.Peers[1:]
	set(t, sp, c)
	sp.sink.waitRoutes(t, "10.9.0.0/24 via fe80::1%gw2", "10.9.2.0/24 via fe80::1%gw2", "fd09::/64 via fe80::1%gw2", "fd09:0:0:2::/64 via fe80::1%gw2")
	l.kernel(t, "tor1", "172.25.0.128/26", false)
	l.kernel(t, "tor2", "172.25.0.128/26", true)
	if s := sessionOf(t, sp, "tor2"); s.State != bgp.StateEstablished || !s.Since.Equal(since) {
		t.Errorf("%+v; it was up since %v", s, since)
	}
	if err := sp.Stop(context.Background(), bgp.StopLeave); err != nil {
		t.Fatal(err)
	}
	l.kernel(t, "tor2", "172.25.0.128/26", false)
}

// Without the capability a router takes no route of IPv4, and those of IPv6 as
// ever; it is said so.
func TestUnnumberedWithoutNextHops(t *testing.T) {
	t.Parallel()
	l := newLinks(t, birdUnnumbered("extended next hop off;"))
	l.config.Peers = l.config.Peers[:1]
	sp := startChild(t, l.node.Name, false)
	set(t, sp, l.config)
	sp.sink.waitRoutes(t, "fd09::/64 via fe80::1%gw1", "fd09:0:0:1::/64 via fe80::1%gw1")
	l.kernel(t, "tor1", "fd01::80/122", true)
	l.kernel(t, "tor1", "172.25.0.128/26", false)
	if s := sessionOf(t, sp, "tor1"); s.State != bgp.StateEstablished || !strings.Contains(s.Warning, "turn on extended next hops (RFC 8950) there") {
		t.Errorf("%+v", s)
	}
}
