package agent

import (
	"context"
	"log/slog"
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
}

func newUnderlay(host Host, log *slog.Logger) *underlay {
	return &underlay{host: host, log: log, changed: make(chan struct{}, 1)}
}

// look looks the addresses up.
func (u *underlay) look(want []netip.Addr) ([]v1alpha1.NodeAddress, error) {
	found, err := u.host.Addresses(want)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.want = want
	if err == nil {
		u.found = found
	}
	return found, err
}

// mtu returns the MTU of the interface with the node's address of a family, or
// else with any of its addresses; 0 where there is none.
func (u *underlay) mtu(v4 bool) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	mtu := 0
	for _, a := range u.found {
		if p, err := netip.ParsePrefix(a.Address); err == nil && p.Addr().Is4() == v4 {
			return int(a.MTU)
		}
		mtu = int(a.MTU)
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
