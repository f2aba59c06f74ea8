package gobgp

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/osrg/gobgp/v4/api"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/bgptest/sender"
)

// TestExpressionsSeePathsWithoutUs compares what an expression says of a path
// with what its translation says of the path with our number before it.
func TestExpressionsSeePathsWithoutUs(t *testing.T) {
	paths := []string{"", "65001", "64512", "65001 65100", "65001 64512", "165001 65100", "65001 65001 65001", "6500165100", "65001 {65002,65003}"}
	for _, expression := range []string{
		"^$", "^65001$", "^65001", "65001$", "_65001_", "^65001_", "_65100$", "_64512_", "64512", "4512 6", ".*", ".+", "^.+$",
		"^(65001|65100)( 65100)?$", "(^|_)65001_65100$", "^_65001", "[0-9]+_65100", "^[0-9]+_65100$", "_65001_65100_", "^65001|65003", "(_65001)+$",
		"[{,]65003", "(^65001)_65100", "(^65001)?_65100", "(65001)?_65100$", "(_65001){2,3}$", "(^|x)+65001", "^(65001_)+65001$",
	} {
		plain := regexp.MustCompile(strings.ReplaceAll(expression, "_", bgp.ASPathBoundary))
		translated := regexp.MustCompile(strings.ReplaceAll(behind(64512, verbatim(expression)), "_", bgp.ASPathBoundary))
		for _, path := range paths {
			behindUs := strings.TrimSpace("64512 " + path)
			if want, got := plain.MatchString(path), translated.MatchString(behindUs); got != want {
				t.Errorf("%q matches %q: %v, but behind our number, by %q: %v", expression, path, want, translated, got)
			}
		}
	}
}

func TestMoreThan(t *testing.T) {
	for path, times := range map[string]int{
		"": 0, "64512": 1, "164512 645122": 0, "65001 64512": 1, "64512 64512": 2, "64512 65001 65002 64512 65003": 2,
		"65001 {64512,65003}": 1, "64512 {65003,64512} 64512": 3,
	} {
		for allowed := range 4 {
			if got := regexp.MustCompile(moreThan(allowed, 64512)).MatchString(path); got != (times > allowed) {
				t.Errorf("%q has our number more than %d times: %v", path, allowed, got)
			}
		}
	}
}

// BenchmarkOriginValidation measures what a route of the last of 100 node peers
// costs that is none of its own, and so is looked at by every statement, with two
// blocks of each family for every node; and beside it without origin validation.
func BenchmarkOriginValidation(b *testing.B) {
	const routes = 1000
	for _, validate := range []bool{false, true} {
		b.Run(fmt.Sprintf("validate=%v", validate), func(b *testing.B) {
			sp := start(b, Options{Sink: newSink()})
			c := baseConfig(b)
			c.ValidateOrigin = validate
			c.Blocks = []bgp.Range{rng("172.24.0.0/14", 26), rng("fd01::/64", 122)}
			for i := range 100 {
				p := nodePeer(fmt.Sprintf("127.0.1.%d", i+1), 1)
				p.Owned = []netip.Prefix{
					pfx(fmt.Sprintf("172.25.%d.0/26", i)), pfx(fmt.Sprintf("172.25.%d.64/26", i)),
					pfx(fmt.Sprintf("fd01::%x00/122", i)), pfx(fmt.Sprintf("fd01::%x40/122", i)),
				}
				c.Peers = append(c.Peers, p)
			}
			set(b, sp, c)
			const last = "127.0.1.100"
			r := newPeerAt(b, speakerAddr(c), internal(last))
			r.connect()
			var prefixes []netip.Prefix
			for i := range routes {
				prefixes = append(prefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 26, byte(i / 4), byte(i % 4 * 64)}), 26))
			}
			r.send(sender.Update(sender.Route{NextHop: addr(last), LocalPref: 100}, prefixes...))
			eventually(b, func() string {
				if s := sessionOf(b, sp, "node-"+last); s.Received != routes {
					return fmt.Sprintf("%+v", s)
				}
				return ""
			})
			for b.Loop() {
				err := sp.server.ResetPeer(context.Background(), &api.ResetPeerRequest{
					Address: last, Soft: true, Direction: api.ResetPeerRequest_DIRECTION_IN,
				})
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/routes, "ns/route")
		})
	}
}
