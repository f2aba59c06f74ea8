package nat

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/godwit-net/godwit/internal/netnstest"
)

// unlearned are the rules of the reference cluster on a node that has heard of no
// other node yet.
func unlearned() Rules {
	r := reference()
	r.Exempt, r.Nodes, r.Partial = slices.Concat(r.Exempt[:3], r.Own), nil, true
	return r
}

// TestPartialKeepsNodes has an agent start anew on a node whose table is there, or
// what is left of it.
func TestPartialKeepsNodes(t *testing.T) {
	for _, harm := range []string{
		"",
		"flush chain inet godwit postrouting", // as if another version had made the rules
		"add set inet godwit more { type ipv4_addr; }",
		"add table inet godwit { flags dormant; }",
		"flush set inet godwit masquerade4",
	} {
		t.Run(harm, func(t *testing.T) {
			ns := netnstest.New(t)
			set(t, in(t, ns), reference())
			before := ns.Run("nft", "-a", "list", "ruleset")
			if harm != "" {
				ns.Run("nft", harm)
			}
			table := in(t, ns)
			for range 2 {
				set(t, table, unlearned())
				wantGolden(t, ns, "reference.nft")
			}
			if diff := cmp.Diff(before, ns.Run("nft", "-a", "list", "ruleset")); harm == "" && diff != "" {
				t.Errorf("it was written though nothing is wrong (-before +after):\n%s", diff)
			}

			// What is not of nodes follows at once, and so do nodes that come.
			some := unlearned()
			some.Masquerade = some.Masquerade[1:]
			some.Nodes = append(some.Nodes, netip.MustParsePrefix("10.211.55.118/32"))
			some.Exempt = append(some.Exempt, some.Nodes...)
			set(t, table, some)
			got := list(ns)
			for text, n := range map[string]int{"10.211.55.116-10.211.55.118": 2, "2001:db8::116": 1, "elements = { 172.25.0.0/16 }": 0} {
				if strings.Count(got, text) != n {
					t.Errorf("%q is there %d times, want %d:\n%s", text, strings.Count(got, text), n, got)
				}
			}

			// All are known.
			all := reference()
			set(t, table, all)
			wantGolden(t, ns, "reference.nft")
			all.Exempt, all.Nodes = unlearned().Exempt, nil
			set(t, table, all)
			if got := list(ns); strings.Contains(got, "10.211.55.116") || strings.Contains(got, "2001:db8::116") {
				t.Errorf("nodes that are gone are still there:\n%s", got)
			}
		})
	}
}

// Where there is nothing of before, there is nothing to keep.
func TestPartialFromScratch(t *testing.T) {
	ns := netnstest.New(t)
	table := in(t, ns)
	set(t, table, Rules{Exempt: reference().Exempt, Partial: true})
	if got := list(ns); got != "" {
		t.Errorf("nothing is to be masqueraded, and there is:\n%s", got)
	}
	r := reference()
	r.Partial = true
	set(t, table, r)
	wantGolden(t, ns, "reference.nft")
}
