package ipamtest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-net/godwit/ipam"
)

// TestStore holds a store to the contract of ipam.BlockStore. Make returns an
// empty store; it is called once for each part. Pools and nodes are named
// "conformance-…".
func TestStore(t *testing.T, make func(testing.TB) ipam.BlockStore) {
	for name, part := range map[string]func(*testing.T, ipam.BlockStore){
		"CreateOnce":      testCreateOnce,
		"CreateRace":      testCreateRace,
		"Lists":           testLists,
		"Get":             testGet,
		"Delete":          testDelete,
		"DeleteForeign":   testDeleteForeign,
		"ContextEnded":    testContextEnded,
		"FiftyClaimers":   func(t *testing.T, s ipam.BlockStore) { Race(t, s, 50, 1) },
		"ClaimersExhaust": testClaimersExhaust,
	} {
		t.Run(name, func(t *testing.T) { part(t, make(t)) })
	}
}

const patience = 60 * time.Second

func block(cidr, pool, node string) ipam.Block {
	return ipam.Block{CIDR: netip.MustParsePrefix(cidr), Pool: "conformance-" + pool, Node: "conformance-" + node}
}

func contextFor(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func testCreateOnce(t *testing.T, s ipam.BlockStore) {
	ctx := contextFor(t)
	for _, cidr := range []string{"10.99.0.0/26", "fd00:99::/122"} {
		if err := s.Create(ctx, block(cidr, "p", "a")); err != nil {
			t.Fatalf("Create of a free block: %v", err)
		}
		for _, node := range []string{"a", "b"} {
			if err := s.Create(ctx, block(cidr, "p", node)); !errors.Is(err, ipam.ErrBlockExists) {
				t.Errorf("Create by %s of a's block %s: %v, want ErrBlockExists", node, cidr, err)
			}
		}
	}
}

func testCreateRace(t *testing.T, s ipam.BlockStore) {
	ctx := contextFor(t)
	var wg sync.WaitGroup
	errs := make([]error, 20)
	for i := range errs {
		wg.Go(func() { errs[i] = s.Create(ctx, block("10.99.1.0/26", "p", fmt.Sprint(i))) })
	}
	wg.Wait()
	won := 0
	for i, err := range errs {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, ipam.ErrBlockExists):
			t.Errorf("claimer %d: %v, want ErrBlockExists", i, err)
		}
	}
	if won != 1 {
		t.Errorf("%d of %d claimers got the block", won, len(errs))
	}
}

func testLists(t *testing.T, s ipam.BlockStore) {
	ctx := contextFor(t)
	a1, a2 := block("10.99.2.0/26", "p", "a"), block("fd00:99:2::/122", "q", "a")
	b1 := block("10.99.2.64/26", "p", "b")
	for _, b := range []ipam.Block{a1, a2, b1} {
		if err := s.Create(ctx, b); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what string, got []ipam.Block, err error, want ...ipam.Block) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		slices.SortFunc(got, func(a, b ipam.Block) int { return a.CIDR.Addr().Compare(b.CIDR.Addr()) })
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	got, err := s.List(ctx, a1.Pool)
	check("List of the pool", got, err, a1, b1)
	got, err = s.ListNode(ctx, a1.Node)
	check("ListNode", got, err, a1, a2)
	got, err = s.List(ctx, "conformance-none")
	check("List of a pool without blocks", got, err)
	got, err = s.ListNode(ctx, "conformance-none")
	check("ListNode of a node without blocks", got, err)
}

func testGet(t *testing.T, s ipam.BlockStore) {
	ctx := contextFor(t)
	held := block("10.99.6.1/32", "p", "a")
	held.Holder = "pod conformance/web-0 uid-1" // as agents have it
	for _, b := range []ipam.Block{held, block("fd00:99:6::/122", "p", "b")} {
		if _, found, err := s.Get(ctx, b.CIDR); err != nil || found {
			t.Errorf("Get of %s, which nobody has: found %v, %v", b.CIDR, found, err)
		}
		if err := s.Create(ctx, b); err != nil {
			t.Fatal(err)
		}
		if got, found, err := s.Get(ctx, b.CIDR); err != nil || !found || got != b {
			t.Errorf("Get of %v: %v, found %v, %v", b, got, found, err)
		}
	}
	if got, err := s.ListNode(ctx, held.Node); err != nil || !slices.Equal(got, []ipam.Block{held}) {
		t.Errorf("ListNode: %v, %v, want the holder, too: %v", got, err, held)
	}
}

