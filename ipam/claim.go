package ipam

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
)

const (
	// probes is how many blocks a claim tries in a row before it lists the pool.
	probes = 4
	// choices is from how many free blocks a claim picks one after it has listed the
	// pool, so that nodes that see the same list don't all go for the same block.
	choices = 16
)

// Claim claims a block of pool for node, which has the blocks that known tells
// (nil for none) already.
//
// It tries a few blocks from a start that the node's name gives, so that nodes
// rarely meet; where they do, it lists the pool and takes one of the free
// blocks. A block that the list shows as the node's own and that is not known,
// left by a claim whose answer was lost, is returned as if it were new.
//
// It returns an *ExhaustedError if the list shows no free block. After any other
// error it is open whether the node has one more block: ListNode tells.
func Claim(ctx context.Context, store BlockStore, pool Pool, node string, known func(netip.Prefix) bool) (Block, error) {
	l, err := newLayout(pool)
	if err != nil {
		return Block{}, err
	}
	if known == nil {
		known = func(netip.Prefix) bool { return false }
	}
	c := &claimer{store: store, pool: pool.Name, node: node, layout: l, known: known}
	return c.claim(ctx)
}

type claimer struct {
	store  BlockStore
	pool   string
	node   string
	layout *layout
	known  func(netip.Prefix) bool
}

func (c *claimer) claim(ctx context.Context) (Block, error) {
	free := c.probe()
	for round := uint64(1); ; round++ {
		for _, cidr := range free {
			b := Block{CIDR: cidr, Pool: c.pool, Node: c.node}
			switch err := c.store.Create(ctx, b); {
			case err == nil:
				return b, nil
			case !errors.Is(err, ErrBlockExists):
				return Block{}, fmt.Errorf("claim block %s of pool %s: %w", cidr, c.pool, err)
			}
		}
		listed, err := c.store.List(ctx, c.pool)
		if err != nil {
			return Block{}, fmt.Errorf("list the blocks of pool %s: %w", c.pool, err)
		}
		for _, b := range listed {
			own := b.Node == c.node && !c.known(b.CIDR)
			if own && b.CIDR.Bits() == c.layout.blockLen && within(c.layout.pool, b.CIDR) {
				return b, nil
			}
		}
		if free = c.choose(listed, round); len(free) == 0 {
			return Block{}, c.exhausted()
		}
	}
}

func (c *claimer) exhausted() error {
	reason := fmt.Sprintf("nodes have claimed all %d blocks of %s: add a pool, or free blocks by deleting pods",
		c.layout.count, c.layout.pool)
	if c.layout.count == 0 {
		reason = fmt.Sprintf("all of %s is reserved: add a pool", c.layout.pool)
	}
	return &ExhaustedError{Pools: []string{c.pool}, Reason: reason}
}

// probe returns the first blocks of the node's walk that it doesn't have.
func (c *claimer) probe() []netip.Prefix {
	return c.walk(probes, c.known)
}

// choose returns a few of the blocks that are free by the list, in an order that
// differs from node to node and from round to round.
func (c *claimer) choose(listed []Block, round uint64) []netip.Prefix {
	taken := make(map[netip.Prefix]bool, len(listed))
	var larger []netip.Prefix
	for _, b := range listed {
		// Blocks of another length are left from a pool of the same name that was cut
		// differently; what overlaps them is not free.
		switch {
		case b.CIDR.Bits() < c.layout.blockLen:
			larger = append(larger, b.CIDR)
		default:
			p, err := b.CIDR.Addr().Prefix(c.layout.blockLen)
			if err == nil {
				taken[p] = true
			}
		}
	}
	free := c.walk(choices, func(p netip.Prefix) bool {
		if taken[p] || c.known(p) {
			return true
		}
		for _, b := range larger {
			if within(b, p) {
				return true
			}
		}
		return false
	})
	for i := len(free) - 1; i > 0; i-- {
		j := hash(c.node, c.pool, round, uint64(i)) % uint64(i+1)
		free[i], free[j] = free[j], free[i]
	}
	return free[:min(len(free), probes)]
}

// walk goes through the usable blocks of the pool, each once, from a start that
// the node's name gives, and returns the first n that are not to be skipped.
func (c *claimer) walk(n int, skip func(netip.Prefix) bool) []netip.Prefix {
	var out []netip.Prefix
	if c.layout.count == 0 {
		return nil
	}
	start := hash(c.node, c.pool) % c.layout.count
	for i := uint64(0); i < c.layout.count && len(out) < n; i++ {
		at := start + i
		if at >= c.layout.count {
			at -= c.layout.count
		}
		if p := c.layout.block(at); !skip(p) {
			out = append(out, p)
		}
	}
	return out
}

// hash is the same on every machine and in every version: where a node's walk
// starts must not move.
func hash(node, pool string, more ...uint64) uint64 {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%s\x00%s\x00%x", node, pool, more)
	// FNV leaves the high bits of short inputs alike: spread them (the finalizer of
	// MurmurHash3).
	x := h.Sum64()
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
