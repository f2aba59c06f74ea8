package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-net/godwit/ipam"
	"github.com/godwit-net/godwit/ipam/ipamtest"
)

// run starts Run; the returned function ends it.
func (b *bed) run() (stop func()) {
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("Run: %v", err)
		}
	})
}

// inBubble runs a test on fake time.
func inBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

var errDown = errors.New("connection refused")

func TestClaimsAhead(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		restricted := pool("r", "10.9.0.0/24", 26)
		restricted.Restricted = true
		off := pool("off", "10.8.0.0/24", 26)
		off.Allocate = false
		b := newBed(t, off, restricted, pool("a", "10.0.0.0/26", 27), pool("spare", "10.1.0.0/26", 26), pool("six", "fd00::/122", 122))
		defer b.run()()
		synctest.Wait()
		if got := b.blocks(); strings.Count(got, "\n") != 1 || !strings.Contains(got, " a 0/32") || !strings.Contains(got, "six 0/64") {
			t.Errorf("blocks before the first pod:\n%s\nwant one of the first pool of each family", got)
		}
		for i := range 16 {
			b.mustAdd(fmt.Sprint("c", i), "a", "six")
		}
		synctest.Wait()
		if got := strings.Count(b.blocks(), " a "); got != 1 {
			t.Errorf("%d blocks of a with 16 addresses free, want 1", got)
		}
		b.mustAdd("c16", "a")
		synctest.Wait()
		if got := strings.Count(b.blocks(), " a "); got != 2 {
			t.Errorf("%d blocks of a with 15 addresses free, want another claimed ahead", got)
		}
		// The pool is used up: the next one of the family steps in, ahead as well.
		for i := 17; i < 50; i++ {
			b.mustAdd(fmt.Sprint("c", i), "a", "spare")
		}
		synctest.Wait()
		b.wantBlocks("10.0.0.0/27 a 32/32", "10.0.0.32/27 a 18/32", "10.1.0.0/26 spare 0/64", "fd00::/122 six 16/64")
		// A restricted pool is claimed of when its first pod comes, then ahead.
		for i := range 49 {
			b.mustAdd(fmt.Sprint("r", i), "r")
		}
		synctest.Wait()
		if got := strings.Count(b.blocks(), " r "); got != 2 {
			t.Errorf("%d blocks of the restricted pool, want 2:\n%s", got, b.blocks())
		}
	})
}

func TestSmallBlocksLowerTheWaterMark(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBed(t, pool("a", "10.0.0.0/24", 32))
		defer b.run()()
		synctest.Wait()
		for i := range 5 {
			b.mustAdd(fmt.Sprint("c", i), "a")
			synctest.Wait()
			if got, want := len(b.Blocks()), i+2; got != want {
				t.Errorf("%d pods have %d blocks of one address, want %d", i+1, got, want)
			}
		}
	})
}

// A hundred pods that wait at once bring as many claims as blocks are needed.
func TestABurstClaimsWhatItNeeds(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBed(t, pool("a", "10.0.0.0/20", 26), pool("b", "fd00::/112", 122))
		b.store.Before = func(context.Context, ipamtest.Call) error {
			time.Sleep(20 * time.Millisecond)
			return nil
		}
		start := time.Now()
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() { b.mustAdd(fmt.Sprint("c", i), "a", "b") })
		}
		wg.Wait()
		if got := b.store.Count(ipamtest.Create); got != 4 {
			t.Errorf("%d claims, want 2 for each family", got)
		}
		if took := time.Since(start); took > 200*time.Millisecond {
			t.Errorf("took %v, with 20 ms for each call of the store", took)
		}
		seen := map[netip.Addr]bool{}
		for _, r := range b.Records() {
			if seen[r.Address] {
				t.Errorf("%s was given out twice", r.Address)
			}
			seen[r.Address] = true
		}
		if len(seen) != 200 {
			t.Errorf("%d addresses, want 200", len(seen))
		}
	})
}

