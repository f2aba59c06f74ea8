package gobgp

import (
	"net/netip"
	"time"
)

const (
	// crossedWithin is how soon a session ends that came of two calls of which each
	// side let another one go.
	crossedWithin = 2 * time.Second
	// crossedRest is how long a peer that started over for that does not do so again.
	crossedRest = 10 * time.Second
)

// startCrossedOver lets peers call and be called again whose session ended as soon
// as it was up, and before they announced anything: both sides called at once, and
// each kept the call that the other let go (RFC 4271, section 6.8). GoBGP would rest
// for 5 s and refuse calls meanwhile.
func (s *Speaker) startCrossedOver(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server == nil || s.stopped {
		return
	}
	for _, addr := range sortedKeys(s.applied.peers) {
		if !s.book.page(addr).takeCrossed(now) || s.keeps(addr) {
			continue
		}
		p := s.applied.peers[addr]
		s.log.Info("a BGP peer and this node called each other at once; starting over", "peer", p.Name)
		if err := s.addAnew(addr, p); err != nil {
			s.log.Error("can't start a BGP session over", "peer", p.Name, "error", err)
		}
	}
}

// keeps tells whether there are routes of a peer, which starting over would drop.
func (s *Speaker) keeps(addr netip.Addr) bool {
	return s.server.received(addr, s.applied.families[addr]) > 0
}

// takeCrossed tells once that a session ended as soon as it was up, but not more
// often than every crossedRest.
func (p *page) takeCrossed(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	crossed := p.crossed && !p.established.Load() && !p.held && now.Sub(p.startedOver) > crossedRest
	p.crossed = false
	if crossed {
		p.startedOver = now
	}
	return crossed
}
