package ipam_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/godwit-net/godwit/ipam"
	"github.com/godwit-net/godwit/ipam/ipamtest"
)

// model does random things to a node, its store and its pools, and knows what
// must hold after each.
type model struct {
	*bed
	rnd    *rand.Rand
	pools  []ipam.Pool
	held   map[ipam.Owner]string // what each owner was given
	stop   func()
	events []string
}

func (m *model) step() {
	ids := []string{"c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8", "c9", "c10", "c11"}
	id := ids[m.rnd.IntN(len(ids))]
	switch p := m.rnd.IntN(100); {
	case p < 50:
		names := [][]string{{"a", "b", "six"}, {"b"}, {"six"}, {"a", "six"}}[m.rnd.IntN(4)]
		got, err := m.add(id, names...)
		m.log("add %s of %v: %s %v", id, names, got, err)
		was, had := m.held[owner(id)]
		switch {
		case err == nil && had && got != was:
			m.t.Errorf("%s was given %q, having %q", id, got, was)
		case err == nil:
			m.held[owner(id)] = got
		case had != errors.Is(err, ipam.ErrOwnerHasAddress) && had:
			var ex *ipam.ExhaustedError
			if !errors.As(err, &ex) { // all of its pools are disabled by now
				m.t.Errorf("%s has %q and asks again: %v", id, was, err)
			}
		}
	case p < 56:
		m.stepOwn()
	case p < 85:
		got := m.del(id)
		m.log("del %s: %s", id, got)
		if want := m.held[owner(id)]; got != want {
			m.t.Errorf("%s had %q and released %q", id, want, got)
		}
		delete(m.held, owner(id))
	case p < 90:
		m.stop()
		m.open(m.pools...)
		if m.rnd.IntN(2) == 0 { // else Run learns from the store
			var blocks []ipam.Block
			for _, b := range m.Blocks() {
				blocks = append(blocks, b.Block)
			}
			m.SetBlocks(blocks)
		}
		m.stop = m.run()
		m.log("restart")
	case p < 94:
		i := m.rnd.IntN(len(m.pools))
		m.pools[i].Allocate = !m.pools[i].Allocate
		m.SetPools(m.pools)
		m.log("pool %s allocates: %v", m.pools[i].Name, m.pools[i].Allocate)
	case p < 96:
		m.pools[0].Reserved = nil
		for range m.rnd.IntN(3) {
			r, _ := netip.AddrFrom4([4]byte{10, 0, 0, byte(m.rnd.IntN(16))}).Prefix(29 + m.rnd.IntN(4))
			m.pools[0].Reserved = append(m.pools[0].Reserved, r)
		}
		m.SetPools(m.pools)
		m.log("reserved: %v", m.pools[0].Reserved)
	default:
		d := time.Duration(m.rnd.IntN(20)) * time.Minute
		time.Sleep(d)
		m.log("%v go by", d)
	}
	synctest.Wait()
}

// stepOwn has the node ask for an address of its own, as it does all the time: it
// keeps each that is good still.
func (m *model) stepOwn() {
	o, was := ipam.NodeOwner("tunnel"), map[netip.Addr]ipam.Record{}
	for _, r := range m.Records() {
		was[r.Address] = r
	}
	if m.rnd.IntN(8) == 0 {
		if _, err := m.Release(o); err != nil {
			m.t.Errorf("release the node's own: %v", err)
		}
		delete(m.held, o)
		m.log("the node gives up its own")
		return
	}
	names := [][]string{{"a"}, {"b"}, {"a", "b"}, {"a", "six"}}[m.rnd.IntN(4)]
	records, err := m.Allocate(m.t.Context(), ipam.Request{Owner: o, Pools: names})
	m.log("the node's own of %v: %s, having %q, %v", names, addresses(records), m.held[o], err)
	if err != nil {
		return // and it has what it had
	}
	m.held[o] = addresses(records)
	for _, r := range records {
		if !slices.Contains(names, r.Pool) {
			m.t.Errorf("the node was given %s of %s, asking for %v", r.Address, r.Pool, names)
		}
		for _, before := range was {
			reserved := slices.ContainsFunc(m.pools[0].Reserved, func(p netip.Prefix) bool { return p.Contains(before.Address) })
			if before.Owner == o && before.Address.Is4() == r.Address.Is4() && before != r && slices.Contains(names, before.Pool) && !reserved {
				m.t.Errorf("the node had %s of %s, and was given %s, asking for %v", before.Address, before.Pool, r.Address, names)
			}
		}
	}
}

