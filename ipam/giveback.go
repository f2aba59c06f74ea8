package ipam

import (
	"context"
	"maps"
	"slices"
	"time"
)

// giveBack gives blocks back in two steps. First a block that was empty for long
// leaves Blocks(), so that its route is withdrawn and the checkpoint forgets it;
// after giveBackGrace, if it is still empty and nobody took it back, it is
// deleted in the store. giveBack returns after which time it should be called
// again.
func (n *Node) giveBack(ctx context.Context) time.Duration {
	pause, due := n.takeOut()
	for _, b := range due {
		if !n.delete(ctx, b) {
			pause = min(pause, giveBackRetry)
		}
	}
	return pause
}

// takeOut is the first step. It returns the blocks for the second.
func (n *Node) takeOut() (time.Duration, []*block) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now, pause := n.o.Now(), forever
	var due []*block
	// The last blocks go first: pickOf prefers the first ones.
	blocks := slices.SortedFunc(maps.Values(n.blocks), func(a, b *block) int { return comparePrefixes(b.CIDR, a.CIDR) })
	for _, b := range blocks {
		switch b.state {
		case blockHeld:
			if !n.spare(b) {
				continue
			}
			if left := b.emptySince.Add(n.giveBackAfter(b)).Sub(now); left > 0 {
				pause = min(pause, left)
				continue
			}
			b.state, b.deleteAt = blockReturning, now.Add(giveBackGrace)
			n.o.Log.Info("giving back a block that was empty for long", "block", b.CIDR, "pool", b.Pool)
			n.signal(true)
			pause = min(pause, giveBackGrace)
		case blockReturning:
			if left := b.deleteAt.Sub(now); left > 0 {
				pause = min(pause, left)
				continue
			}
			due = append(due, b)
		case blockDeleting:
			due = append(due, b)
		case blockLost:
		}
	}
	return pause, due
}

// giveBackAfter is how long a block must be empty before it is given back.
func (n *Node) giveBackAfter(b *block) time.Duration {
	if p := n.pools[b.Pool]; p != nil && p.GiveBackAfter > 0 {
		return p.GiveBackAfter
	}
	return n.o.GiveBackAfter
}

// spare tells whether the node can do without a block, now: it is empty, and if
// its pool gives out addresses then other blocks of the pool have plenty. The last
// block of such a pool is therefore never spare.
func (n *Node) spare(b *block) bool {
	if n.o.GiveBackAfter < 0 || b.used > 0 || !b.confirmed || !n.poolsSet {
		return false
	}
	p := n.pools[b.Pool]
	return !p.usable() || n.freeOf(b.Pool)-max(0, b.free()) >= n.plenty(p)
}

// delete is the second step. It tells whether the block is done with.
func (n *Node) delete(ctx context.Context, b *block) bool {
	n.mu.Lock()
	if b.state == blockHeld { // taken back meanwhile, or an address was found in it
		n.mu.Unlock()
		return true
	}
	// A claim or list under way may have seen the block in the store as ours, and
	// would add it again after it is gone. It goes when all is quiet.
	if n.claims > 0 {
		n.mu.Unlock()
		return false
	}
	b.state = blockDeleting
	gone := make(chan struct{})
	n.returning = gone
	n.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, giveBackRetry)
	defer cancel()
	err := n.o.Store.Delete(ctx, b.Block)

	n.mu.Lock()
	defer n.mu.Unlock()
	n.returning = nil
	close(gone)
	if err != nil {
		n.o.Log.Warn("a block could not be given back; trying again", "block", b.CIDR, "err", err, "in", giveBackRetry)
		return false
	}
	if b.used > 0 {
		n.o.Log.Error("an address was found in use in a block that was just given back", "block", b.CIDR)
	}
	n.dropBlock(b)
	n.o.Log.Info("gave back a block", "block", b.CIDR, "pool", b.Pool)
	return true
}

// takeBack makes a block of a pool that is on its way back the node's again, and
// tells whether there was one. n.mu is held.
func (n *Node) takeBack(pool string) bool {
	for _, b := range n.byPool[pool] {
		if b.state == blockReturning && b.free() > 0 {
			b.state, b.emptySince = blockHeld, n.o.Now()
			n.signal(true)
			n.wakeWaiters()
			return true
		}
	}
	return false
}
