package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

const (
	// claimGrace is giveBackGrace for blocks of pools with Claims: another node may
	// wait for the address.
	claimGrace = 50 * time.Millisecond
	// claimPatience is how long a request waits for an address that another node has:
	// its pod may be on its way out.
	claimPatience = 3 * time.Second
	// claimPoll is how soon the store is asked again then, at first and at last.
	claimPoll, claimPollLast = 50 * time.Millisecond, 250 * time.Millisecond
)

// AddressClaim asks for one address of a pool with Claims.
type AddressClaim struct {
	Address netip.Addr
	Pool    string
}

func (c AddressClaim) block() netip.Prefix { return netip.PrefixFrom(c.Address, c.Address.BitLen()) }

// HeldError says that an address can't be had yet, because a node has it.
type HeldError struct {
	Address netip.Addr
	Node    string // empty: not known, but some node announces it
	Holder  string // for whom, as in Block.Holder
}

func (e *HeldError) Error() string {
	if e.Node == "" {
		return fmt.Sprintf("address %s is still announced by another node, though none has it in the API: try again when that has ended", e.Address)
	}
	holder := "a pod"
	if e.Holder != "" {
		holder = e.Holder
	}
	return fmt.Sprintf("address %s is held by node %s for %s: it is free when that pod is gone; try again then", e.Address, e.Node, holder)
}

// HeldFor returns the claims that the node has for a holder, so that what was
// allowed before needs no asking.
func (n *Node) HeldFor(holder string) []AddressClaim {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []AddressClaim
	for _, b := range n.blocks {
		if b.Holder != "" && b.Holder == holder && (b.state == blockHeld || b.state == blockReturning) {
			out = append(out, AddressClaim{Address: b.CIDR.Addr(), Pool: b.Pool})
		}
	}
	slices.SortFunc(out, func(a, b AddressClaim) int { return a.Address.Compare(b.Address) })
	return out
}

// claimed tells whether a block is of a pool with Claims. n.mu is held.
func (n *Node) claimed(b *block) bool {
	p := n.pools[b.Pool]
	return p != nil && p.Claims
}

// takeClaims makes the blocks of all claims of a request the node's. They stay so
// until done is called, and for as long as an address of them is in use.
func (n *Node) takeClaims(ctx context.Context, r Request) (done func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, min(claimPatience, n.o.ClaimTimeout))
	defer cancel()
	var pinned []*block
	done = func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, b := range pinned {
			b.pins--
		}
		n.signal(false)
	}
	for _, c := range r.Claims {
		b, err := n.takeClaim(ctx, c, r)
		if err != nil {
			done()
			return nil, err
		}
		pinned = append(pinned, b)
	}
	return done, nil
}

