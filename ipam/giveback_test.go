package ipam_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-net/godwit/ipam"
	"github.com/godwit-net/godwit/ipam/ipamtest"
)

func TestGiveBack(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := pool("a", "10.0.0.0/24", 26)
		b := newBed(t, p)
		defer b.run()()
		for i := range 120 {
			b.mustAdd(fmt.Sprint(i), "a")
		}
		synctest.Wait()
		if got := len(b.Blocks()); got != 3 {
			t.Fatalf("%d blocks for 120 pods, want 3", got)
		}
		for i := range 119 {
			b.del(fmt.Sprint(i))
		}
		time.Sleep(ipam.DefaultGiveBackAfter - time.Second)
		if got := len(b.Blocks()); got != 3 {
			t.Errorf("a block was given back too early: %d are left", got)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if held, stored := len(b.Blocks()), strings.Count(b.store.Dump(), "\n"); held != 2 && held != 1 || stored != 3 {
			t.Errorf("%d blocks are held and %d stored; an empty one leaves the node first", held, stored)
		}
		time.Sleep(time.Minute)
		if got, stored := len(b.Blocks()), strings.Count(b.store.Dump(), "\n"); got > 2 || got != stored {
			t.Errorf("%d blocks are held and %d stored", got, stored)
		}
		b.del("119")
		time.Sleep(30 * time.Minute)
		<-b.BlocksChanged()
		time.Sleep(time.Hour)
		select {
		case <-b.BlocksChanged():
			t.Error("the blocks of an idle node change")
		default:
		}
		if got := strings.Count(b.store.Dump(), "\n"); got != 1 || len(b.Blocks()) != 1 {
			t.Errorf("%d blocks are stored, want the last to stay:\n%s", got, b.blocks())
		}
		if claims, deletes := b.store.Count(ipamtest.Create), b.store.Count(ipamtest.Delete); claims != 3 || deletes != 2 {
			t.Errorf("%d claims and %d deletes, want 3 and 2: the last block doesn't come and go", claims, deletes)
		}
		p.Allocate = false
		b.SetPools([]ipam.Pool{p})
		time.Sleep(time.Hour)
		b.wantStore() // a disabled pool has no use for it
		b.wantBlocks()
	})
}

// A node that had many pods once and has few now, which come and go, gets by with
// few blocks again.
func TestBlocksRunEmpty(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBed(t, pool("a", "10.0.0.0/22", 26))
		defer b.run()()
		for i := range 300 {
			b.mustAdd(fmt.Sprint(i), "a")
		}
		var ids []string
		for i := range 300 {
			if i%3 == 0 {
				ids = append(ids, fmt.Sprint(i))
			} else {
				b.del(fmt.Sprint(i))
			}
		}
		rnd := rand.New(rand.NewPCG(1, 1))
		for i := range 1500 { // 100 pods, of which one is replaced every minute
			at := rnd.IntN(len(ids))
			b.del(ids[at])
			ids[at] = fmt.Sprint("new", i)
			b.mustAdd(ids[at], "a")
			time.Sleep(time.Minute)
		}
		if got := len(b.Blocks()); got > 3 {
			t.Errorf("100 pods keep %d blocks:\n%s", got, b.blocks())
		}
	})
}

// A block on its way back is taken back, or released later, as things change.
func TestGiveBackIsReconsidered(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBed(t, pool("a", "10.0.0.0/24", 26))
		deletes := make(chan error)
		b.store.Before = func(_ context.Context, c ipamtest.Call) error {
			if c.Op == ipamtest.Delete {
				return <-deletes
			}
			return nil
		}
		two := []ipam.Block{block("10.0.0.0/26", "a", "n1"), block("10.0.0.64/26", "a", "n1")}
		b.SetBlocks(two)
		defer b.run()()
		time.Sleep(ipam.DefaultGiveBackAfter)
		synctest.Wait()
		if got := len(b.Blocks()); got != 1 {
			t.Fatalf("%d blocks are held, want 1", got)
		}
		// A burst comes: the block is taken back without a claim.
		before := b.store.Count(ipamtest.Create)
		for i := range 100 {
			b.mustAdd(fmt.Sprint(i), "a")
		}
		b.wantBlocks("10.0.0.0/26 a 64/64", "10.0.0.64/26 a 36/64")
		if got := b.store.Count(ipamtest.Create); got != before {
			t.Errorf("%d blocks were claimed instead", got-before)
		}
		for i := range 100 {
			b.del(fmt.Sprint(i))
		}
		// The store fails to delete, then does.
		time.Sleep(ipam.DefaultGiveBackAfter + 15*time.Second)
		deletes <- errDown
		if got := strings.Count(b.store.Dump(), "\n"); got != 2 {
			t.Errorf("%d blocks are stored after a Delete that failed", got)
		}
		deletes <- nil
		synctest.Wait()
		if got := strings.Count(b.store.Dump(), "\n"); got != 1 || len(b.Blocks()) != 1 {
			t.Errorf("%d blocks are stored, %d held, want 1", got, len(b.Blocks()))
		}
	})
}

// A pool's own time counts, and the last block stays whatever it is.
func TestGiveBackAfterThePoolsTime(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		quick, usual := pool("quick", "10.0.0.0/24", 26), pool("usual", "fd00::/120", 122)
		quick.GiveBackAfter = time.Minute
		b := newBed(t, quick, usual)
		b.SetBlocks([]ipam.Block{
			block("10.0.0.0/26", "quick", "n1"), block("10.0.0.64/26", "quick", "n1"), block("fd00::/122", "usual", "n1"), block("fd00::40/122", "usual", "n1"),
		})
		defer b.run()()
		time.Sleep(time.Minute - time.Second)
		if got := len(b.Blocks()); got != 4 {
			t.Errorf("%d blocks are held before the time is over, want 4", got)
		}
		time.Sleep(2 * time.Second)
		b.wantBlocks("10.0.0.0/26 quick 0/64", "fd00::/122 usual 0/64", "fd00::40/122 usual 0/64")
		time.Sleep(ipam.DefaultGiveBackAfter + 24*time.Hour)
		b.wantBlocks("10.0.0.0/26 quick 0/64", "fd00::/122 usual 0/64")
		b.wantStore("10.0.0.0/26 pool=quick node=n1", "fd00::/122 pool=usual node=n1")
		// The pool is disabled: now the last one goes, too.
		quick.Allocate = false
		b.SetPools([]ipam.Pool{quick, usual})
		time.Sleep(2 * time.Minute)
		b.wantBlocks("fd00::/122 usual 0/64")
	})
}

func TestGiveBackNever(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBed(t)
		b.opts.GiveBackAfter = -1
		b.open(pool("a", "10.0.0.0/24", 26))
		b.SetBlocks([]ipam.Block{block("10.0.0.0/26", "a", "n1"), block("10.0.0.64/26", "a", "n1")})
		defer b.run()()
		time.Sleep(24 * time.Hour)
		if got := len(b.Blocks()); got != 2 {
			t.Errorf("%d blocks, want 2", got)
		}
	})
}
