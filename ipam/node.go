package ipam

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Defaults of Options.
const (
	// DefaultLowWater covers the claim of a block (some 10 ms) at the rate at which a
	// node can attach pods, and leaves a node with 110 pods at two blocks of 64.
	DefaultLowWater      = 16
	DefaultClaimTimeout  = 10 * time.Second
	DefaultGiveBackAfter = 10 * time.Minute
)

// Options are what a Node is made of.
type Options struct {
	// Node is the name of this node.
	Node string
	// Store keeps the blocks of all nodes.
	Store BlockStore
	// Dir is the directory of the address records, on a file system that ends with
	// the node's power (tmpfs), such as /run/godwit/addresses. It belongs to this
	// package alone.
	Dir string
	// LowWater is how many free addresses the node keeps ready: when fewer are left of
	// a pool, another block is claimed. DefaultLowWater when 0. For pools whose blocks
	// are smaller it is the size of a block.
	LowWater int
	// ClaimTimeout bounds how long Allocate waits for a block to be claimed, besides
	// its context. DefaultClaimTimeout when 0.
	ClaimTimeout time.Duration
	// GiveBackAfter is how long a block must be empty before it is given back, where
	// its pool does not say. DefaultGiveBackAfter when 0; never, of any pool, when
	// negative.
	GiveBackAfter time.Duration
	// Elsewhere tells whether another node announces a block, as far as is known: such
	// a block is not claimed, whatever the store says. It is called with the node's
	// lock held. Nobody announces anything when nil.
	Elsewhere func(netip.Prefix) bool
	// Log tells of claims and of what is wrong; slog.Default when nil.
	Log *slog.Logger
	// Now is the clock; time.Now when nil.
	Now func() time.Time
}

// Node gives out the addresses of one node. Its methods may be called
// concurrently.
type Node struct {
	o             Options
	blocksChanged chan struct{}
	changed       chan struct{}
	kick          chan struct{} // wakes Run
	learning      chan struct{} // held by whoever runs learn

	mu          sync.Mutex
	dir         *recordDir
	records     map[netip.Addr]Record
	owners      map[Owner][]netip.Addr
	freed       map[netip.Addr]uint64 // released addresses: the number of the release
	pools       map[string]*pool
	order       []string // names of pools in the order that SetPools got
	blocks      map[netip.Prefix]*block
	byPool      map[string][]*block // sorted
	lists       map[string][]string // pools' names in the orders that pods asked for
	wake        chan struct{}       // closed and replaced when Allocate should look again
	learned     bool                // the store's list of our blocks was seen, and no claim since is in doubt
	claims      int                 // claims and lists under way
	returning   chan struct{}       // closed when the Delete that is under way ends; else nil
	poolsSet    bool                // SetPools was called
	waiting     bool                // a block of the store is left alone, as another node announces it
	lostAskedAt time.Time           // when the node last asked for its lost blocks
	running     bool
}

// pool is a pool and what became of claims.
type pool struct {
	Pool
	layout *layout       // nil when the pool makes no sense
	flight chan struct{} // closed when the claim under way ends; else nil

	exhausted   *ExhaustedError // of the last claim
	exhaustedAt time.Time
	retryAt     time.Time // no claim before
	backoff     time.Duration
	err         error // of the last claim, if the store failed
}

// usable tells whether the pool gives new addresses to whoever asks for any.
func (p *pool) usable() bool { return p != nil && p.Allocate && p.layout != nil && !p.Claims }

// Open reads the records that earlier lives of the agent left. Until SetPools
// and SetBlocks (or Run) the node has no addresses to give.
func Open(o Options) (*Node, error) {
	if o.Node == "" || o.Store == nil || o.Dir == "" {
		return nil, errors.New("ipam: Node, Store and Dir must be given")
	}
	o.LowWater = cmp.Or(o.LowWater, DefaultLowWater)
	o.ClaimTimeout = cmp.Or(o.ClaimTimeout, DefaultClaimTimeout)
	o.GiveBackAfter = cmp.Or(o.GiveBackAfter, DefaultGiveBackAfter)
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Elsewhere == nil {
		o.Elsewhere = func(netip.Prefix) bool { return false }
	}
	dir, records, free, err := openRecords(o.Dir, o.Log)
	if err != nil {
		return nil, err
	}
	n := &Node{
		o:             o,
		blocksChanged: make(chan struct{}, 1),
		changed:       make(chan struct{}, 1),
		kick:          make(chan struct{}, 1),
		learning:      make(chan struct{}, 1),
		dir:           dir,
		records:       map[netip.Addr]Record{},
		owners:        map[Owner][]netip.Addr{},
		freed:         map[netip.Addr]uint64{},
		pools:         map[string]*pool{},
		blocks:        map[netip.Prefix]*block{},
		byPool:        map[string][]*block{},
		lists:         map[string][]string{},
		wake:          make(chan struct{}),
	}
	for _, r := range records {
		n.note(r)
	}
	for _, r := range free {
		n.freed[r.addr] = r.seq
	}
	return n, nil
}

