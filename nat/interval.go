package nat

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
)

// interval is a range of addresses, both ends included.
type interval struct{ first, last netip.Addr }

// intervals turns prefixes into disjoint intervals that don't touch, sorted: the
// only form that an interval set takes.
func intervals(prefixes []netip.Prefix) []interval {
	in := make([]interval, 0, len(prefixes))
	for _, p := range prefixes {
		in = append(in, interval{p.Masked().Addr(), lastOf(p)})
	}
	return merged(in)
}

// merged makes intervals disjoint and has none touch another, sorted. It sorts
// what it is given.
func merged(in []interval) []interval {
	slices.SortFunc(in, func(a, b interval) int { return a.first.Compare(b.first) })
	var out []interval
	for _, i := range in {
		// Next of the last address of all is invalid, and less than any.
		if n := len(out); n > 0 && (out[n-1].last.Compare(i.first) >= 0 || out[n-1].last.Next() == i.first) {
			if out[n-1].last.Less(i.last) {
				out[n-1].last = i.last
			}
			continue
		}
		out = append(out, i)
	}
	return out
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}

// elements turns intervals into elements of a set: where each begins, and where
// the first address behind it is. An interval that reaches the last address of
// all has no end.
func elements(in []interval) []nftables.SetElement {
	out := make([]nftables.SetElement, 0, 2*len(in))
	for _, i := range in {
		out = append(out, nftables.SetElement{Key: i.first.AsSlice()})
		if end := i.last.Next(); end.IsValid() {
			out = append(out, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return out
}

// fromElements is the inverse of elements, for elements in any order.
func fromElements(in []nftables.SetElement) ([]interval, error) {
	type edge struct {
		at  netip.Addr
		end bool
	}
	var edges []edge
	for _, e := range in {
		a, ok := netip.AddrFromSlice(e.Key)
		if !ok || len(e.KeyEnd) > 0 {
			return nil, fmt.Errorf("a set has an element that is no address: %x", e.Key)
		}
		edges = append(edges, edge{a, e.IntervalEnd})
	}
	slices.SortFunc(edges, func(a, b edge) int {
		if c := a.at.Compare(b.at); c != 0 || a.end == b.end {
			return c
		}
		if a.end { // where one interval ends and the next begins, the end is first
			return -1
		}
		return 1
	})
	var out []interval
	open := false
	for _, e := range edges {
		if open {
			out[len(out)-1].last = e.at.Prev()
			open = false
		}
		if !e.end {
			out = append(out, interval{first: e.at})
			open = true
		}
	}
	if open {
		first := out[len(out)-1].first
		out[len(out)-1].last = lastOf(netip.PrefixFrom(first, 0))
	}
	return out, nil
}

// without returns the intervals of a that b doesn't have.
func without(a, b []interval) []interval {
	has := make(map[interval]bool, len(b))
	for _, i := range b {
		has[i] = true
	}
	return slices.DeleteFunc(slices.Clone(a), func(i interval) bool { return has[i] })
}
