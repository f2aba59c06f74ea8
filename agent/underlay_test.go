package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/bgp/unnumbered"
	"github.com/godwit-net/godwit/ipam"
	"github.com/godwit-net/godwit/ipam/ipamtest"
)

// fakeHost is a node whose addresses come and go.
type fakeHost struct {
	mu    sync.Mutex
	found []v1alpha1.NodeAddress
	err   error
}

func (h *fakeHost) set(found ...v1alpha1.NodeAddress) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.found = found
}

// Addresses implements Host.
func (h *fakeHost) Addresses(want []netip.Addr) ([]v1alpha1.NodeAddress, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return nil, h.err
	}
	return slices.DeleteFunc(slices.Clone(h.found), func(a v1alpha1.NodeAddress) bool {
		return !slices.Contains(want, netip.MustParsePrefix(a.Address).Addr())
	}), nil
}

// Forward implements Host.
func (*fakeHost) Forward(bool, bool) error { return nil }

// Watch implements Host.
func (*fakeHost) Watch(ctx context.Context, _ func(string), _ func(netip.Addr)) error {
	<-ctx.Done()
	return nil
}

// TestUnderlayMTU: an address that is gone for a moment leaves its MTU behind, and
// nothing else.
func TestUnderlayMTU(t *testing.T) {
	v4 := v1alpha1.NodeAddress{Address: "10.211.55.101/24", Interface: "eth0", MTU: 1500}
	also4 := v1alpha1.NodeAddress{Address: "10.211.55.101/32", Interface: "lo", MTU: 65536}
	v6 := v1alpha1.NodeAddress{Address: "fd00:55::101/64", Interface: "eth1", MTU: 9000}
	both := []netip.Addr{netip.MustParseAddr("10.211.55.101"), netip.MustParseAddr("fd00:55::101")}
	other := []netip.Addr{netip.MustParseAddr("10.211.55.102")}
	node := &fakeHost{}
	u := newUnderlay(node, slog.New(slog.DiscardHandler))
	for _, step := range []struct {
		name       string
		there      []v1alpha1.NodeAddress
		err        error
		want       []netip.Addr
		mtu4, mtu6 int
		found      string // the interface that is known to have an address
	}{
		{"none is there yet", nil, nil, both, 0, 0, ""},
		{"one of a family", []v1alpha1.NodeAddress{v6}, nil, both, 9000, 9000, "eth1"},
		{"both, one twice", []v1alpha1.NodeAddress{v4, also4, v6}, nil, both, 1500, 9000, "eth0"},
		{"one is gone", []v1alpha1.NodeAddress{v6}, nil, both, 1500, 9000, "eth1"},
		{"both are gone", nil, nil, both, 1500, 9000, ""},
		{"it can't be found out", []v1alpha1.NodeAddress{v4}, errors.New("busy"), both, 1500, 9000, ""},
		{"the node has another address", []v1alpha1.NodeAddress{v4, v6}, nil, other, 0, 0, ""},
	} {
		node.set(step.there...)
		node.err = step.err
		found, err := u.look(step.want)
		if !errors.Is(err, step.err) || len(found) > len(step.there) {
			t.Errorf("%s: %v, %v", step.name, found, err)
		}
		if mtu4, mtu6 := u.mtu(true), u.mtu(false); mtu4 != step.mtu4 || mtu6 != step.mtu6 {
			t.Errorf("%s: MTU %d for IPv4 and %d for IPv6, want %d and %d", step.name, mtu4, mtu6, step.mtu4, step.mtu6)
		}
		for _, link := range []string{"eth0", "eth1"} {
			if got, want := u.concerns(link), slices.ContainsFunc(found, func(a v1alpha1.NodeAddress) bool { return a.Interface == link }); got != want {
				t.Errorf("%s: %s is said to have an address: %v, want %v", step.name, link, got, want)
			}
		}
		if step.found != "" && !u.concerns(step.found) {
			t.Errorf("%s: %s is not known to have an address", step.name, step.found)
		}
	}
	node.set(v1alpha1.NodeAddress{Address: "10.211.55.102/24", Interface: "eth0", MTU: 1400})
	if got := u.mtu(true); got != 1400 {
		t.Errorf("MTU %d of an address that came since the last look, want 1400", got)
	}
}

// TestMTUIsKnownWithThePlan: pods are attached from the moment on at which there is a
// plan, and the first pass may be seconds later.
func TestMTUIsKnownWithThePlan(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	addresses, err := ipam.Open(ipam.Options{Node: "n1", Store: &ipamtest.Store{}, Dir: t.TempDir(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	node := &fakeHost{found: []v1alpha1.NodeAddress{{Address: "10.211.55.101/24", Interface: "eth0", MTU: 1500}}}
	w := &worker{Agent: &Agent{
		log: log, host: node, underlay: newUnderlay(node, log), addresses: addresses,
		passwords: newPasswords(nil, "", filepath.Join(t.TempDir(), "passwords.json"), log), neighbors: unnumbered.New(unnumbered.Options{Log: log}),
	}}
	w.take(t.Context(), plan{generation: 1, spec: *parsePlan(t, encapsulatedPlan)})
	node.set() // gone again, but not forgotten
	if mtu, err := w.podMTU([]netip.Addr{netip.MustParseAddr("172.23.0.1")}); err != nil || mtu != 1450 {
		t.Errorf("MTU of a pod before the first pass: %d, %v, want 1450", mtu, err)
	}
}
