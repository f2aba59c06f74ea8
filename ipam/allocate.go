package ipam

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Request asks for the addresses of one interface of one container.
type Request struct {
	Owner Owner
	Pod   string // namespace/name, for people
	// Pools are names of pools in order of preference. The owner gets one address of
	// each family that those of them have which give out addresses on this node.
	Pools []string
	// Addresses are those that the owner is to have and no others, at most one of a
	// family: free ones, out of blocks that the node holds of these pools.
	Addresses []netip.Addr
	// Claims are addresses that the owner is to have and that this node need not have
	// yet, at most one of a family, each of a pool with Claims. The node then has them
	// for Holder.
	Claims []AddressClaim
	Holder string
}

// UnusableAddressError says that an owner can't have the address that it asks for.
type UnusableAddressError struct {
	Address netip.Addr
	Reason  string // in words, and what to do
}

func (e *UnusableAddressError) Error() string {
	return fmt.Sprintf("address %s can't be had: %s", e.Address, e.Reason)
}

// shortage says that no block of this node has a free address of a family.
type shortage struct {
	pools []string        // usable pools of the family, in order of preference
	wake  <-chan struct{} // closed when there may be an address
}

// Allocate gives the owner one address of each family, IPv4 first, or none and
// an error. The addresses are on record when it returns.
//
// An owner that has addresses already gets the same ones if they are of the
// families that the request asks for, so that a repeated request is harmless;
// else ErrOwnerHasAddress. For the node's own addresses see NodeOwner.
//
// Where this node's blocks have a free address in any of the pools, Allocate
// doesn't wait. Else it claims a block, one claim at a time for each pool
// whoever waits, until ctx or Options.ClaimTimeout ends. It returns
// *ExhaustedError if there is no address to be had, *UnavailableError if that
// could not be found out in time, and *UnusableAddressError, at once, for an
// address that the request asks for and can't have. A claim that another node has
// is waited for a few seconds; then the error is a *HeldError.
func (n *Node) Allocate(ctx context.Context, r Request) ([]Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(r.Claims) > 0 {
		done, err := n.takeClaims(ctx, r)
		if err != nil {
			return nil, err
		}
		defer done()
	}
	records, short, err := n.tryAllocate(r)
	if short == nil || err != nil {
		return records, err
	}
	ctx, cancel := context.WithTimeout(ctx, n.o.ClaimTimeout)
	defer cancel()
	for short != nil && err == nil {
		if err = n.await(ctx, short); err == nil {
			records, short, err = n.tryAllocate(r)
		}
	}
	if err != nil {
		return nil, err
	}
	return records, nil
}

// tryAllocate does what can be done at once.
func (n *Node) tryAllocate(r Request) ([]Record, *shortage, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if r.Owner.ContainerID == "" {
		return nil, nil, errors.New("an address can't be given to a container without an id")
	}
	ahead := n.families(r.Pools)
	lists, err := n.withClaims(&r, &ahead)
	if err != nil {
		return nil, nil, err
	}
	for {
		missing, outdated := lists, []netip.Addr(nil)
		switch have := n.owners[r.Owner]; {
		case r.Owner.IsNode():
			missing, outdated = n.renew(r, lists)
			if len(missing) == 0 && len(have) == len(outdated) {
				return nil, nil, n.noPool(r.Pools)
			}
		case len(lists) == 0:
			return nil, nil, n.noPool(r.Pools)
		default:
			n.remember(ahead)
			if len(have) > 0 {
				return n.allocatedBefore(r, lists)
			}
		}
		picks, short, err := n.pickAll(missing, r.Addresses)
		if short != nil || err != nil {
			return nil, short, err
		}
		err = n.record(r, picks)
		if err == nil {
			_, err = n.release(r.Owner, outdated)
		}
		switch {
		case err == nil:
			return n.recordsOf(r.Owner), nil, nil
		case !errors.Is(err, fs.ErrExist):
			return nil, nil, err
		}
	}
}

// pickAll chooses an address of each of the lists of pools, the one that is asked
// for if one is, or tells of which list there is none.
func (n *Node) pickAll(lists [][]string, wanted []netip.Addr) ([]pick, *shortage, error) {
	picks := make([]pick, 0, len(lists))
	for _, list := range lists {
		is4 := n.pools[list[0]].CIDR.Addr().Is4()
		if i := slices.IndexFunc(wanted, func(a netip.Addr) bool { return a.Is4() == is4 }); i >= 0 {
			p, err := n.pickWanted(list, wanted[i])
			if err != nil {
				return nil, nil, err
			}
			picks = append(picks, p)
			continue
		}
		p, ok := n.pick(list)
		if !ok {
			return nil, &shortage{list, n.wake}, nil
		}
		picks = append(picks, p)
	}
	for _, a := range wanted {
		if !slices.ContainsFunc(picks, func(p pick) bool { return p.addr == a }) {
			return nil, nil, &UnusableAddressError{a, "no pool of its family gives the pod an address on this node"}
		}
	}
	return picks, nil, nil
}

