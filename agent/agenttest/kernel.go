// Package agenttest is for tests with agents that have no node of their own: a
// kernel in memory, and the suite that it and the real one pass alike.
package agenttest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/godwit-net/godwit/agent"
	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/cni/wire"
	"github.com/godwit-net/godwit/nat"
	"github.com/godwit-net/godwit/routes"
	"github.com/godwit-net/godwit/tunnel"
)

// Link is the one link of a node in memory, and MTU its MTU.
const (
	Link = "eth0"
	MTU  = 1500
)

// NewKernel makes the kernel of a node in memory whose addresses are on Link. It
// has no containers, nor network namespaces for them.
func NewKernel(addresses ...netip.Prefix) *agent.Kernel {
	return &agent.Kernel{
		Routes:     newTable(),
		Tunnels:    &tunnels{addresses: addresses, changed: make(chan struct{}), peers: map[netip.Addr]bool{}},
		Masquerade: &masquerade{nodes: map[netip.Addr]bool{}},
		Wirer:      wirer{},
		Host:       &host{addresses: addresses},
	}
}

// Peers are the nodes that the VXLAN devices of a kernel in memory know, sorted.
func Peers(k *agent.Kernel) []netip.Addr { return k.Tunnels.(*tunnels).known() }

// Nodes are those that the masquerade of a kernel in memory knows, sorted.
func Nodes(k *agent.Kernel) []netip.Addr { return k.Masquerade.(*masquerade).known() }

// table is a route table that needs no time.
type table struct {
	mu     sync.Mutex
	want   map[routes.Class]map[netip.Prefix]routes.Route
	synced map[routes.Class]bool
	closed chan struct{}
	once   sync.Once
}

func newTable() *table {
	return &table{
		want:   map[routes.Class]map[netip.Prefix]routes.Route{},
		synced: map[routes.Class]bool{}, closed: make(chan struct{}),
	}
}

func (t *table) Set(c routes.Class, desired []routes.Route) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.want[c] = make(map[netip.Prefix]routes.Route, len(desired))
	t.put(c, desired)
}

func (t *table) Update(c routes.Class, put []routes.Route, remove []netip.Prefix) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.want[c] == nil {
		t.want[c] = map[netip.Prefix]routes.Route{}
	}
	t.put(c, put)
	for _, p := range remove {
		delete(t.want[c], p.Masked())
	}
}

func (t *table) put(c routes.Class, put []routes.Route) {
	for _, r := range put {
		r.Dst = r.Dst.Masked()
		t.want[c][r.Dst] = r
	}
}

func (t *table) Synced(c routes.Class) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.synced[c] = true
}

// wins returns the class that has its way at a destination, and its route.
func (t *table) wins(dst netip.Prefix) (routes.Class, routes.Route, bool) {
	for _, c := range routes.Classes() {
		if r, ok := t.want[c][dst]; ok {
			return c, r, true
		}
	}
	return 0, routes.Route{}, false
}

// fault says why a route can't be: its link is not there.
func fault(r routes.Route) error {
	if r.Link != "" && r.Link != Link {
		return fmt.Errorf("there is no link %s", r.Link)
	}
	return nil
}

func (t *table) Wait(_ context.Context, dst ...netip.Prefix) error {
	select {
	case <-t.closed:
		return routes.ErrClosed
	default:
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range dst {
		if _, r, ok := t.wins(p.Masked()); ok {
			if err := fault(r); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *table) Status() routes.Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := routes.Status{Desired: map[routes.Class]int{}, Installed: map[routes.Class]int{}, PlainRoutes: true, Synced: true}
	for _, c := range routes.Classes() {
		s.Synced = s.Synced && t.synced[c]
		s.Desired[c] = len(t.want[c])
		for dst := range t.want[c] {
			first, r, _ := t.wins(dst)
			if first != c {
				continue
			}
			if err := fault(r); err != nil {
				s.Failed = append(s.Failed, routes.Failure{Dst: dst, Err: err})
				continue
			}
			s.Installed[c]++
		}
	}
	slices.SortFunc(s.Failed, func(a, b routes.Failure) int { return a.Dst.Compare(b.Dst) })
	return s
}

func (t *table) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
	case <-t.closed:
	}
	return nil
}

