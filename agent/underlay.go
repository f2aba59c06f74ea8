package agent

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// underlay is the node's own network, over which those of the pods go: the
// node's addresses as they are on its interfaces.
type underlay struct {
	host    Host
	log     *slog.Logger
	changed chan struct{} // an address or its interface may be another; holds at most one

	mu    sync.Mutex
	want  []netip.Addr
	found []v1alpha1.NodeAddress
	mtus  map[netip.Addr]int // of each address's interface, as of when it was last found
}

func newUnderlay(host Host, log *slog.Logger) *underlay {
	return &underlay{host: host, log: log, changed: make(chan struct{}, 1), mtus: map[netip.Addr]int{}}
}

// look looks the addresses up.
func (u *underlay) look(want []netip.Addr) ([]v1alpha1.NodeAddress, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.want = want
	maps.DeleteFunc(u.mtus, func(a netip.Addr, _ int) bool { return !slices.Contains(want, a) })
	return u.lookAgain()
}

// lookAgain looks the same addresses up. The lock is held.
func (u *underlay) lookAgain() ([]v1alpha1.NodeAddress, error) {
	found, err := u.host.Addresses(u.want)
	if err != nil {
		return nil, err
	}
	u.found = found
	for _, f := range slices.Backward(found) { // of several interfaces with an address the first counts
		if p, err := netip.ParsePrefix(f.Address); err == nil {
			u.mtus[p.Addr()] = int(f.MTU)
		}
	}
	return found, nil
}

// mtu returns the MTU of the interface with the node's address of a family, or
// else with any of its addresses; 0 where none was found yet. That of an address
// which is gone for the moment stands.
func (u *underlay) mtu(v4 bool) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.mtus) == 0 {
		_, _ = u.lookAgain() // it may be there by now; why not is told by whoever looks
	}
	mtu := 0
	for _, a := range u.want {
		switch m := u.mtus[a]; {
		case m > 0 && a.Is4() == v4:
			return m
		case m > 0:
			mtu = m
		}
	}
	return mtu
}

// concerns reports whether a link has one of the addresses.
func (u *underlay) concerns(link string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.ContainsFunc(u.found, func(a v1alpha1.NodeAddress) bool { return a.Interface == link })
}

// wants reports whether an address is one of the node's.
func (u *underlay) wants(a netip.Addr) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Contains(u.want, a)
}

// watchAgain is how long the watch rests after it broke.
const watchAgain = time.Second

// watch signals changes of the node's addresses and of the interfaces that have
// them, until ctx ends.
func (u *underlay) watch(ctx context.Context) {
	for ctx.Err() == nil {
		if err := u.host.Watch(ctx, u.linkChanged, u.addressChanged); err != nil {
			u.log.Warn("can't watch the node's interfaces; trying again", "error", err)
		}
		signal(u.changed) // something may have been missed
		select {
		case <-ctx.Done():
		case <-time.After(watchAgain):
		}
	}
}

func (u *underlay) linkChanged(name string) {
	if u.concerns(name) {
		signal(u.changed)
	}
}

func (u *underlay) addressChanged(a netip.Addr) {
	if u.wants(a) {
		signal(u.changed)
	}
}
