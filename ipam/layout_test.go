package ipam

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func prefixes(in ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range in {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestLayoutCountsBlocks(t *testing.T) {
	for _, c := range []struct {
		name     string
		cidr     string
		len      int
		reserved []netip.Prefix
		count    uint64
		first    string
		last     string
	}{
		{"the reference pool", "172.25.0.0/16", 26, nil, 1024, "172.25.0.0/26", "172.25.255.192/26"},
		{"one block", "10.0.0.0/26", 26, nil, 1, "10.0.0.0/26", "10.0.0.0/26"},
		{"blocks of one address", "10.0.0.0/30", 32, nil, 4, "10.0.0.0/32", "10.0.0.3/32"},
		{"IPv6", "fd00::/112", 122, nil, 1024, "fd00::/122", "fd00::ffc0/122"},
		{"an index beyond 64 bits is cut", "fd00:25::/48", 122, nil, 1 << 62, "fd00:25::/122", "fd00:25:0:f:ffff:ffff:ffff:ffc0/122"},
		{"IPv6 blocks of one address", "fd00::/126", 128, nil, 4, "fd00::/128", "fd00::3/128"},
		{"the whole internet", "0.0.0.0/0", 26, nil, 1 << 26, "0.0.0.0/26", "255.255.255.192/26"},
		{"first blocks reserved", "10.0.0.0/24", 26, prefixes("10.0.0.0/25"), 2, "10.0.0.128/26", "10.0.0.192/26"},
		{"a block reserved in halves", "10.0.0.0/24", 26, prefixes("10.0.0.0/27", "10.0.0.32/27"), 3, "10.0.0.64/26", "10.0.0.192/26"},
		{"a block reserved in part stays", "10.0.0.0/24", 26, prefixes("10.0.0.0/27", "10.0.0.0/28"), 4, "10.0.0.0/26", "10.0.0.192/26"},
		{"reserved ranges overlap", "10.0.0.0/24", 26, prefixes("10.0.0.128/25", "10.0.0.128/26", "10.0.0.130/32"), 2, "10.0.0.0/26", "10.0.0.64/26"},
		{"all reserved", "10.0.0.0/24", 26, prefixes("10.0.0.0/8"), 0, "", ""},
		{"a reserved range outside", "10.0.0.0/24", 26, prefixes("10.0.1.0/24", "fd00::/8"), 4, "10.0.0.0/26", "10.0.0.192/26"},
		{"half of a huge pool reserved", "fd00::/64", 122, prefixes("fd00::/65"), 1 << 57, "fd00:0:0:0:8000::/122", "fd00::ffff:ffff:ffff:ffc0/122"},
		{"all that is used of a huge pool reserved", "fd00:25::/48", 122, prefixes("fd00:25::/60"), 0, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := newLayout(Pool{Name: "p", CIDR: netip.MustParsePrefix(c.cidr), BlockLen: c.len, Reserved: c.reserved})
			if err != nil {
				t.Fatal(err)
			}
			if l.count != c.count {
				t.Fatalf("%d usable blocks, want %d", l.count, c.count)
			}
			if c.count == 0 {
				return
			}
			if got := l.block(0); got != netip.MustParsePrefix(c.first) {
				t.Errorf("first block %s, want %s", got, c.first)
			}
			if got := l.block(c.count - 1); got != netip.MustParsePrefix(c.last) {
				t.Errorf("last block %s, want %s", got, c.last)
			}
		})
	}
}

func TestLayoutRefusesNonsense(t *testing.T) {
	for _, p := range []Pool{
		{},
		{CIDR: netip.MustParsePrefix("10.0.0.1/24"), BlockLen: 26},
		{CIDR: netip.MustParsePrefix("10.0.0.0/24"), BlockLen: 23},
		{CIDR: netip.MustParsePrefix("10.0.0.0/24"), BlockLen: 33},
		{CIDR: netip.MustParsePrefix("10.0.0.0/8"), BlockLen: 8},
		{CIDR: netip.MustParsePrefix("::ffff:10.0.0.0/120"), BlockLen: 122},
		{CIDR: netip.MustParsePrefix("fd00::/48"), BlockLen: 64},
	} {
		if _, err := newLayout(p); err == nil {
			t.Errorf("%v in blocks of /%d is taken", p.CIDR, p.BlockLen)
		}
	}
}

// The arithmetic on ranges gives what counting each address gives.
func FuzzLayout(f *testing.F) {
	f.Add(uint64(1), uint8(8), uint8(4), true)
	f.Add(uint64(2), uint8(10), uint8(0), false)
	f.Add(uint64(3), uint8(5), uint8(5), false)
	f.Fuzz(func(t *testing.T, seed uint64, poolBits, hostBits uint8, is4 bool) {
		poolBits %= 11
		hostBits %= poolBits + 1
		base := netip.MustParseAddr("fd00:0:0:7fff:ffff:ffff:ffff:f800")
		if is4 {
			base = netip.MustParseAddr("10.255.248.0")
		}
		cidr, _ := base.Prefix(base.BitLen() - int(poolBits))
		rnd := rand.New(rand.NewPCG(seed, 0))
		p := Pool{Name: "p", CIDR: cidr, BlockLen: base.BitLen() - int(hostBits)}
		for range rnd.IntN(12) {
			r, _ := addrAt(cidr, rnd.Uint64N(1<<poolBits)).Prefix(base.BitLen() - rnd.IntN(int(poolBits)+2))
			p.Reserved = append(p.Reserved, r)
		}
		checkLayout(t, p)
	})
}

func checkLayout(t *testing.T, p Pool) {
	t.Helper()
	l, err := newLayout(p)
	if err != nil {
		t.Fatal(err)
	}
	isReserved := func(a netip.Addr) bool {
		return slices.ContainsFunc(p.Reserved, func(r netip.Prefix) bool { return r.Contains(a) })
	}
	var want []netip.Prefix
	for a := p.CIDR.Addr(); p.CIDR.Contains(a); {
		b, _ := a.Prefix(p.BlockLen)
		free, count := 0, 0
		for ; b.Contains(a); a = a.Next() {
			if count++; !isReserved(a) {
				free++
			}
		}
		if got := int(l.size() - total(l.reserved(b))); got != free {
			t.Fatalf("%s without %v: block %s has %d addresses to give, by counting %d", p.CIDR, p.Reserved, b, got, free)
		}
		if free > 0 {
			want = append(want, b)
		}
	}
	var got []netip.Prefix
	for i := range l.count {
		got = append(got, l.block(i))
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%s/%d without %v: usable blocks %v, by counting %v", p.CIDR, p.BlockLen, p.Reserved, got, want)
	}
	c := &claimer{pool: p.Name, node: "n", layout: l}
	walk := c.walk(int(l.count)+5, func(netip.Prefix) bool { return false })
	slices.SortFunc(walk, comparePrefixes)
	if !slices.Equal(walk, want) {
		t.Fatalf("the walk visits %v, want each of %v once", walk, want)
	}
}

// Where a node's walk starts must not move from version to version.
func TestWalkStartStays(t *testing.T) {
	l, err := newLayout(Pool{Name: "default", CIDR: netip.MustParsePrefix("172.25.0.0/16"), BlockLen: 26})
	if err != nil {
		t.Fatal(err)
	}
	for node, want := range map[string]string{"n1": "172.25.194.192/26", "n2": "172.25.109.0/26", "n3": "172.25.225.128/26"} {
		c := &claimer{pool: "default", node: node, layout: l}
		if got := c.walk(1, func(netip.Prefix) bool { return false })[0]; got.String() != want {
			t.Errorf("node %s starts at %s, want %s", node, got, want)
		}
	}
}

func TestStartsAreSpread(t *testing.T) {
	l, err := newLayout(Pool{Name: "default", CIDR: netip.MustParsePrefix("172.25.0.0/16"), BlockLen: 26})
	if err != nil {
		t.Fatal(err)
	}
	starts := map[netip.Prefix]int{}
	for i := range 200 {
		c := &claimer{pool: "default", node: "worker-" + string(rune('a'+i%26)) + string(rune('a'+i/26)), layout: l}
		starts[c.walk(1, func(netip.Prefix) bool { return false })[0]]++
	}
	// By chance 200 of 1024 would have some 182 distinct starts.
	if len(starts) < 170 {
		t.Errorf("200 nodes have %d distinct starts", len(starts))
	}
}

func BenchmarkNewLayout(b *testing.B) {
	p := Pool{Name: "p", CIDR: netip.MustParsePrefix("10.0.0.0/8"), BlockLen: 26}
	for i := range 64 {
		p.Reserved = append(p.Reserved, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 20))
	}
	for b.Loop() {
		if _, err := newLayout(p); err != nil {
			b.Fatal(err)
		}
	}
}
