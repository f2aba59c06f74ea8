package ipam_test

import (
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-net/godwit/ipam"
)

// The store was restored from a snapshot that lacks the node's last blocks: they
// are claimed again, and the pods keep their addresses.
func TestTheStoreForgets(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBed(t, pool("a", "10.0.0.0/22", 30))
		defer b.run()()
		for i := range 20 {
			b.mustAdd(fmt.Sprint(i), "a")
		}
		synctest.Wait()
		had, stored, records := b.blocks(), b.store.Dump(), addresses(b.Records())
		for _, u := range b.Blocks()[1:] {
			if err := b.store.Delete(t.Context(), u.Block); err != nil {
				t.Fatal(err)
			}
		}
		if b.store.Dump() == stored {
			t.Fatal("the store has forgotten nothing")
		}
		b.Verify()
		synctest.Wait()
		if got := b.blocks(); got != had || addresses(b.Records()) != records {
			t.Errorf("the node has\n%swant\n%s", got, had)
		}
		if got := b.store.Dump(); got != stored {
			t.Errorf("the store has\n%swant\n%s", got, stored)
		}
	})
}

// Meanwhile another node got one of them: it is neither in Blocks, by which the
// agent announces, nor given out; it is told of; and it is the node's again when
// the other lets go.
func TestTheStoreGaveABlockToAnother(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBed(t, pool("a", "10.0.0.0/22", 26))
		defer b.run()()
		first := b.mustAdd("c", "a")
		synctest.Wait()
		mine := b.Blocks()[0].Block
		other := mine
		other.Node = "n2"
		swap := func(from, to ipam.Block) {
			t.Helper()
			if err := b.store.Delete(t.Context(), from); err != nil {
				t.Fatal(err)
			}
			if to.Node == "" {
				return
			}
			if err := b.store.Create(t.Context(), to); err != nil {
				t.Fatal(err)
			}
		}
		swap(mine, other)
		b.Verify()
		synctest.Wait()
		if strings.Contains(b.blocks(), mine.CIDR.String()) {
			t.Errorf("a block of another node is among the node's:\n%s", b.blocks())
		}
		if lost := b.Lost(); len(lost) != 1 || lost[0].CIDR != mine.CIDR || lost[0].Allocated != 1 {
			t.Errorf("lost %+v, want %v with one address", lost, mine.CIDR)
		}
		for i := range 70 {
			if a := b.mustAdd(fmt.Sprint(i), "a"); mine.CIDR.Contains(netip.MustParseAddr(a)) {
				t.Fatalf("%s was given out, of a block of another node", a)
			}
		}
		time.Sleep(5 * time.Minute)
		if got := b.store.Dump(); !strings.Contains(got, mine.CIDR.String()+" pool=a node=n2") {
			t.Errorf("the other node has lost its block:\n%s", got)
		}
		swap(other, ipam.Block{})
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(b.Lost()) != 0 || !strings.Contains(b.blocks(), mine.CIDR.String()+" a 1/64") {
			t.Errorf("lost %+v, and the node has\n%swant %v again", b.Lost(), b.blocks(), mine.CIDR)
		}
		if got := b.del("c"); got != first {
			t.Errorf("released %q, want %s", got, first)
		}
		// One that nobody uses any more is let go.
		swap(mine, other)
		b.Verify()
		time.Sleep(time.Minute)
		swap(other, ipam.Block{})
		time.Sleep(time.Hour)
		if got := b.store.Dump(); strings.Contains(got, mine.CIDR.String()) {
			t.Errorf("a block without pods is claimed again:\n%s", got)
		}
	})
}

// What another node announces is left alone: a store that was restored may say
// that it is free, or even this node's.
func TestBlocksThatOthersAnnounce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBed(t, pool("a", "10.0.0.0/24", 26))
		var over atomic.Bool
		b.opts.Elsewhere = func(p netip.Prefix) bool { return !over.Load() && p != netip.MustParsePrefix("10.0.0.128/26") }
		b.open(pool("a", "10.0.0.0/24", 26))
		if err := b.store.Create(t.Context(), block("10.0.0.0/26", "a", "n1")); err != nil {
			t.Fatal(err)
		}
		defer b.run()()
		if got := b.mustAdd("c", "a"); got != "10.0.0.128" {
			t.Errorf("got %s, want an address of the one block that nobody announces", got)
		}
		synctest.Wait()
		b.wantBlocks("10.0.0.128/26 a 1/64")
		over.Store(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		b.wantBlocks("10.0.0.0/26 a 0/64", "10.0.0.128/26 a 1/64")
	})
}
