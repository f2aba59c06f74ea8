package gobgp

import "time"

// arrival is for how long after a session is said to be up it is waited for word of
// what changed before.
const arrival = 250 * time.Millisecond

// announceMissed tells peers that came up what they may have missed. GoBGP sends a
// peer that comes up what there is, and takes it for up only then: what changes in
// between it sends neither with the one nor to the other. And a peer that has us back
// after a restart hears of no changes until GoBGP has waited for the others. So all is
// announced once more, if there was a change, and what went is withdrawn once more.
// The locks of the speaker and of the limiter are held.
func (s *Speaker) announceMissed(now time.Time) {
	oldest, missed := now, now // when the first session began to come up: of all that do, of those that are up
	for addr, peer := range s.applied.peers {
		page := s.book.page(addr)
		opening, arrived, deferred := page.comesUp(now)
		if opening.IsZero() {
			continue
		}
		if opening.Before(oldest) {
			oldest = opening
		}
		if !arrived || !s.server.follows(addr) || !page.takeArrived(opening) {
			continue
		}
		if opening.Before(missed) {
			missed = opening
		}
		// What was added while GoBGP waited comes with what it sends then.
		if deferred || s.learned.turned.Load() < opening.UnixNano() {
			continue
		}
		if err := s.server.announceAgain(addr); err != nil {
			s.log.Debug("can't announce all once more to a BGP peer", "peer", peer.Name, "error", err)
		}
	}
	if missed.Before(now) {
		s.withdrawMissed(missed)
	}
	s.learned.forgetGone(oldest)
}

// comesUp tells since when a session comes up, or a zero time; whether it has been up
// for arrival; and whether GoBGP told its peer all later than others.
func (p *page) comesUp(now time.Time) (opening time.Time, arrived, deferred bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.opening, !p.arrived.IsZero() && now.Sub(p.arrived) > arrival, p.deferred
}

// takeArrived tells once that a session is up that began to come up at opening.
func (p *page) takeArrived(opening time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.arrived.IsZero() || !p.opening.Equal(opening) {
		return false
	}
	p.opening, p.arrived = time.Time{}, time.Time{}
	return true
}