func TestTheStoreIsAway(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBed(t, pool("a", "10.0.0.0/24", 30))
		var down atomic.Bool
		down.Store(true)
		b.store.Before = func(context.Context, ipamtest.Call) error {
			if down.Load() {
				return errDown
			}
			return nil
		}
		b.SetBlocks([]ipam.Block{block("10.0.0.4/30", "a", "n1")}) // from a checkpoint
		defer b.run()()
		for i := range 4 {
			b.mustAdd(fmt.Sprint("c", i), "a") // as long as there are addresses, pods start
		}
		start := time.Now()
		_, err := b.add("d", "a")
		var away *ipam.UnavailableError
		if !errors.As(err, &away) || !errors.Is(err, errDown) || away.Pool != "a" {
			t.Errorf("%v, want an UnavailableError that tells why", err)
		}
		if took := time.Since(start); took != ipam.DefaultClaimTimeout {
			t.Errorf("took %v, want the claim timeout", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err = b.Allocate(ctx, ipam.Request{Owner: owner("d"), Pools: []string{"a"}}); !errors.As(err, &away) {
			t.Errorf("with a deadline: %v", err)
		}

		// An address that is released wakes who waits.
		got := make(chan string)
		go func() { got <- b.mustAdd("e", "a") }()
		synctest.Wait()
		b.del("c2")
		if a := <-got; a != "10.0.0.6" {
			t.Errorf("got %s, want the one that was released", a)
		}

		// The store is back: within the backoff, whoever waits gets an address.
		go func() { got <- b.mustAdd("f", "a") }()
		synctest.Wait()
		down.Store(false)
		start = time.Now()
		<-got
		if took := time.Since(start); took > 6*time.Second {
			t.Errorf("got an address %v after the store was back", took)
		}
	})
}

// A store that doesn't answer at all holds up nobody for longer than asked.
func TestTheStoreHangs(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBed(t, pool("a", "10.0.0.0/24", 30))
		b.store.Before = func(ctx context.Context, _ ipamtest.Call) error {
			<-ctx.Done()
			return ctx.Err()
		}
		defer b.run()()
		synctest.Wait()
		start := time.Now()
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				_, err := b.Allocate(ctx, ipam.Request{Owner: owner(fmt.Sprint(i)), Pools: []string{"a"}})
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%v, want DeadlineExceeded", err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("took %v, want 3s", took)
		}
	})
}

func TestAnExhaustedPoolIsAskedSeldom(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := pool("a", "10.0.0.0/26", 26)
		b := newBed(t, p)
		foreign := block("10.0.0.0/26", "a", "n2")
		if err := b.store.Create(t.Context(), foreign); err != nil {
			t.Fatal(err)
		}
		defer b.run()()
		start := time.Now()
		for range 50 {
			if _, err := b.add("c", "a"); !strings.Contains(fmt.Sprint(err), "IP pools [a]: nodes have claimed all 1 blocks of 10.0.0.0/26") {
				t.Fatalf("%v", err)
			}
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("50 refusals took %v", took)
		}
		if lists := b.store.Count(ipamtest.List); lists > 2 {
			t.Errorf("50 refusals listed the pool %d times", lists)
		}
		time.Sleep(5 * time.Minute)
		if lists := b.store.Count(ipamtest.List); lists > 2 {
			t.Errorf("the pool was listed %d times though no pod asked", lists)
		}
		if err := b.store.Delete(t.Context(), foreign); err != nil {
			t.Fatal(err)
		}
		if got := b.mustAdd("c", "a"); got != "10.0.0.0" {
			t.Errorf("got %s", got)
		}
	})
}

// A pool that grew, or whose reserved ranges shrank, is asked at once.
func TestAChangedPoolIsAskedAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBed(t, pool("a", "10.0.0.0/25", 26, "10.0.0.0/25"))
		defer b.run()()
		if _, err := b.add("c", "a"); !strings.Contains(fmt.Sprint(err), "all of 10.0.0.0/25 is reserved") {
			t.Fatalf("%v", err)
		}
		b.SetPools([]ipam.Pool{pool("a", "10.0.0.0/25", 26, "10.0.0.0/26")})
		if got := b.mustAdd("c", "a"); got != "10.0.0.64" {
			t.Errorf("got %s, want 10.0.0.64", got)
		}
	})
}

