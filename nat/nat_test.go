package nat

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/godwit-net/godwit/internal/netnstest"
)

// in opens the table of a namespace.
func in(t testing.TB, ns *netnstest.NS) *Table {
	t.Helper()
	var table *Table
	ns.Do(func() {
		var err error
		if table, err = Open(); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { _ = table.Close() })
	return table
}

func set(t testing.TB, table *Table, r Rules) {
	t.Helper()
	if err := table.Set(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

// list returns the whole ruleset of a namespace, less the counters' values.
func list(ns *netnstest.NS) string {
	return regexp.MustCompile(`packets \d+ bytes \d+`).ReplaceAllString(ns.Run("nft", "list", "ruleset"), "packets 0 bytes 0")
}

func wantGolden(t *testing.T, ns *netnstest.NS, name string) {
	t.Helper()
	want, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), list(ns)); diff != "" {
		t.Errorf("nft list ruleset and %s (-want +got):\n%s", name, diff)
	}
}

// reference is the cluster of the project's reference topology.
func reference() Rules {
	return Rules{
		Masquerade: prefixes("172.25.0.0/16", "fd00:25::/48"),
		Exempt: prefixes("172.25.0.0/16", "172.26.0.0/16", "fd00:25::/48",
			"10.211.55.101/32", "10.211.55.116/32", "10.211.55.117/32", "2001:db8::101/128"),
		Tunnelled: prefixes("172.26.0.0/16", "fd00:25::/48"),
		Nodes:     prefixes("10.211.55.116/32", "10.211.55.117/32", "2001:db8::116/128"),
		Own:       prefixes("10.211.55.101/32", "2001:db8::101/128"),
	}
}

func TestTableAsListed(t *testing.T) {
	ns := netnstest.New(t)
	table := in(t, ns)
	set(t, table, reference())
	wantGolden(t, ns, "reference.nft")
	set(t, table, reference())
	wantGolden(t, ns, "reference.nft")

	less := reference()
	less.Masquerade = less.Masquerade[1:]
	less.Exempt = append(less.Exempt[:3], netip.MustParsePrefix("10.211.55.118/32"))
	less.Tunnelled, less.Nodes, less.Own = nil, nil, nil
	set(t, table, less)
	wantGolden(t, ns, "less.nft")

	set(t, table, Rules{})
	wantGolden(t, ns, "nothing.nft")
	for range 2 {
		if err := table.Remove(); err != nil {
			t.Errorf("Remove: %v", err)
		}
	}
	set(t, table, Rules{Exempt: less.Exempt})
	if got := list(ns); got != "" {
		t.Errorf("nothing is to be masqueraded nor was, and there is:\n%s", got)
	}
}

func TestForeignTablesStay(t *testing.T) {
	ns := netnstest.New(t)
	ns.Run("nft", `table ip godwit { chain c { counter accept; }; }
		table inet other { set masquerade4 { type ipv4_addr; elements = { 192.0.2.1 }; };
		chain postrouting { type nat hook postrouting priority srcnat; policy accept; ip saddr 192.0.2.1 accept; }; }`)
	before := list(ns)
	table := in(t, ns)
	set(t, table, reference())
	if got := list(ns); !strings.HasPrefix(got, before) || !strings.Contains(got, "table inet godwit") {
		t.Errorf("before:\n%s\nafter:\n%s", before, got)
	}
	if err := table.Remove(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, list(ns)); diff != "" {
		t.Errorf("after Remove (-want +got):\n%s", diff)
	}
}

// Whatever somebody does to the table, the next Set puts it right.
func TestSetHeals(t *testing.T) {
	ns := netnstest.New(t)
	table := in(t, ns)
	for _, harm := range []string{
		"delete table inet godwit",
		"flush chain inet godwit postrouting",
		"flush set inet godwit exempt4",
		"add element inet godwit masquerade4 { 192.0.2.0/24 }",
		"delete element inet godwit masquerade6 { fd00:25::/48 }",
		"flush set inet godwit nodes4",
		"delete element inet godwit tunnelled6 { fd00:25::/48 }",
		"add element inet godwit own4 { 192.0.2.0/24 }",
		"add rule inet godwit postrouting accept",
		"insert rule inet godwit postrouting drop",
		"add chain inet godwit more",
		"add set inet godwit more { type ipv4_addr; }",
		"chain inet godwit postrouting { policy drop; }",
		"flush table inet godwit; add rule inet godwit postrouting accept; add rule inet godwit postrouting accept",
		"add table inet godwit { flags dormant; }",
		"delete table inet godwit; add table inet godwit",
		"delete table inet godwit; add table inet godwit; add chain inet godwit postrouting { type filter hook postrouting priority 0; }",
		"delete table inet godwit; add table inet godwit; add set inet godwit exempt4 { type ipv4_addr; }",
	} {
		t.Run(harm, func(t *testing.T) {
			set(t, table, reference())
			ns.Run("nft", harm)
			set(t, table, reference())
			wantGolden(t, ns, "reference.nft")
		})
	}
}

// What is right isn't written again: the handles and the counters stay.
func TestSetTouchesWhatIsWrongOnly(t *testing.T) {
	ns := netnstest.New(t)
	set(t, in(t, ns), reference())
	before := ns.Run("nft", "-a", "list", "ruleset")
	monitor := func() string { return ns.Run("nft", "-a", "list", "chain", "inet", "godwit", "postrouting") }
	chain := monitor()

	set(t, in(t, ns), reference()) // as after a restart
	if diff := cmp.Diff(before, ns.Run("nft", "-a", "list", "ruleset")); diff != "" {
		t.Errorf("an idle Set changed the table (-before +after):\n%s", diff)
	}
	more := reference()
	more.Masquerade = append(more.Masquerade, netip.MustParsePrefix("172.27.0.0/16"))
	ns.Run("nft", "add table inet witness")
	set(t, in(t, ns), more)
	if diff := cmp.Diff(chain, monitor()); diff != "" {
		t.Errorf("a change of a set touched the chain (-before +after):\n%s", diff)
	}
	if got := list(ns); !strings.Contains(got, "elements = { 172.25.0.0/16, 172.27.0.0/16 }") {
		t.Errorf("the change is missing:\n%s", got)
	}
}

// Random rules one after the other, each by the change from the one before, give
// what rules from scratch give.
func TestChangesInAnyOrder(t *testing.T) {
	ns, fresh := netnstest.New(t), netnstest.New(t)
	table := in(t, ns)
	for seed := range uint64(40) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		some := func() []netip.Prefix {
			var out []netip.Prefix
			for range 1 + rnd.IntN(12) {
				if rnd.IntN(3) == 0 {
					out = append(out, netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 15: byte(rnd.IntN(64))}), 120+rnd.IntN(9)).Masked())
				} else {
					out = append(out, netip.PrefixFrom(netip.AddrFrom4([4]byte{255, 255, 255, byte(rnd.IntN(256))}), 24+rnd.IntN(9)).Masked())
				}
			}
			return out
		}
		r := Rules{Masquerade: some(), Exempt: some(), Tunnelled: some(), Nodes: some(), Own: some()}
		want, err := wantedSets(r)
		if err != nil {
			t.Fatal(err)
		}
		if have, err := table.read(); seed > 0 && (err != nil || have == nil || table.update(have, want) != nil) {
			t.Fatalf("seed %d: the change is refused: %v", seed, err)
		}
		set(t, table, r)
		f := in(t, fresh)
		if err := f.Remove(); err != nil {
			t.Fatal(err)
		}
		set(t, f, r)
		if diff := cmp.Diff(list(fresh), list(ns)); diff != "" {
			t.Fatalf("seed %d: from scratch and by changes (-scratch +changes):\n%s", seed, diff)
		}
		if have, err := table.read(); err != nil || have == nil || !slices.EqualFunc(have[:], want[:], slices.Equal[[]interval]) {
			t.Fatalf("seed %d: read %v, %v, want %v", seed, have, err, want)
		}
	}
}

