package ipam

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

const (
	// giveBackGrace is how long a block stays the node's in the store after it was
	// taken out of Blocks(): the time in which the agent withdraws its route and
	// writes its checkpoint.
	giveBackGrace = 10 * time.Second
	// giveBackRetry is how soon a Delete that failed, or had to wait, is tried again.
	giveBackRetry = 5 * time.Second

	// lostRetry is how often a node asks whether a block that it lost is free again.
	lostRetry = 30 * time.Second

	storeBackoffMin = 100 * time.Millisecond
	storeBackoffMax = 5 * time.Second
	// To find out that a pool is still exhausted costs a list of it. A pod that waits
	// has one made at most every so often, and claiming ahead not before aheadRetry.
	exhaustedBackoffMin = time.Second
	exhaustedBackoffMax = time.Minute
	aheadRetry          = 10 * time.Minute

	forever = time.Duration(1<<63 - 1)
)

// Run keeps the node supplied until ctx ends: it learns of the blocks that the
// store has for the node, claims the first block of a pool and then one ahead
// whenever the free addresses get low, and gives back blocks that were empty for
// long. It retries what fails, with backoff. It returns nil when ctx ends; a
// node has one Run at a time.
func (n *Node) Run(ctx context.Context) error {
	n.mu.Lock()
	if n.running {
		n.mu.Unlock()
		return errors.New("ipam: Run is running already")
	}
	n.running = true
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		n.running = false
		n.mu.Unlock()
	}()
	backoff := time.Duration(0)
	for ctx.Err() == nil {
		var pause time.Duration
		if err := n.learnIn(ctx); err != nil {
			backoff = grow(backoff, storeBackoffMin, storeBackoffMax)
			pause = backoff
			if ctx.Err() == nil {
				n.o.Log.Warn("the store does not say which blocks this node has; trying again", "err", err, "in", pause)
			}
		} else {
			backoff = 0
			pause = min(n.replenish(ctx), n.giveBack(ctx), n.askForLost())
		}
		// A pause after a failure is not cut short by kicks: they come with every pod.
		kick := n.kick
		if backoff > 0 {
			kick = nil
		}
		_ = wait(ctx, kick, pause)
	}
	return nil
}

// askForLost makes the node ask again for blocks that it lost, or that it leaves
// alone, when it is time, and returns when that is.
func (n *Node) askForLost() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	lost := n.waiting
	for _, b := range n.blocks {
		lost = lost || b.state == blockLost
	}
	now := n.o.Now()
	switch left := n.lostAskedAt.Add(lostRetry).Sub(now); {
	case !lost:
		return forever
	case left > 0:
		return left
	}
	n.lostAskedAt, n.learned = now, false
	return 0
}

// learnIn is learn, bounded.
func (n *Node) learnIn(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, n.o.ClaimTimeout)
	defer cancel()
	return n.learn(ctx)
}

// replenish claims what should be claimed ahead, and returns after which time it
// should be asked again though nothing changed.
func (n *Node) replenish(ctx context.Context) time.Duration {
	for ctx.Err() == nil {
		n.mu.Lock()
		names, pause := n.wanted()
		n.mu.Unlock()
		if len(names) == 0 {
			return pause
		}
		for _, name := range names {
			cctx, cancel := context.WithTimeout(ctx, n.o.ClaimTimeout)
			// What failed is in the pool's state, where wanted sees it.
			_ = n.claim(cctx, name, func() bool {
				still, _ := n.wanted()
				return slices.Contains(still, name)
			})
			cancel()
		}
	}
	return forever
}

// wanted returns the pools of which a block should be claimed now, and after
// which time there may be more though nothing changed. n.mu is held.
func (n *Node) wanted() ([]string, time.Duration) {
	now, pause := n.o.Now(), forever
	lists := n.families(n.unrestricted())
	for _, list := range n.lists {
		lists = append(lists, n.families(list)...)
	}
	var names []string
	for _, list := range lists {
		free := 0
		for _, name := range list {
			p := n.pools[name]
			free += n.freeOf(name)
			if free >= n.lowWater(p) {
				break
			}
			if n.full(p) {
				continue
			}
			next := p.retryAt
			if p.exhausted != nil {
				next = p.exhaustedAt.Add(aheadRetry)
			}
			if now.Before(next) {
				pause = min(pause, next.Sub(now))
			} else if !slices.Contains(names, name) {
				names = append(names, name)
			}
			if p.exhausted == nil {
				break // the next pool is for when this one has no block left
			}
		}
	}
	return names, pause
}

