package router

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/e2e/process"
	"github.com/godwit-net/godwit/internal/netnstest"
)

// TestRoutersSpeakWithEachOther runs BIRD and FRR with the lab's
// configurations and a password, each as the other's only node. What each
// announces must come through, and lead to the other's address of its family.
func TestRoutersSpeakWithEachOther(t *testing.T) {
	netnstest.RequireRoot(t)
	for _, tt := range []struct {
		name      string
		families  string // of addresses
		sessions  string // over which families
		oneFamily bool
	}{
		{"IPv4", "4", "4", false},
		{"IPv6", "6", "6", false},
		{"both families over IPv4", "46", "4", false},
		{"both families over IPv6", "46", "6", false},
		{"each family over its own", "46", "46", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			testPair(t, func(c *Config, own, other map[string]string) {
				for _, f := range tt.families {
					c.Addresses = append(c.Addresses, netip.MustParseAddr(own["address"+string(f)]))
					c.Announce = append(c.Announce, netip.MustParsePrefix(own["hosts"+string(f)]))
					c.Pools = append(c.Pools, netip.MustParsePrefix(map[rune]string{'4': "172.25.0.0/16", '6': "fd00:25::/48"}[f]))
				}
				for _, f := range tt.sessions {
					c.Peers = append(c.Peers, Neighbor{"peer_" + string(f), netip.MustParseAddr(other["address"+string(f)])})
				}
				c.OneFamily = tt.oneFamily
			})
		})
	}
}

func testPair(t *testing.T, configure func(c *Config, own, other map[string]string)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	// Not under t.TempDir, whose parents FRR's own user can't enter.
	dir, err := os.MkdirTemp("/run", "godwit-router-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	g := process.Open(dir)

	const ns1, ns2 = "godwit-router-1", "godwit-router-2"
	for _, ns := range []string{ns1, ns2} {
		if err := namespace.Add(ctx, ns); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = namespace.Delete(ns) })
	}
	ends := []map[string]string{
		{"address4": "10.211.55.1", "address6": "fd00:10:211:55::1", "hosts4": "172.25.1.0/24", "hosts6": "fd00:25:0:1::/64"},
		{"address4": "10.211.55.2", "address6": "fd00:10:211:55::2", "hosts4": "172.25.2.0/24", "hosts6": "fd00:25:0:2::/64"},
	}
	// FRR takes up no session over IPv6 before the link has its link-local address.
	commands := []string{
		"ip netns exec " + ns1 + " sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0",
		"ip netns exec " + ns2 + " sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0",
		"ip -n " + ns1 + " link add fabric type veth peer name fabric netns " + ns2,
	}
	for i, ns := range []string{ns1, ns2} {
		e := ends[i]
		commands = append(commands,
			"ip -n "+ns+" addr add "+e["address4"]+"/24 dev fabric",
			"ip -n "+ns+" addr add "+e["address6"]+"/64 dev fabric nodad",
			"ip -n "+ns+" link set fabric up",
			"ip -n "+ns+" link add hosts type bridge",
			"ip -n "+ns+" addr add "+strings.Replace(e["hosts4"], "0/24", "1/24", 1)+" dev hosts",
			"ip -n "+ns+" addr add "+strings.Replace(e["hosts6"], "::/64", "::1/64", 1)+" dev hosts nodad",
			"ip -n "+ns+" link set hosts up",
		)
	}
	for _, c := range commands {
		if _, err := namespace.Run(ctx, "", strings.Fields(c)...); err != nil {
			t.Fatal(err)
		}
	}
	c1 := Config{Name: "r1", Netns: ns1, Dir: filepath.Join(dir, "r1"), ASN: 65001, PeerASN: 65002}
	c2 := Config{Name: "r2", Netns: ns2, Dir: filepath.Join(dir, "r2"), ASN: 65002, PeerASN: 65001}
	for i, c := range []*Config{&c1, &c2} {
		c.RouterID, c.Password, c.AnnounceLinks = netip.MustParseAddr(ends[i]["address4"]), "s3cret", []string{"hosts"}
		configure(c, ends[i], ends[1-i])
	}
	routers := []Router{NewBIRD(c1, g), NewFRR(c2, g)}
	for _, r := range routers {
		t.Cleanup(func() {
			if err := r.Stop(context.WithoutCancel(ctx)); err != nil {
				t.Error(err)
			}
		})
		if err := r.Start(ctx); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s runs", r.Program(ctx))
		defer func(r Router) {
			if t.Failed() {
				for _, p := range c1.Pools {
					_, view, err := r.Blocks(ctx, p)
					t.Logf("%s, %v", view, err)
				}
			}
		}(r)
	}
	for i, r := range routers {
		for _, n := range []Config{c1, c2}[i].Peers {
			err := waitFor(ctx, 20*time.Second, "session", func() error {
				s, err := r.Neighbor(ctx, n)
				if err == nil && (!s.Established || s.Session == "" || s.Keeps || s.Restarted) {
					err = errors.New(s.View)
				}
				return err
			})
			if err != nil {
				t.Errorf("%s does not call its neighbour %s established: %v", r.Program(ctx), n.Name, err)
			}
		}
	}
	for _, end := range []struct {
		netns string
		other Config
	}{{ns1, c2}, {ns2, c1}} {
		for i, p := range end.other.Announce {
			want := p.String() + " via " + end.other.Addresses[i].String() + " dev fabric"
			flag := map[bool]string{true: "-4", false: "-6"}[p.Addr().Is4()]
			err := waitFor(ctx, 20*time.Second, "route", func() error {
				out, err := namespace.Run(ctx, end.netns, "ip", flag, "route", "show", p.String())
				// FRR's routes refer to a nexthop object.
				out = regexp.MustCompile(` nhid \d+`).ReplaceAllString(out, "")
				if err == nil && !strings.Contains(out, want) {
					err = errors.New(out)
				}
				return err
			})
			if err != nil {
				t.Errorf("%s has no route %q: %v", end.netns, want, err)
			}
		}
	}
}