func (t *table) Close() error {
	t.once.Do(func() { close(t.closed) })
	return nil
}

// tunnels are devices that come up at once, if the node has their address.
type tunnels struct {
	addresses []netip.Prefix
	changed   chan struct{} // nobody changes anything here

	mu     sync.Mutex
	closed bool
	up     []tunnel.Device
	peers  map[netip.Addr]bool // that the devices know
}

func (t *tunnels) Set(_ context.Context, c tunnel.Config) ([]tunnel.Status, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]tunnel.Status, len(c.Devices))
	var errs []error
	t.up = nil
	for i, d := range c.Devices {
		all[i].Device = d
		switch {
		case t.closed:
			all[i].Err = tunnel.ErrClosed
		case !has(t.addresses, d.Local), d.MTU == 0:
			all[i].Err = fmt.Errorf("%s: %w", d.Name(), tunnel.ErrNoAddress)
		default:
			all[i].Up = true
			t.up = append(t.up, d)
		}
		errs = append(errs, all[i].Err)
	}
	if !c.Partial {
		clear(t.peers)
	}
	t.add(c.Peers)
	return all, errors.Join(errs...)
}

func (t *tunnels) AddPeers(peers []netip.Addr) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return tunnel.ErrClosed
	}
	t.add(peers)
	return nil
}

// add adds peers. The lock is held.
func (t *tunnels) add(peers []netip.Addr) {
	for _, a := range peers {
		t.peers[a] = true
	}
}

// known are the peers that there are entries for, sorted.
func (t *tunnels) known() []netip.Addr {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []netip.Addr
	for a := range t.peers {
		if slices.ContainsFunc(t.up, func(d tunnel.Device) bool { return d.Kind == tunnel.VXLAN && d.Local.Is4() == a.Is4() && d.Local != a }) {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

func (t *tunnels) Changed() <-chan struct{} { return t.changed }

func (t *tunnels) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (t *tunnels) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	return nil
}

// masquerade takes any rules, and remembers which nodes they name.
type masquerade struct {
	mu    sync.Mutex
	nodes map[netip.Addr]bool
}

func (m *masquerade) Set(ctx context.Context, r nat.Rules) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !r.Partial {
		clear(m.nodes)
	}
	for _, p := range r.Nodes {
		m.nodes[p.Addr()] = true
	}
	return nil
}

func (m *masquerade) known() []netip.Addr {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.SortedFunc(maps.Keys(m.nodes), netip.Addr.Compare)
}

func (*masquerade) Close() error { return nil }

// host is a node whose addresses never change.
type host struct{ addresses []netip.Prefix }

func (h *host) Addresses(want []netip.Addr) ([]v1alpha1.NodeAddress, error) {
	var found []v1alpha1.NodeAddress
	for _, p := range h.addresses {
		if slices.Contains(want, p.Addr()) {
			found = append(found, v1alpha1.NodeAddress{Address: p.String(), Interface: Link, MTU: MTU})
		}
	}
	return found, nil
}

func (*host) Forward(bool, bool) error { return nil }

func (*host) Watch(ctx context.Context, _ func(string), _ func(netip.Addr)) error {
	<-ctx.Done()
	return nil
}

func has(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Addr() == a })
}

// wirer is of a node without containers.
type wirer struct{}

var errNoContainers = errors.New("this node is in memory: it has no containers")

func (wirer) OpenNamespace(path string) (*wire.Namespace, error) {
	return nil, fmt.Errorf("open %s: %w", path, errNoContainers)
}

func (wirer) Attach(context.Context, *wire.Namespace, wire.Spec) (wire.Link, error) {
	return wire.Link{}, errNoContainers
}

func (wirer) Find(context.Context, string, string) (wire.Link, bool, error) {
	return wire.Link{}, false, nil
}

func (wirer) Doom(context.Context, string, string) (wire.Link, bool, error) {
	return wire.Link{}, false, nil
}

func (wirer) Sweep(context.Context) error { return nil }

func (wirer) List(context.Context) ([]wire.Link, error) { return nil, nil }

func (wirer) Check(context.Context, *wire.Namespace, wire.Spec, net.HardwareAddr) ([]string, error) {
	return nil, errNoContainers
}

func (wirer) FlushConntrack(context.Context, []netip.Addr) error { return nil }
