package ipam

import (
	"net/netip"
	"slices"
	"time"
)

// blockState says what a block of this node is good for.
type blockState int

const (
	// blockHeld gives out addresses, if its pool lets it, and is in Blocks().
	blockHeld blockState = iota
	// blockReturning is empty, no more in Blocks(), and deleted in the store soon.
	blockReturning
	// blockDeleting is being deleted in the store, or may be: the store didn't say. It
	// can't be taken back.
	blockDeleting
	// blockLost turned out to be another node's. Nothing of it is given out.
	blockLost
)

// block is a block of this node and which of its addresses are free. The ones in
// use are those that inUse tells; the free ones are
//
//	never used:  at or after cursor, neither in use nor released
//	released:    in freed, longest-free first
//
// less the reserved ones.
type block struct {
	Block
	state     blockState
	confirmed bool // the store says that the block is this node's
	reserved  []span
	size      uint64
	capacity  int // addresses that are not reserved
	used      int // addresses in use
	usedFree  int // of them, those that are not reserved
	cursor    uint64
	pins      int // requests under way that need the block
	freed     []released
	// emptySince is when the last address was released, or the block came; it means
	// nothing while used is not 0.
	emptySince time.Time
	// deleteAt is when a returning block may be deleted in the store.
	deleteAt time.Time
}

// setReserved says which offsets are never given out, merged, and which addresses
// are in use.
func (b *block) setReserved(spans []span, used []netip.Addr) {
	b.reserved = spans
	b.capacity = int(b.size - total(spans))
	b.cursor = 0 // what was reserved may be free now
	b.used, b.usedFree = len(used), 0
	for _, a := range used {
		if !b.isReserved(a) {
			b.usedFree++
		}
	}
}

func (b *block) isReserved(a netip.Addr) bool {
	_, ok := find(b.reserved, offsetIn(a, b.CIDR.Bits()))
	return ok
}

// free returns how many addresses can be given out.
func (b *block) free() int { return b.capacity - b.usedFree }

// next returns the address that should be given out next: one that was never
// used if there is one, else the longest-free.
func (b *block) next(isKnown func(netip.Addr) bool) (released, bool) {
	for b.cursor < b.size {
		if s, ok := find(b.reserved, b.cursor); ok {
			b.cursor = s.hi + 1
			continue
		}
		a := addrAt(b.CIDR, b.cursor)
		if !isKnown(a) {
			return released{addr: a}, true
		}
		b.cursor++
	}
	for _, r := range b.freed {
		if !b.isReserved(r.addr) {
			return r, true
		}
	}
	return released{}, false
}

// take notes that an address is in use now.
func (b *block) take(a netip.Addr) {
	b.used++
	if !b.isReserved(a) {
		b.usedFree++
	}
	for i, r := range b.freed {
		if r.addr == a {
			if i == 0 {
				b.freed = b.freed[1:] // the usual case, at no cost
			} else {
				b.freed = slices.Delete(b.freed, i, i+1)
			}
			return
		}
	}
}

// put notes that an address is free again.
func (b *block) put(r released, now time.Time) {
	b.used--
	if !b.isReserved(r.addr) {
		b.usedFree--
	}
	b.freed = append(b.freed, r)
	if b.used == 0 {
		b.emptySince = now
	}
}