func TestBadRules(t *testing.T) {
	ns := netnstest.New(t)
	table := in(t, ns)
	set(t, table, reference())
	for _, r := range []Rules{
		{Masquerade: []netip.Prefix{{}}},
		{Masquerade: reference().Masquerade, Exempt: []netip.Prefix{{}}},
		{Masquerade: prefixes("::ffff:10.0.0.0/104")},
		{Tunnelled: []netip.Prefix{{}}},
		{Nodes: []netip.Prefix{{}}},
		{Own: []netip.Prefix{{}}},
	} {
		if err := table.Set(t.Context(), r); err == nil {
			t.Errorf("%v is taken", r)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := table.Set(ctx, Rules{Masquerade: prefixes("10.0.0.0/8")}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want context.Canceled", err)
	}
	wantGolden(t, ns, "reference.nft")
}

// manyNodes are the rules of a cluster of n nodes whose addresses don't merge.
func manyNodes(n int) Rules {
	r := reference()
	for i := range n {
		r.Exempt = append(r.Exempt, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 15), byte(i >> 7), byte(i << 1)}), 32))
	}
	return r
}

func TestFiveThousandNodes(t *testing.T) {
	ns := netnstest.New(t)
	table := in(t, ns)
	for _, n := range []int{5000, 4999, 5001} {
		set(t, table, manyNodes(n))
		have, err := table.read()
		if err != nil || have == nil {
			t.Fatal(have, err)
		}
		if got, want := len(have[exempt]), len(intervals(append(manyNodes(n).Exempt[:2], manyNodes(n).Exempt[3:]...)))-2; got < n || got < want-10 {
			t.Errorf("%d intervals for %d nodes", got, n)
		}
	}
	if got := strings.Count(list(ns), "10."); got < 5001 {
		t.Errorf("nft lists %d of 5001 nodes", got)
	}
}

func BenchmarkSet(b *testing.B) {
	for _, n := range []int{3, 5000} {
		b.Run(fmt.Sprintf("Idle/nodes=%d", n), func(b *testing.B) {
			table, r := in(b, netnstest.New(b)), manyNodes(n)
			for b.Loop() {
				set(b, table, r)
			}
		})
		b.Run(fmt.Sprintf("OneNode/nodes=%d", n), func(b *testing.B) {
			table, with, without := in(b, netnstest.New(b)), manyNodes(n), manyNodes(n-1)
			for b.Loop() {
				set(b, table, with)
				set(b, table, without)
			}
		})
		b.Run(fmt.Sprintf("Scratch/nodes=%d", n), func(b *testing.B) {
			table, r := in(b, netnstest.New(b)), manyNodes(n)
			for b.Loop() {
				if err := table.Remove(); err != nil {
					b.Fatal(err)
				}
				set(b, table, r)
			}
		})
	}
}