// The store took the claim, but its answer got lost: the block is found again,
// not leaked.
func TestALostAnswer(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBed(t, pool("a", "10.0.0.0/24", 26))
		var lost atomic.Int32
		b.store.After = func(_ context.Context, c ipamtest.Call) error {
			if c.Op == ipamtest.Create && lost.Add(1) == 1 {
				return errDown
			}
			return nil
		}
		b.mustAdd("c", "a")
		if got := b.store.Count(ipamtest.Create); got != 1 {
			t.Errorf("%d blocks created, want the one whose answer was lost", got)
		}
		if got := strings.Count(b.store.Dump(), "\n"); got != 1 || len(b.Blocks()) != 1 {
			t.Errorf("the store:\n%s\nthe node:\n%s", b.store.Dump(), b.blocks())
		}
	})
}

func TestBlocksOfACheckpoint(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBed(t, pool("a", "10.0.0.0/24", 26))
		for _, have := range []ipam.Block{
			block("10.0.0.0/26", "a", "n1"), block("10.0.0.64/26", "a", "n2"), block("10.0.0.192/26", "gone", "n1"),
		} {
			if err := b.store.Create(t.Context(), have); err != nil {
				t.Fatal(err)
			}
		}
		b.SetBlocks([]ipam.Block{
			block("10.0.0.64/26", "a", "n1"),  // another node's by now
			block("10.0.0.128/26", "a", "n1"), // deleted in the store
			block("10.7.0.0/26", "a", "n3"),   // never ours
			{CIDR: netip.MustParsePrefix("10.8.0.0/8"), Pool: "a", Node: "n1"},
		})
		b.mustAdd("c", "a")
		defer b.run()()
		synctest.Wait()
		b.wantBlocks("10.0.0.0/26 a 0/64", "10.0.0.128/26 a 0/64", "10.0.0.192/26 gone 0/64")
		b.wantStore("10.0.0.0/26 pool=a node=n1", "10.0.0.64/26 pool=a node=n2",
			"10.0.0.128/26 pool=a node=n1", "10.0.0.192/26 pool=gone node=n1")
		for i := range 128 {
			if a := netip.MustParseAddr(b.mustAdd(fmt.Sprint(i), "a")); netip.MustParsePrefix("10.0.0.64/26").Contains(a) {
				t.Fatalf("%s is another node's", a)
			}
		}
		if got := b.del("c"); got != "10.0.0.64" {
			t.Errorf("released %q; a lost block's addresses can be released", got)
		}
	})
}

// The node was taken for gone while it worked: one of its blocks was freed and
// claimed by another, one was freed, one is still its own.
func TestRecheck(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBed(t, pool("a", "10.0.0.0/24", 26))
		mine := []ipam.Block{block("10.0.0.0/26", "a", "n1"), block("10.0.0.64/26", "a", "n1"), block("10.0.0.128/26", "a", "n1")}
		for _, have := range mine {
			if err := b.store.Create(t.Context(), have); err != nil {
				t.Fatal(err)
			}
		}
		defer b.run()()
		for i := range 150 {
			b.mustAdd(fmt.Sprint(i), "a")
		}
		synctest.Wait()
		for _, freed := range mine[:2] {
			if err := b.store.Delete(t.Context(), freed); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.store.Create(t.Context(), block("10.0.0.0/26", "a", "n2")); err != nil {
			t.Fatal(err)
		}
		b.Recheck()
		synctest.Wait()
		if got := b.blocks(); strings.Contains(got, "10.0.0.0/26") || !strings.Contains(got, "10.0.0.64/26 a 64/64") || !strings.Contains(got, "10.0.0.128/26 a 22/64") {
			t.Errorf("blocks after the check:\n%s\nwant those that are not n2's", got)
		}
		if got := b.store.Dump(); !strings.Contains(got, "10.0.0.0/26 pool=a node=n2") || !strings.Contains(got, "10.0.0.64/26 pool=a node=n1") {
			t.Errorf("the store has:\n%s", got)
		}
	})
}