// SetPools says which pools there are, in the order in which blocks are claimed
// ahead. It replaces what earlier calls said. Addresses of pools that went, or
// that no more give out addresses, stay with their owners. A pool that makes no
// sense is logged and gives no addresses.
func (n *Node) SetPools(pools []Pool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	old := n.pools
	n.pools = make(map[string]*pool, len(pools))
	n.order = n.order[:0]
	for _, p := range pools {
		p.Reserved = slices.Clone(p.Reserved)
		n.order = append(n.order, p.Name)
		if was := old[p.Name]; was != nil && equalPools(was.Pool, p) {
			n.pools[p.Name] = was
			continue
		}
		// A claim that is under way for the old definition keeps its block: the node owns
		// it, whatever it is good for.
		l, err := newLayout(p)
		if err != nil {
			n.o.Log.Error("no addresses are given out of a pool", "pool", p.Name, "err", err)
			l = nil
		}
		n.pools[p.Name] = &pool{Pool: p, layout: l}
	}
	for _, b := range n.blocks {
		n.applyPool(b)
	}
	n.poolsSet = true
	n.signal(false)
	n.wakeWaiters()
}

func equalPools(a, b Pool) bool {
	return a.Name == b.Name && a.CIDR == b.CIDR && a.BlockLen == b.BlockLen &&
		a.Allocate == b.Allocate && a.Claims == b.Claims && a.Restricted == b.Restricted && a.MaxBlocks == b.MaxBlocks &&
		a.GiveBackAfter == b.GiveBackAfter && slices.Equal(a.Reserved, b.Reserved)
}

// applyPool gives a block the reserved ranges of its pool.
func (n *Node) applyPool(b *block) {
	var used []netip.Addr
	for a := range n.records {
		if b.CIDR.Contains(a) {
			used = append(used, a)
		}
	}
	if p := n.pools[b.Pool]; p != nil && p.layout != nil {
		b.setReserved(p.layout.reserved(b.CIDR), used)
		return
	}
	b.setReserved(nil, used) // of a pool that went nothing is given out anyway
}

// SetBlocks says which blocks the node owns, as far as the caller knows: from
// the store, or from a checkpoint when the store can't be reached. They join
// those that the node has. Blocks of other nodes are left out.
//
// The node checks them against the store before its next claim: those that the
// store doesn't have are claimed again, and those that are another node's by
// now are no more used.
func (n *Node) SetBlocks(blocks []Block) {
	n.mu.Lock()
	defer n.mu.Unlock()
	added := false
	for _, b := range blocks {
		if b.Node == n.o.Node && n.addBlock(b, false) {
			added = true
		}
	}
	if added {
		n.learned = false
		n.signal(true)
		n.wakeWaiters()
	}
}

// Recheck makes the node ask the store anew which blocks are its own: those that
// the store does not have are claimed again, those that are another node's by now
// are lost, and those that were lost are the node's again when nobody else has
// them. It is for when blocks may have been freed without the node's doing, and
// claimed by others: when the node was taken for gone, or when the store was
// restored from a snapshot. It does not wait: Run does it.
func (n *Node) Recheck() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.learned = false
	for _, b := range n.blocks {
		b.confirmed = false
	}
	poke(n.kick)
}

