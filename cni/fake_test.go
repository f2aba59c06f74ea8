package cni

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/godwit-net/godwit/cni/wire"
	"github.com/godwit-net/godwit/ipam"
)

// memoryAllocator gives out one address of each family that it has, in order,
// the longest free first.
type memoryAllocator struct {
	mu      sync.Mutex
	free    map[bool][]netip.Addr // by whether they are IPv4
	records map[netip.Addr]ipam.Record
	fail    error // of Release
	broken  bool  // no more records can be made
}

// newMemoryAllocator makes one with n addresses of each family, from the first
// ones on.
func newMemoryAllocator(n int, first ...string) *memoryAllocator {
	m := &memoryAllocator{free: map[bool][]netip.Addr{}, records: map[netip.Addr]ipam.Record{}}
	for _, f := range first {
		a := netip.MustParseAddr(f)
		for range n {
			m.free[a.Is4()] = append(m.free[a.Is4()], a)
			a = a.Next()
		}
	}
	return m
}

func (m *memoryAllocator) Allocate(ctx context.Context, o ipam.Owner, pod Pod) ([]ipam.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if had := m.of(o); len(had) > 0 {
		return had, nil // as ipam.Node does
	}
	for _, free := range m.free {
		if len(free) == 0 {
			return nil, &ipam.ExhaustedError{Pools: []string{"default"}, Reason: "all its addresses are given out"}
		}
	}
	for family, free := range m.free {
		m.records[free[0]] = ipam.Record{Address: free[0], Pool: "default", Owner: o, Pod: pod.String()}
		m.free[family] = free[1:]
	}
	return m.of(o), nil
}

// of returns the owner's records, IPv4 first.
func (m *memoryAllocator) of(o ipam.Owner) []ipam.Record {
	var list []ipam.Record
	for _, r := range m.records {
		if r.Owner == o {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b ipam.Record) int { return a.Address.Compare(b.Address) })
	return list
}

func (m *memoryAllocator) Release(_ context.Context, o ipam.Owner) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	for _, r := range m.of(o) {
		delete(m.records, r.Address)
		m.free[r.Address.Is4()] = append(m.free[r.Address.Is4()], r.Address)
	}
	return nil
}

func (m *memoryAllocator) Adopt(r ipam.Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old, found := m.records[r.Address]; found {
		if old.Owner != r.Owner {
			return ipam.ErrAddressTaken
		}
		return nil
	}
	for _, old := range m.of(r.Owner) {
		if old.Address.Is4() == r.Address.Is4() {
			return ipam.ErrOwnerHasAddress
		}
	}
	if m.broken {
		return errors.New("no space left")
	}
	m.records[r.Address] = r
	family := r.Address.Is4()
	m.free[family] = slices.DeleteFunc(m.free[family], func(a netip.Addr) bool { return a == r.Address })
	return nil
}

func (m *memoryAllocator) Records() []ipam.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []ipam.Record
	for _, r := range m.records {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b ipam.Record) int { return a.Address.Compare(b.Address) })
	return list
}

// fakeNode stands for the kernel: it is both Wirer and HostRoutes. A path of
// a network namespace is good if it begins with /ns/.
type fakeNode struct {
	mu      sync.Mutex
	links   map[string]wire.Link
	routes  map[netip.Addr]string
	flushed []netip.Addr
	log     []string // what was done, in order

	attachErr, routeErr, doomErr, sweepErr error
	attaching                              func(context.Context) // called in Attach
	diffs                                  []string
	late                                   string // container whose link comes after each List
}

func newFakeNode() *fakeNode {
	return &fakeNode{links: map[string]wire.Link{}, routes: map[netip.Addr]string{}}
}

func (f *fakeNode) OpenNamespace(path string) (*wire.Namespace, error) {
	switch {
	case path == "/node":
		return nil, fmt.Errorf("%s: %w", path, wire.ErrNodeNamespace)
	case path == "/file":
		return nil, fmt.Errorf("%s: %w", path, wire.ErrNoNamespace)
	case !strings.HasPrefix(path, "/ns/"):
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return &wire.Namespace{}, nil
}

func (f *fakeNode) Attach(ctx context.Context, _ *wire.Namespace, s wire.Spec) (wire.Link, error) {
	if f.attaching != nil {
		f.attaching(ctx)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := cmp.Or(f.attachErr, ctx.Err()); err != nil {
		return wire.Link{}, err
	}
	l := wire.Link{Identity: s.Identity, HostEnd: wire.HostEnd(s.ContainerID, s.Interface), HostMAC: wire.HostMAC(), PodMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, MTU: s.MTU}
	if _, found := f.links[l.HostEnd]; found {
		return wire.Link{}, wire.ErrInterfaceExists
	}
	f.links[l.HostEnd] = l
	f.log = append(f.log, "attach "+s.ContainerID)
	return l, nil
}

func (f *fakeNode) Find(_ context.Context, id, ifName string) (wire.Link, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, found := f.links[wire.HostEnd(id, ifName)]
	return l, found && !l.Doomed, nil
}

func (f *fakeNode) Doom(_ context.Context, id, ifName string) (wire.Link, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, found := f.links[wire.HostEnd(id, ifName)]
	if f.doomErr != nil || !found {
		return wire.Link{}, false, f.doomErr
	}
	l.Doomed = true
	f.links[l.HostEnd] = l
	f.log = append(f.log, "doom "+id)
	return l, true, nil
}

func (f *fakeNode) Sweep(context.Context) error {
	time.Sleep(10 * time.Millisecond) // as the kernel takes
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sweepErr != nil {
		return f.sweepErr
	}
	for name, l := range f.links {
		if l.Doomed {
			delete(f.links, name)
		}
	}
	f.log = append(f.log, "sweep")
	return nil
}

func (f *fakeNode) List(context.Context) ([]wire.Link, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []wire.Link
	for _, l := range f.links {
		if l.ContainerID != f.late {
			list = append(list, l)
		}
	}
	return list, nil
}

func (f *fakeNode) Check(context.Context, *wire.Namespace, wire.Spec, net.HardwareAddr) ([]string, error) {
	return f.diffs, nil
}

func (f *fakeNode) FlushConntrack(_ context.Context, addresses []netip.Addr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.flushed = append(f.flushed, addresses...)
	f.log = append(f.log, "flush")
	return nil
}

func (f *fakeNode) Add(ctx context.Context, a netip.Addr, link string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := cmp.Or(f.routeErr, ctx.Err()); err != nil {
		return err
	}
	f.routes[a] = link
	return nil
}

func (f *fakeNode) Remove(_ context.Context, a netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.routes, a)
	f.log = append(f.log, "unroute "+a.String())
}

// vanish is what happens when the container's network namespace is deleted: the
// link goes, and with it the routes over it.
func (f *fakeNode) vanish(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	host := wire.HostEnd(id, "eth0")
	delete(f.links, host)
	maps.DeleteFunc(f.routes, func(_ netip.Addr, link string) bool { return link == host })
}

func (f *fakeNode) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}
