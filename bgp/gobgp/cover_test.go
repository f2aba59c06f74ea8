package gobgp

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func addrsOf(words ...string) []netip.Addr {
	out := make([]netip.Addr, len(words))
	for i, w := range words {
		out[i] = netip.MustParseAddr(w)
	}
	return out
}

func TestCover(t *testing.T) {
	for _, tt := range []struct {
		name            string
		addrs, everyone []netip.Addr
		want            string
	}{
		{"nobody", nil, addrsOf("10.0.0.1"), "[]"},
		{"everyone", addrsOf("10.0.0.1", "10.0.0.2"), addrsOf("10.0.0.1", "10.0.0.2"), "[0.0.0.0/0]"},
		{"everyone of one family", addrsOf("10.0.0.1"), addrsOf("10.0.0.1", "fd00::1"), "[0.0.0.0/0]"},
		{"both families", addrsOf("10.0.0.1", "fd00::1"), addrsOf("10.0.0.1", "fd00::1"), "[0.0.0.0/0 ::/0]"},
		{"all but one", addrsOf("10.0.0.1", "10.0.0.3"), addrsOf("10.0.0.1", "10.0.0.2", "10.0.0.3"), "[10.0.0.0/31 10.0.0.3/32]"},
		{"one of all", addrsOf("10.0.0.2"), addrsOf("10.0.0.1", "10.0.0.2", "10.0.0.3"), "[10.0.0.2/32]"},
		{"the last ones", addrsOf("255.255.255.255"), addrsOf("255.255.255.254"), "[255.255.255.255/32]"},
		{"one that is in both", addrsOf("10.0.0.2"), addrsOf("10.0.0.2", "10.0.0.1"), "[10.0.0.2/31]"},
		{"zones do not count", addrsOf("fe80::1%a"), addrsOf("fe80::1%b", "fe80::2%a"), "[fe80::/127]"},
	} {
		if got := fmt.Sprint(cover(tt.addrs, tt.everyone)); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

// What is covered are those that are to be, and of all others nobody.
func TestCoverTellsApart(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var everyone, in []netip.Addr
		for range r.IntN(40) {
			a := netip.AddrFrom4([4]byte{10, 0, byte(r.IntN(2)), byte(r.IntN(32))})
			if r.IntN(4) == 0 {
				a = netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(r.IntN(32))})
			}
			if slices.Contains(everyone, a) {
				continue
			}
			everyone = append(everyone, a)
			if r.IntN(3) > 0 {
				in = append(in, a)
			}
		}
		prefixes := cover(in, everyone)
		for _, a := range everyone {
			got := slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
			if want := slices.Contains(in, a); got != want {
				t.Fatalf("%v of %v is covered: %v, in %v", a, everyone, got, prefixes)
			}
		}
		if len(prefixes) > len(in) {
			t.Fatalf("%v takes more prefixes than it has addresses: %v", in, prefixes)
		}
	}
}
