package gobgp

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/bgptest/router"
	"github.com/godwit-net/godwit/internal/netnstest"
)

// testbed is a node with a router on each of its links:
//
//	node .1 ── 10.0.1.0/24 ── .2 tor1, BIRD, AS 65001
//	     .1 ── 10.0.2.0/24 ── .2 tor2, FRR,  AS 65002
//	     .1 ── 10.0.3.0/24 ── .2 node3, BIRD, our AS 64512
//	     .1 ── 10.0.4.0/24 ── .2 node4, FRR,  our AS 64512
type testbed struct {
	node    *netnstest.NS
	config  bgp.Config
	routers map[string]*router.Router
	dirs    map[string]string // of their files
}

const password = "g0dw1t-s3cret"

func newTestbed(t *testing.T) *testbed {
	t.Helper()
	return newTestbedWith(t, birdConf, frrConf)
}

// newTestbedWith makes a testbed with other configurations of the routers, which
// are made of the number of the link and an AS number.
func newTestbedWith(t *testing.T, birdConf, frrConf func(i int, asn uint32) string) *testbed {
	t.Helper()
	b := &testbed{node: netnstest.New(t), routers: make(map[string]*router.Router), dirs: make(map[string]string)}
	b.config = bgp.Config{
		ASN: 64512, RouterID: addr("10.0.0.1"),
		Blocks:    []bgp.Range{rng("172.25.0.0/16", 26)},
		Advertise: []netip.Prefix{pfx("172.25.0.128/26"), pfx("172.25.1.0/26")},
	}
	for i, name := range []string{"tor1", "tor2", "node3", "node4"} {
		ns := netnstest.New(t)
		link := fmt.Sprint("gw", i+1)
		b.node.Run("ip", "link", "add", link, "type", "veth", "peer", "name", "up0", "netns", ns.Name)
		b.node.Run("ip", "addr", "add", fmt.Sprintf("10.0.%d.1/24", i+1), "dev", link)
		b.node.Run("ip", "link", "set", link, "up")
		ns.Run("ip", "addr", "add", fmt.Sprintf("10.0.%d.2/24", i+1), "dev", "up0")
		ns.Run("ip", "link", "set", "up0", "up")
		b.addPeer(i, name)
		start, conf := router.StartBIRD, birdConf
		if i%2 == 1 {
			start, conf = router.StartFRR, frrConf
		}
		b.dirs[name] = routerDir(t)
		r, err := start(context.Background(), ns.Name, b.dirs[name], conf(i, b.config.Peers[i].ASN))
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
		b.routers[name] = r
	}
	return b
}

// routerDir is a directory that FRR's user can reach: t.TempDir's parent is
// root's only.
func routerDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "godwit-router-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (b *testbed) addPeer(i int, name string) {
	p := bgp.Peer{
		Name: name, Kind: bgp.PeerNode, Address: addr(fmt.Sprintf("10.0.%d.2", i+1)), ASN: 64512,
		GracefulRestart: 60 * time.Second,
	}
	if strings.HasPrefix(name, "tor") {
		p.Kind, p.ASN, p.Password = bgp.PeerExternal, uint32(65001+i), password
		p.Import = []bgp.Rule{
			{Match: bgp.Match{Ranges: []bgp.Range{rng("10.9.66.0/24", 24)}}},
			{Match: bgp.Match{Ranges: []bgp.Range{rng("10.9.0.0/16", 24)}}, Accept: true},
		}
	}
	b.config.Peers = append(b.config.Peers, p)
}

// Each ToR announces, of what it may, 10.9.0.0/24 like the other, and
// 10.9.<i>.0/24; and of what it may not, a default route, what a rule rejects,
// someone else's network and a block of our pool. Nodes announce the block
// 172.25.<i>.64/26, and our own block, a foreign network, and half a block.
func announced(i int, internal bool) []string {
	if internal {
		return []string{fmt.Sprintf("172.25.%d.64/26", i), "172.25.0.128/26", "10.9.0.0/24", "172.25.9.0/27", "172.25.128.0/17"}
	}
	return []string{"10.9.0.0/24", fmt.Sprintf("10.9.%d.0/24", i), "0.0.0.0/0", "10.9.66.0/24", "8.8.8.0/24", "172.25.7.0/26", "10.9.5.0/25"}
}

