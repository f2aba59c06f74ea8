package ipam_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-net/godwit/ipam"
	"github.com/godwit-net/godwit/ipam/ipamtest"
)

func claimsPool(name, cidr string, reserved ...string) ipam.Pool {
	p := pool(name, cidr, netip.MustParsePrefix(cidr).Addr().BitLen(), reserved...)
	p.Claims = true
	return p
}

// claim allocates for a pod that asks for addresses of the pools fixed and fixed6.
func (b *bed) claim(id, holder string, pools []string, wanted ...string) (string, error) {
	b.t.Helper()
	r := ipam.Request{Owner: owner(id), Pod: "default/" + id, Pools: pools, Holder: holder}
	for _, s := range wanted {
		c := ipam.AddressClaim{Address: netip.MustParseAddr(s), Pool: "fixed"}
		if c.Address.Is6() {
			c.Pool = "fixed6"
		}
		r.Claims = append(r.Claims, c)
	}
	records, err := b.Allocate(b.t.Context(), r)
	return addresses(records), err
}

// another opens a node with the same store.
func (b *bed) another(t *testing.T, name string, pools ...ipam.Pool) *bed {
	o := &bed{t: t, store: b.store, opts: b.opts}
	o.opts.Node, o.opts.Dir = name, t.TempDir()
	o.open(pools...)
	return o
}

// A claimed address is the node's from the moment a pod asks for it until that pod
// is gone; then another node has it. One that waits gets it without another try.
func TestAClaimedAddressMoves(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		fixed := claimsPool("fixed", "10.9.0.0/28")
		n1 := newBed(t, fixed, pool("pods", "10.0.0.0/26", 26))
		n2 := n1.another(t, "n2", fixed)
		defer n1.run()()
		defer n2.run()()
		synctest.Wait()

		got, err := n1.claim("a", "pod default/web 1", nil, "10.9.0.7")
		if err != nil || got != "10.9.0.7" {
			t.Fatalf("claim of a free address: %q, %v", got, err)
		}
		synctest.Wait()
		n1.wantBlocks("10.0.0.0/26 pods 0/64", "10.9.0.7/32 fixed 1/1")
		if got, err := n1.claim("a", "pod default/web 1", nil, "10.9.0.7"); err != nil || got != "10.9.0.7" {
			t.Errorf("the same request again: %q, %v", got, err)
		}
		if got := n1.HeldFor("pod default/web 1"); len(got) != 1 || got[0].Address != netip.MustParseAddr("10.9.0.7") {
			t.Errorf("held for the pod: %v", got)
		}

		began := time.Now()
		var held *ipam.HeldError
		if _, err := n2.claim("b", "pod default/web 2", nil, "10.9.0.7"); !errors.As(err, &held) || held.Node != "n1" || held.Holder != "pod default/web 1" {
			t.Errorf("claim of an address that a live pod has: %v, want that n1 holds it", err)
		}
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("that took %s", took)
		}
		if text := held.Error(); !strings.Contains(text, "10.9.0.7 is held by node n1 for pod default/web 1") {
			t.Error(text)
		}

		go func() {
			time.Sleep(time.Second)
			n1.del("a")
		}()
		began = time.Now()
		if got, err := n2.claim("b", "pod default/web 2", nil, "10.9.0.7"); err != nil || got != "10.9.0.7" {
			t.Fatalf("claim of an address whose pod is on its way out: %q, %v", got, err)
		}
		if took := time.Since(began) - time.Second; took > time.Second {
			t.Errorf("%s after the old pod's end", took)
		}
		synctest.Wait()
		n1.wantBlocks("10.0.0.0/26 pods 0/64")
		n2.wantBlocks("10.9.0.7/32 fixed 1/1")
		n2.del("b")
		time.Sleep(time.Second)
		n2.wantBlocks()
		n1.wantStore("10.0.0.0/26 pool=pods node=n1")
	})
}

// Of two nodes that claim at once one gets the address.
func TestTwoClaimAtOnce(t *testing.T) {
	fixed := claimsPool("fixed", "10.9.0.0/28")
	n1 := newBed(t, fixed)
	n2 := n1.another(t, "n2", fixed)
	errs := make(chan error, 2)
	for i, n := range []*bed{n1, n2} {
		go func() {
			_, err := n.claim("a", []string{"pod default/x 1", "pod default/y 2"}[i], nil, "10.9.0.7")
			errs <- err
		}()
	}
	var held *ipam.HeldError
	first, second := <-errs, <-errs
	if (first == nil) == (second == nil) || !errors.As(errors.Join(first, second), &held) {
		t.Errorf("two that claim at once: %v and %v, want that one has it", first, second)
	}
}

