// Package world has BGP speakers for nodes that share one process: a speaker is
// told by the others what they are configured for, without sessions on a network
// and without a decision process. It keeps what the Kubernetes side of Godwit sees
// of BGP:
//
//   - A session is up when both ends are configured for each other.
//   - A node announces its own blocks, a reflector to clients all that it knows, to
//     other reflectors what its clients announce (RFC 4456).
//   - Blocks that the plan does not give to their announcer are refused.
//   - What each session reports of that is what a real speaker would report.
//
// What it leaves out: nothing is learned, as thousands of tables of thousands of
// routes would be in memory; a sink is told only that it is in sync. So there are
// no next hops, no timers, no policies for routers outside, with whom no session
// ever is up.
package world

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/godwit-net/godwit/bgp"
)

// countInterval is for how long what reflectors know may be out of date.
const countInterval = 50 * time.Millisecond

// refusedShown is how many refused prefixes a session names.
const refusedShown = 8

// World is where speakers meet. Its methods may be called concurrently.
type World struct {
	mu       sync.Mutex
	speakers map[netip.Addr]*Speaker
	version  uint64 // of all that follows from configurations
	counted  uint64 // the version of which the figures of reflectors are
	at       time.Time
}

// New makes a world without speakers.
func New() *World { return &World{speakers: map[netip.Addr]*Speaker{}} }

// Speaker is a bgp.Speaker.
type Speaker struct {
	world *World
	local netip.Addr
	sink  bgp.Sink

	// Under the world's lock.
	config  bgp.Config
	peers   map[netip.Addr]*bgp.Peer
	up      map[netip.Addr]*session
	flaps   map[netip.Addr]int
	set     bool
	stopped bool
	clients told // of a reflector: itself and its clients, of which it tells other reflectors
	known   told // of a reflector: of what it tells its clients
}

// told is what others are told of: the blocks of some nodes.
type told struct {
	nodes  set
	blocks int
}

func (t *told) add(s *Speaker) {
	if !t.nodes[s] {
		t.nodes[s] = true
		t.blocks += len(s.config.Advertise)
	}
}

// without returns how many blocks they are without those of a node.
func (t *told) without(s *Speaker) int {
	if t.nodes[s] {
		return t.blocks - len(s.config.Advertise)
	}
	return t.blocks
}

type session struct{ since time.Time }

// set is a set of speakers.
type set map[*Speaker]bool

var _ bgp.Speaker = (*Speaker)(nil)

