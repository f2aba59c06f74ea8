package gobgp

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/godwit-net/godwit/bgp"
)

const (
	// callersHeard bounds the calls that wait to be looked at; who is not heard calls
	// again.
	callersHeard = 64
	// callerRest is for how long a caller that is away stays a peer at least.
	callerRest = 2 * time.Minute
)

// callers are the peers that are known by a range. GoBGP refuses a call from
// nobody that it knows and says so in its log; who called from a range is made a
// peer like others, only passive, and is let in at its next call. So all that holds
// for peers holds for these. (GoBGP's own dynamic neighbours are gone as soon as
// their connection is, and their routes with them, even where graceful restart was
// agreed upon.)
type callers struct {
	speaker    *Speaker
	restarting bool
	began      time.Time
	heard      chan netip.Addr
	done       chan struct{}
	once       sync.Once
	ended      sync.WaitGroup

	// The lock of the speaker is for what follows.
	known map[netip.Addr]*caller
	full  map[netip.Prefix]bool // ranges that were said to be full
}

// caller is a peer that called.
type caller struct {
	seen time.Time // when it last called, or its session was last up
	// returns tells that it may have been a peer of an earlier life of the agent: then
	// it has routes of ours that it must not drop (RFC 4724, section 4.1).
	returns bool
}

func newCallers(s *Speaker, restarting bool) *callers {
	c := &callers{
		speaker: s, restarting: restarting, began: time.Now(),
		heard: make(chan netip.Addr, callersHeard), done: make(chan struct{}),
		known: make(map[netip.Addr]*caller), full: make(map[netip.Prefix]bool),
	}
	c.ended.Go(c.run)
	return c
}

// hear takes who called and is no peer. It never blocks: GoBGP itself waits.
func (c *callers) hear(a netip.Addr) {
	select {
	case c.heard <- a:
	default:
	}
}

func (c *callers) run() {
	for {
		select {
		case <-c.done:
			return
		case a := <-c.heard:
			c.admit(a)
		}
	}
}

func (c *callers) stop() {
	c.once.Do(func() { close(c.done) })
	c.ended.Wait()
}

// admit makes who called a peer, if it may be one.
func (c *callers) admit(a netip.Addr) {
	s := c.speaker
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped || s.server == nil || c.known[a] != nil {
		return
	}
	p, ok := s.config.Caller(a)
	if !ok {
		return
	}
	if !s.config.MayCall(a, c.addresses()) {
		// Said once for the range: one host may call from ever new addresses.
		if r, _ := s.config.CallersFrom(a); !c.full[r.Prefix] {
			c.full[r.Prefix] = true
			s.log.Warn("a BGP peer is not let in: as many as may call from its range do already", "peer", p.Name)
		}
		return
	}
	c.known[a] = &caller{seen: time.Now(), returns: c.restarting && time.Since(c.began) < p.GracefulRestart}
	s.log.Info("a BGP peer calls from a range that is configured", "peer", p.Name)
	if err := s.carryOut(context.Background()); err != nil {
		s.log.Warn("not all is well with the BGP peers after one more called", "peer", p.Name, "error", err)
	}
}

// expand returns the peers of a configuration with those that called. Who may not
// call any more is forgotten. The speaker's lock is held.
func (c *callers) expand(config bgp.Config) []bgp.Peer {
	peers := slices.Clip(config.Peers)
	for _, a := range c.addresses() {
		if p, ok := config.Caller(a); ok {
			peers = append(peers, p)
		} else {
			delete(c.known, a)
		}
	}
	return peers
}

func (c *callers) addresses() []netip.Addr { return sortedKeys(c.known) }

// returns tells whether a peer that is added now may have been one of an earlier
// life of the agent. The speaker's lock is held.
func (c *callers) returns(p bgp.Peer) bool {
	k := c.known[p.Address]
	if k == nil || !k.returns {
		return false
	}
	k.returns = false // only the first time
	return true
}

// forgetGone forgets the callers that have been away for long. One whose routes are
// kept is waited for until they are not: for how long that is, the caller has said
// itself, whatever it was told (RFC 4724, section 4.2; RFC 9494). The speaker's lock
// is held.
func (c *callers) forgetGone(now time.Time) {
	gone := false
	for a, k := range c.known {
		p := c.speaker.applied.peers[a]
		switch {
		case c.speaker.book.page(a).established.Load():
			k.seen = now
		case now.Sub(k.seen) > callerRest && !c.speaker.keeps(a):
			delete(c.known, a)
			c.speaker.log.Info("a BGP peer that called from a range has been away for long and is forgotten", "peer", p.Name)
			gone = true
		}
	}
	if !gone {
		return
	}
	clear(c.full)
	if err := c.speaker.carryOut(context.Background()); err != nil {
		c.speaker.log.Warn("not all is well with the BGP peers after one was forgotten", "error", err)
	}
}