func testDelete(t *testing.T, s ipam.BlockStore) {
	ctx := contextFor(t)
	b := block("10.99.3.0/26", "p", "a")
	if err := s.Create(ctx, b); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Delete(ctx, b); err != nil {
			t.Fatalf("Delete: %v", err)
		}
	}
	if got, err := s.ListNode(ctx, b.Node); err != nil || len(got) > 0 {
		t.Errorf("ListNode after Delete: %v, %v", got, err)
	}
	if err := s.Create(ctx, block("10.99.3.0/26", "p", "b")); err != nil {
		t.Errorf("Create by another after Delete: %v", err)
	}
}

func testDeleteForeign(t *testing.T, s ipam.BlockStore) {
	ctx := contextFor(t)
	b := block("10.99.4.0/26", "p", "b")
	if err := s.Create(ctx, b); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(ctx, block("10.99.4.0/26", "p", "a")); err != nil {
		t.Errorf("Delete of another node's block: %v, want no error and no effect", err)
	}
	if got, err := s.ListNode(ctx, b.Node); err != nil || !slices.Equal(got, []ipam.Block{b}) {
		t.Errorf("after another's Delete the owner has %v, %v", got, err)
	}
}

func testContextEnded(t *testing.T, s ipam.BlockStore) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Create(ctx, block("10.99.5.0/26", "p", "a")); err == nil {
		t.Error("Create went on after its context ended")
	}
	if _, err := s.List(ctx, "conformance-p"); err == nil {
		t.Error("List went on after its context ended")
	}
}

func testClaimersExhaust(t *testing.T, s ipam.BlockStore) {
	pool := racePool()
	if got := Race(t, s, 16, 4); len(got) != 64 {
		t.Fatalf("16 claimers of 4 blocks each got %d blocks of 64", len(got))
	}
	_, err := ipam.Claim(contextFor(t), s, pool, "conformance-late", nil)
	var ex *ipam.ExhaustedError
	if !errors.As(err, &ex) || !strings.Contains(err.Error(), pool.Name) {
		t.Errorf("a claim of a full pool: %v, want an ExhaustedError that names the pool", err)
	}
}

func racePool() ipam.Pool {
	return ipam.Pool{Name: "conformance-race", CIDR: netip.MustParsePrefix("10.98.0.0/20"), BlockLen: 26, Allocate: true}
}

// Race has many nodes claim blocks each at the same time, of a pool of 64 blocks,
// and fails the test unless each got its blocks, no block has two owners, and the
// store's list tells the same. It returns the blocks.
func Race(t testing.TB, s ipam.BlockStore, claimers, each int) map[netip.Prefix]string {
	t.Helper()
	ctx := contextFor(t)
	pool := racePool()
	claimed := make([][]ipam.Block, claimers)
	errs := make([]error, claimers)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range claimers {
		wg.Go(func() {
			<-start
			known := func(p netip.Prefix) bool {
				return slices.ContainsFunc(claimed[i], func(b ipam.Block) bool { return b.CIDR == p })
			}
			for range each {
				b, err := ipam.Claim(ctx, s, pool, fmt.Sprintf("conformance-%d", i), known)
				if err != nil {
					errs[i] = err
					return
				}
				claimed[i] = append(claimed[i], b)
			}
		})
	}
	close(start)
	wg.Wait()

	owners := map[netip.Prefix]string{}
	for i, blocks := range claimed {
		if errs[i] != nil {
			t.Errorf("claimer %d: %v", i, errs[i])
		}
		for _, b := range blocks {
			if first, taken := owners[b.CIDR]; taken {
				t.Errorf("%s has two owners, %s and %s", b.CIDR, first, b.Node)
			}
			owners[b.CIDR] = b.Node
		}
	}
	listed, err := s.List(ctx, pool.Name)
	if err != nil {
		t.Fatal(err)
	}
	if len(listed) != len(owners) {
		t.Errorf("the store has %d blocks, the claimers %d", len(listed), len(owners))
	}
	for _, b := range listed {
		if owners[b.CIDR] != b.Node {
			t.Errorf("the store gives %s to %q; %q claimed it", b.CIDR, b.Node, owners[b.CIDR])
		}
	}
	return owners
}