// addBlock adds a block and tells whether Blocks() has one more for it.
func (n *Node) addBlock(b Block, confirmed bool) bool {
	if have := n.blocks[b.CIDR]; have != nil {
		have.confirmed = have.confirmed || confirmed
		if have.state == blockLost && confirmed {
			have.state, have.emptySince = blockHeld, n.o.Now()
			return true
		}
		return false
	}
	if !b.CIDR.IsValid() || b.CIDR != b.CIDR.Masked() || b.CIDR.Addr().BitLen()-b.CIDR.Bits() > maxHostBits {
		n.o.Log.Error("a block that makes no sense is left out", "block", b.CIDR, "pool", b.Pool)
		return false
	}
	nb := &block{
		Block: b, confirmed: confirmed, emptySince: n.o.Now(),
		size: 1 << (b.CIDR.Addr().BitLen() - b.CIDR.Bits()),
	}
	for a, seq := range n.freed {
		if b.CIDR.Contains(a) {
			nb.freed = append(nb.freed, released{a, seq})
		}
	}
	slices.SortFunc(nb.freed, func(a, b released) int { return cmp.Compare(a.seq, b.seq) })
	n.blocks[b.CIDR] = nb
	n.applyPool(nb)
	n.byPool[b.Pool] = append(n.byPool[b.Pool], nb)
	slices.SortFunc(n.byPool[b.Pool], func(a, b *block) int { return comparePrefixes(a.CIDR, b.CIDR) })
	return true
}

// dropBlock removes a block that is no more the node's.
func (n *Node) dropBlock(b *block) {
	delete(n.blocks, b.CIDR)
	n.byPool[b.Pool] = slices.DeleteFunc(n.byPool[b.Pool], func(o *block) bool { return o == b })
	for _, r := range b.freed {
		delete(n.freed, r.addr)
		if err := n.dir.forget(r); err != nil {
			n.o.Log.Warn("a released address stays on record", "err", err)
		}
	}
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// Blocks returns the blocks of the node, sorted by CIDR, without those that are
// on their way back to the store.
func (n *Node) Blocks() []BlockUsage {
	n.mu.Lock()
	defer n.mu.Unlock()
	own := map[*block]int{}
	for o, addresses := range n.owners {
		if !o.IsNode() {
			continue
		}
		for _, a := range addresses {
			own[n.blockOf(a)]++
		}
	}
	out := make([]BlockUsage, 0, len(n.blocks))
	for _, b := range n.blocks {
		if b.state == blockHeld {
			out = append(out, BlockUsage{Block: b.Block, Allocated: b.used - own[b], Own: own[b], Capacity: b.capacity})
		}
	}
	slices.SortFunc(out, func(a, b BlockUsage) int { return comparePrefixes(a.CIDR, b.CIDR) })
	return out
}

// Lost returns the blocks that the node believed to have and that are another
// node's by now, and of which pods still have addresses, sorted by CIDR.
// Nothing of them is given out.
func (n *Node) Lost() []BlockUsage {
	n.mu.Lock()
	defer n.mu.Unlock()
	pods := map[*block]int{}
	for _, r := range n.records {
		if !r.Owner.IsNode() {
			pods[n.blockOf(r.Address)]++
		}
	}
	var out []BlockUsage
	for _, b := range n.blocks {
		if b.state == blockLost && pods[b] > 0 {
			out = append(out, BlockUsage{Block: b.Block, Allocated: pods[b], Capacity: b.capacity})
		}
	}
	slices.SortFunc(out, func(a, b BlockUsage) int { return comparePrefixes(a.CIDR, b.CIDR) })
	return out
}

// BlocksChanged returns a channel that gets a value after the set of Blocks()
// changed; signals that nobody took are one. The agent announces and checkpoints
// the blocks by it: a block that is given back stays the node's in the store for
// giveBackGrace after this signal.
func (n *Node) BlocksChanged() <-chan struct{} { return n.blocksChanged }

// Changed returns a channel that gets a value after anything in Blocks()
// changed, counts included; signals that nobody took are one.
func (n *Node) Changed() <-chan struct{} { return n.changed }

// signal tells the agent and Run of a change. n.mu is held.
func (n *Node) signal(blocks bool) {
	if blocks {
		poke(n.blocksChanged)
	}
	poke(n.changed)
	poke(n.kick)
}

// wakeWaiters makes every Allocate that waits for an address look again. n.mu is
// held.
func (n *Node) wakeWaiters() {
	close(n.wake)
	n.wake = make(chan struct{})
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// Records returns the addresses that are given out, sorted by address.
func (n *Node) Records() []Record {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]Record, 0, len(n.records))
	for _, r := range n.records {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Record) int { return a.Address.Compare(b.Address) })
	return out
}

