package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/godwit-net/godwit/ipam"
	"github.com/godwit-net/godwit/ipam/ipamtest"
)

func fill(t *testing.T, s ipam.BlockStore, node string, cidrs ...string) {
	t.Helper()
	for _, c := range cidrs {
		if err := s.Create(t.Context(), block(c, "a", node)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestClaimTakesTheLastFreeBlock(t *testing.T) {
	for i := range 16 {
		s := &ipamtest.Store{}
		free := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i * 16)}), 28)
		for j := range 16 {
			if j != i {
				fill(t, s, "other", fmt.Sprintf("10.0.0.%d/28", j*16))
			}
		}
		got, err := ipam.Claim(t.Context(), s, pool("a", "10.0.0.0/24", 28), "n1", nil)
		if err != nil || got.CIDR != free {
			t.Errorf("got %v, %v, want %s", got, err, free)
		}
		if creates, lists := s.Count(ipamtest.Create)-15, s.Count(ipamtest.List); creates > 5 || lists > 1 {
			t.Errorf("it took %d creates and %d lists", creates, lists)
		}
	}
}

// A block of the node's own that it doesn't know of, as after a claim whose answer
// was lost, is as good as a new one.
func TestClaimFindsItsOwn(t *testing.T) {
	s := &ipamtest.Store{}
	fill(t, s, "n2", "10.0.0.0/28", "10.0.0.16/28")
	fill(t, s, "n1", "10.0.0.32/28", "10.0.0.48/28")
	p := pool("a", "10.0.0.0/26", 28)
	known := map[netip.Prefix]bool{netip.MustParsePrefix("10.0.0.32/28"): true}
	has := func(c netip.Prefix) bool { return known[c] }
	got, err := ipam.Claim(t.Context(), s, p, "n1", has)
	if err != nil || got != block("10.0.0.48/28", "a", "n1") {
		t.Errorf("got %v, %v, want the block that is n1's and unknown to it", got, err)
	}
	known[got.CIDR] = true
	var ex *ipam.ExhaustedError
	if _, err := ipam.Claim(t.Context(), s, p, "n1", has); !errors.As(err, &ex) {
		t.Errorf("%v, want an ExhaustedError", err)
	}
}

// What is left of a pool of the same name that was cut differently is not given
// out a second time.
func TestClaimAvoidsBlocksOfAnotherCut(t *testing.T) {
	s := &ipamtest.Store{}
	fill(t, s, "n2", "10.0.0.0/27", "10.0.0.36/30", "10.0.0.64/28", "10.0.0.80/28", "10.0.0.96/28")
	fill(t, s, "n1", "10.0.0.112/29")
	// Take away what the first probes may find, so that the list decides.
	p := pool("a", "10.0.0.0/25", 28)
	var got []netip.Prefix
	probed := 0
	s.Before = func(_ context.Context, c ipamtest.Call) error {
		if c.Op == ipamtest.Create {
			if probed++; probed <= 4 {
				return ipam.ErrBlockExists
			}
			got = append(got, c.Block.CIDR)
		}
		return nil
	}
	b, err := ipam.Claim(t.Context(), s, p, "n1", nil)
	if err != nil || b.CIDR != netip.MustParsePrefix("10.0.0.48/28") || len(got) != 1 {
		t.Errorf("got %v, %v, trying %v; want 10.0.0.48/28, the only block that overlaps none", b, err, got)
	}
}

func TestClaimErrors(t *testing.T) {
	p := pool("a", "10.0.0.0/24", 28)
	for _, op := range []ipamtest.Op{ipamtest.Create, ipamtest.List} {
		s := &ipamtest.Store{Before: func(_ context.Context, c ipamtest.Call) error {
			if c.Op == op {
				return errDown
			}
			return ipam.ErrBlockExists
		}}
		if _, err := ipam.Claim(t.Context(), s, p, "n1", nil); !errors.Is(err, errDown) {
			t.Errorf("%s fails: %v", op, err)
		}
	}
	if _, err := ipam.Claim(t.Context(), &ipamtest.Store{}, pool("a", "10.0.0.0/24", 20), "n1", nil); err == nil {
		t.Error("claimed a block of a pool that makes no sense")
	}
}

// A claim in a pool of 2^74 blocks costs no more than one in a small pool, also
// where many nodes are before it.
func TestClaimInAHugePool(t *testing.T) {
	s := &ipamtest.Store{}
	p := pool("six", "fd00:25::/48", 122, "fd00:25:0:8000::/50")
	for i := range 2000 {
		node := fmt.Sprint("n", i)
		got, err := ipam.Claim(t.Context(), s, p, node, nil)
		if err != nil || got.Node != node || got.CIDR.Bits() != 122 || !p.CIDR.Contains(got.CIDR.Addr()) || p.Reserved[0].Overlaps(got.CIDR) {
			t.Fatalf("%s: %v, %v", node, got, err)
		}
	}
	if creates, lists := s.Count(ipamtest.Create), s.Count(ipamtest.List); creates != 2000 || lists != 0 {
		t.Errorf("it took %d creates and %d lists, want one create each", creates, lists)
	}
	// One node with many blocks walks on from where it is.
	known := map[netip.Prefix]bool{}
	for range 500 {
		b, err := ipam.Claim(t.Context(), s, p, "n1", func(c netip.Prefix) bool { return known[c] })
		if err != nil {
			t.Fatal(err)
		}
		known[b.CIDR] = true
	}
}