// takeClaim makes the block of one claim the node's, and pins it.
func (n *Node) takeClaim(ctx context.Context, c AddressClaim, r Request) (*block, error) {
	var unusable *UnusableAddressError
	var last error // of an attempt that was not cut short
	for pause := claimPoll; ; pause = min(pause*3/2, claimPollLast) {
		b, err := n.pinHeld(c, r)
		if b == nil && err == nil {
			b, err = n.claimAddress(ctx, c, r, last != nil)
		}
		if b != nil || errors.As(err, &unusable) {
			return b, err
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		if wait(ctx, nil, pause) != nil {
			return nil, last
		}
	}
}

// pinHeld pins the block of a claim if the node has it for this holder. It returns
// neither a block nor an error when the node does not have it.
func (n *Node) pinHeld(c AddressClaim, r Request) (*block, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.allowed(c); err != nil {
		return nil, err
	}
	if have, taken := n.records[c.Address]; taken && have.Owner != r.Owner {
		return nil, &UnusableAddressError{c.Address, fmt.Sprintf("pod %s (%s) has it, on this node", have.Pod, have.Owner)}
	}
	b := n.blocks[c.block()]
	switch {
	case b == nil:
		return nil, nil
	case b.state == blockLost || b.state == blockDeleting:
	case b.Holder == r.Holder:
		if b.state == blockReturning {
			b.state, b.emptySince = blockHeld, n.o.Now()
			n.signal(true)
		}
		b.pins++
		return b, nil
	case b.state == blockHeld && b.used == 0 && b.pins == 0:
		n.giveUp(b) // the store is to say who has it now
	}
	return nil, &HeldError{Address: c.Address, Node: n.o.Node, Holder: b.Holder}
}

// allowed tells why the node can't have a claim. n.mu is held.
func (n *Node) allowed(c AddressClaim) error {
	unusable := func(format string, args ...any) error {
		return &UnusableAddressError{c.Address, fmt.Sprintf(format, args...)}
	}
	switch p := n.pools[c.Pool]; {
	case p == nil || !p.Claims || p.layout == nil:
		return unusable("IP pool %s is none of which addresses are claimed, as far as node %s was told", c.Pool, n.o.Node)
	case !p.Allocate:
		return unusable("IP pool %s gives out no addresses on node %s: it is disabled, or its node selector leaves the node out", c.Pool, n.o.Node)
	case !within(p.CIDR, c.block()):
		return unusable("it is not in IP pool %s", c.Pool)
	case len(p.layout.reserved(c.block())) > 0:
		return unusable("it is reserved in IP pool %s", c.Pool)
	}
	return nil
}

// claimAddress claims the block of a claim in the store, and pins it. Where it is
// likely that another node has it, it is looked at first.
func (n *Node) claimAddress(ctx context.Context, c AddressClaim, r Request, look bool) (*block, error) {
	n.mu.Lock()
	elsewhere := n.o.Elsewhere(c.block())
	n.mu.Unlock()
	if elsewhere || look {
		have, found, err := n.o.Store.Get(ctx, c.block())
		switch {
		case err != nil:
			return nil, fmt.Errorf("look who has address %s of IP pool %s: %w", c.Address, c.Pool, err)
		case found && have.Node != n.o.Node:
			return nil, &HeldError{Address: c.Address, Node: have.Node, Holder: have.Holder}
		case elsewhere:
			return nil, &HeldError{Address: c.Address}
		}
	}
	want := Block{CIDR: c.block(), Pool: c.Pool, Node: n.o.Node, Holder: r.Holder}
	err := n.o.Store.Create(ctx, want)
	if errors.Is(err, ErrBlockExists) {
		have, found, gerr := n.o.Store.Get(ctx, want.CIDR)
		switch {
		case gerr != nil:
			err = gerr
		case found && have.Node != n.o.Node:
			return nil, &HeldError{Address: c.Address, Node: have.Node, Holder: have.Holder}
		case found: // of an earlier life, or of a Create whose answer was lost
			want, err = have, nil
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil {
		n.learned = false // the block may be ours, for all we know
		return nil, fmt.Errorf("claim address %s of IP pool %s: %w", c.Address, c.Pool, err)
	}
	if n.addBlock(want, true) {
		n.o.Log.Info("claimed an address", "address", c.Address, "pool", c.Pool, "for", want.Holder)
		n.signal(true)
	}
	b := n.blocks[want.CIDR]
	if b == nil || b.state != blockHeld || b.Holder != r.Holder {
		return nil, &HeldError{Address: c.Address, Node: n.o.Node, Holder: want.Holder}
	}
	b.pins++
	return b, nil
}

// withClaims returns the lists of pools of a request: of each family for which it
// has a claim the claim's pool, else that of ahead, which keeps these alone. The
// claims join the addresses that the request asks for. n.mu is held.
func (n *Node) withClaims(r *Request, ahead *[][]string) ([][]string, error) {
	if len(r.Claims) == 0 {
		return *ahead, nil
	}
	r.Addresses = slices.Clone(r.Addresses)
	var lists [][]string
	for _, c := range r.Claims {
		if err := n.allowed(c); err != nil {
			return nil, err
		}
		r.Addresses = append(r.Addresses, c.Address)
		lists = append(lists, []string{c.Pool})
		*ahead = slices.DeleteFunc(*ahead, func(l []string) bool { return n.pools[l[0]].CIDR.Addr().Is4() == c.Address.Is4() })
	}
	lists = append(lists, *ahead...)
	slices.SortStableFunc(lists, func(a, b []string) int {
		return n.pools[a[0]].CIDR.Addr().BitLen() - n.pools[b[0]].CIDR.Addr().BitLen()
	})
	return lists, nil
}
