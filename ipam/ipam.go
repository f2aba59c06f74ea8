// Package ipam gives out addresses. Nodes claim whole blocks of a pool from a
// BlockStore that all nodes share; the addresses inside a block are the node's
// own affair and are kept on the node, one record an address.
//
// Invariants:
//   - A block has one owner: creating it in the store is the claim.
//   - An address has one owner: creating its record, exclusively, is the claim.
//     A record is durable against the end of the agent before Allocate returns.
//   - Nothing on the way of Allocate writes to the store, except when a burst of
//     pods outruns the claim-ahead; then it waits, bounded by its context.
//   - Addresses are reused longest-free first.
package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
)

// Pool is what a node needs to know of a pool.
type Pool struct {
	Name     string
	CIDR     netip.Prefix
	BlockLen int            // prefix length of the blocks
	Reserved []netip.Prefix // never given out
	Allocate bool           // whether this node gives out new addresses of it
}

// Block is a claimed block.
type Block struct {
	CIDR netip.Prefix
	Pool string
	Node string
}

// ErrBlockExists is returned by BlockStore.Create for a block that is claimed
// already, by whomever.
var ErrBlockExists = errors.New("block is claimed already")

// BlockStore keeps the blocks of all nodes. Its methods may be called
// concurrently.
type BlockStore interface {
	// Create claims a block atomically: of any number of callers for the same CIDR
	// one gets nil and the others ErrBlockExists.
	Create(ctx context.Context, b Block) error
	// List returns all blocks of a pool, of every node.
	List(ctx context.Context, pool string) ([]Block, error)
	// ListNode returns all blocks of a node, of every pool.
	ListNode(ctx context.Context, node string) ([]Block, error)
	// Delete gives a block back if its owner is b.Node; a block that is not there is
	// no error.
	Delete(ctx context.Context, b Block) error
}

// Owner is what an address is given to: one interface of one container. An
// owner has at most one address of each family.
type Owner struct {
	ContainerID string `json:"containerID"`
	Interface   string `json:"interface"`
}

// Record is an address that was given out.
type Record struct {
	Address netip.Addr `json:"address"`
	Pool    string     `json:"pool"`
	Owner   Owner      `json:"owner"`
	// Pod is the namespace/name of the pod, for people.
	Pod string `json:"pod,omitempty"`
}

// ExhaustedError says that no address can be had of any of the pools.
type ExhaustedError struct {
	Pools  []string // the pools that were tried
	Reason string   // why, in words
}

func (e *ExhaustedError) Error() string {
	return fmt.Sprintf("no free address in IP pools %q: %s", e.Pools, e.Reason)
}