// pickWanted chooses the address that is asked for.
func (n *Node) pickWanted(pools []string, a netip.Addr) (pick, error) {
	unusable := func(format string, args ...any) (pick, error) {
		return pick{}, &UnusableAddressError{a, fmt.Sprintf(format, args...)}
	}
	b := n.blockOf(a)
	switch {
	case b == nil || b.state != blockHeld:
		return unusable("it is in no block of node %s (see kubectl get ipblocks): let the pod run on the node that has its block", n.o.Node)
	case !slices.Contains(pools, b.Pool):
		return unusable("it is of IP pool %s, which the pod does not use", b.Pool)
	case b.isReserved(a):
		return unusable("it is reserved in IP pool %s", b.Pool)
	}
	if have, taken := n.records[a]; taken {
		return unusable("pod %s (%s) has it", have.Pod, have.Owner)
	}
	return pick{released{a, n.freed[a]}, b.Pool, b}, nil
}

// families parts the usable ones of pools by family, in order, IPv4 first.
func (n *Node) families(names []string) [][]string {
	var v4, v6 []string
	for _, name := range names {
		switch p := n.pools[name]; {
		case !p.usable():
		case p.CIDR.Addr().Is4():
			v4 = append(v4, name)
		default:
			v6 = append(v6, name)
		}
	}
	var out [][]string
	for _, list := range [][]string{v4, v6} {
		if len(list) > 0 {
			out = append(out, list)
		}
	}
	return out
}

// allocatedBefore answers a request of an owner that has addresses.
func (n *Node) allocatedBefore(r Request, lists [][]string) ([]Record, *shortage, error) {
	o := r.Owner
	have := n.owners[o]
	same := len(have) == len(lists)
	for i, a := range have {
		same = same && a.Is4() == n.pools[lists[i][0]].CIDR.Addr().Is4()
	}
	if !same {
		return nil, nil, fmt.Errorf("%s: %w, and of other families than are asked for: %s: delete it before it is added again",
			o, ErrOwnerHasAddress, have)
	}
	for _, a := range r.Addresses {
		if !slices.Contains(have, a) {
			return nil, nil, fmt.Errorf("%s: %w, and not %s that is asked for: %s: delete it before it is added again", o, ErrOwnerHasAddress, a, have)
		}
	}
	return n.recordsOf(o), nil, nil
}

// noPool says why none of the pools gives an address.
func (n *Node) noPool(names []string) error {
	if len(names) == 0 {
		return &ExhaustedError{Reason: "no pool is meant for the pod: is there one that is enabled, and whose selectors match its node and namespace?"}
	}
	var why []string
	for _, name := range names {
		switch p := n.pools[name]; {
		case p == nil:
			why = append(why, name+" is not among the pools that this node was told of")
		case p.layout == nil:
			why = append(why, name+" is defined in a way that makes no sense")
		default:
			why = append(why, name+" is disabled, or its node selector leaves this node out")
		}
	}
	return &ExhaustedError{Pools: names, Reason: strings.Join(why, "; ")}
}

// pick is an address that is about to be given out.
type pick struct {
	released
	pool  string
	block *block
}

// pick chooses an address of the first of the pools that has a free one.
func (n *Node) pick(pools []string) (pick, bool) {
	for _, name := range pools {
		if p := n.pools[name]; p.usable() {
			if at, ok := n.pickOf(p); ok {
				return at, true
			}
		}
	}
	return pick{}, false
}

// pickOf chooses the address of a pool that was free for the longest time. It
// looks no further than the first blocks that together have plenty of free
// addresses, so that the blocks behind them run empty and can be given back.
func (n *Node) pickOf(p *pool) (pick, bool) {
	var best pick
	found, free := false, 0
	for _, b := range n.byPool[p.Name] {
		if b.state != blockHeld || b.free() <= 0 {
			continue
		}
		if r, ok := b.next(n.isKnown); ok && (!found || r.seq < best.seq) {
			best, found = pick{r, p.Name, b}, true
		}
		if free += b.free(); free >= n.plenty(p) {
			break
		}
	}
	return best, found
}

