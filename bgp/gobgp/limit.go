package gobgp

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/osrg/gobgp/v4/api"

	"github.com/godwit-net/godwit/bgp"
)

const (
	// limitInterval is how often the limits of prefixes are checked.
	limitInterval = 500 * time.Millisecond
	// limitRest is how long a session stays down that went over its limit.
	limitRest = 5 * time.Minute
	// hangAfter is how long a session may stay in OpenConfirm, and hangRest how long
	// it is down when it stayed longer.
	hangAfter = 10 * time.Second
	hangRest  = time.Second
)

// limiter ends sessions whose peer sent more prefixes than its limit, and those
// that hang while they come up; it drops the routes of peers that are silent, and
// announces to those that have us back.
//
// GoBGP can do so itself, but counts the whole table at each UPDATE, which is
// quadratic, and then takes the end of the session, caused by itself, for a
// graceful restart and keeps the routes. Counting twice a second costs next to
// nothing; the price is that a peer is above its limit for up to that long.
//
// Two speakers that call each other in the same moment may each take up the
// other's call and let their own wait, and then both wait in OpenConfirm for a
// KEEPALIVE on the connection that the other let wait. GoBGP knows no hold timer
// there before a session was once established.
type limiter struct {
	speaker   *Speaker
	hangAfter time.Duration

	mu      sync.Mutex // taken after the speaker's
	started bool
	limits  map[netip.Addr]int
	resting map[netip.Addr]time.Time // when to let it in again

	done  chan struct{}
	once  sync.Once
	ended sync.WaitGroup
}

func newLimiter(s *Speaker) *limiter {
	return &limiter{
		speaker: s, hangAfter: hangAfter, limits: make(map[netip.Addr]int), resting: make(map[netip.Addr]time.Time), done: make(chan struct{}),
	}
}

// watch replaces the peers to look at. A peer whose limit changed is let in at
// once. The speaker's lock is held.
func (l *limiter) watch(peers map[netip.Addr]bgp.Peer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.limits
	l.limits = make(map[netip.Addr]int, len(peers))
	for addr, p := range peers {
		if p.MaxPrefixes > 0 {
			l.limits[addr] = p.MaxPrefixes
		}
	}
	for addr, until := range l.resting {
		switch _, configured := peers[addr]; {
		case !configured:
			delete(l.resting, addr)
		case l.limits[addr] != old[addr] && !until.IsZero():
			l.resting[addr] = time.Time{}
		}
	}
	if !l.started && len(peers) > 0 {
		l.started = true
		l.ended.Go(l.run)
	}
}

// awake forgets that a peer rests: one that was added anew comes up at once, and
// its limit holds from then on. The speaker's lock is held.
func (l *limiter) awake(addr netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.resting, addr)
}

func (l *limiter) stop() {
	l.once.Do(func() { close(l.done) })
	l.mu.Lock()
	l.started = true // and never again
	l.mu.Unlock()
	l.ended.Wait()
}

func (l *limiter) run() {
	tick := time.NewTicker(limitInterval)
	defer tick.Stop()
	for {
		select {
		case <-l.done:
			return
		case now := <-tick.C:
			l.check(now)
		case <-l.speaker.book.silent:
			l.speaker.dropSilent()
		case <-l.speaker.book.crossed:
			l.speaker.startCrossedOver(time.Now())
		case <-l.speaker.book.calling:
			l.speaker.probeCalling(time.Now())
		case <-l.speaker.book.returned:
			l.speaker.announceReturned()
		}
	}
}

func (l *limiter) check(now time.Time) {
	s := l.speaker
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server == nil {
		return
	}
	s.callers.forgetGone(now)
	l.mu.Lock()
	defer l.mu.Unlock()
	for addr, until := range l.resting {
		if now.After(until) {
			delete(l.resting, addr)
			s.letIn(addr)
		}
	}
	for addr, limit := range l.limits {
		if _, resting := l.resting[addr]; resting || !s.book.page(addr).established.Load() {
			continue
		}
		if n := s.server.received(addr, s.applied.families[addr]); n > limit {
			l.resting[addr] = now.Add(limitRest)
			s.shutOut(addr, n, limit)
		}
	}
	s.announceMissed(now)
	for addr := range s.applied.peers {
		if _, resting := l.resting[addr]; !resting && s.book.page(addr).hangs(now, l.hangAfter) {
			l.resting[addr] = now.Add(hangRest)
			s.startOver(addr)
		}
	}
}

// startOver ends a session that hangs; it comes up again when it has rested.
func (s *Speaker) startOver(addr netip.Addr) {
	s.log.Warn("a BGP session hangs while it comes up; starting over", "peer", s.applied.peers[addr].Name)
	s.book.page(addr).say("it hung in OpenConfirm, and starts over")
	if err := s.server.DisablePeer(context.Background(), &api.DisablePeerRequest{Address: addr.String()}); err != nil {
		s.log.Error("can't start a BGP session over", "peer", s.applied.peers[addr].Name, "error", err)
	}
}

// received counts the prefixes of some families that a peer has sent.
func (s *server) received(addr netip.Addr, families bgp.Families) int {
	n := 0
	for _, f := range families.Each() {
		t, err := s.GetTable(context.Background(), &api.GetTableRequest{
			TableType: api.TableType_TABLE_TYPE_ADJ_IN, Family: apiFamily(f), Name: addr.String(),
		})
		if err == nil { // else the peer went away in this moment
			n += int(t.NumDestination)
		}
	}
	return n
}

// shutOut ends a session with a Cease, and keeps it down.
func (s *Speaker) shutOut(addr netip.Addr, n, limit int) {
	p := s.book.page(addr)
	p.mu.Lock()
	p.held = true
	p.message = fmt.Sprintf("it sent %d prefixes, more than its limit of %d: the session stays down for %v, or until its configuration changes", n, limit, limitRest)
	message := p.message
	p.mu.Unlock()
	s.log.Warn("a BGP peer exceeded its limit of prefixes", "peer", s.applied.peers[addr].Name, "message", message)
	err := s.server.DisablePeer(context.Background(), &api.DisablePeerRequest{
		Address: addr.String(), Communication: fmt.Sprintf("more prefixes than the limit of %d", limit),
	})
	if err != nil {
		s.log.Error("can't end the session of a BGP peer above its limit of prefixes", "peer", s.applied.peers[addr].Name, "error", err)
	}
}

// letIn lets a session come up again.
func (s *Speaker) letIn(addr netip.Addr) {
	p := s.book.page(addr)
	p.mu.Lock()
	p.held = false
	p.mu.Unlock()
	if _, have := s.applied.peers[addr]; !have {
		return
	}
	if err := s.server.EnablePeer(context.Background(), &api.EnablePeerRequest{Address: addr.String()}); err != nil {
		s.log.Error("can't let a BGP peer in again", "peer", s.applied.peers[addr].Name, "error", err)
	}
}