// The limit of blocks is the node's, not that of the pool: it claims no more, says
// so, and goes on when it may have more, or an address is free.
func TestMaxBlocks(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := pool("a", "10.0.0.0/24", 30)
		p.MaxBlocks = 2
		b := newBed(t, p)
		defer b.run()()
		for i := range 8 {
			b.mustAdd(fmt.Sprint(i), "a")
		}
		start := time.Now()
		_, err := b.add("8", "a")
		const want = "no free address in IP pools [a]: this node has all blocks of 10.0.0.0/24 that it may have (maxBlocksPerNode of IPPool a is 2), " +
			"and each of their addresses is in use: raise maxBlocksPerNode, or run fewer pods on node n1"
		if err == nil || err.Error() != want || !errors.As(err, new(*ipam.ExhaustedError)) {
			t.Errorf("beyond the limit: %v\nwant %s", err, want)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("it took %v to find out", took)
		}
		if creates := b.store.Count(ipamtest.Create); creates != 2 {
			t.Errorf("%d claims, want 2", creates)
		}
		b.del("3")
		if got := b.mustAdd("8", "a"); got == "" {
			t.Error("no address although one is free")
		}
		// The next pool of the family steps in, claimed ahead.
		b.SetPools([]ipam.Pool{p, pool("b", "10.1.0.0/24", 30)})
		synctest.Wait()
		if got := b.mustAdd("9", "a", "b"); !strings.HasPrefix(got, "10.1.0.") {
			t.Errorf("got %s, want one of the next pool", got)
		}
		// The limit is raised.
		p.MaxBlocks = 3
		b.SetPools([]ipam.Pool{p})
		if got := b.mustAdd("10", "a"); !strings.HasPrefix(got, "10.0.0.") {
			t.Errorf("got %s, want one of a third block", got)
		}
		// It is lowered: what is there stays.
		p.MaxBlocks = 1
		b.SetPools([]ipam.Pool{p})
		if got := strings.Count(b.blocks(), " a "); got != 3 {
			t.Errorf("%d blocks after the limit was lowered, want 3", got)
		}
	})
}

func TestOneRun(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBed(t)
		defer b.run()()
		synctest.Wait()
		if err := b.Run(t.Context()); err == nil {
			t.Error("a second Run went on")
		}
	})
}

// Fifty nodes start at once over a pool that has 64 blocks, and a few of them
// need more than one.
func TestFiftyNodesAtOnce(t *testing.T) {
	s := &ipamtest.Store{}
	dir := t.TempDir()
	owners := make(chan ipam.Block, 64)
	ctx, cancel := context.WithCancel(t.Context())
	var runs, wg sync.WaitGroup
	for i := range 50 {
		n, err := ipam.Open(ipam.Options{
			Node: fmt.Sprint("node-", i), Store: s, Dir: filepath.Join(dir, fmt.Sprint(i)), Log: slog.New(slog.DiscardHandler), LowWater: 1,
		})
		if err != nil {
			t.Fatal(err)
		}
		n.SetPools([]ipam.Pool{pool("a", "10.0.0.0/24", 30)})
		runs.Go(func() { _ = n.Run(ctx) })
		pods := 3
		if i < 14 {
			pods = 6
		}
		wg.Go(func() {
			for c := range pods {
				if _, err := n.Allocate(ctx, ipam.Request{Owner: owner(fmt.Sprint(c)), Pools: []string{"a"}}); err != nil {
					t.Errorf("node %d, pod %d: %v", i, c, err)
				}
			}
			for _, b := range n.Blocks() {
				owners <- b.Block
			}
		})
	}
	wg.Wait()
	cancel()
	runs.Wait()
	close(owners)
	seen := map[netip.Prefix]string{}
	for b := range owners {
		if other, ok := seen[b.CIDR]; ok {
			t.Errorf("%s belongs to %s and to %s", b.CIDR, b.Node, other)
		}
		seen[b.CIDR] = b.Node
	}
	if len(seen) != 64 || strings.Count(s.Dump(), "\n") != 64 {
		t.Errorf("%d blocks held, %d stored, want 64", len(seen), strings.Count(s.Dump(), "\n"))
	}
}
