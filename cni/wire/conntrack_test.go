package wire

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/godwit-net/godwit/internal/netnstest"
)

// Connections of the node itself stand for those of pods: what counts is the
// addresses that they are tracked with.
func TestFlushConntrack(t *testing.T) {
	for _, prefix := range []string{"10.1.0.", "fd00:1::"} {
		for _, many := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s many=%v", prefix, many), func(t *testing.T) {
				node := netnstest.New(t)
				w := newWirer(t, node)
				one, two, three := netip.MustParseAddr(prefix+"1"), netip.MustParseAddr(prefix+"2"), netip.MustParseAddr(prefix+"3")
				if err := w.FlushConntrack(t.Context(), []netip.Addr{one}); err != nil {
					t.Errorf("nothing tracked: %v", err)
				}
				node.Run("nft", "add table inet godwit-test; add chain inet godwit-test c { type filter hook output priority 0; }; add rule inet godwit-test c ct state new accept")
				for _, a := range []netip.Addr{one, two, three} {
					node.Run("ip", "addr", "add", netip.PrefixFrom(a, a.BitLen()).String(), "dev", "lo", "nodad")
				}
				node.Run("ping", "-c", "1", "-I", one.String(), three.String())
				node.Run("ping", "-c", "1", "-I", three.String(), one.String())
				node.Run("ping", "-c", "1", "-I", two.String(), three.String())
				if n := tracked(node, one, two); n[0] != 2 || n[1] != 1 {
					t.Fatalf("tracked before: %v", n)
				}
				addrs := []netip.Addr{one}
				for i := range maxFilteredFlush {
					if many {
						addrs = append(addrs, netip.AddrFrom4([4]byte{10, 2, 0, byte(i)}))
					}
				}
				if err := w.FlushConntrack(t.Context(), addrs); err != nil {
					t.Fatal(err)
				}
				if n := tracked(node, one, two); n[0] != 0 || n[1] != 1 {
					t.Errorf("tracked after: %v", n)
				}
			})
		}
	}
}

// tracked counts the connections of each of the addresses.
func tracked(node *netnstest.NS, addresses ...netip.Addr) []int {
	n := make([]int, len(addresses))
	for l := range strings.Lines(node.Run("cat", "/proc/net/nf_conntrack")) {
		for i, a := range addresses {
			if strings.Contains(l, "="+a.StringExpanded()+" ") {
				n[i]++
			}
		}
	}
	return n
}
