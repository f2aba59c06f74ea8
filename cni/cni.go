// Package cni serves the verbs of the Container Network Interface on a node:
// ADD, DEL, CHECK, GC and STATUS, versions 0.4.0, 1.0.0 and 1.1.0. The plugin
// that the container runtime executes (package plugin) hands them over.
//
// Invariants:
//   - An ADD that fails leaves nothing behind: no address, no link, no route.
//   - A DEL acts on what its container id and interface name own, and on nothing
//     else; it may come late, twice, or for something that never was.
//   - An address is free for others only after its link is gone and the node has
//     forgotten its connections. DEL answers earlier: when the route to the
//     address is withdrawn and the link is marked, in the kernel, as given up. The
//     reaper does the rest in batches; a server that ends before is continued by
//     the next one's Recover.
//   - What is attached is told by the kernel's links and the allocator's records;
//     the server's memory is only a copy of them.
//   - Calls for one interface of one container go one after the other, calls for
//     different ones side by side.
package cni

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/godwit-net/godwit/cni/wire"
	"github.com/godwit-net/godwit/ipam"
)

// Pod is the pod that a container is the sandbox of, as the runtime says; all
// empty for a container that is none of Kubernetes's.
type Pod struct {
	Namespace, Name, UID string
	// Annotations are the pod's; nil where the runtime does not hand them on.
	Annotations map[string]string
}

// String is namespace/name, or "" for no pod.
func (p Pod) String() string {
	if p.Namespace == "" && p.Name == "" {
		return ""
	}
	return p.Namespace + "/" + p.Name
}

// Allocator gives out addresses. Its methods may be called concurrently.
type Allocator interface {
	// Allocate gives the owner at most one address of each family, at least one in
	// all. It returns *ipam.ExhaustedError when there is none to be had.
	Allocate(ctx context.Context, o ipam.Owner, pod Pod) ([]ipam.Record, error)
	// Release takes back all addresses of an owner; that it has none is no error.
	Release(ctx context.Context, o ipam.Owner) error
	// Adopt records an address that is found to be in use; to adopt what is recorded
	// already is no error.
	Adopt(r ipam.Record) error
	// Records returns all addresses that are given out.
	Records() []ipam.Record
}

// HostRoutes are the node's routes to containers. Its methods may be called
// concurrently.
type HostRoutes interface {
	// Add makes the route to an address over a link, and returns when it is in the
	// kernel.
	Add(ctx context.Context, addr netip.Addr, link string) error
	// Remove withdraws a route; that there is none is no error.
	Remove(ctx context.Context, addr netip.Addr)
}

// Wirer connects containers to the node; *wire.Wirer does.
type Wirer interface {
	OpenNamespace(path string) (*wire.Namespace, error)
	Attach(ctx context.Context, ns *wire.Namespace, s wire.Spec) (wire.Link, error)
	Find(ctx context.Context, containerID, ifName string) (l wire.Link, found bool, err error)
	Doom(ctx context.Context, containerID, ifName string) (l wire.Link, found bool, err error)
	Sweep(ctx context.Context) error
	List(ctx context.Context) ([]wire.Link, error)
	Check(ctx context.Context, ns *wire.Namespace, s wire.Spec, podMAC net.HardwareAddr) ([]string, error)
	FlushConntrack(ctx context.Context, addresses []netip.Addr) error
}

// Options are what a Server needs of its node. All are required but those that
// say otherwise.
type Options struct {
	Allocator Allocator
	Routes    HostRoutes
	Wirer     Wirer
	// Ready returns nil when ADD can be served, else why it can't, in words for people.
	Ready func() error
	// MTU returns the MTU of the interface of a container that has these addresses, 0
	// for the kernel's default, or why it is not known yet, in words for people. It may
	// be nil. The configuration's "mtu" goes first.
	MTU func(addresses []netip.Addr) (int, error)
	Log *slog.Logger
	// Hurry tells whether somebody else may wait for any of these addresses: what has
	// it and is given up is not gathered with others but reaped at once. It may be nil.
	Hurry func(addresses []netip.Addr) bool
	// ReapDelay is for how long links that were given up are gathered before they
	// are deleted together; 0 means DefaultReapDelay.
	ReapDelay time.Duration
}