// full tells whether the node has as many blocks of a pool as it may have. n.mu
// is held.
func (n *Node) full(p *pool) bool {
	if p.MaxBlocks <= 0 {
		return false
	}
	held := 0
	for _, b := range n.byPool[p.Name] {
		if b.state == blockHeld {
			held++
		}
	}
	return held >= p.MaxBlocks
}

// unrestricted returns the pools that pods of any namespace use.
func (n *Node) unrestricted() []string {
	var out []string
	for _, name := range n.order {
		if p := n.pools[name]; p != nil && !p.Restricted {
			out = append(out, name)
		}
	}
	return out
}

// claim claims a block of a pool, or waits for the claim that is under way, or
// for anything else that stands in the way. It does nothing if the block is not
// needed (any more), which is asked with n.mu held. Look again after it; the
// only error is that of ctx.
func (n *Node) claim(ctx context.Context, name string, needed func() bool) error {
	n.mu.Lock()
	p := n.pools[name]
	var other <-chan struct{}
	switch {
	case !p.usable() || !needed() || n.takeBack(name) || n.full(p):
		n.mu.Unlock()
		return nil
	case p.flight != nil:
		other = p.flight
	case n.returning != nil:
		other = n.returning
	}
	if other != nil {
		n.mu.Unlock()
		return wait(ctx, other, forever)
	}
	flight := make(chan struct{})
	p.flight = flight
	n.claims++
	n.mu.Unlock()

	b, err := n.claimBlock(ctx, p.Pool, needed)

	n.mu.Lock()
	defer n.mu.Unlock()
	n.claims--
	p.flight = nil
	close(flight)
	n.settle(p, b, err)
	return ctx.Err()
}

// claimBlock returns a new block, or none if the node turned out to have blocks
// that it did not know of, and needs no other.
func (n *Node) claimBlock(ctx context.Context, p Pool, needed func() bool) (Block, error) {
	if err := n.learn(ctx); err != nil {
		return Block{}, err
	}
	n.mu.Lock()
	now := n.pools[p.Name]
	enough := !needed() || now != nil && n.full(now)
	n.mu.Unlock()
	if enough {
		return Block{}, nil
	}
	return Claim(ctx, n.o.Store, p, n.o.Node, func(cidr netip.Prefix) bool { return n.isOurs(cidr) || n.o.Elsewhere(cidr) })
}

// settle notes what became of a claim. n.mu is held.
func (n *Node) settle(p *pool, b Block, err error) {
	var exhausted *ExhaustedError
	switch now := n.o.Now(); {
	case err == nil:
		p.exhausted, p.err, p.backoff, p.retryAt = nil, nil, 0, time.Time{}
		if b.CIDR.IsValid() && n.addBlock(b, true) {
			n.o.Log.Info("claimed a block", "block", b.CIDR, "pool", b.Pool)
			n.signal(true)
			n.wakeWaiters()
		}
	case errors.As(err, &exhausted):
		p.exhausted, p.exhaustedAt, p.err = exhausted, now, nil
		p.backoff = grow(p.backoff, exhaustedBackoffMin, exhaustedBackoffMax)
		p.retryAt = now.Add(p.backoff)
		n.o.Log.Warn("no block could be claimed", "err", err)
	default:
		n.learned = false // the block may be ours, for all we know
		if errors.Is(err, context.Canceled) {
			return // whoever asked has gone; that says nothing of the store
		}
		p.exhausted, p.err = nil, err
		p.backoff = grow(p.backoff, storeBackoffMin, storeBackoffMax)
		p.retryAt = now.Add(p.backoff)
		n.o.Log.Warn("no block could be claimed; trying again", "err", err, "in", p.backoff)
	}
}

