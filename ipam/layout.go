package ipam

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sort"
)

const (
	// maxHostBits bounds the size of a block, so that offsets in it are small numbers.
	maxHostBits = 16
	// maxIndexBits bounds the blocks of a pool that are claimed to the first 2^62, so
	// that their indices fit a uint64 (an IPv6 /48 has 2^74 blocks of /122). Blocks
	// behind them, made by hand, are as good as any.
	maxIndexBits = 62
)

// span is a range of numbers, both ends included.
type span struct{ lo, hi uint64 }

// mergeSpans sorts spans and joins those that overlap or touch.
func mergeSpans(in []span) []span {
	slices.SortFunc(in, func(a, b span) int {
		switch {
		case a.lo < b.lo:
			return -1
		case a.lo > b.lo:
			return 1
		}
		return 0
	})
	var out []span
	for _, s := range in {
		if n := len(out); n > 0 && (out[n-1].hi >= s.lo || out[n-1].hi+1 == s.lo) {
			out[n-1].hi = max(out[n-1].hi, s.hi)
			continue
		}
		out = append(out, s)
	}
	return out
}

// gaps returns the numbers of 0 to last that none of the merged spans has.
func gaps(merged []span, last uint64) []span {
	var out []span
	next := uint64(0)
	for _, s := range merged {
		if s.lo > next {
			out = append(out, span{next, s.lo - 1})
		}
		next = s.hi + 1
	}
	if next <= last {
		out = append(out, span{next, last})
	}
	return out
}

// find returns the merged span that holds v.
func find(merged []span, v uint64) (span, bool) {
	i := sort.Search(len(merged), func(i int) bool { return merged[i].hi >= v })
	if i < len(merged) && merged[i].lo <= v {
		return merged[i], true
	}
	return span{}, false
}

// total returns how many numbers the merged spans have.
func total(merged []span) uint64 {
	n := uint64(0)
	for _, s := range merged {
		n += s.hi - s.lo + 1
	}
	return n
}

// layout is the arithmetic of a pool: which blocks it has, without those that
// are reserved as a whole, and which addresses of a block are reserved. Nothing
// in it takes time or memory by the size of the pool or of a block, only by the
// number of reserved ranges.
type layout struct {
	pool     netip.Prefix
	blockLen int
	usable   []span         // indices of blocks with an address that is not reserved
	starts   []uint64       // how many usable blocks come before each usable span
	count    uint64         // usable blocks
	ranges   []netip.Prefix // the reserved ranges that overlap the pool
}

func newLayout(p Pool) (*layout, error) {
	if !p.CIDR.IsValid() || p.CIDR != p.CIDR.Masked() || p.CIDR.Addr().Is4In6() {
		return nil, fmt.Errorf("pool %s: %s is not a network", p.Name, p.CIDR)
	}
	if err := checkBlockLen(p.CIDR, p.BlockLen); err != nil {
		return nil, fmt.Errorf("pool %s: %w", p.Name, err)
	}
	l := &layout{pool: p.CIDR, blockLen: p.BlockLen}
	last := uint64(1)<<min(p.BlockLen-p.CIDR.Bits(), maxIndexBits) - 1

	var whole []span               // indices of blocks that are reserved as a whole
	partial := map[uint64][]span{} // by index, reserved offsets in other blocks
	for _, r := range p.Reserved {
		if r = r.Masked(); !r.IsValid() || !r.Overlaps(p.CIDR) {
			continue
		}
		l.ranges = append(l.ranges, r)
		switch {
		case r.Bits() <= p.CIDR.Bits():
			whole = append(whole, span{0, last})
		case r.Bits() <= p.BlockLen:
			lo := l.index(r.Addr())
			if lo > last {
				continue
			}
			hi := last
			if n := p.BlockLen - r.Bits(); n < maxIndexBits {
				hi = min(last, lo+(1<<n-1))
			}
			whole = append(whole, span{lo, hi})
		default:
			if i := l.index(r.Addr()); i <= last {
				partial[i] = append(partial[i], offsetsOf(r, p.BlockLen))
			}
		}
	}
	for i, s := range partial {
		if total(mergeSpans(s)) == l.size() {
			whole = append(whole, span{i, i})
		}
	}
	l.usable = gaps(mergeSpans(whole), last)
	for _, s := range l.usable {
		l.starts = append(l.starts, l.count)
		l.count += s.hi - s.lo + 1
	}
	return l, nil
}

