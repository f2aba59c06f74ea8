package gobgp

import (
	"net/netip"
	"time"
)

// arrival is for how long before and after a session is said to be up a route that
// changes may be lost to it.
const arrival = 250 * time.Millisecond

// announceMissed announces all to peers that came up while a route changed. GoBGP
// sends a peer that comes up what there is, and takes it for up only then: what
// changes in between it sends neither with the one nor to the other. The locks of the
// speaker and of the limiter are held.
func (s *Speaker) announceMissed(addr netip.Addr, now time.Time) {
	since, arrived := s.book.page(addr).takeArrived(now)
	if !arrived || s.learned.turned.Load() < since.Add(-arrival).UnixNano() {
		return
	}
	if err := s.server.announceAgain(addr); err != nil {
		s.log.Debug("can't announce all once more to a BGP peer", "peer", s.applied.peers[addr].Name, "error", err)
	}
}

// takeArrived tells once since when a session is up that has been so for arrival.
func (p *page) takeArrived(now time.Time) (since time.Time, arrived bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	arrived = p.arrived && p.established.Load() && now.Sub(p.since) > arrival
	p.arrived = p.arrived && !arrived
	return p.since, arrived
}