func (m *model) log(format string, args ...any) {
	m.events = append(m.events, fmt.Sprintf(format, args...))
}

func (m *model) check() {
	m.t.Helper()
	records := m.Records()
	byOwner := map[ipam.Owner]string{}
	for _, r := range records {
		byOwner[r.Owner] = strings.TrimSpace(byOwner[r.Owner] + " " + r.Address.String())
	}
	if diff := cmp.Diff(m.held, byOwner); diff != "" {
		m.t.Errorf("what owners were given and the records (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(records, m.onDisk(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		m.t.Errorf("records in memory and on disk (-want +got):\n%s", diff)
	}
	blocks := m.Blocks()
	stored, err := m.store.ListNode(context.Background(), "n1")
	if err != nil {
		m.t.Fatal(err)
	}
	for _, b := range blocks {
		if !slices.Contains(stored, b.Block) {
			m.t.Errorf("block %s is held and not stored", b.CIDR)
		}
		pods, own := 0, 0
		for _, r := range records {
			switch {
			case !b.CIDR.Contains(r.Address):
			case r.Owner.IsNode():
				own++
			default:
				pods++
			}
		}
		if pods != b.Allocated || own != b.Own {
			m.t.Errorf("block %s says %d addresses of pods and %d of the node, records %d and %d", b.CIDR, b.Allocated, b.Own, pods, own)
		}
	}
	for _, r := range records {
		in := func(b ipam.BlockUsage) bool { return b.CIDR.Contains(r.Address) && b.Pool == r.Pool }
		if !slices.ContainsFunc(blocks, in) {
			m.t.Errorf("%s is in none of the node's blocks", r.Address)
		}
	}
}

func (m *model) onDisk() []ipam.Record {
	files, err := filepath.Glob(filepath.Join(m.opts.Dir, "*[0-9a-f:]"))
	if err != nil {
		m.t.Fatal(err)
	}
	out := []ipam.Record{}
	for _, f := range files {
		if filepath.Base(f) == "released" {
			continue
		}
		data, err := os.ReadFile(f)
		if err != nil {
			m.t.Fatal(err)
		}
		var r ipam.Record
		if err := json.Unmarshal(data, &r); err != nil {
			m.t.Fatalf("%s: %v", f, err)
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b ipam.Record) int { return a.Address.Compare(b.Address) })
	return out
}

// Whatever happens in whatever order, no address has two owners, none is lost,
// and memory, disk and store agree.
func FuzzNode(f *testing.F) {
	for seed := range uint64(12) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		synctest.Test(t, func(t *testing.T) {
			m := &model{
				rnd: rand.New(rand.NewPCG(seed, 0)), held: map[ipam.Owner]string{},
				pools: []ipam.Pool{pool("a", "10.0.0.0/28", 30), pool("b", "10.1.0.0/29", 31), pool("six", "fd00::/125", 127)},
			}
			m.bed = newBed(t, m.pools...)
			m.stop = m.run()
			defer func() { m.stop() }()
			for range 150 {
				m.step()
				if m.check(); t.Failed() {
					t.Fatalf("seed %d; the last steps:\n%s", seed, strings.Join(m.events[max(0, len(m.events)-20):], "\n"))
				}
			}
		})
	})
}

// One block, random orders: the address that comes is the one free for longest.
func TestReuseIsFIFO(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	p := pool("a", "10.0.0.0/28", 28)
	b := newBed(t, p)
	var free []string
	for a := p.CIDR.Addr(); p.CIDR.Contains(a); a = a.Next() {
		free = append(free, a.String())
	}
	held := map[string]string{}
	for i := range 640 {
		if i%50 == 49 {
			b.open(p)
			b.SetBlocks([]ipam.Block{block("10.0.0.0/28", "a", "n1")})
		}
		id := fmt.Sprint("c", rnd.IntN(16))
		if addr, ok := held[id]; ok {
			b.del(id)
			free = append(free, addr)
			delete(held, id)
			continue
		}
		got := b.mustAdd(id, "a")
		if got != free[0] {
			t.Fatalf("step %d: got %s; the longest-free are %v", i, got, free)
		}
		held[id], free = got, free[1:]
	}
	files, err := filepath.Glob(filepath.Join(b.opts.Dir, "released", "*"))
	if err != nil || len(files) != len(free) {
		t.Errorf("%d releases on disk, %v, for %d free addresses", len(files), err, len(free))
	}
}