// DefaultReapDelay is long enough for most links to go with their container's
// network namespace, which the runtime deletes after DEL.
const DefaultReapDelay = 200 * time.Millisecond

// Attachment is an interface of a container on the node's network.
type Attachment struct {
	Owner     ipam.Owner
	Network   string
	Addresses []netip.Addr
	HostLink  string

	serial uint64 // tells it from one of the same owner that was before
}

// Server serves the verbs. Its methods may be called concurrently.
type Server struct {
	o     Options
	locks locks

	mu sync.Mutex
	// attached are the attachments that are complete.
	attached map[ipam.Owner]Attachment
	serial   uint64 // of the last one
	// doomed are those given up whose addresses are not free yet.
	doomed map[ipam.Owner]Attachment

	kick    chan struct{}        // tells the reaper that there is something doomed
	hurry   chan struct{}        // the same, and that it can't wait
	drain   chan chan<- struct{} // asks the reaper to reap now and to say when it did
	serving sync.WaitGroup       // calls that are being worked on
	ended   bool                 // no call is counted in any more; under mu
}

// NewServer makes a Server. Recover must be called, once, before Serve.
func NewServer(o Options) *Server {
	if o.ReapDelay == 0 {
		o.ReapDelay = DefaultReapDelay
	}
	if o.MTU == nil {
		o.MTU = func([]netip.Addr) (int, error) { return 0, nil }
	}
	if o.Hurry == nil {
		o.Hurry = func([]netip.Addr) bool { return false }
	}
	return &Server{
		o:        o,
		attached: map[ipam.Owner]Attachment{},
		doomed:   map[ipam.Owner]Attachment{},
		kick:     make(chan struct{}, 1),
		hurry:    make(chan struct{}, 1),
		drain:    make(chan chan<- struct{}),
	}
}

// Attachments returns what is attached, in no particular order.
func (s *Server) Attachments() []Attachment {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Attachment, 0, len(s.attached))
	for _, a := range s.attached {
		list = append(list, a)
	}
	return list
}

func (s *Server) setAttached(a Attachment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serial++
	a.serial = s.serial
	s.attached[a.Owner] = a
}

// known returns what the server knows of an owner.
func (s *Server) known(o ipam.Owner) (a Attachment, attached, doomed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a, doomed = s.doomed[o]; doomed {
		return a, false, true
	}
	a, attached = s.attached[o]
	return a, attached, false
}

// doom hands an attachment, or what is left of one, to the reaper.
func (s *Server) doom(a Attachment) {
	s.mu.Lock()
	delete(s.attached, a.Owner)
	s.doomed[a.Owner] = a
	s.mu.Unlock()
	kick := s.kick
	if s.o.Hurry(a.Addresses) {
		kick = s.hurry
	}
	select {
	case kick <- struct{}{}:
	default:
	}
}

// locks are held by owner.
type locks struct {
	mu   sync.Mutex
	held map[ipam.Owner]*lock
}

type lock struct {
	token chan struct{} // holds a value while the lock is held
	users int           // who hold it or wait for it
}

// lock waits for the owner's lock, as long as ctx lasts.
func (l *locks) lock(ctx context.Context, o ipam.Owner) (unlock func(), err error) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[ipam.Owner]*lock{}
	}
	k := l.held[o]
	if k == nil {
		k = &lock{token: make(chan struct{}, 1)}
		l.held[o] = k
	}
	k.users++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if k.users--; k.users == 0 {
			delete(l.held, o)
		}
	}
	select {
	case k.token <- struct{}{}:
		return func() { <-k.token; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
