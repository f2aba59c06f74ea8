// Package gobgp is the bgp.Speaker of Godwit, on the GoBGP library. It is the
// only package that knows GoBGP.
//
// Invariants:
//   - One Speaker a process: GoBGP keeps its route selection options in globals.
//   - Import and export are decided by one global policy, with reject as its
//     default, which is in force before the first peer is.
//   - A peer's session is touched only when a property of the session changes.
//     Policy changes are applied to the routes already received, by evaluating
//     them anew.
//   - Own prefixes are in the table before the first peer is added, so that all
//     of them come before End-of-RIB.
//   - What is learned reaches the Sink from one goroutine.
//
// Sockets are opened in the network namespace of the process.
package gobgp

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/godwit-net/godwit/bgp"
)

// Options are what a Speaker needs for life.
type Options struct {
	// Log takes what the operator should know; nil discards it.
	Log *slog.Logger
	// Sink takes what is learned; it must be given.
	Sink bgp.Sink
	// Restarting says that the agent starts again on a node whose routes are still
	// in the kernel: peers are told so (RFC 4724, section 4.1), which lets them keep
	// what they have of us. It holds for the peers of the first Set.
	Restarting bool
	// SyncTimeout bounds, from the first Set on, how long Sink.InSync waits for
	// peers that do not come. Zero: 10 s.
	SyncTimeout time.Duration
	// Console is the path of a unix socket at which GoBGP's own client (gobgp
	// --target unix://PATH) may look on, in a folder that is the process's alone;
	// empty: none. It changes nothing and shows no passwords.
	Console string
}

const defaultSyncTimeout = 10 * time.Second

// Speaker is a bgp.Speaker. Make one with New.
type Speaker struct {
	log        *slog.Logger
	restarting bool
	console    string
	callers    *callers
	book       *book
	learned    *learned
	limits     *limiter

	mu      sync.Mutex // held by Set and Stop, and where the fields below are used
	stopped bool
	wanted  bgp.Config // of the last Set
	config  bgp.Config // the same as far as it is usable, with the callers as peers
	applied applied
	server  *server // nil until the first Set
}

// applied is what the running server really has, which differs from what was
// wanted after an error.
type applied struct {
	peers     map[netip.Addr]bgp.Peer
	families  map[netip.Addr]bgp.Families // that each of the peers is offered
	advertise map[netip.Prefix]own
	policy    *policy
	stale     map[netip.Addr]stale // peers whose routes the policy must look at anew
}

var _ bgp.Speaker = (*Speaker)(nil)

// New makes a Speaker that does nothing yet; the first Set starts it.
func New(o Options) (*Speaker, error) {
	if o.Sink == nil {
		return nil, errors.New("a speaker needs a Sink")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.SyncTimeout == 0 {
		o.SyncTimeout = defaultSyncTimeout
	}
	b := newBook()
	s := &Speaker{
		log:        o.Log,
		restarting: o.Restarting,
		console:    o.Console,
		book:       b,
		learned:    newLearned(o.Sink, o.SyncTimeout),
	}
	s.limits = newLimiter(s)
	s.callers = newCallers(s, o.Restarting)
	return s, nil
}

// Set implements bgp.Speaker. A changed AS number, router id, port or listen
// address restarts the whole server, and so every session; a changed
// session property of a peer resets that session, and other families reset all
// that carry others now. A changed next hop is announced without a reset.
func (s *Speaker) Set(ctx context.Context, c bgp.Config) error {
	if err := c.Check(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return errors.New("the speaker is stopped")
	}
	s.wanted = c
	return s.carryOut(ctx)
}

// carryOut makes the server do what is wanted. The lock is held.
func (s *Speaker) carryOut(ctx context.Context) error {
	c, peerErr := s.wanted.Usable()
	// A peer whose new properties make no sense keeps its old ones.
	c.Peers = s.withFormer(c.Peers, s.wanted.Peers)
	c.Peers = s.callers.expand(c)

	if s.server != nil && s.server.identity != identityOf(c) {
		s.log.Info("restarting the BGP server: its AS number, router id, port or listen addresses changed")
		if err := s.stopServer(ctx, bgp.StopLeave, 0); err != nil {
			s.log.Warn("the former BGP server did not stop as it should", "error", err)
		}
	}
	if s.server == nil {
		if err := s.startServer(ctx, c); err != nil {
			return errors.Join(err, peerErr)
		}
	}
	s.config = c
	err := s.apply(ctx, c)
	s.learned.begin()
	s.restarting = false
	return errors.Join(err, peerErr)
}

// withFormer adds to the usable peers those that are wanted and known, but
// unusable as they are wanted now. One whose password is to be another is not kept:
// it would go on with one that is not to be used any more, or with none. Nor is one
// that called: it was never configured, and would be as if it were.
func (s *Speaker) withFormer(usable, wanted []bgp.Peer) []bgp.Peer {
	if len(usable) == len(wanted) {
		return usable
	}
	have := make(map[netip.Addr]bool, len(usable))
	for _, p := range usable {
		have[p.Address] = true
	}
	for _, p := range wanted {
		former, known := s.applied.peers[p.Address]
		if known && !have[p.Address] && former.Password == p.Password && s.callers.known[p.Address] == nil {
			have[p.Address] = true
			usable = append(usable, former)
		}
	}
	return usable
}

// Stop implements bgp.Speaker. The Sink is told nothing of what the stop does
// to routes: whether they stay is the caller's decision. Taking leave lasts up to
// 12 s, whatever ctx says, when peers are away or don't read.
func (s *Speaker) Stop(ctx context.Context, mode bgp.StopMode) error {
	s.limits.stop()
	s.callers.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil
	}
	s.stopped = true
	s.learned.stop()
	if s.server != nil {
		return s.stopServer(ctx, mode, farewellTimeout)
	}
	return nil
}

func (s *Speaker) startServer(ctx context.Context, c bgp.Config) error {
	srv, err := startServer(ctx, c, s.console, s.callers.hear, s.book, s.learned, s.log)
	if err != nil {
		return err
	}
	s.server = srv
	s.applied = applied{
		peers:     make(map[netip.Addr]bgp.Peer),
		families:  make(map[netip.Addr]bgp.Families),
		advertise: make(map[netip.Prefix]own),
		stale:     make(map[netip.Addr]stale),
	}
	return nil
}

func (s *Speaker) stopServer(ctx context.Context, mode bgp.StopMode, farewell time.Duration) error {
	var announced bgp.Families
	for p := range s.applied.advertise {
		announced |= bgp.FamilyOf(p.Addr())
	}
	err := s.server.stop(ctx, mode, announced, farewell)
	s.server = nil
	s.learned.forget()
	s.book.forget()
	return err
}
