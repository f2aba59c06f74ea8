package gobgp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/internal/netnstest"
)

// newMesh makes namespaces on one bridge, and the configurations of a full
// mesh of speakers in them, in one family of addresses.
func newMesh(t *testing.T, n int, address func(i int) string, block func(i int) string) ([]*netnstest.NS, []bgp.Config) {
	t.Helper()
	hub := netnstest.New(t)
	hub.Run("ip", "link", "add", "gwbr", "type", "bridge")
	hub.Run("ip", "link", "set", "gwbr", "up")
	nodes := make([]*netnstest.NS, n)
	configs := make([]bgp.Config, n)
	for i := range n {
		ns := netnstest.New(t)
		link := fmt.Sprint("gw", i)
		hub.Run("ip", "link", "add", link, "type", "veth", "peer", "name", "up0", "netns", ns.Name)
		hub.Run("ip", "link", "set", link, "master", "gwbr", "up")
		bits := netip.MustParseAddr(address(i)).BitLen() - 8
		args := []string{"addr", "add", fmt.Sprintf("%s/%d", address(i), bits), "dev", "up0"}
		if bits > 32 {
			args = append(args, "nodad")
		}
		ns.Run("ip", args...)
		ns.Run("ip", "link", "set", "up0", "up")
		nodes[i] = ns
		own := pfx(block(i))
		configs[i] = bgp.Config{
			ASN: 64512, RouterID: addr(fmt.Sprint("10.255.0.", i+1)),
			Advertise: []netip.Prefix{own},
			Blocks:    []bgp.Range{{CIDR: netip.PrefixFrom(own.Addr(), own.Addr().BitLen()/2).Masked(), MinLength: own.Bits(), MaxLength: own.Bits()}},
		}
		for j := range n {
			if j != i {
				configs[i].Peers = append(configs[i].Peers, bgp.Peer{
					Name: fmt.Sprint("n", j), Address: addr(address(j)), ASN: 64512, GracefulRestart: time.Minute, MaxPrefixes: 100,
				})
			}
		}
	}
	return nodes, configs
}

func TestMesh(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]struct{ address, block func(i int) string }{
		"IPv4": {
			func(i int) string { return fmt.Sprint("10.0.0.", i+1) },
			func(i int) string { return fmt.Sprintf("172.25.0.%d/26", 64*i) },
		},
		"IPv6": {
			func(i int) string { return fmt.Sprint("fd00::", i+1) },
			func(i int) string { return fmt.Sprintf("fd01::%x/122", 64*i) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const n = 3
			nodes, configs := newMesh(t, n, f.address, f.block)
			all := func(i int) []string {
				want := []string{}
				for j := range n {
					if j != i {
						want = append(want, fmt.Sprintf("%v via %v", pfx(f.block(j)), f.address(j)))
					}
				}
				return want
			}
			speakers := make([]*child, n)
			began := time.Now()
			for i := range n {
				speakers[i] = startChild(t, nodes[i].Name, false)
				set(t, speakers[i], configs[i])
			}
			for i, s := range speakers {
				s.sink.waitRoutes(t, all(i)...)
				s.sink.wait(t, "in sync", func() bool { return s.sink.synced == 1 })
			}
			t.Logf("the mesh is in sync after %v", time.Since(began).Round(time.Millisecond))

			// A killed speaker is back before anyone else takes notice of it.
			speakers[0].kill()
			eventually(t, func() string {
				if s := sessionOf(t, speakers[1], "n0"); s.State == bgp.StateEstablished {
					return fmt.Sprint(s)
				}
				return ""
			})
			began = time.Now()
			speakers[0] = startChild(t, nodes[0].Name, true)
			set(t, speakers[0], configs[0])
			speakers[0].sink.waitRoutes(t, all(0)...)
			speakers[0].sink.wait(t, "in sync", func() bool { return speakers[0].sink.synced == 1 })
			if took := time.Since(began); took > 12*time.Second {
				t.Errorf("the restarted speaker was in sync after %v", took)
			} else {
				t.Logf("the restarted speaker is in sync after %v", took.Round(time.Millisecond))
			}
			for i := 1; i < n; i++ {
				eventually(t, func() string {
					if s := sessionOf(t, speakers[i], "n0"); s.State != bgp.StateEstablished {
						return fmt.Sprint(s)
					}
					return ""
				})
				if log := speakers[i].sink.events(); slices.ContainsFunc(log, func(e string) bool { return strings.HasPrefix(e, "-") }) {
					t.Errorf("n%d lost routes over the restart: %v", i, log)
				}
			}

			// One that leaves is gone at once.
			if err := speakers[2].Stop(context.Background(), bgp.StopLeave); err != nil {
				t.Fatal(err)
			}
			for i := range 2 {
				speakers[i].sink.wait(t, "n2 gone", func() bool { return len(speakers[i].sink.routes) == 1 })
			}
		})
	}
}