func birdConf(i int, asn uint32) string {
	var b strings.Builder
	fmt.Fprintf(&b, "log stderr all;\nrouter id 10.0.%d.2;\nprotocol device {}\nprotocol kernel { ipv4 { export where source = RTS_BGP; }; }\nprotocol static {\n ipv4;\n", i+1)
	for _, p := range announced(i+1, asn == 64512) {
		fmt.Fprintf(&b, " route %s blackhole;\n", p)
	}
	b.WriteString("}\nprotocol bgp godwit {\n")
	fmt.Fprintf(&b, " local 10.0.%d.2 as %d;\n neighbor 10.0.%d.1 as 64512;\n direct;\n graceful restart on;\n connect retry time 3;\n", i+1, asn, i+1)
	if asn != 64512 {
		fmt.Fprintf(&b, " password %q;\n", password)
	}
	b.WriteString(" ipv4 { import all; export all; next hop self; };\n}\n")
	return b.String()
}

func frrConf(i int, asn uint32) string {
	var b strings.Builder
	n := fmt.Sprintf("10.0.%d.1", i+1)
	fmt.Fprintf(&b, "router bgp %d\n bgp router-id 10.0.%d.2\n no bgp ebgp-requires-policy\n no bgp network import-check\n bgp graceful-restart\n", asn, i+1)
	fmt.Fprintf(&b, " neighbor %s remote-as 64512\n neighbor %s timers connect 3\n", n, n)
	if asn != 64512 {
		fmt.Fprintf(&b, " neighbor %s password %s\n", n, password)
	}
	b.WriteString(" address-family ipv4 unicast\n")
	for _, p := range announced(i+1, asn == 64512) {
		fmt.Fprintf(&b, "  network %s\n", p)
	}
	fmt.Fprintf(&b, "  neighbor %s soft-reconfiguration inbound\n exit-address-family\n", n)
	return b.String()
}

// routerView is what a router has of the node: prefix to next hop.
func (b *testbed) routerView(t *testing.T, name string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	if name == "tor1" || name == "node3" {
		text := b.show(t, name, "show route protocol godwit")
		last := ""
		for _, line := range strings.Split(text, "\n") {
			if f := strings.Fields(line); len(f) > 0 {
				if strings.Contains(f[0], "/") {
					last = f[0]
				}
				if f[0] == "via" {
					out[last] = f[1]
				}
			}
		}
		return out
	}
	var table struct {
		Routes map[string][]struct {
			PeerID   string `json:"peerId"`
			Nexthops []struct{ IP string }
		}
	}
	text := b.show(t, name, "show bgp ipv4 unicast json")
	if err := json.Unmarshal([]byte(text), &table); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	for p, paths := range table.Routes {
		for _, path := range paths {
			if strings.HasSuffix(path.PeerID, ".1") && strings.HasPrefix(path.PeerID, "10.0.") {
				out[p] = path.Nexthops[0].IP
			}
		}
	}
	return out
}