// lowWater returns how few free addresses make a node claim another block.
func (n *Node) lowWater(p *pool) int { return min(n.o.LowWater, int(p.layout.size())) }

// plenty returns how many free addresses are enough to do without another block
// for a while. It is well above lowWater, so that no block comes and goes.
func (n *Node) plenty(p *pool) int { return 2 * n.lowWater(p) }

// record writes the records of all picks, or of none. fs.ErrExist means that
// another life of the agent had one of the addresses; it is noted, and others
// are to be picked.
func (n *Node) record(r Request, picks []pick) error {
	var made []netip.Addr
	for _, p := range picks {
		rec := Record{Address: p.addr, Pool: p.pool, Owner: r.Owner, Pod: r.Pod}
		if err := n.dir.create(rec); err != nil {
			if _, rerr := n.release(r.Owner, made); rerr != nil {
				return fmt.Errorf("half of an allocation stays on record: %w", errors.Join(rerr, err))
			}
			if errors.Is(err, fs.ErrExist) {
				n.noteForeign(p)
			}
			return err
		}
		n.use(rec, p.block)
		made = append(made, rec.Address)
	}
	if len(made) > 0 {
		n.signal(false)
	}
	return nil
}

// noteForeign takes a record into account that appeared on the disk without this
// process's doing, as when an old agent still serves while the new one starts.
func (n *Node) noteForeign(p pick) {
	rec, err := n.dir.read(p.addr)
	if errors.Is(err, fs.ErrNotExist) {
		return // gone again
	}
	if err != nil {
		// Not to be given out in this life; the next Open removes it, if it is broken.
		rec = Record{Address: p.addr, Pool: p.pool}
	}
	n.o.Log.Warn("an address has a record that this agent did not make", "address", p.addr, "owner", rec.Owner, "err", err)
	n.use(rec, p.block)
}

// await claims a block of the first of the pools that may have one, or waits for
// whatever else may bring an address. Without an error, look again.
func (n *Node) await(ctx context.Context, s *shortage) error {
	n.mu.Lock()
	now := n.o.Now()
	var target *pool
	for _, name := range s.pools {
		if p := n.pools[name]; p.usable() && !n.full(p) && (p.exhausted == nil || !now.Before(p.retryAt)) {
			target = p
			break
		}
	}
	if target == nil {
		defer n.mu.Unlock()
		return n.exhausted(s.pools)
	}
	name, delay := target.Name, target.retryAt.Sub(now)
	n.mu.Unlock()

	err := ctx.Err()
	if err == nil && delay > 0 {
		err = wait(ctx, s.wake, delay)
	} else if err == nil {
		err = n.claim(ctx, name, func() bool {
			_, free := n.pick(s.pools)
			return !free
		})
	}
	if err == nil {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if target.err != nil {
		err = fmt.Errorf("%w: %w", err, target.err)
	}
	return &UnavailableError{Pool: name, Err: err}
}

// exhausted is the error of a request when no pool has an address or a block.
func (n *Node) exhausted(names []string) error {
	var why []string
	for _, name := range names {
		reason := "is no more in use"
		switch p := n.pools[name]; {
		case p.usable() && n.full(p):
			reason = fmt.Sprintf("this node has all blocks of %s that it may have (maxBlocksPerNode of IPPool %s is %d), and each of their addresses "+
				"is in use: raise maxBlocksPerNode, or run fewer pods on node %s", p.CIDR, name, p.MaxBlocks, n.o.Node)
		case p.usable() && p.exhausted != nil:
			reason = p.exhausted.Reason
		}
		if len(names) > 1 {
			reason = name + ": " + reason
		}
		why = append(why, reason)
	}
	return &ExhaustedError{Pools: names, Reason: strings.Join(why, "; ")}
}

// wait waits for a channel, at most for d, and returns the error of a context
// that ends before.
func wait(ctx context.Context, ch <-chan struct{}, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-ch:
	case <-t.C:
	}
	return nil
}

// remember notes that pods ask for these pools, each list in its order, so that
// blocks are claimed ahead for the next ones.
func (n *Node) remember(lists [][]string) {
	for _, pools := range lists {
		key := strings.Join(pools, " ")
		if _, ok := n.lists[key]; !ok {
			n.lists[key] = pools
		}
	}
}

// freeOf returns how many addresses of a pool the node can give out at once.
func (n *Node) freeOf(name string) int {
	free := 0
	for _, b := range n.byPool[name] {
		if b.state == blockHeld {
			free += max(0, b.free())
		}
	}
	return free
}

// isOurs tells whether the node has a block already.
func (n *Node) isOurs(cidr netip.Prefix) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.blocks[cidr] != nil
}
