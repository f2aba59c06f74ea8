package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// underlay is the node's own network, over which those of the pods go: the
// node's addresses as they are on its interfaces.
type underlay struct {
	log     *slog.Logger
	changed chan struct{} // an address or its interface may be another; holds at most one

	mu    sync.Mutex
	want  []netip.Addr
	found []v1alpha1.NodeAddress
}

func newUnderlay(log *slog.Logger) *underlay {
	return &underlay{log: log, changed: make(chan struct{}, 1)}
}

// look looks the addresses up.
func (u *underlay) look(want []netip.Addr) ([]v1alpha1.NodeAddress, error) {
	found, err := findAddresses(want)
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
		if err := u.watchOnce(ctx); err != nil {
			u.log.Warn("can't watch the node's interfaces; trying again", "error", err)
		}
		signal(u.changed) // something may have been missed
		select {
		case <-ctx.Done():
		case <-time.After(watchAgain):
		}
	}
}

func (u *underlay) watchOnce(ctx context.Context) error {
	done := make(chan struct{})
	defer close(done)
	broken := make(chan error, 2)
	report := func(err error) {
		select {
		case broken <- err:
		default:
		}
	}
	links, addrs := make(chan netlink.LinkUpdate, 64), make(chan netlink.AddrUpdate, 64)
	if err := netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{ErrorCallback: report}); err != nil {
		return err
	}
	if err := netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{ErrorCallback: report}); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-broken:
			return err
		case l, ok := <-links:
			if !ok {
				return nil
			}
			if u.concerns(l.Attrs().Name) {
				signal(u.changed)
			}
		case a, ok := <-addrs:
			if !ok {
				return nil
			}
			if ip, ok := netip.AddrFromSlice(a.LinkAddress.IP); ok && u.wants(ip.Unmap()) {
				signal(u.changed)
			}
		}
	}
}
