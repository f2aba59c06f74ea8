package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/godwit-net/godwit/ipam"
	"github.com/godwit-net/godwit/ipam/ipamtest"
)

// bed is what a test of one node needs: a node can be opened again on it.
type bed struct {
	t     testing.TB
	store *ipamtest.Store
	opts  ipam.Options
	*ipam.Node
}

func newBed(t testing.TB, pools ...ipam.Pool) *bed {
	t.Helper()
	s := &ipamtest.Store{}
	b := &bed{t: t, store: s, opts: ipam.Options{
		Node: "n1", Store: s, Dir: filepath.Join(t.TempDir(), "addresses"), Log: slog.New(slog.DiscardHandler),
	}}
	b.open(pools...)
	return b
}

// open starts a new life of the node.
func (b *bed) open(pools ...ipam.Pool) {
	b.t.Helper()
	n, err := ipam.Open(b.opts)
	if err != nil {
		b.t.Fatal(err)
	}
	n.SetPools(pools)
	b.Node = n
}

func pool(name, cidr string, blockLen int, reserved ...string) ipam.Pool {
	p := ipam.Pool{Name: name, CIDR: netip.MustParsePrefix(cidr), BlockLen: blockLen, Allocate: true}
	for _, r := range reserved {
		p.Reserved = append(p.Reserved, netip.MustParsePrefix(r))
	}
	return p
}

func block(cidr, pool, node string) ipam.Block {
	return ipam.Block{CIDR: netip.MustParsePrefix(cidr), Pool: pool, Node: node}
}

func owner(id string) ipam.Owner { return ipam.Owner{ContainerID: id, Interface: "eth0"} }

// add allocates and returns the addresses, such as "10.0.0.1 fd00::1".
func (b *bed) add(id string, pools ...string) (string, error) {
	b.t.Helper()
	records, err := b.Allocate(b.t.Context(), ipam.Request{Owner: owner(id), Pod: "default/" + id, Pools: pools})
	return addresses(records), err
}

func (b *bed) mustAdd(id string, pools ...string) string {
	b.t.Helper()
	got, err := b.add(id, pools...)
	if err != nil {
		b.t.Fatalf("allocate for %s: %v", id, err)
	}
	return got
}

func (b *bed) del(id string) string {
	b.t.Helper()
	records, err := b.Release(owner(id))
	if err != nil {
		b.t.Fatalf("release %s: %v", id, err)
	}
	return addresses(records)
}

func addresses(records []ipam.Record) string {
	var out []string
	for _, r := range records {
		out = append(out, r.Address.String())
	}
	return strings.Join(out, " ")
}

// blocks returns Blocks() as text, such as "10.0.0.0/26 a 3/64".
func (b *bed) blocks() string {
	var out []string
	for _, u := range b.Blocks() {
		out = append(out, fmt.Sprintf("%s %s %d/%d", u.CIDR, u.Pool, u.Allocated, u.Capacity))
	}
	return strings.Join(out, "\n")
}

func (b *bed) wantBlocks(want ...string) {
	b.t.Helper()
	if diff := cmp.Diff(strings.Join(want, "\n"), b.blocks()); diff != "" {
		b.t.Errorf("blocks (-want +got):\n%s", diff)
	}
}

func (b *bed) wantStore(want ...string) {
	b.t.Helper()
	text := strings.Join(want, "\n")
	if len(want) > 0 {
		text += "\n"
	}
	if diff := cmp.Diff(text, b.store.Dump()); diff != "" {
		b.t.Errorf("the store (-want +got):\n%s", diff)
	}
}

