package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/ipam"
	"github.com/godwit-net/godwit/tunnel"
)

// withoutForeign leaves out of a plan the pools whose addresses the node's own
// networks have, or the API server: routes to blocks of them would take packets for
// the node's neighbours into pods. It also says which pools the controller has left
// out. A pool of which this node has addresses in use, as before the network came,
// stays: nothing that works is taken away.
func withoutForeign(spec *v1alpha1.NodeNetworkSpec, networks []v1alpha1.NodeAddress, server netip.Addr, inUse func(netip.Prefix) bool) (v1alpha1.NodeNetworkSpec, []error) {
	out := *spec
	out.Pools = nil
	var refused []error
	for i := range spec.Pools {
		p := &spec.Pools[i]
		cidr, err := netip.ParsePrefix(p.CIDR)
		why := ""
		if err == nil { // else translate says so
			why = foreign(cidr, networks, server)
		}
		if why == "" {
			out.Pools = append(out.Pools, *p)
			continue
		}
		if inUse(cidr) {
			out.Pools = append(out.Pools, *p)
			refused = append(refused, fmt.Errorf("pool %s: %s %s; the node goes on with it, as addresses of it are in use: "+
				"make another pool, disable this one, and start its pods anew", p.Name, cidr, why))
			continue
		}
		refused = append(refused, fmt.Errorf("pool %s is not used on this node: %s %s: delete it, and make one of other addresses", p.Name, cidr, why))
	}
	for _, p := range spec.RefusedPools {
		refused = append(refused, fmt.Errorf("pool %s is not used: %s", p.Name, p.Message))
	}
	return out, refused
}

// foreign says who has some of a pool's addresses already; empty: nobody.
func foreign(cidr netip.Prefix, networks []v1alpha1.NodeAddress, server netip.Addr) string {
	for _, n := range networks {
		if own, err := netip.ParsePrefix(n.Address); err == nil && own.Overlaps(cidr) {
			return fmt.Sprintf("overlaps %s, the network of the node's interface %s", own.Masked(), n.Interface)
		}
	}
	if server.IsValid() && cidr.Contains(server) {
		return fmt.Sprintf("has the address %s in it, at which the API server is reached", server)
	}
	return ""
}

// refuse does that with a plan of this node. By its look the underlay's MTU is known
// before any pod is attached by the plan.
func (w *worker) refuse(spec *v1alpha1.NodeNetworkSpec) (v1alpha1.NodeNetworkSpec, []error) {
	var own []netip.Addr
	for _, s := range spec.Addresses {
		if a, err := netip.ParseAddr(s); err == nil {
			own = append(own, a)
		}
	}
	var (
		networks []v1alpha1.NodeAddress
		err      error
	)
	if len(own) > 0 {
		networks, err = w.underlay.look(own)
	}
	out, refused := withoutForeign(spec, networks, w.o.APIServer, w.inUse)
	if err != nil {
		refused = append(refused, fmt.Errorf("find the node's own networks: %w", err))
	}
	return out, refused
}

// inUse tells whether the node has blocks or addresses of a pool.
func (w *worker) inUse(pool netip.Prefix) bool {
	for _, b := range w.saved.Blocks {
		if pool.Contains(b.CIDR.Addr()) {
			return true
		}
	}
	for _, b := range w.addresses.Blocks() {
		if pool.Contains(b.CIDR.Addr()) {
			return true
		}
	}
	for _, r := range w.addresses.Records() {
		if pool.Contains(r.Address) {
			return true
		}
	}
	return false
}

// unsupported returns, by name, the pools whose packets would go through tunnels
// that the node's kernel does not have, and what it says.
func unsupported(d *desired, tunnels []tunnel.Status) map[string]error {
	var out map[string]error
	for _, t := range tunnels {
		if !errors.Is(t.Err, tunnel.ErrNotSupported) {
			continue
		}
		for _, p := range d.encapsulated {
			if p.kind.Interface(p.cidr.Addr().Is6()) != t.Name() {
				continue
			}
			if out == nil {
				out = map[string]error{}
			}
			out[p.name] = t.Err
		}
	}
	return out
}

// untried returns, by name, the pools whose packets would go through tunnels that
// nobody has tried to make yet.
func untried(d *desired, tunnels []tunnel.Status) map[string]bool {
	out := map[string]bool{}
	for _, p := range d.encapsulated {
		device := p.kind.Interface(p.cidr.Addr().Is6())
		out[p.name] = !slices.ContainsFunc(tunnels, func(t tunnel.Status) bool { return t.Name() == device })
	}
	return out
}

// withhold has pools give out no addresses whose tunnels this node can't have: a
// pod with such an address would reach no other node's pods. The others need not wait
// any more.
func (w *worker) withhold(d *desired) {
	w.state.mu.Lock()
	lacking := unsupported(d, w.state.tunnels)
	before := w.state.lacking
	w.state.lacking = lacking
	w.state.mu.Unlock()
	for name, err := range lacking {
		if before[name] == nil {
			w.log.Warn("a pool gives out no addresses on this node, as its packets can't go through the tunnel", "pool", name, "error", err)
		}
	}
	w.setPools(d, nil)
}

// setPools tells ipam which pools there are, and which of them give out addresses:
// not those that lack their tunnel, nor those that are to wait.
func (w *worker) setPools(d *desired, wait map[string]bool) {
	w.state.mu.Lock()
	lacking := w.state.lacking
	w.state.mu.Unlock()
	pools := append(make([]ipam.Pool, 0, len(d.pools)), d.pools...)
	for i := range pools {
		p := &pools[i]
		p.Allocate = p.Allocate && lacking[p.Name] == nil && !wait[p.Name]
	}
	if w.pools != nil && reflect.DeepEqual(pools, w.pools) {
		return
	}
	w.pools = pools
	w.addresses.SetPools(pools)
}

// errNothingToGive keeps the runtime from calling the plugin of a node that was
// just set up and can give no pod an address because of what is wrong with pools.
var errNothingToGive = errors.New("the container runtime is not told of Godwit yet: no pool that gives out addresses on this node can be used")

// nothingToGive returns that error while it is so.
func (w *worker) nothingToGive() error {
	if w.configured.Load() || len(w.state.choices()) > 0 {
		return nil
	}
	w.state.mu.Lock()
	defer w.state.mu.Unlock()
	if len(w.state.refused) > 0 || len(w.state.lacking) > 0 {
		return errNothingToGive
	}
	return nil
}