// grow doubles a backoff between bounds, and adds up to a tenth so that nodes
// that failed together don't come back together.
func grow(d, low, high time.Duration) time.Duration {
	d = min(max(2*d, low), high)
	return d + rand.N(d/10) // #nosec G404 -- no secret
}

// Confirm asks the store whose the blocks are that SetBlocks told of, unless it has
// said so: of those that are another node's nothing is given out then. Run does so
// too, and until one of them has, such blocks are given out unasked.
func (n *Node) Confirm(ctx context.Context) error { return n.learn(ctx) }

// learn asks the store, if need be, which blocks are this node's. New ones are
// added. Those that the store doesn't have, known from a checkpoint only, are
// claimed again; if another node has one by now it is lost.
func (n *Node) learn(ctx context.Context) error {
	select {
	case n.learning <- struct{}{}:
		defer func() { <-n.learning }()
	case <-ctx.Done():
		return ctx.Err()
	}
	n.mu.Lock()
	if n.learned {
		n.mu.Unlock()
		return nil
	}
	// Before the list, so that a claim which fails meanwhile calls for another list.
	n.learned = true
	var suspects []Block
	for _, b := range n.blocks {
		switch {
		case b.state == blockLost && b.used == 0:
			n.dropBlock(b)
		case !b.confirmed && (b.state == blockHeld || b.state == blockLost):
			suspects = append(suspects, b.Block)
		}
	}
	n.mu.Unlock()

	err := n.listOwn(ctx)
	for _, b := range suspects {
		if err == nil {
			err = n.confirm(ctx, b)
		}
	}
	if err != nil {
		n.mu.Lock()
		n.learned = false
		n.mu.Unlock()
	}
	return err
}

// listOwn adds the blocks that the store has for this node.
func (n *Node) listOwn(ctx context.Context) error {
	listed, err := n.o.Store.ListNode(ctx, n.o.Node)
	if err != nil {
		return fmt.Errorf("list the blocks of node %s: %w", n.o.Node, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	added := false
	n.waiting = false
	for _, b := range listed {
		if b.Node != n.o.Node {
			continue
		}
		if n.blocks[b.CIDR] == nil && n.o.Elsewhere(b.CIDR) {
			n.o.Log.Error("a block is this node's in the store, but another node announces it: it is left alone until that ends", "block", b.CIDR, "pool", b.Pool)
			n.waiting = true
			continue
		}
		if n.addBlock(b, true) {
			added = true
			n.o.Log.Info("have a block", "block", b.CIDR, "pool", b.Pool)
		}
	}
	if added {
		n.signal(true)
		n.wakeWaiters()
	}
	return nil
}

// confirm claims a block again that the node believed to have.
func (n *Node) confirm(ctx context.Context, b Block) error {
	sure := func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		have := n.blocks[b.CIDR]
		return have == nil || have.confirmed
	}
	if sure() {
		return nil
	}
	err := n.o.Store.Create(ctx, b)
	if errors.Is(err, ErrBlockExists) {
		// Perhaps by an earlier attempt of ours: see whose it is.
		if err = n.listOwn(ctx); err != nil || sure() {
			return err
		}
		err = ErrBlockExists
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	have := n.blocks[b.CIDR]
	switch {
	case have == nil:
		return err
	case errors.Is(err, ErrBlockExists) && have.state == blockLost:
		return nil
	case errors.Is(err, ErrBlockExists):
		have.state, have.confirmed = blockLost, false
		n.o.Log.Error("a block that this node had belongs to another node by now; it is neither announced nor given out any more",
			"block", b.CIDR, "pool", b.Pool, "addresses in use", have.used)
		n.signal(true)
		return nil
	case err != nil:
		return fmt.Errorf("claim block %s of pool %s again: %w", b.CIDR, b.Pool, err)
	}
	have.confirmed = true
	n.o.Log.Info("claimed a block again that the store did not have", "block", b.CIDR, "pool", b.Pool)
	if have.state == blockLost {
		have.state, have.emptySince = blockHeld, n.o.Now()
		n.signal(true)
		n.wakeWaiters()
	}
	return nil
}