func (b *testbed) show(t *testing.T, name, command string) string {
	t.Helper()
	out, err := b.routers[name].Show(context.Background(), command)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// waitOwn waits until every router has exactly our prefixes, each by our
// address on its link.
func (b *testbed) waitOwn(t *testing.T, own ...string) {
	t.Helper()
	for i, name := range []string{"tor1", "tor2", "node3", "node4"} {
		eventually(t, func() string {
			got := b.routerView(t, name)
			if len(got) != len(own) {
				return fmt.Sprintf("%s has %v", name, got)
			}
			for _, p := range own {
				if got[p] != fmt.Sprintf("10.0.%d.1", i+1) {
					return fmt.Sprintf("%s has %v", name, got)
				}
			}
			return ""
		})
	}
}

// learnedOfAll is what the node takes of all that the routers announce.
func learnedOfAll() []string {
	return []string{
		"10.9.0.0/24 via 10.0.1.2 10.0.2.2",
		"10.9.1.0/24 via 10.0.1.2",
		"10.9.2.0/24 via 10.0.2.2",
		"172.25.3.64/26 via 10.0.3.2",
		"172.25.4.64/26 via 10.0.4.2",
	}
}

func TestInteroperatesWithBIRDAndFRR(t *testing.T) {
	b := newTestbed(t)
	sp := startChild(t, b.node.Name, false)
	began := time.Now()
	set(t, sp, b.config)
	sp.sink.waitRoutes(t, learnedOfAll()...)
	t.Logf("all learned after %v", time.Since(began).Round(time.Millisecond))
	sp.sink.wait(t, "in sync", func() bool { return sp.sink.synced == 1 })
	b.waitOwn(t, "172.25.0.128/26", "172.25.1.0/26")

	sessions, err := sp.Sessions(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sessions {
		received, accepted := 5, 1
		if s.Kind == bgp.PeerExternal {
			received, accepted = 7, 2
		}
		if s.Name == "tor2" {
			received += 2 // FRR gives us our own prefixes back
		}
		if s.State != bgp.StateEstablished || s.Received != received || s.Accepted != accepted || s.Advertised != 2 {
			t.Errorf("%+v; want %d received, %d accepted", s, received, accepted)
		}
	}

	b.config.Advertise = []netip.Prefix{pfx("172.25.2.0/26")}
	set(t, sp, b.config)
	b.waitOwn(t, "172.25.2.0/26")
	if err := sp.Stop(context.Background(), bgp.StopLeave); err != nil {
		t.Fatal(err)
	}
	b.waitOwn(t)
	for name, want := range map[string]string{"tor1": "Received: Administrative shutdown", "node3": "Received: Administrative shutdown"} {
		if log := b.routers[name].Log() + b.show(t, name, "show protocols all godwit"); !strings.Contains(log, want) {
			t.Errorf("%s says nothing like %q:\n%s", name, want, log)
		}
	}
}

// The speaker's process ends without a farewell, once as a panic inside of GoBGP
// would end it: the routers keep its routes, and the next one learns all of theirs
// again before it says that it is in sync.
func TestRoutersKeepRoutesOverAnUncleanEnd(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	sp := startChild(t, b.node.Name, false)
	set(t, sp, b.config)
	sp.sink.waitRoutes(t, learnedOfAll()...)
	b.waitOwn(t, "172.25.0.128/26", "172.25.1.0/26")
	watches := watchKernels(t, b.routers)

	for _, end := range []func(*child){(*child).panics, (*child).kill} {
		end(sp)
		// The routers notice, and keep what they have.
		eventually(t, func() string {
			if out := b.show(t, "tor1", "show protocols godwit"); strings.Contains(out, "Established") {
				return out
			}
			return ""
		})
		b.waitOwn(t, "172.25.0.128/26", "172.25.1.0/26")
		sp = startChild(t, b.node.Name, true)
		began := time.Now()
		set(t, sp, b.config)
		sp.sink.wait(t, "in sync", func() bool { return sp.sink.synced == 1 })
		t.Logf("in sync %v after the restart", time.Since(began).Round(time.Millisecond))
		sp.sink.waitRoutes(t, learnedOfAll()...)
		b.waitOwn(t, "172.25.0.128/26", "172.25.1.0/26")
		eventually(t, func() string { return b.stale(t) })
	}
	for name, stop := range watches {
		if log := stop(); strings.Contains(log, "172.25.0.128") || strings.Contains(log, "172.25.1.0") {
			t.Errorf("the routes of %s changed while the speaker restarted:\n%s", name, log)
		}
	}
}

// stale says which router still holds routes as stale.
func (b *testbed) stale(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"tor2", "node4"} {
		for _, line := range strings.Split(b.show(t, name, "show bgp ipv4 unicast"), "\n") {
			if strings.HasPrefix(line, "S") && !strings.HasPrefix(line, "Status") {
				return name + ": " + line
			}
		}
	}
	return ""
}

// watchKernels records the changes of routes in the routers' namespaces, where
// they install what they have of us: a flap may be too short to be seen by asking.
func watchKernels(t *testing.T, routers map[string]*router.Router) map[string]func() string {
	t.Helper()
	watches := make(map[string]func() string)
	for name, r := range routers {
		var out strings.Builder
		cmd := exec.Command("ip", "-n", r.Netns(), "monitor", "route")
		cmd.Stdout = &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		stop := func() string {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			return out.String()
		}
		t.Cleanup(func() { _ = stop() })
		watches[name] = stop
	}
	return watches
}
