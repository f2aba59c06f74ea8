package agenttest

import (
	"context"
	"log/slog"
	"net/netip"
	"regexp"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/godwit-net/godwit/agent"
	"github.com/godwit-net/godwit/cni/wire"
	"github.com/godwit-net/godwit/internal/netnstest"
	"github.com/godwit-net/godwit/nat"
	"github.com/godwit-net/godwit/tunnel"
)

func TestMemory(t *testing.T) {
	TestKernel(t, func(t *testing.T) *Bench {
		k := NewKernel(netip.MustParsePrefix("10.9.0.1/24"))
		run(t, k)
		return &Bench{
			Kernel: k, Link: Link,
			Peers: func() []netip.Addr { return Peers(k) }, Nodes: func() []netip.Addr { return Nodes(k) },
		}
	})
}

func TestReal(t *testing.T) {
	TestKernel(t, func(t *testing.T) *Bench {
		ns := netnstest.New(t)
		ns.Run("ip", "link", "add", "gwk0", "type", "veth", "peer", "name", "gwk1")
		ns.Run("ip", "addr", "add", "10.9.0.1/24", "dev", "gwk0")
		ns.Run("ip", "link", "set", "gwk0", "up")
		ns.Run("ip", "link", "set", "gwk1", "up")
		var k *agent.Kernel
		var err error
		ns.Do(func() { k, err = agent.OpenKernel(slog.New(slog.DiscardHandler), wire.DefaultSysctls) })
		if err != nil {
			t.Fatal(err)
		}
		run(t, k)
		return &Bench{
			Kernel: k, Link: "gwk0", Do: ns.Do,
			Peers: func() []netip.Addr {
				fdb := ns.Run("bridge", "fdb", "show", "dev", tunnel.VXLANDevice)
				neigh := ns.Run("ip", "neigh", "show", "nud", "permanent", "dev", tunnel.VXLANDevice)
				return addresses(fdb+neigh, 2)
			},
			Nodes: func() []netip.Addr {
				return addresses(ns.Run("nft", "list", "set", "inet", nat.TableName, "nodes4"), 1)
			},
		}
	})
}

// addresses are those of the node's network that are so often in a text, sorted.
func addresses(text string, times int) []netip.Addr {
	var out []netip.Addr
	for i := range 256 {
		a := netip.AddrFrom4([4]byte{10, 9, 0, byte(i)})
		if len(regexp.MustCompile(`\b`+regexp.QuoteMeta(a.String())+`\b`).FindAllString(text, -1)) == times {
			out = append(out, a)
		}
	}
	return out
}

// run runs a kernel's tables until the test ends.
func run(t *testing.T, k *agent.Kernel) {
	ctx, cancel := context.WithCancel(context.Background())
	var g errgroup.Group
	g.Go(func() error { return k.Routes.Run(ctx) })
	g.Go(func() error { return k.Tunnels.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
		for _, c := range []interface{ Close() error }{k.Routes, k.Tunnels, k.Masquerade} {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}
