package v1alpha1

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOffsets(t *testing.T) {
	for _, tt := range []struct {
		block, want string
		addresses   []string
	}{
		{"172.25.0.128/26", "", nil},
		{"172.25.0.128/26", "2", []string{"172.25.0.130"}},
		{"172.25.0.128/26", "0-2,5,63", []string{"172.25.0.191", "172.25.0.129", "172.25.0.128", "172.25.0.130", "172.25.0.133", "172.25.0.192"}},
		{"172.25.255.255/32", "0", []string{"172.25.255.255"}},
		{"fd00:25::40/122", "1-2,16", []string{"fd00:25::41", "fd00:25::42", "fd00:25::50"}},
	} {
		block := netip.MustParsePrefix(tt.block)
		var in []netip.Addr
		for _, a := range tt.addresses {
			in = append(in, netip.MustParseAddr(a))
		}
		got := OffsetsOf(block, in)
		if got.String() != tt.want {
			t.Errorf("%v in %s: %q, want %q", in, block, got, tt.want)
		}
		back, err := ParseOffsets(tt.want, 1<<(block.Addr().BitLen()-block.Bits()))
		if err != nil || !cmp.Equal(back, got) {
			t.Errorf("%q is read as %v (%v), want %v", tt.want, back, err, got)
		}
		in = slices.DeleteFunc(in, func(a netip.Addr) bool { return !block.Contains(a) })
		slices.SortFunc(in, netip.Addr.Compare)
		if out := back.Addresses(block); len(out) != back.Len() || !slices.Equal(out, in) {
			t.Errorf("%q in %s are %v, want %v", tt.want, block, out, in)
		}
	}
	for _, s := range []string{"-", "1-", "a", "5,4", "1-3,3", "3-1", "64", "0-64", "0-4294967295", "-1", "1,", " 1"} {
		if o, err := ParseOffsets(s, 64); err == nil {
			t.Errorf("%q is read as %v, want an error", s, o)
		}
	}
}

func TestBlockDigest(t *testing.T) {
	seen := map[uint64]netip.Prefix{}
	for a, n := netip.MustParseAddr("172.25.0.0"), 0; n < 1<<14; n++ {
		for _, bits := range []int{26, 32} {
			p := netip.PrefixFrom(a, bits).Masked()
			d := BlockDigest(p)
			if other, ok := seen[d]; ok && other != p {
				t.Fatalf("%s and %s have the same digest", p, other)
			}
			seen[d] = p
		}
		a = a.Next()
	}
}
