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
	for _, many := range []bool{false, true} {
		t.Run(fmt.Sprintf("many=%v", many), func(t *testing.T) {
			node := netnstest.New(t)
			w := newWirer(t, node)
			if err := w.FlushConntrack(t.Context(), []netip.Addr{netip.MustParseAddr("10.1.0.1")}); err != nil {
				t.Errorf("nothing tracked: %v", err)
			}
			node.Run("nft", "add table ip godwit-test; add chain ip godwit-test c { type filter hook output priority 0; }; add rule ip godwit-test c ct state new accept")
			for _, a := range []string{"10.1.0.1", "10.1.0.2", "10.1.0.3"} {
				node.Run("ip", "addr", "add", a+"/32", "dev", "lo")
			}
			node.Run("ping", "-c", "1", "-I", "10.1.0.1", "10.1.0.3")
			node.Run("ping", "-c", "1", "-I", "10.1.0.3", "10.1.0.1")
			node.Run("ping", "-c", "1", "-I", "10.1.0.2", "10.1.0.3")
			if n := tracked(node); n["10.1.0.1"] != 2 || n["10.1.0.2"] != 1 {
				t.Fatalf("tracked before: %v", n)
			}
			addrs := []netip.Addr{netip.MustParseAddr("10.1.0.1")}
			for i := range maxFilteredFlush {
				if many {
					addrs = append(addrs, netip.AddrFrom4([4]byte{10, 2, 0, byte(i)}))
				}
			}
			if err := w.FlushConntrack(t.Context(), addrs); err != nil {
				t.Fatal(err)
			}
			if n := tracked(node); n["10.1.0.1"] != 0 || n["10.1.0.2"] != 1 {
				t.Errorf("tracked after: %v", n)
			}
		})
	}
}

func tracked(node *netnstest.NS) map[string]int {
	n := map[string]int{}
	for l := range strings.Lines(node.Run("cat", "/proc/net/nf_conntrack")) {
		for _, a := range []string{"10.1.0.1", "10.1.0.2"} {
			if strings.Contains(l, "="+a+" ") {
				n[a]++
			}
		}
	}
	return n
}