func TestAddressesInOrder(t *testing.T) {
	p := pool("a", "10.0.0.0/30", 30)
	b := newBed(t, p)
	for i, want := range []string{"10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3"} {
		if got := b.mustAdd(fmt.Sprint("c", i), "a"); got != want {
			t.Errorf("address %d is %s, want %s: a new block is used from its first address to its last", i, got, want)
		}
	}
	b.wantBlocks("10.0.0.0/30 a 4/4")
	// The order of release is the order of reuse, also across a restart.
	for _, id := range []string{"c2", "c0", "c3", "c1"} {
		b.del(id)
	}
	if got := b.mustAdd("d0", "a"); got != "10.0.0.2" {
		t.Errorf("reuse starts with %s, want 10.0.0.2", got)
	}
	b.open(p)
	b.SetBlocks([]ipam.Block{block("10.0.0.0/30", "a", "n1")})
	b.wantBlocks("10.0.0.0/30 a 1/4")
	b.del("d0")
	for _, want := range []string{"10.0.0.0", "10.0.0.3", "10.0.0.1", "10.0.0.2"} {
		if got := b.mustAdd("after-"+want, "a"); got != want {
			t.Errorf("after a restart reuse goes on with %s, want %s", got, want)
		}
	}
}

func TestNeverUsedComesBeforeReleased(t *testing.T) {
	b := newBed(t, pool("a", "10.0.0.0/30", 30))
	b.mustAdd("c0", "a")
	b.del("c0")
	for _, want := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.0"} {
		if got := b.mustAdd(want, "a"); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestAnOwnerAsksAgain(t *testing.T) {
	v4, v6 := pool("a", "10.0.0.0/26", 26), pool("b", "fd00::/122", 122)
	b := newBed(t, v4, v6)
	first := b.mustAdd("c", "b", "a")
	if first != "10.0.0.0 fd00::" {
		t.Errorf("got %q, want an address of each family, IPv4 first", first)
	}
	if again := b.mustAdd("c", "a", "b"); again != first {
		t.Errorf("the same request got %q, and before %q", again, first)
	}
	if _, err := b.add("c", "a"); !errors.Is(err, ipam.ErrOwnerHasAddress) {
		t.Errorf("a request for other families: %v, want ErrOwnerHasAddress", err)
	}
	other := ipam.Owner{ContainerID: "c", Interface: "net1"}
	if got, err := b.Release(other); err != nil || got != nil {
		t.Errorf("release of another interface: %v, %v", got, err)
	}
	if got := b.del("c"); got != first {
		t.Errorf("released %q, want %q", got, first)
	}
	if got := b.del("c"); got != "" {
		t.Errorf("released %q twice", got)
	}
	// The late DEL of an older container takes nothing from a new one.
	b.mustAdd("d", "a")
	b.del("c")
	if got := len(b.Records()); got != 1 {
		t.Errorf("%d records, want that of d", got)
	}
}

func TestBothFamiliesOrNone(t *testing.T) {
	b := newBed(t, pool("a", "10.0.0.0/26", 26), pool("b", "fd00::/128", 128))
	b.mustAdd("c", "a", "b")
	_, err := b.add("d", "a", "b")
	var ex *ipam.ExhaustedError
	if !errors.As(err, &ex) {
		t.Fatalf("%v, want an ExhaustedError", err)
	}
	if diff := cmp.Diff("no free address in IP pools [b]: nodes have claimed all 1 blocks of fd00::/128: "+
		"add a pool, or free blocks by deleting pods", err.Error()); diff != "" {
		t.Errorf("the error (-want +got):\n%s", diff)
	}
	b.wantBlocks("10.0.0.0/26 a 1/64", "fd00::/128 b 1/1")
	if got := addresses(b.Records()); got != "10.0.0.0 fd00::" {
		t.Errorf("records %q", got)
	}
}

func TestPoolsThatGiveNothing(t *testing.T) {
	off := pool("off", "10.1.0.0/24", 26)
	off.Allocate = false
	b := newBed(t, pool("a", "10.0.0.0/24", 26), off, pool("odd", "10.2.0.0/24", 20))
	for _, c := range []struct {
		pools []string
		want  string
	}{
		{nil, "no free address in IP pools []: no pool is meant for the pod: is there one that is enabled, and whose selectors match its node and namespace?"},
		{[]string{"off"}, "no free address in IP pools [off]: off is disabled, or its node selector leaves this node out"},
		{[]string{"none"}, "no free address in IP pools [none]: none is not among the pools that this node was told of"},
		{[]string{"odd", "off"}, "no free address in IP pools [odd off]: odd is defined in a way that makes no sense; off is disabled, or its node selector leaves this node out"},
	} {
		_, err := b.add("c", c.pools...)
		var ex *ipam.ExhaustedError
		if !errors.As(err, &ex) || err.Error() != c.want {
			t.Errorf("pools %v: %v\nwant an ExhaustedError: %s", c.pools, err, c.want)
		}
	}
	if got := b.mustAdd("c", "none", "off", "a"); !netip.MustParsePrefix("10.0.0.0/24").Contains(netip.MustParseAddr(got)) {
		t.Errorf("got %s, want an address of the pool that is left", got)
	}
}

func TestPoolsComeAndGo(t *testing.T) {
	a, z := pool("a", "10.0.0.0/31", 31), pool("z", "10.1.0.0/26", 26)
	b := newBed(t, a, z)
	b.mustAdd("c0", "a", "z")
	if got := b.mustAdd("c1", "a", "z"); got != "10.0.0.1" {
		t.Errorf("got %s, want one of the preferred pool while it has any", got)
	}
	if got := b.mustAdd("c2", "a", "z"); got != "10.1.0.0" {
		t.Errorf("got %s, want one of the next pool: the first is exhausted", got)
	}
	b.del("c0")
	b.SetPools([]ipam.Pool{z}) // a is gone; c1 stays
	b.wantBlocks("10.0.0.0/31 a 1/2", "10.1.0.0/26 z 1/64")
	if got := b.mustAdd("c3", "a", "z"); got != "10.1.0.1" {
		t.Errorf("got %s of a pool that is gone", got)
	}
	a.Allocate = false
	b.SetPools([]ipam.Pool{a, z})
	if got := b.mustAdd("c4", "a", "z"); got != "10.1.0.2" {
		t.Errorf("got %s of a pool that is disabled", got)
	}
	if got := b.del("c1"); got != "10.0.0.1" {
		t.Errorf("released %q of a disabled pool", got)
	}
	a.Allocate = true
	b.SetPools([]ipam.Pool{a, z})
	if got := b.mustAdd("c5", "a", "z"); got != "10.0.0.0" {
		t.Errorf("got %s, want the longest-free one of the pool that is back", got)
	}
	// Cut anew: what the node has of the old cut gives no new addresses.
	b.SetPools([]ipam.Pool{pool("a", "10.3.0.0/24", 26), z})
	if got := b.mustAdd("c6", "a"); !strings.HasPrefix(got, "10.3.0.") {
		t.Errorf("got %s, want one of the pool's new range", got)
	}
}

func TestReservedRanges(t *testing.T) {
	b := newBed(t, pool("a", "10.0.0.0/29", 29, "10.0.0.0/31", "10.0.0.4/32", "10.0.0.7/32", "10.0.0.0/32"))
	b.mustAdd("c0", "a")
	b.mustAdd("c1", "a")
	b.mustAdd("c2", "a")
	if got, want := addresses(b.Records()), "10.0.0.2 10.0.0.3 10.0.0.5"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	b.wantBlocks("10.0.0.0/29 a 3/4")
	// Reserving addresses takes none from its owner, and gives none anew.
	b.SetPools([]ipam.Pool{pool("a", "10.0.0.0/29", 29, "10.0.0.2/31", "10.0.0.6/31")})
	b.wantBlocks("10.0.0.0/29 a 3/4")
	b.del("c0")
	for _, want := range []string{"10.0.0.0", "10.0.0.1", "10.0.0.4"} {
		if got := b.mustAdd(want, "a"); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if got, err := b.add("d", "a"); err == nil {
		t.Errorf("got %s, of what is reserved", got)
	}
	b.SetPools([]ipam.Pool{pool("a", "10.0.0.0/29", 29)})
	b.wantBlocks("10.0.0.0/29 a 5/8")
	for _, want := range []string{"10.0.0.6", "10.0.0.7", "10.0.0.2"} {
		if got := b.mustAdd(want, "a"); got != want {
			t.Errorf("nothing is reserved any more: got %s, want %s", got, want)
		}
	}
}

// An address that is in use though it is reserved takes no other's place.
func TestAdoptOfAReservedAddress(t *testing.T) {
	b := newBed(t, pool("a", "10.0.0.0/30", 30, "10.0.0.2/31"))
	b.SetBlocks([]ipam.Block{block("10.0.0.0/30", "a", "n1")})
	for _, a := range []string{"10.0.0.2", "10.0.0.3"} {
		if err := b.Adopt(ipam.Record{Address: netip.MustParseAddr(a), Owner: owner(a)}); err != nil {
			t.Fatal(err)
		}
	}
	b.mustAdd("c0", "a")
	b.mustAdd("c1", "a")
	b.wantBlocks("10.0.0.0/30 a 4/2")
	b.del("10.0.0.2")
	if got, err := b.add("c2", "a"); err == nil {
		t.Errorf("got %s, which is reserved", got)
	}
}

func TestAdopt(t *testing.T) {
	b := newBed(t, pool("a", "10.0.0.0/30", 30))
	b.SetBlocks([]ipam.Block{block("10.0.0.0/30", "a", "n1"), block("10.0.0.4/30", "a", "another")})
	rec := ipam.Record{Address: netip.MustParseAddr("10.0.0.1"), Owner: owner("c"), Pod: "default/c"}
	for range 2 {
		if err := b.Adopt(rec); err != nil {
			t.Fatalf("adopt: %v", err)
		}
	}
	b.wantBlocks("10.0.0.0/30 a 1/4")
	if got := b.Records()[0].Pool; got != "a" {
		t.Errorf("pool %q, want that of the block", got)
	}
	taken := rec
	taken.Owner = owner("d")
	if err := b.Adopt(taken); !errors.Is(err, ipam.ErrAddressTaken) {
		t.Errorf("adopt of another's address: %v, want ErrAddressTaken", err)
	}
	second := rec
	second.Address = netip.MustParseAddr("10.0.0.2")
	if err := b.Adopt(second); !errors.Is(err, ipam.ErrOwnerHasAddress) {
		t.Errorf("adopt of a second address: %v, want ErrOwnerHasAddress", err)
	}
	if err := b.Adopt(ipam.Record{Owner: owner("e")}); err == nil {
		t.Error("adopted no address")
	}
	outside := ipam.Record{Address: netip.MustParseAddr("192.0.2.1"), Owner: owner("f")}
	if err := b.Adopt(outside); err != nil {
		t.Errorf("adopt of an address outside of all blocks: %v", err)
	}
	for _, want := range []string{"10.0.0.0", "10.0.0.2", "10.0.0.3"} {
		if got := b.mustAdd(want, "a"); got != want {
			t.Errorf("got %s, want %s: not what was adopted", got, want)
		}
	}
	// An adopted address goes the way of all: released, then reused. So does one
	// that was adopted out of the queue.
	b.del("10.0.0.0")
	b.del("c")
	if err := b.Adopt(rec); err != nil {
		t.Fatal(err)
	}
	b.del("f")
	if got := b.mustAdd("g", "a"); got != "10.0.0.0" {
		t.Errorf("got %s, want 10.0.0.0", got)
	}
	b.open(pool("a", "10.0.0.0/30", 30))
	if got, want := addresses(b.Records()), "10.0.0.0 10.0.0.1 10.0.0.2 10.0.0.3"; got != want {
		t.Errorf("records after a restart: %s, want %s", got, want)
	}
}

// While an agent is replaced, the old one may still serve for a moment: their
// records keep them apart.
func TestTwoLivesAtOnce(t *testing.T) {
	pools := []ipam.Pool{pool("a", "10.0.0.0/30", 30), pool("b", "fd00::/126", 126)}
	blocks := []ipam.Block{block("10.0.0.0/30", "a", "n1"), block("fd00::/126", "b", "n1")}
	b := newBed(t, pools...)
	b.SetBlocks(blocks)
	old := *b
	b.open(pools...)
	b.SetBlocks(blocks)
	old.mustAdd("c0", "b") // fd00::
	old.mustAdd("c1", "a") // 10.0.0.0
	got := b.mustAdd("c2", "a", "b")
	if !strings.HasSuffix(got, " fd00::1") || strings.HasPrefix(got, "10.0.0.0 ") {
		t.Errorf("got %s, with an address that the other life gave out", got)
	}
	if records := len(b.Records()); records != 4 {
		t.Errorf("the new life knows of %d records, want 4", records)
	}
	files, _ := filepath.Glob(filepath.Join(b.opts.Dir, "*[0-9:]"))
	if len(files) != 4 {
		t.Errorf("records on disk: %v", files)
	}
	// The new life releases what the old one gave out.
	if got := b.del("c1"); got != "10.0.0.0" {
		t.Errorf("released %q", got)
	}
}

func TestADiskThatFails(t *testing.T) {
	b := newBed(t, pool("a", "10.0.0.0/30", 30))
	b.mustAdd("c", "a")
	released := filepath.Join(b.opts.Dir, "released")
	if err := os.Remove(released); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(released, nil, 0o600); err != nil { // a file where the directory was
		t.Fatal(err)
	}
	if _, err := b.Release(owner("c")); err == nil {
		t.Error("released though the disk refused")
	}
	if got := addresses(b.Records()); got != "10.0.0.0" {
		t.Errorf("records after a failed release: %q", got)
	}
	if err := os.RemoveAll(b.opts.Dir); err != nil {
		t.Fatal(err)
	}
	if got, err := b.add("d", "a"); err == nil {
		t.Errorf("gave out %s without a record on disk", got)
	}
	b.wantBlocks("10.0.0.0/30 a 1/4")
}

func TestAllocateWithEndedContext(t *testing.T) {
	b := newBed(t, pool("a", "10.0.0.0/30", 30))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Allocate(ctx, ipam.Request{Owner: owner("c"), Pools: []string{"a"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want context.Canceled", err)
	}
	b.wantStore()
}

func TestOpenWantsItsOptions(t *testing.T) {
	if _, err := ipam.Open(ipam.Options{}); err == nil {
		t.Error("opened without a node, a store and a directory")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ipam.Open(ipam.Options{Node: "n", Store: &ipamtest.Store{}, Dir: file}); err == nil {
		t.Error("opened on a file")
	}
}

func TestSignals(t *testing.T) {
	b := newBed(t, pool("a", "10.0.0.0/26", 26))
	took := func(ch <-chan struct{}) bool {
		select {
		case <-ch:
			return true
		default:
			return false
		}
	}
	for _, c := range []struct {
		name            string
		do              func()
		blocks, changed bool
	}{
		{"pools", func() {}, false, true},
		{"a claim", func() { b.mustAdd("c", "a") }, true, true},
		{"an address more", func() { b.mustAdd("d", "a") }, false, true},
		{"the same again", func() { b.mustAdd("d", "a") }, false, false},
		{"an address less", func() { b.del("c") }, false, true},
		{"nothing released", func() { b.del("c") }, false, false},
		{"blocks", func() { b.SetBlocks([]ipam.Block{block("10.1.0.0/26", "x", "n1")}) }, true, true},
		{"the same blocks", func() { b.SetBlocks([]ipam.Block{block("10.1.0.0/26", "x", "n1")}) }, false, false},
	} {
		c.do()
		if got := took(b.BlocksChanged()); got != c.blocks {
			t.Errorf("%s: blocks changed: %v, want %v", c.name, got, c.blocks)
		}
		if got := took(b.Changed()); got != c.changed {
			t.Errorf("%s: changed: %v, want %v", c.name, got, c.changed)
		}
	}
}

func TestReuseIsFIFOAcrossBlocks(t *testing.T) {
	b := newBed(t, pool("a", "10.0.0.0/29", 30))
	for i := range 8 {
		b.mustAdd(fmt.Sprint("c", i), "a")
	}
	byAddress := map[string]string{}
	for _, r := range b.Records() {
		byAddress[r.Address.String()] = r.Owner.ContainerID
	}
	order := []string{"10.0.0.6", "10.0.0.1", "10.0.0.4", "10.0.0.0", "10.0.0.7"}
	for _, a := range order {
		b.del(byAddress[a])
	}
	for _, want := range order {
		if got := b.mustAdd("d-"+want, "a"); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// An owner may ask for the addresses that it is to have.
func TestWantedAddresses(t *testing.T) {
	b := newBed(t, pool("a", "10.0.0.0/24", 26, "10.0.0.0/28"), pool("b", "10.1.0.0/24", 26), pool("six", "fd00::/120", 122))
	b.SetBlocks([]ipam.Block{block("10.0.0.0/26", "a", "n1"), block("10.1.0.0/26", "b", "n1"), block("fd00::/122", "six", "n1")})
	ask := func(id string, wanted ...string) string {
		r := ipam.Request{Owner: owner(id), Pod: "default/" + id, Pools: []string{"a", "six"}}
		for _, w := range wanted {
			r.Addresses = append(r.Addresses, netip.MustParseAddr(w))
		}
		records, err := b.Allocate(t.Context(), r)
		if err != nil {
			return err.Error()
		}
		return addresses(records)
	}
	for _, step := range []struct {
		id     string
		wanted []string
		want   string
	}{
		{"c", []string{"10.0.0.17"}, "10.0.0.17 fd00::"},
		{"c", []string{"10.0.0.17"}, "10.0.0.17 fd00::"}, // asked again
		{"c", []string{"10.0.0.18"}, "c/eth0: the owner has an address already, and not 10.0.0.18 that is asked for: [10.0.0.17 fd00::]: delete it before it is added again"},
		{"d", []string{"10.0.0.17"}, "address 10.0.0.17 can't be had: pod default/c (c/eth0) has it"},
		{"d", []string{"10.0.0.3"}, "address 10.0.0.3 can't be had: it is reserved in IP pool a"},
		{"d", []string{"10.0.0.64"}, "address 10.0.0.64 can't be had: it is in no block of node n1 (see kubectl get ipblocks): let the pod run on the node that has its block"},
		{"d", []string{"10.1.0.1"}, "address 10.1.0.1 can't be had: it is of IP pool b, which the pod does not use"},
		{"d", []string{"fd00::9", "10.0.0.16"}, "10.0.0.16 fd00::9"},
		{"e", nil, "10.0.0.18 fd00::1"}, // the others go around them
	} {
		if got := ask(step.id, step.wanted...); got != step.want {
			t.Errorf("%s asks for %s: %s, want %s", step.id, step.wanted, got, step.want)
		}
	}
	b.wantBlocks("10.0.0.0/26 a 3/48", "10.1.0.0/26 b 0/64", "fd00::/122 six 3/64")
	b.del("c")
	if got := ask("f", "10.0.0.17"); got != "10.0.0.17 fd00::2" {
		t.Errorf("an address that is free again: %s", got)
	}
	b.wantBlocks("10.0.0.0/26 a 3/48", "10.1.0.0/26 b 0/64", "fd00::/122 six 3/64")
}
