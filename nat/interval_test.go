package nat

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func prefixes(in ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range in {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func text(in []interval) string {
	var out []string
	for _, i := range in {
		out = append(out, i.first.String()+"-"+i.last.String())
	}
	return strings.Join(out, " ")
}

func TestIntervals(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []netip.Prefix
		want string
	}{
		{"none", nil, ""},
		{"one", prefixes("10.0.0.0/24"), "10.0.0.0-10.0.0.255"},
		{"host bits", prefixes("10.0.0.77/24"), "10.0.0.0-10.0.0.255"},
		{"adjacent", prefixes("10.0.1.0/24", "10.0.0.0/24"), "10.0.0.0-10.0.1.255"},
		{"apart", prefixes("10.0.2.0/24", "10.0.0.0/24"), "10.0.0.0-10.0.0.255 10.0.2.0-10.0.2.255"},
		{"one in the other", prefixes("10.0.0.128/25", "10.0.0.0/24", "10.0.0.1/32"), "10.0.0.0-10.0.0.255"},
		{"twice", prefixes("10.0.0.1/32", "10.0.0.1/32"), "10.0.0.1-10.0.0.1"},
		{"to the end", prefixes("255.255.255.255/32", "128.0.0.0/1"), "128.0.0.0-255.255.255.255"},
		{"all", prefixes("0.0.0.0/0", "10.0.0.0/8"), "0.0.0.0-255.255.255.255"},
		{"IPv6", prefixes("fd00::/122", "fd00::40/122", "ff00::/8"), "fd00::-fd00::7f ff00::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := intervals(c.in)
			if text(got) != c.want {
				t.Errorf("%s, want %s", text(got), c.want)
			}
			back, err := fromElements(elements(got))
			if err != nil || !slices.Equal(back, got) {
				t.Errorf("as elements and back: %s, %v", text(back), err)
			}
		})
	}
}

// An address is in the intervals if it is in one of the prefixes, and elements
// come back from the kernel in whatever order.
func FuzzIntervals(f *testing.F) {
	f.Add(uint64(1), uint8(5))
	f.Add(uint64(2), uint8(40))
	f.Fuzz(func(t *testing.T, seed uint64, n uint8) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		at := func() netip.Addr { return netip.AddrFrom4([4]byte{255, 255, 255, byte(rnd.IntN(256))}) }
		var in []netip.Prefix
		for range n {
			in = append(in, netip.PrefixFrom(at(), 24+rnd.IntN(9)))
		}
		got := intervals(in)
		for i := range got[:max(0, len(got)-1)] {
			if next := got[i].last.Next(); !next.Less(got[i+1].first) {
				t.Fatalf("%v: intervals meet: %s", in, text(got))
			}
		}
		for i := range 256 {
			a := netip.AddrFrom4([4]byte{255, 255, 255, byte(i)})
			want := slices.ContainsFunc(in, func(p netip.Prefix) bool { return p.Contains(a) })
			has := slices.ContainsFunc(got, func(i interval) bool { return i.first.Compare(a) <= 0 && a.Compare(i.last) <= 0 })
			if want != has {
				t.Fatalf("%v: %s in %s: %v", in, a, text(got), has)
			}
		}
		e := elements(got)
		rnd.Shuffle(len(e), func(i, j int) { e[i], e[j] = e[j], e[i] })
		if back, err := fromElements(e); err != nil || !slices.Equal(back, got) {
			t.Fatalf("%s came back as %s, %v", text(got), text(back), err)
		}
	})
}
