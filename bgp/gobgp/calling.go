package gobgp

import "time"

// callingRest is how long a peer that called while its session was up is not sent
// everything again for that.
const callingRest = 10 * time.Second

// probeCalling finds out whether peers are still there that call though their
// session is up. A router that lost power closes no connection. When it is back
// within the hold time it calls, and GoBGP hangs up, until it next has something to
// say on the old connection, which is its KEEPALIVE after up to a third of the hold
// time. RFC 4724 (section 5) would take the new connection at once.
//
// So the peer is told all that it is to know on the old connection: its kernel, which
// does not know that one, resets it, the routes stay as for any restart, and the next
// call is taken. A peer that is still there, such as one whose call crossed ours,
// hears what it knows.
func (s *Speaker) probeCalling(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server == nil || s.stopped {
		return
	}
	for _, addr := range sortedKeys(s.applied.peers) {
		if !s.book.page(addr).takeCalling(now) {
			continue
		}
		p := s.applied.peers[addr]
		s.log.Debug("a BGP peer calls while its session is up; finding out whether it is still there", "peer", p.Name)
		if err := s.server.announceAgain(addr); err != nil {
			s.log.Debug("can't find out whether a BGP peer is still there", "peer", p.Name, "error", err)
		}
	}
}

// calls notes that the peer called, and that GoBGP hung up.
func (b *book) calls(p *page) {
	if !p.established.Load() {
		return
	}
	p.mu.Lock()
	p.calling = true
	p.mu.Unlock()
	tell(b.calling)
}

// takeCalling tells once that the peer called while its session was up, but not more
// often than every callingRest.
func (p *page) takeCalling(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	calling := p.calling && p.established.Load() && now.Sub(p.probed) > callingRest
	p.calling = false
	if calling {
		p.probed = now
	}
	return calling
}