// Many at once, with the race detector: nobody gets what another has.
func TestConcurrentUse(t *testing.T) {
	b := newBed(t, pool("a", "10.0.0.0/23", 28), pool("b", "fd00::/119", 124))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()
	var mu sync.Mutex
	in := map[netip.Addr]string{}
	var wg sync.WaitGroup
	for w := range 20 {
		wg.Go(func() {
			for i := range 40 {
				id := fmt.Sprintf("%d-%d", w, i)
				records, err := b.Allocate(ctx, ipam.Request{Owner: owner(id), Pools: []string{"a", "b"}})
				if err != nil {
					t.Errorf("%s: %v", id, err)
					return
				}
				mu.Lock()
				for _, r := range records {
					if other, taken := in[r.Address]; taken {
						t.Errorf("%s has %s, which is %s's", id, r.Address, other)
					}
					in[r.Address] = id
				}
				mu.Unlock()
				if i%3 == 0 {
					continue // stays
				}
				mu.Lock()
				for _, r := range records {
					delete(in, r.Address)
				}
				mu.Unlock()
				if _, err := b.Release(owner(id)); err != nil {
					t.Errorf("%s: %v", id, err)
				}
				_, _ = b.Blocks(), b.Records()
			}
		})
	}
	wg.Wait()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := len(b.Records()); got != len(in) || got != 20*14*2 {
		t.Errorf("%d records for %d addresses in use, want %d", got, len(in), 20*14*2)
	}
}

func benchBed(b *testing.B) *bed {
	if dir, err := os.MkdirTemp("/dev/shm", "godwit-bench-"); err == nil {
		b.Cleanup(func() { _ = os.RemoveAll(dir) })
		o := ipam.Options{Node: "n1", Store: &ipamtest.Store{}, Dir: dir, Log: slog.New(slog.DiscardHandler)}
		bb := &bed{t: b, store: o.Store.(*ipamtest.Store), opts: o}
		bb.open(pool("a", "10.0.0.0/16", 26), pool("b", "fd00::/112", 122))
		return bb
	}
	return newBed(b, pool("a", "10.0.0.0/16", 26), pool("b", "fd00::/112", 122))
}

// An address given out and taken back, records on tmpfs, with 200 others in use.
func BenchmarkAllocateRelease(b *testing.B) {
	for name, pools := range map[string][]string{"IPv4": {"a"}, "DualStack": {"a", "b"}} {
		b.Run(name, func(b *testing.B) {
			n := benchBed(b)
			for i := range 200 {
				n.mustAdd(fmt.Sprint("standing-", i), pools...)
			}
			r := ipam.Request{Owner: owner("c"), Pod: "default/c", Pools: pools}
			for b.Loop() {
				if _, err := n.Allocate(b.Context(), r); err != nil {
					b.Fatal(err)
				}
				if _, err := n.Release(r.Owner); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// The start of an agent on a node with 250 pods.
func BenchmarkOpen(b *testing.B) {
	n := benchBed(b)
	for i := range 250 {
		n.mustAdd(fmt.Sprint("c", i), "a")
	}
	for b.Loop() {
		if _, err := ipam.Open(n.opts); err != nil {
			b.Fatal(err)
		}
	}
}

// A claim of one of the last free blocks of a pool of 16384.
func BenchmarkClaimNearlyFull(b *testing.B) {
	s := &ipamtest.Store{}
	p := pool("a", "10.0.0.0/12", 26)
	for i := range 16384 - 3 {
		cidr := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 10), byte(i >> 2), byte(i << 6)}), 26)
		if err := s.Create(b.Context(), ipam.Block{CIDR: cidr, Pool: "a", Node: "x"}); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		got, err := ipam.Claim(b.Context(), s, p, "n1", nil)
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Delete(b.Context(), got); err != nil {
			b.Fatal(err)
		}
	}
}
