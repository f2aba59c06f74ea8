package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-net/godwit/ipam"
	"github.com/godwit-net/godwit/ipam/ipamtest"
)

// Pods with claims come and go on three nodes whose agents restart, with a store
// that fails before or after it did what was asked. Never do two nodes have an
// address in use, each that is in use is its node's in the store, and in the end
// nothing is left.
func TestClaimsAtRandom(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inBubble(t, func(t *testing.T) { claimsAtRandom(t, rand.New(rand.NewPCG(seed, 3))) })
		})
	}
}

type claimWorld struct {
	*testing.T
	r     *rand.Rand
	nodes []*bed
	stops []func()
	pods  map[string]int // container to node
	next  int
	won   int
	log   []string

	mu    sync.Mutex
	fails bool       // the store does, now and then
	luck  *rand.Rand // by this
}

func (w *claimWorld) setFails(fails bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fails = fails
}

// failing tells, once in so many times, that the store fails.
func (w *claimWorld) failing(once int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fails && w.luck.IntN(once) == 0
}

func claimsAtRandom(t *testing.T, r *rand.Rand) {
	fixed := claimsPool("fixed", "10.9.0.0/30")
	w := &claimWorld{T: t, r: r, pods: map[string]int{}, luck: rand.New(rand.NewPCG(r.Uint64(), 1))}
	first := newBed(t)
	first.store.Before = func(context.Context, ipamtest.Call) error {
		if w.failing(3) {
			return errors.New("no answer")
		}
		return nil
	}
	first.store.After = func(context.Context, ipamtest.Call) error {
		if w.failing(4) {
			return errors.New("the answer got lost")
		}
		return nil
	}
	for i := range 3 {
		n := first.another(t, fmt.Sprint("n", i), fixed)
		w.nodes, w.stops = append(w.nodes, n), append(w.stops, n.run())
	}
	for range 150 {
		w.step(fixed)
		w.check()
	}
	w.setFails(false)
	for container, n := range w.pods {
		w.nodes[n].del(container)
	}
	time.Sleep(2 * time.Minute)
	first.wantStore()
	for _, n := range w.nodes {
		n.wantBlocks()
	}
	if w.won < 10 {
		t.Errorf("only %d pods got what they claimed: the test shows nothing", w.won)
	}
	for _, stop := range w.stops {
		stop()
	}
}

func (w *claimWorld) step(pools ...ipam.Pool) {
	i := w.r.IntN(len(w.nodes))
	n := w.nodes[i]
	switch what := w.r.IntN(10); {
	case what < 4:
		container := fmt.Sprint("c", w.next)
		w.next++
		address := fmt.Sprint("10.9.0.", w.r.IntN(4))
		got, err := n.claim(container, fmt.Sprint("pod default/p", w.r.IntN(3)), nil, address)
		if err == nil {
			w.pods[container] = i
			w.won++
		}
		w.log = append(w.log, fmt.Sprintf("%s on n%d claims %s: %q, %v", container, i, address, got, err))
	case what < 7:
		for container, on := range w.pods {
			if on == i {
				n.del(container)
				delete(w.pods, container)
				w.log = append(w.log, fmt.Sprintf("%s of n%d goes", container, i))
				break
			}
		}
	case what < 8:
		blocks := n.Blocks()
		w.stops[i]()
		n.open(pools...)
		w.log = append(w.log, fmt.Sprintf("n%d restarts with %v", i, blocks))
		for _, b := range blocks { // of its checkpoint
			n.SetBlocks([]ipam.Block{b.Block})
		}
		w.stops[i] = n.run()
	case what < 9:
		w.setFails(!w.fails)
	default:
		time.Sleep(time.Duration(w.r.IntN(20000)) * time.Millisecond)
	}
	synctest.Wait()
}

func (w *claimWorld) check() {
	w.Helper()
	users := map[netip.Addr]string{}
	dump := w.nodes[0].store.Dump()
	for _, n := range w.nodes {
		for _, r := range n.Records() {
			if other, twice := users[r.Address]; twice {
				w.Fatalf("%s is in use on %s and %s after:\n%s", r.Address, other, n.opts.Node, strings.Join(w.log, "\n"))
			}
			users[r.Address] = n.opts.Node
			if !strings.Contains(dump, fmt.Sprintf("%s/32 pool=fixed node=%s\n", r.Address, n.opts.Node)) {
				w.Fatalf("%s is in use on %s, and the store has\n%safter:\n%s", r.Address, n.opts.Node, dump, strings.Join(w.log, "\n"))
			}
		}
	}
}