// Adopt records an address that is in use although it has no record, as found in
// the kernel. The address need not be in a block of the node; without a pool the
// record gets that of the block. To adopt what is recorded already is no error.
// It returns ErrAddressTaken if another owner has the address, and
// ErrOwnerHasAddress if the owner has another one of that family.
func (n *Node) Adopt(r Record) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !r.Address.IsValid() || r.Address.Is4In6() || r.Address.Zone() != "" || r.Owner.ContainerID == "" {
		return fmt.Errorf("adopt %s: a record needs an address and an owner", r.Address)
	}
	if have, ok := n.records[r.Address]; ok {
		if have.Owner == r.Owner {
			return nil
		}
		return fmt.Errorf("adopt %s for %s: %w: %s", r.Address, r.Owner, ErrAddressTaken, have.Owner)
	}
	for _, a := range n.owners[r.Owner] {
		if a.Is4() == r.Address.Is4() {
			return fmt.Errorf("adopt %s for %s: %w: %s", r.Address, r.Owner, ErrOwnerHasAddress, a)
		}
	}
	b := n.blockOf(r.Address)
	if b != nil && r.Pool == "" {
		r.Pool = b.Pool
	}
	if err := n.dir.create(r); err != nil {
		return fmt.Errorf("adopt: %w", err)
	}
	n.use(r, b)
	back := b != nil && b.state == blockReturning
	if back {
		b.state = blockHeld
	}
	n.signal(back)
	return nil
}

// use notes in memory that a record was made. n.mu is held.
func (n *Node) use(r Record, b *block) {
	n.note(r)
	if b != nil {
		b.take(r.Address)
	}
	if seq, ok := n.freed[r.Address]; ok {
		delete(n.freed, r.Address)
		if err := n.dir.forget(released{r.Address, seq}); err != nil {
			n.o.Log.Warn("a released address stays on record", "err", err) // Open puts it right
		}
	}
}

func (n *Node) note(r Record) {
	n.records[r.Address] = r
	n.owners[r.Owner] = append(n.owners[r.Owner], r.Address)
	slices.SortFunc(n.owners[r.Owner], netip.Addr.Compare) // IPv4 first
}

// recordsOf returns an owner's records, IPv4 first. n.mu is held.
func (n *Node) recordsOf(o Owner) []Record {
	var out []Record
	for _, a := range n.owners[o] {
		out = append(out, n.records[a])
	}
	return out
}

// Release takes back all addresses of an owner, and no other, and returns their
// records. An owner that has none is no error. After an error the addresses that
// were not released stay the owner's.
func (n *Node) Release(o Owner) ([]Record, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if o.ContainerID == "" {
		return nil, errors.New("addresses can't be released without a container id")
	}
	return n.release(o, slices.Clone(n.owners[o]))
}

// release takes back some of an owner's addresses. n.mu is held.
func (n *Node) release(o Owner, addresses []netip.Addr) ([]Record, error) {
	var out []Record
	for _, a := range addresses {
		seq, err := n.dir.release(a)
		if err != nil {
			return out, err
		}
		out = append(out, n.records[a])
		delete(n.records, a)
		n.freed[a] = seq
		n.owners[o] = slices.DeleteFunc(n.owners[o], func(have netip.Addr) bool { return have == a })
		if b := n.blockOf(a); b != nil {
			b.put(released{a, seq}, n.o.Now())
		}
	}
	if len(n.owners[o]) == 0 {
		delete(n.owners, o)
	}
	if len(out) > 0 {
		n.signal(false)
		n.wakeWaiters()
	}
	return out, nil
}

// blockOf returns the node's block that holds an address, or nil. Blocks of one
// node don't overlap.
func (n *Node) blockOf(a netip.Addr) *block {
	for _, b := range n.blocks {
		if b.CIDR.Contains(a) {
			return b
		}
	}
	return nil
}

// isKnown tells whether an address is in use or was.
func (n *Node) isKnown(a netip.Addr) bool {
	_, was := n.freed[a]
	_, is := n.records[a]
	return was || is
}
