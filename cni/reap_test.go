package cni

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func TestDelFreesInOrder(t *testing.T) {
	b := newBench(t, 4, Options{ReapDelay: time.Millisecond})
	b.must(b.Add, request("c"))
	b.must(b.Del, request("c"))
	b.eventually("0 links, 0 routes, 0 records")
	want := []string{"attach c", "doom c", "unroute 172.25.0.128", "sweep", "flush"}
	if got := b.node.log[:len(want)]; !slices.Equal(got, want) {
		t.Errorf("it went %q, want %q", got, want)
	}
	b.must(b.Del, request("c")) // again
	b.must(b.Del, request("nobody"))
}

// An address that somebody else may wait for does not wait for the reaper's delay.
func TestSomeAddressesAreReapedAtOnce(t *testing.T) {
	first := netip.MustParseAddr("172.25.0.128")
	b := newBench(t, 4, Options{ReapDelay: time.Hour, Hurry: func(a []netip.Addr) bool { return slices.Contains(a, first) }})
	b.must(b.Add, request("awaited"))
	b.must(b.Add, request("other"))
	b.must(b.Del, request("other"))
	b.expectLeft("2 links, 1 routes, 2 records")
	b.must(b.Del, request("awaited"))
	b.eventually("0 links, 0 routes, 0 records")
}

func TestAddressIsNotFreeBeforeItsLinkIsGone(t *testing.T) {
	b := newBench(t, 1, Options{ReapDelay: time.Millisecond})
	b.must(b.Add, request("one"))
	b.node.set(func() { b.node.sweepErr = errors.New("busy") })
	b.must(b.Del, request("one"))
	if code := b.code(b.Add, request("two")); code != CodeExhausted {
		t.Errorf("code %d", code)
	}
	b.expectLeft("1 links, 0 routes, 1 records")
	b.node.set(func() { b.node.sweepErr = nil })
	b.must(b.Add, request("two"))
	b.expectLeft("1 links, 1 routes, 1 records")
}
