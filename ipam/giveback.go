package ipam

import (
	"context"
	"errors"
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
			pause = min(pause, n.deleteRetry(b))
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
			n.giveUp(b)
			pause = min(pause, b.deleteAt.Sub(now))
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

// giveUp takes an empty block out of Blocks(), to be deleted in the store soon.
// n.mu is held.
func (n *Node) giveUp(b *block) {
	grace := giveBackGrace
	if n.claimed(b) {
		grace = claimGrace
	}
	b.state, b.deleteAt = blockReturning, n.o.Now().Add(grace)
	n.o.Log.Info("giving back a block that is empty", "block", b.CIDR, "pool", b.Pool)
	n.signal(true)
}

// deleteRetry is how soon a Delete that failed, or had to wait, is tried again.
func (n *Node) deleteRetry(b *block) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case b.state == blockReturning && b.deleteAt.After(n.o.Now()):
		return b.deleteAt.Sub(n.o.Now())
	case n.claims > 0 && n.claimed(b):
		return claimGrace
	}
	return giveBackRetry
}

// giveBackAfter is how long a block must be empty before it is given back.
func (n *Node) giveBackAfter(b *block) time.Duration {
	if n.claimed(b) {
		return 0 // another node may wait for it
	}
	if p := n.pools[b.Pool]; p != nil && p.GiveBackAfter > 0 {
		return p.GiveBackAfter
	}
	return n.o.GiveBackAfter
}

// spare tells whether the node can do without a block, now: it is empty, and if
// its pool gives out addresses then other blocks of the pool have plenty. The last
// block of such a pool is therefore never spare.
func (n *Node) spare(b *block) bool {
	if n.o.GiveBackAfter < 0 || b.used > 0 || b.pins > 0 || !b.confirmed || !n.poolsSet {
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
		if errors.Is(err, ErrUntouched) {
			b.state, b.deleteAt = blockReturning, n.o.Now().Add(giveBackRetry)
		}
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
