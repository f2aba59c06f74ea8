package v1alpha1

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Offsets are addresses of a block, as ranges of their distances from its first.
type Offsets []OffsetRange

// OffsetRange is a range of offsets, both ends included.
type OffsetRange struct{ First, Last uint32 }

// OffsetsOf returns the offsets of addresses in a block that holds them all, in
// any order. Those that are not in it are left out.
func OffsetsOf(block netip.Prefix, addresses []netip.Addr) Offsets {
	var all []uint32
	for _, a := range addresses {
		if block.Contains(a) {
			all = append(all, offset(block, a))
		}
	}
	slices.Sort(all)
	var out Offsets
	for _, o := range slices.Compact(all) {
		if n := len(out); n > 0 && out[n-1].Last+1 == o {
			out[n-1].Last = o
			continue
		}
		out = append(out, OffsetRange{o, o})
	}
	return out
}

// ParseOffsets reads what String wrote. Ranges must ascend, and the last offset
// must be less than size.
func ParseOffsets(s string, size uint32) (Offsets, error) {
	if s == "" {
		return nil, nil
	}
	var out Offsets
	next := uint64(0)
	for word := range strings.SplitSeq(s, ",") {
		lo, hi, isRange := strings.Cut(word, "-")
		first, err := strconv.ParseUint(lo, 10, 32)
		last := first
		if err == nil && isRange {
			last, err = strconv.ParseUint(hi, 10, 32)
		}
		if err != nil || first < next || last < first || last >= uint64(size) {
			return nil, fmt.Errorf("%q is no list of ascending offsets below %d, such as 2-5,9", s, size)
		}
		out, next = append(out, OffsetRange{uint32(first), uint32(last)}), last+1
	}
	return out, nil
}

// String returns the offsets as 2-5,9.
func (o Offsets) String() string {
	words := make([]string, len(o))
	for i, r := range o {
		words[i] = strconv.FormatUint(uint64(r.First), 10)
		if r.Last > r.First {
			words[i] += "-" + strconv.FormatUint(uint64(r.Last), 10)
		}
	}
	return strings.Join(words, ",")
}

// Len returns how many offsets there are.
func (o Offsets) Len() int {
	n := 0
	for _, r := range o {
		n += int(r.Last-r.First) + 1
	}
	return n
}

// Addresses returns the addresses at the offsets in a block.
func (o Offsets) Addresses(block netip.Prefix) []netip.Addr {
	out := make([]netip.Addr, 0, o.Len())
	for _, r := range o {
		for at := uint64(r.First); at <= uint64(r.Last); at++ {
			out = append(out, at32(block.Addr(), uint32(at)))
		}
	}
	return out
}

// offset and at32 work on the last 32 bits of addresses: no block has more
// addresses than that.
func offset(block netip.Prefix, a netip.Addr) uint32 { return low32(a) - low32(block.Addr()) }

func low32(a netip.Addr) uint32 {
	b := a.AsSlice()
	b = b[len(b)-4:]
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func at32(first netip.Addr, offset uint32) netip.Addr {
	b := first.AsSlice()
	at := low32(first) + offset
	n := len(b)
	b[n-4], b[n-3], b[n-2], b[n-1] = byte(at>>24), byte(at>>16), byte(at>>8), byte(at)
	a, _ := netip.AddrFromSlice(b)
	return a
}

// BlockDigest is the part of one block in LearnedBlocks.Digest, which is that of
// all blocks, exclusively ored. So a digest follows from the one before when a
// block comes or goes, and two digests tell which block one side lacks.
func BlockDigest(block netip.Prefix) uint64 {
	h := fnv.New64a()
	b, _ := block.MarshalBinary() // never fails
	_, _ = h.Write(b)
	// FNV leaves the high bits of short inputs alike: spread them (the finalizer of
	// MurmurHash3).
	x := h.Sum64()
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// NewLearnedBlocks returns what a node reports of so many blocks with a digest.
func NewLearnedBlocks(count int, digest uint64) LearnedBlocks {
	return LearnedBlocks{Count: int32(count), Digest: fmt.Sprintf("%016x", digest)}
}
