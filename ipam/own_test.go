package ipam_test

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/godwit-net/godwit/ipam"
	"github.com/godwit-net/godwit/ipam/ipamtest"
)

// own asks for addresses of the node's own.
func (b *bed) own(ifName string, pools ...string) (string, error) {
	b.t.Helper()
	records, err := b.Allocate(b.t.Context(), ipam.Request{Owner: ipam.NodeOwner(ifName), Pools: pools})
	return addresses(records), err
}

func (b *bed) mustOwn(want, ifName string, pools ...string) {
	b.t.Helper()
	if got, err := b.own(ifName, pools...); err != nil || got != want {
		b.t.Errorf("the node's own of %v on %s: %q, %v, want %q", pools, ifName, got, err, want)
	}
}

// owns returns how many addresses of its own the node has, by block.
func (b *bed) owns() map[string]int {
	out := map[string]int{}
	for _, u := range b.Blocks() {
		if u.Own > 0 {
			out[u.CIDR.String()] = u.Own
		}
	}
	return out
}

func TestOwnAddressStays(t *testing.T) {
	a, six, z := pool("a", "10.0.0.0/29", 30), pool("six", "fd00::/122", 122), pool("z", "10.1.0.0/30", 30)
	blocks := []ipam.Block{block("10.0.0.0/30", "a", "n1"), block("10.1.0.0/30", "z", "n1"), block("fd00::/122", "six", "n1")}
	b := newBed(t, a, six, z)
	b.SetBlocks(blocks)
	b.mustAdd("c", "a")
	b.mustOwn("10.0.0.1", "ipip", "a")
	b.mustOwn("10.0.0.2 fd00::", "vxlan", "a", "six")
	b.wantBlocks("10.0.0.0/30 a 1/4", "10.1.0.0/30 z 0/4", "fd00::/122 six 0/64")
	if diff := cmp.Diff(map[string]int{"10.0.0.0/30": 2, "fd00::/122": 1}, b.owns()); diff != "" {
		t.Errorf("the node's own by block (-want +got):\n%s", diff)
	}

	// Neither a restart, nor another order, nor one more pool, nor that the pool gives
	// out nothing new moves it.
	b.open(a, six, z)
	b.SetBlocks(blocks)
	b.mustOwn("10.0.0.1", "ipip", "z", "a")
	a.Allocate = false
	b.SetPools([]ipam.Pool{a, six, z})
	b.mustOwn("10.0.0.1", "ipip", "a")
	b.mustOwn("10.0.0.1", "ipip", "z", "a")
	b.mustOwn("10.0.0.1 fd00::1", "ipip", "a", "six") // a family more
	b.mustOwn("10.0.0.1", "ipip", "a")                // and less

	// It moves with the pools that are asked for, and what it had is free again.
	b.mustOwn("10.1.0.0", "ipip", "z")
	a.Allocate = true
	b.SetPools([]ipam.Pool{a, six, z})
	if got := b.mustAdd("d", "a"); got != "10.0.0.3" {
		t.Errorf("got %s, want the one that was never used", got)
	}
	if got := b.mustAdd("e", "a"); got != "10.0.0.1" {
		t.Errorf("got %s, want the one that the node gave up", got)
	}
	// What is reserved is meant for somebody else.
	z.Reserved = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/31")}
	b.SetPools([]ipam.Pool{a, six, z})
	b.mustOwn("10.1.0.2", "ipip", "z")

	for _, r := range b.Records() {
		if r.Owner.IsNode() != (r.Owner.Interface != "eth0") {
			t.Errorf("record of %s: IsNode is %v", r.Owner, r.Owner.IsNode())
		}
	}
	if _, err := b.Release(ipam.NodeOwner("ipip")); err != nil {
		t.Fatal(err)
	}
	b.mustOwn("10.0.0.2 fd00::", "vxlan", "six", "a")
}

// The address in use stays while there is no other to be had.
func TestOwnAddressIsReplacedOnlyByAnother(t *testing.T) {
	b := newBed(t, pool("a", "10.0.0.0/30", 30), pool("z", "10.1.0.0/32", 32))
	b.mustOwn("10.0.0.0", "ipip", "a")
	b.mustAdd("c", "z")
	var ex *ipam.ExhaustedError
	if got, err := b.own("ipip", "z"); !errors.As(err, &ex) || got != "" {
		t.Errorf("%q, %v, want an ExhaustedError", got, err)
	}
	if got, err := b.own("ipip", "none"); !errors.As(err, &ex) || got != "" {
		t.Errorf("%q, %v, want an ExhaustedError", got, err)
	}
	if got := addresses(b.Records()); got != "10.0.0.0 10.1.0.0" {
		t.Errorf("records %q: the node's own went, and there is no other", got)
	}
	b.del("c")
	b.mustOwn("10.1.0.0", "ipip", "z")
	if got := addresses(b.Records()); got != "10.1.0.0" {
		t.Errorf("records %q", got)
	}
}

// An agent that ended halfway through a replacement left both on record.
func TestOwnAddressHalfReplaced(t *testing.T) {
	b := newBed(t, pool("a", "10.0.0.0/30", 30))
	b.mustOwn("10.0.0.0", "ipip", "a")
	b.mustOwn("10.0.0.1", "vxlan", "a")
	// As if the record of the second were one of the first's.
	file := filepath.Join(b.opts.Dir, "10.0.0.1")
	text, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, bytes.Replace(text, []byte("vxlan"), []byte("ipip"), 1), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.open(pool("a", "10.0.0.0/30", 30))
	b.SetBlocks([]ipam.Block{block("10.0.0.0/30", "a", "n1")})
	b.mustOwn("10.0.0.0", "ipip", "a")
	if got := addresses(b.Records()); got != "10.0.0.0" {
		t.Errorf("records %q", got)
	}
}

