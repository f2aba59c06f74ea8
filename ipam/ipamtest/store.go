// Package ipamtest has what tests of block stores and of their users need: a
// store in memory, and the behaviour that every store must show.
package ipamtest

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/godwit-net/godwit/ipam"
)

// Op is an operation of a store.
type Op string

// The operations.
const (
	Create   Op = "Create"
	List     Op = "List"
	ListNode Op = "ListNode"
	Get      Op = "Get"
	Delete   Op = "Delete"
)

// Call is one call of a store.
type Call struct {
	Op    Op
	Block ipam.Block // what was created or deleted; or only the Pool or Node listed
}

// Store is an ipam.BlockStore in memory that can be made to fail. The zero value
// is empty and ready.
type Store struct {
	// Before is called ahead of each operation, which fails with its error and then has
	// no effect. It may block, to make the store slow. Set it before the first call.
	Before func(context.Context, Call) error
	// After is called when an operation took effect, whose answer is then its error:
	// with it, the answer gets lost.
	After func(context.Context, Call) error

	mu     sync.Mutex
	blocks map[netip.Prefix]ipam.Block
	calls  []Call
}

var _ ipam.BlockStore = (*Store)(nil)

// Create implements ipam.BlockStore.
func (s *Store) Create(ctx context.Context, b ipam.Block) error {
	return s.do(ctx, Call{Create, b}, func() error {
		if _, ok := s.blocks[b.CIDR]; ok {
			return fmt.Errorf("create %s: %w", b.CIDR, ipam.ErrBlockExists)
		}
		if s.blocks == nil {
			s.blocks = map[netip.Prefix]ipam.Block{}
		}
		s.blocks[b.CIDR] = b
		return nil
	})
}

// List implements ipam.BlockStore.
func (s *Store) List(ctx context.Context, pool string) (out []ipam.Block, err error) {
	err = s.do(ctx, Call{List, ipam.Block{Pool: pool}}, func() error {
		out = s.filter(func(b ipam.Block) bool { return b.Pool == pool })
		return nil
	})
	return out, err
}

// ListNode implements ipam.BlockStore.
func (s *Store) ListNode(ctx context.Context, node string) (out []ipam.Block, err error) {
	err = s.do(ctx, Call{ListNode, ipam.Block{Node: node}}, func() error {
		out = s.filter(func(b ipam.Block) bool { return b.Node == node })
		return nil
	})
	return out, err
}

// Get implements ipam.BlockStore.
func (s *Store) Get(ctx context.Context, cidr netip.Prefix) (b ipam.Block, found bool, err error) {
	err = s.do(ctx, Call{Get, ipam.Block{CIDR: cidr}}, func() error {
		b, found = s.blocks[cidr]
		return nil
	})
	return b, found, err
}

// Delete implements ipam.BlockStore.
func (s *Store) Delete(ctx context.Context, b ipam.Block) error {
	return s.do(ctx, Call{Delete, b}, func() error {
		if s.blocks[b.CIDR].Node == b.Node {
			delete(s.blocks, b.CIDR)
		}
		return nil
	})
}

func (s *Store) do(ctx context.Context, c Call, effect func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.Before != nil {
		if err := s.Before(ctx, c); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.calls = append(s.calls, c)
	err := effect()
	s.mu.Unlock()
	if err == nil && s.After != nil {
		err = s.After(ctx, c)
	}
	return err
}

func (s *Store) filter(keep func(ipam.Block) bool) []ipam.Block {
	var out []ipam.Block
	for _, b := range s.blocks {
		if keep(b) {
			out = append(out, b)
		}
	}
	return out
}

// Count returns how many calls of an operation took place.
func (s *Store) Count(op Op) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, c := range s.calls {
		if c.Op == op {
			n++
		}
	}
	return n
}

// Dump returns the blocks as text, a line each, sorted:
//
//	172.25.0.128/26 pool=default node=n1
func (s *Store) Dump() string {
	s.mu.Lock()
	all := s.filter(func(ipam.Block) bool { return true })
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b ipam.Block) int { return a.CIDR.Addr().Compare(b.CIDR.Addr()) })
	var out strings.Builder
	for _, b := range all {
		fmt.Fprintf(&out, "%s pool=%s node=%s\n", b.CIDR, b.Pool, b.Node)
	}
	return out.String()
}