func checkBlockLen(pool netip.Prefix, blockLen int) error {
	bits := pool.Addr().BitLen()
	if blockLen < pool.Bits() || blockLen > bits || bits-blockLen > maxHostBits {
		return fmt.Errorf("blocks of /%d can't be cut from %s: give a length of %d to %d",
			blockLen, pool, max(pool.Bits(), bits-maxHostBits), bits)
	}
	return nil
}

// size returns how many addresses a block has.
func (l *layout) size() uint64 { return 1 << (l.pool.Addr().BitLen() - l.blockLen) }

// block returns the i-th usable block, for i below l.count.
func (l *layout) block(i uint64) netip.Prefix {
	n := sort.Search(len(l.starts), func(n int) bool { return l.starts[n] > i }) - 1
	index := l.usable[n].lo + (i - l.starts[n])
	hi, lo := words(l.pool.Addr())
	host := l.pool.Addr().BitLen() - l.blockLen
	// The index is shifted in above the host bits; the pool's own bits are zero there.
	lo |= index << host
	hi |= index >> (64 - host) // 0 when host is 0: Go shifts by 64 to 0
	return netip.PrefixFrom(fromWords(hi, lo, l.pool.Addr().Is4()), l.blockLen)
}

// reserved returns the reserved offsets of a block that the pool holds, merged.
func (l *layout) reserved(b netip.Prefix) []span {
	all := []span{{0, uint64(1)<<(b.Addr().BitLen()-b.Bits()) - 1}}
	if !within(l.pool, b) || b.Bits() != l.blockLen {
		return all // not cut from this pool: nothing of it is given out
	}
	var out []span
	for _, r := range l.ranges {
		switch {
		case within(r, b):
			return all
		case within(b, r):
			out = append(out, offsetsOf(r, l.blockLen))
		}
	}
	return mergeSpans(out)
}

// offsetsOf returns the offsets that a range has in the block that holds it.
func offsetsOf(r netip.Prefix, blockLen int) span {
	lo := offsetIn(r.Addr(), blockLen)
	return span{lo, lo + 1<<(r.Addr().BitLen()-r.Bits()) - 1}
}

// index returns the index of the block that holds a, an address of the pool;
// what is above maxIndexBits is cut to the highest number.
func (l *layout) index(a netip.Addr) uint64 {
	ahi, alo := words(a)
	phi, plo := words(l.pool.Addr())
	hi, lo := ahi^phi, alo^plo // the bits below the pool's prefix
	host := a.BitLen() - l.blockLen
	if hi>>host != 0 {
		return ^uint64(0)
	}
	return lo>>host | hi<<(64-host)
}

// offsetIn returns the offset of a in its block.
func offsetIn(a netip.Addr, blockLen int) uint64 {
	_, lo := words(a)
	return lo & (1<<(a.BitLen()-blockLen) - 1)
}

// addrAt returns the address at an offset of a block.
func addrAt(block netip.Prefix, offset uint64) netip.Addr {
	hi, lo := words(block.Addr())
	return fromWords(hi, lo|offset, block.Addr().Is4())
}

// within tells whether all of inner is in outer.
func within(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// words returns an address as a number of 128 bits (32 for IPv4).
func words(a netip.Addr) (hi, lo uint64) {
	if a.Is4() {
		b := a.As4()
		return 0, uint64(binary.BigEndian.Uint32(b[:]))
	}
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
}

func fromWords(hi, lo uint64, is4 bool) netip.Addr {
	if is4 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(lo))
		return netip.AddrFrom4(b)
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], hi)
	binary.BigEndian.PutUint64(b[8:], lo)
	return netip.AddrFrom16(b)
}