// A block that turns out to be another node's gives no address to a tunnel
// either.
func TestOwnAddressOfALostBlock(t *testing.T) {
	b := newBed(t, pool("a", "10.0.0.0/29", 30))
	b.SetBlocks([]ipam.Block{block("10.0.0.0/30", "a", "n1")})
	b.mustOwn("10.0.0.0", "ipip", "a")
	if err := b.store.Create(t.Context(), block("10.0.0.0/30", "a", "n2")); err != nil {
		t.Fatal(err)
	}
	for i := range 3 { // the block is used up, so that the store is asked
		b.mustAdd(string(rune('c'+i)), "a")
	}
	if got := b.mustAdd("f", "a"); got != "10.0.0.4" {
		t.Fatalf("got %s, want one of the new block", got)
	}
	b.mustOwn("10.0.0.5", "ipip", "a")
}

func TestBlockWithAnOwnAddressIsNotGivenBack(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBed(t, pool("a", "10.0.0.0/26", 26), pool("r", "10.9.0.0/24", 26))
		r := pool("r", "10.9.0.0/24", 26)
		r.Restricted = true
		b.SetPools([]ipam.Pool{pool("a", "10.0.0.0/26", 26), r})
		defer b.run()()
		synctest.Wait()
		// A restricted pool's block is claimed for the tunnel, and no other ahead of it.
		got, err := b.own("vxlan", "r")
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		time.Sleep(time.Hour)
		if n := strings.Count(b.blocks(), " r 0/64"); n != 1 {
			t.Errorf("%d blocks of the tunnel's pool, want 1:\n%s", n, b.blocks())
		}
		r.Allocate = false
		b.SetPools([]ipam.Pool{pool("a", "10.0.0.0/26", 26), r})
		time.Sleep(time.Hour)
		b.mustOwn(got, "vxlan", "r")
		if _, err := b.Release(ipam.NodeOwner("vxlan")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		b.wantBlocks("10.0.0.0/26 a 0/64")
		b.wantStore("10.0.0.0/26 pool=a node=n1")
	})
}

// A request for both families that can't have the one leaves nothing of the other.
func TestNoHalfOfADualStackAllocationStays(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBed(t, pool("a", "10.0.0.0/30", 30), pool("six", "fd00::/48", 122))
		b.store.Before = func(_ context.Context, c ipamtest.Call) error {
			if c.Op == ipamtest.Create && c.Block.Pool == "six" {
				return errDown
			}
			return nil
		}
		for range 3 {
			_, err := b.add("c", "a", "six")
			var un *ipam.UnavailableError
			if !errors.As(err, &un) || un.Pool != "six" {
				t.Errorf("%v, want an UnavailableError of six", err)
			}
		}
		if got := len(b.Records()); got != 0 {
			t.Errorf("%d records stay", got)
		}
		b.wantBlocks("10.0.0.0/30 a 0/4")
		if files, err := filepath.Glob(filepath.Join(b.opts.Dir, "*", "*")); err != nil || len(files) != 0 {
			t.Errorf("an address went and came back: %v, %v", files, err)
		}
		b.store.Before = nil
		time.Sleep(time.Minute)
		if got := b.mustAdd("c", "a", "six"); !strings.HasPrefix(got, "10.0.0.0 fd00:") {
			t.Errorf("got %q", got)
		}
	})
}

// All that holds for IPv4 holds for IPv6 alone: order, reuse, records, reserved
// ranges, giving back.
func TestIPv6Only(t *testing.T) {
	p := pool("six", "fd00:25::/48", 122)
	cidr := netip.MustParsePrefix("fd00:25:0:8000::1:40/122")
	blocks := []ipam.Block{{CIDR: cidr, Pool: "six", Node: "n1"}}
	p.Reserved = []netip.Prefix{netip.MustParsePrefix("fd00:25:0:8000::1:41/128"), netip.MustParsePrefix("fd00:25:0:8000::1:44/126"), netip.MustParsePrefix("fd00:25:1::/64")}
	b := newBed(t, p)
	b.SetBlocks(blocks)
	for _, want := range []string{"40", "42", "43", "48"} {
		if got := b.mustAdd(want, "six"); got != "fd00:25:0:8000::1:"+want {
			t.Errorf("got %s, want …%s", got, want)
		}
	}
	for _, id := range []string{"43", "40"} {
		b.del(id)
	}
	b.open(p)
	b.SetBlocks(blocks)
	b.wantBlocks("fd00:25:0:8000::1:40/122 six 2/59")
	if got := addresses(b.Records()); got != "fd00:25:0:8000::1:42 fd00:25:0:8000::1:48" {
		t.Errorf("records after a restart: %s", got)
	}
	for i := range 55 { // what was never used: 49 to 7f
		b.mustAdd("new-"+string(rune('A'+i)), "six")
	}
	for _, want := range []string{"43", "40"} {
		if got := b.mustAdd("again-"+want, "six"); got != "fd00:25:0:8000::1:"+want {
			t.Errorf("got %s, want …%s, free for longest", got, want)
		}
	}
	b.wantBlocks("fd00:25:0:8000::1:40/122 six 59/59")
	// The block is full: another one comes out of the 2^74 of the pool.
	got := netip.MustParseAddr(b.mustAdd("next", "six"))
	if !p.CIDR.Contains(got) || cidr.Contains(got) {
		t.Errorf("got %s", got)
	}
}
