// Package ipam gives out addresses. Nodes claim whole blocks of a pool from a
// BlockStore that all nodes share; the addresses inside a block are the node's
// own affair and are kept on the node, one record an address.
//
//	Pool 172.25.0.0/16 ──Claim──▶ Block 172.25.0.128/26 ──Allocate──▶ Record 172.25.0.130
//	   (configured)     (store, all nodes)                (file on the node)
//
// Invariants:
//   - A block has one owner: creating it in the store is the claim.
//   - An address has one owner: creating its record, exclusively, is the claim.
//     A record is durable against the end of the agent before Allocate returns.
//   - Nothing on the way of Allocate writes to the store, except when a burst of
//     pods outruns the claim-ahead; then it waits, bounded by its context.
//   - Addresses are reused longest-free first, across restarts of the agent.
//   - A block is given back only when it was empty for a while, was taken out of
//     Blocks before, and is not the last one that the node has of a pool in use.
//     An address of the node's own keeps its block as a pod's does.
package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Pool is what a node needs to know of a pool.
type Pool struct {
	Name     string
	CIDR     netip.Prefix
	BlockLen int            // prefix length of the blocks
	Reserved []netip.Prefix // never given out
	Allocate bool           // whether this node gives out new addresses of it
	// Claims says that addresses are claimed one by one, by owners that name them
	// (Request.Claims): the blocks, of one address each, come and go with these.
	Claims bool
	// Restricted says that only some pods use the pool (those of selected
	// namespaces): a node claims a block of it when the first such pod comes, not
	// before.
	Restricted bool
	// MaxBlocks is how many blocks of the pool the node may have before it claims no
	// more; 0: any number.
	MaxBlocks int
	// GiveBackAfter is how long a block must be empty before it is given back; 0: as
	// Options say.
	GiveBackAfter time.Duration
}

// Block is a claimed block.
type Block struct {
	CIDR netip.Prefix
	Pool string
	Node string
	// Holder says for whom the node has a block of a pool with Claims, in words that
	// only the agent understands; else empty.
	Holder string
}

// BlockUsage is a block of this node and how full it is.
type BlockUsage struct {
	Block
	Allocated int // addresses that pods have
	Own       int // addresses that the node itself has: see NodeOwner
	Capacity  int // addresses that can be given out: all but the reserved ones
}

// ErrBlockExists is returned by BlockStore.Create for a block that is claimed
// already, by whomever.
var ErrBlockExists = errors.New("block is claimed already")

// ErrUntouched is wrapped by errors of BlockStore.Delete after which the block is
// surely there as before.
var ErrUntouched = errors.New("the block was not touched")

// BlockStore keeps the blocks of all nodes. Its methods may be called
// concurrently. Lists show every Create and Delete that ended before they began:
// a store must not answer them from a cache that may lag behind.
type BlockStore interface {
	// Create claims a block atomically: of any number of callers for the same CIDR
	// one gets nil and the others ErrBlockExists. Any other error leaves open whether
	// the block was created.
	Create(ctx context.Context, b Block) error
	// List returns all blocks of a pool, of every node.
	List(ctx context.Context, pool string) ([]Block, error)
	// ListNode returns all blocks of a node, of every pool.
	ListNode(ctx context.Context, node string) ([]Block, error)
	// Get returns a block, and whether there is one of that CIDR.
	Get(ctx context.Context, cidr netip.Prefix) (b Block, found bool, err error)
	// Delete gives a block back if its owner is b.Node; a block that is not there, or
	// is another node's, stays as it is and is no error.
	Delete(ctx context.Context, b Block) error
}

// Owner is what an address is given to: one interface of one container, or of
// the node itself (NodeOwner). An owner has at most one address of each family.
type Owner struct {
	ContainerID string `json:"containerID"`
	Interface   string `json:"interface"`
}

// String returns the owner as container/interface.
func (o Owner) String() string { return o.ContainerID + "/" + o.Interface }

// Record is an address that was given out.
type Record struct {
	Address netip.Addr `json:"address"`
	Pool    string     `json:"pool"`
	Owner   Owner      `json:"owner"`
	// Pod is the namespace/name of the pod, for people.
	Pod string `json:"pod,omitempty"`
}

// Errors of Allocate and Adopt, for errors.Is.
var (
	// ErrOwnerHasAddress says that the owner has addresses already, and not those
	// that were asked for.
	ErrOwnerHasAddress = errors.New("the owner has an address already")
	// ErrAddressTaken says that another owner has the address.
	ErrAddressTaken = errors.New("the address belongs to another owner")
)

// ExhaustedError says that no address can be had of any of the pools.
type ExhaustedError struct {
	Pools  []string // the pools that were tried
	Reason string   // why, in words, and what to do
}

func (e *ExhaustedError) Error() string {
	return fmt.Sprintf("no free address in IP pools [%s]: %s", strings.Join(e.Pools, " "), e.Reason)
}

// UnavailableError says that this node's blocks have no free address and that
// more blocks could not be claimed in time. Trying again later may help.
type UnavailableError struct {
	Pool string // the pool of which a block was to be claimed
	Err  error  // the store's last error, or that of the context
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("this node's blocks have no free address and another block of IP pool %s could not be claimed in time "+
		"(try again when the API server can be reached): %v", e.Pool, e.Err)
}

// Unwrap returns the store's error.
func (e *UnavailableError) Unwrap() error { return e.Err }