// Speaker makes the speaker of a node with an address; one that was there before
// must be stopped.
func (w *World) Speaker(local netip.Addr, sink bgp.Sink) *Speaker {
	s := &Speaker{
		world: w, local: local, sink: sink,
		peers: map[netip.Addr]*bgp.Peer{}, up: map[netip.Addr]*session{}, flaps: map[netip.Addr]int{},
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.speakers[local] = s
	return s
}

// Set implements bgp.Speaker.
func (s *Speaker) Set(_ context.Context, c bgp.Config) error {
	if err := c.Check(); err != nil {
		return err
	}
	w := s.world
	w.mu.Lock()
	if s.stopped {
		w.mu.Unlock()
		return errors.New("the speaker is stopped")
	}
	peers := make(map[netip.Addr]*bgp.Peer, len(c.Peers))
	for i := range c.Peers {
		peers[c.Peers[i].Address] = &c.Peers[i]
	}
	for addr := range s.peers {
		if peers[addr] == nil {
			s.end(addr)
		}
	}
	if !reflect.DeepEqual(s.config, c) {
		w.version++
	}
	s.config, s.peers = c, peers
	for addr := range peers {
		other := w.speakers[addr]
		if other == nil || other.stopped || other.peers[s.local] == nil || s.up[addr] != nil {
			continue
		}
		now := &session{since: time.Now()}
		s.up[addr], other.up[s.local] = now, now
		w.version++
	}
	first := !s.set
	s.set = true
	w.mu.Unlock()
	if first {
		s.sink.InSync()
	}
	return nil
}

// end ends a session. The world's lock is held.
func (s *Speaker) end(addr netip.Addr) {
	if s.up[addr] == nil {
		return
	}
	delete(s.up, addr)
	if other := s.world.speakers[addr]; other != nil {
		delete(other.up, s.local)
		other.flaps[s.local]++
	}
}

// Announced implements bgp.Speaker: there are no routers.
func (s *Speaker) Announced(context.Context, []netip.Prefix) ([]netip.Prefix, error) { return nil, nil }

// Sessions implements bgp.Speaker.
func (s *Speaker) Sessions(context.Context) ([]bgp.Session, error) {
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	s.world.count()
	out := make([]bgp.Session, 0, len(s.peers))
	for addr, p := range s.peers {
		one := bgp.Session{Name: p.Name, Kind: p.Kind, Address: addr, ASN: p.ASN, State: bgp.StateActive, Flaps: s.flaps[addr]}
		if up := s.up[addr]; up == nil {
			one.Message = "can't connect: connection refused"
		} else {
			other := s.world.speakers[addr]
			one.State, one.Since = bgp.StateEstablished, up.since
			one.Capabilities = []string{"graceful restart"}
			one.Advertised = s.sends(other)
			one.Received = other.sends(s)
			one.Refused = s.refuses(other, p)
			one.RefusedCount = len(one.Refused)
			one.Accepted = one.Received - one.RefusedCount
			one.Refused = one.Refused[:min(len(one.Refused), refusedShown)]
		}
		out = append(out, one)
	}
	slices.SortFunc(out, func(a, b bgp.Session) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// refuses returns what a node announces and, by the plan, does not own.
func (s *Speaker) refuses(other *Speaker, p *bgp.Peer) []netip.Prefix {
	if !s.config.ValidateOrigin || p.Reflection == bgp.ReflectionServer {
		return nil
	}
	var refused []netip.Prefix
	for _, block := range other.config.Advertise {
		if !slices.Contains(p.Owned, block) {
			refused = append(refused, block)
		}
	}
	return refused
}

// sends counts what a speaker announces to another.
func (s *Speaker) sends(to *Speaker) int {
	own := len(s.config.Advertise)
	part := s.peers[to.local]
	if !s.config.Reflector || part == nil || part.Reflection == bgp.ReflectionNone {
		return own
	}
	if part.Reflection == bgp.ReflectionServer {
		return s.clients.without(to)
	}
	return s.known.without(to)
}

// count finds out what reflectors know, if anything changed, and not too often:
// in a large world that comes up, everything changes all the time. The lock is
// held.
func (w *World) count() {
	if w.counted == w.version || time.Since(w.at) < countInterval {
		return
	}
	w.counted, w.at = w.version, time.Now()
	var reflectors []*Speaker
	for _, s := range w.speakers {
		if !s.config.Reflector {
			s.clients, s.known = told{}, told{}
			continue
		}
		reflectors = append(reflectors, s)
		s.clients = told{nodes: make(set, len(s.clients.nodes))}
		s.clients.add(s)
		for addr := range s.up {
			if p := s.peers[addr]; p.Kind == bgp.PeerNode && p.Reflection != bgp.ReflectionServer {
				s.clients.add(w.speakers[addr])
			}
		}
	}
	for _, s := range reflectors {
		s.known = told{nodes: make(set, len(s.known.nodes))}
		for other := range s.clients.nodes {
			s.known.add(other)
		}
		for addr := range s.up {
			if s.peers[addr].Reflection != bgp.ReflectionServer {
				continue
			}
			for other := range w.speakers[addr].clients.nodes {
				s.known.add(other)
			}
		}
	}
}

// Stop implements bgp.Speaker.
func (s *Speaker) Stop(context.Context, bgp.StopMode) error {
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	if s.stopped {
		return nil
	}
	s.stopped = true
	for addr := range s.peers {
		s.end(addr)
	}
	if s.world.speakers[s.local] == s {
		delete(s.world.speakers, s.local)
	}
	s.world.version++
	return nil
}