// A claim stands beside an address of the other family, and goes when the request
// as a whole fails.
func TestClaimsAndPools(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBed(t, claimsPool("fixed", "10.9.0.0/28", "10.9.0.0/30"), claimsPool("fixed6", "fd00:9::/120"),
			pool("pods", "10.0.0.0/26", 26), pool("six", "fd00::/126", 126))
		defer b.run()()
		synctest.Wait()
		for _, tt := range []struct {
			id, want  string
			addresses []string
		}{
			{"both", "10.9.0.7 fd00:9::7", []string{"fd00:9::7", "10.9.0.7"}},
			{"one", "10.9.0.8 fd00::", []string{"10.9.0.8"}},
			{"none", "10.0.0.0 fd00::1", nil},
		} {
			if got, err := b.claim(tt.id, "pod default/"+tt.id, []string{"pods", "six"}, tt.addresses...); err != nil || got != tt.want {
				t.Errorf("%s: %q, %v, want %q", tt.id, got, err, tt.want)
			}
		}
		b.mustAdd("x", "six")
		b.mustAdd("y", "six")
		if got, err := b.claim("full", "pod default/full", []string{"pods", "six"}, "10.9.0.9"); err == nil {
			t.Errorf("a request of which one part can't be had got %s", got)
		}
		time.Sleep(time.Second)
		b.wantBlocks("10.0.0.0/26 pods 1/64", "10.9.0.7/32 fixed 1/1", "10.9.0.8/32 fixed 1/1", "fd00::/126 six 4/4", "fd00:9::7/128 fixed6 1/1")

		var unusable *ipam.UnusableAddressError
		for address, want := range map[string]string{
			"10.9.0.1":  "it is reserved in IP pool fixed",
			"10.8.0.1":  "it is not in IP pool fixed",
			"10.9.0.7":  "pod default/both (both/eth0) has it, on this node",
			"fd00:8::1": "it is not in IP pool fixed6",
		} {
			if _, err := b.claim("z", "pod default/z", nil, address); !errors.As(err, &unusable) || unusable.Reason != want {
				t.Errorf("%s: %v, want %q", address, err, want)
			}
		}
		// Nobody gets one of these addresses without asking for it.
		if _, err := b.add("w", "fixed"); err == nil {
			t.Error("a pod got a claimed address without a claim")
		}
	})
}

// While the store is away a pod keeps its claim, over a restart of the agent too,
// and a container of the same pod gets the address again.
func TestClaimsWhileTheStoreIsAway(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		fixed := claimsPool("fixed", "10.9.0.0/28")
		b := newBed(t, fixed)
		var away atomic.Bool
		b.store.Before = func(context.Context, ipamtest.Call) error {
			if away.Load() {
				return errors.Join(ipam.ErrUntouched, errors.New("away"))
			}
			return nil
		}
		stop := b.run()
		if _, err := b.claim("a", "pod default/web 1", nil, "10.9.0.7"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		stop()
		away.Store(true)
		b.open(fixed) // from its checkpoint
		held := block("10.9.0.7/32", "fixed", "n1")
		held.Holder = "pod default/web 1"
		b.SetBlocks([]ipam.Block{held})
		stop = b.run()
		b.wantBlocks("10.9.0.7/32 fixed 1/1")
		b.del("a")
		time.Sleep(time.Minute)
		if got, err := b.claim("b", "pod default/web 1", nil, "10.9.0.7"); err != nil || got != "10.9.0.7" {
			t.Errorf("the next container of the pod: %q, %v", got, err)
		}
		if _, err := b.claim("c", "pod default/other 1", nil, "10.9.0.8"); err == nil || !strings.Contains(err.Error(), "away") {
			t.Errorf("a new claim: %v", err)
		}
		b.del("b")
		away.Store(false)
		// Another pod on the node: the store is told that it has the address now.
		time.Sleep(30 * time.Second)
		if _, err := b.claim("d", "pod default/web 2", nil, "10.9.0.7"); err != nil {
			t.Error(err)
		}
		if got, _, _ := b.store.Get(t.Context(), held.CIDR); got.Holder != "pod default/web 2" {
			t.Errorf("in the store: %v", got)
		}
		stop()
	})
}

// What another node announces is not claimed though the store has forgotten it.
func TestNoClaimOfWhatIsAnnounced(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBed(t, claimsPool("fixed", "10.9.0.0/28"))
		var announced atomic.Bool
		announced.Store(true)
		b.opts.Elsewhere = func(p netip.Prefix) bool { return announced.Load() && p.String() == "10.9.0.7/32" }
		b.open(claimsPool("fixed", "10.9.0.0/28"))
		var held *ipam.HeldError
		if _, err := b.claim("a", "pod default/web 1", nil, "10.9.0.7"); !errors.As(err, &held) || !strings.Contains(err.Error(), "still announced") {
			t.Errorf("claim: %v", err)
		}
		b.wantStore()
		announced.Store(false)
		if _, err := b.claim("a", "pod default/web 1", nil, "10.9.0.7"); err != nil {
			t.Error(err)
		}
	})
}

// The address that was claimed first stays while the store takes its time for the
// second.
func TestClaimsOfBothFamiliesWithASlowStore(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBed(t, claimsPool("fixed", "10.9.0.0/28"), claimsPool("fixed6", "fd00:9::/120"))
		b.store.Before = func(context.Context, ipamtest.Call) error {
			time.Sleep(700 * time.Millisecond)
			return nil
		}
		defer b.run()()
		if got, err := b.claim("a", "pod default/web 1", nil, "10.9.0.7", "fd00:9::7"); err != nil || got != "10.9.0.7 fd00:9::7" {
			t.Errorf("%q, %v", got, err)
		}
	})
}
