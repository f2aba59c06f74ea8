package gobgp

import (
	"net/netip"
	"slices"

	"github.com/godwit-net/godwit/bgp"
)

// pools are the pools with all that is inside.
func (p *policy) pools() []bgp.Range {
	out := make([]bgp.Range, len(p.blocks))
	for i, b := range p.blocks {
		out[i] = bgp.Range{CIDR: b.CIDR, MinLength: b.CIDR.Bits(), MaxLength: b.CIDR.Addr().BitLen()}
	}
	return out
}

// inPools returns what rules for external peers say of prefixes inside of pools,
// which are accepted only by ranges that are inside themselves. GoBGP can't except a
// range from another, so these rules come before the others, and between the two
// what is inside of pools is rejected.
func inPools(rules []bgp.Rule, pools []bgp.Range) []bgp.Rule {
	var out []bgp.Rule
	last := 0 // how many rules there are up to the last that accepts
	for _, r := range rules {
		ranges := r.Ranges
		switch {
		case r.Accept:
			r.Ranges = slices.DeleteFunc(slices.Clone(ranges), func(x bgp.Range) bool { return !insideAny(x.CIDR, pools) })
		case len(ranges) == 0:
			r.Ranges = pools
		default:
			r.Ranges = nil
			for _, x := range ranges {
				for _, pool := range pools {
					if both, ok := common(x, pool); ok {
						r.Ranges = append(r.Ranges, both)
					}
				}
			}
		}
		if len(r.Ranges) == 0 {
			continue
		}
		out = append(out, r)
		if r.Accept {
			last = len(out)
		}
	}
	return out[:last]
}

func insideAny(p netip.Prefix, pools []bgp.Range) bool {
	return slices.ContainsFunc(pools, func(pool bgp.Range) bool { return inside(p, pool.CIDR) })
}

func inside(p, in netip.Prefix) bool { return in.Bits() <= p.Bits() && in.Contains(p.Addr()) }

// common is what two ranges have in common.
func common(a, b bgp.Range) (bgp.Range, bool) {
	both := bgp.Range{CIDR: a.CIDR, MinLength: max(a.MinLength, b.MinLength), MaxLength: min(a.MaxLength, b.MaxLength)}
	switch {
	case inside(a.CIDR, b.CIDR):
	case inside(b.CIDR, a.CIDR):
		both.CIDR = b.CIDR
	default:
		return bgp.Range{}, false
	}
	both.MinLength = max(both.MinLength, both.CIDR.Bits())
	return both, both.MinLength <= both.MaxLength
}
