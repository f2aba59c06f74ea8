package plan

import (
	"fmt"
	"math"
	"net/netip"
	"strings"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// Usage is how full a pool is.
type Usage struct {
	Blocks    int64  // claimed by nodes
	Capacity  int64  // blocks in all but those reserved as a whole, at most math.MaxInt64
	Free      int64  // blocks that nobody has claimed
	Addresses int64  // in all but the reserved ones, at most math.MaxInt64
	Allocated int64  // addresses that pods hold, as nodes last reported
	Summary   string // claimed blocks of all blocks, such as 3/1024
	Left      string // what is left of a pool that gives out no new addresses; else empty
}

// Usages counts how full each pool is, by name. A pool whose range can't be
// read has no capacity.
func Usages(pools []v1alpha1.IPPool, blocks []v1alpha1.IPBlock, networks []v1alpha1.NodeNetwork) map[string]Usage {
	parsed := make(map[string]*pool, len(pools))
	usages := make(map[string]Usage, len(pools))
	for i := range pools {
		usages[pools[i].Name] = Usage{Summary: "0/0"}
		if pl, err := parsePool(&pools[i]); err == nil {
			parsed[pools[i].Name] = pl
		}
	}
	claimed := make(map[string]int64, len(pools))
	for i := range blocks {
		if pl := parsed[blocks[i].Spec.Pool]; pl != nil && pl.holds(&blocks[i]) {
			claimed[blocks[i].Spec.Pool]++
		}
	}
	allocated := make(map[string]int64, len(pools))
	for i := range networks {
		for _, b := range networks[i].Status.Blocks {
			allocated[b.Pool] += int64(b.Allocated)
		}
	}
	for name, pl := range parsed {
		capacity, shown := pl.capacity()
		u := Usage{
			Blocks:    claimed[name],
			Capacity:  capacity,
			Free:      max(0, capacity-claimed[name]),
			Addresses: pl.addresses(),
			Allocated: allocated[name],
			Summary:   fmt.Sprintf("%d/%s", claimed[name], shown),
		}
		if pl.obj.Closing() {
			u.Left = left(u)
		}
		usages[name] = u
	}
	return usages
}

// capacity returns how many blocks nodes can claim, and the same as a person
// wants to read it: a power of two where the number is too long.
func (pl *pool) capacity() (int64, string) {
	const exact = 40 // bits up to which the number itself is shown
	bits := pl.blockSize - pl.cidr.Bits()
	if bits >= 63 {
		return math.MaxInt64, fmt.Sprintf("2^%d", bits)
	}
	n := int64(1) << bits
	for i, r := range pl.reserved {
		if r.Bits() <= pl.blockSize && !within(r, i, pl.reserved) {
			n -= int64(1) << (pl.blockSize - r.Bits())
		}
	}
	if bits > exact {
		return n, fmt.Sprintf("2^%d", bits)
	}
	return n, fmt.Sprint(n)
}

// left says what is left of a pool that gives out no new addresses.
func left(u Usage) string {
	if u.Blocks == 0 && u.Allocated == 0 {
		return "none"
	}
	return fmt.Sprintf("%s, %s", count(u.Blocks, "block"), count(u.Allocated, "address"))
}

// count says how many there are of something.
func count(n int64, one string) string {
	switch {
	case n == 1:
		return "1 " + one
	case strings.HasSuffix(one, "s"):
		one += "e"
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// addresses returns how many addresses the pool can give out.
func (pl *pool) addresses() int64 {
	bits := pl.cidr.Addr().BitLen() - pl.cidr.Bits()
	if bits >= 63 {
		return math.MaxInt64
	}
	n := int64(1) << bits
	for i, r := range pl.reserved {
		if !within(r, i, pl.reserved) {
			n -= int64(1) << (r.Addr().BitLen() - r.Bits())
		}
	}
	return n
}

// within tells whether the i-th prefix, r, lies inside another of the list, or
// is the repetition of an earlier one.
func within(r netip.Prefix, i int, list []netip.Prefix) bool {
	for j, o := range list {
		if j != i && o.Contains(r.Addr()) && (o.Bits() < r.Bits() || (o.Bits() == r.Bits() && j < i)) {
			return true
		}
	}
	return false
}
