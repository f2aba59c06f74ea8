package gobgp

import (
	"context"
	"net/netip"

	"github.com/godwit-net/godwit/bgp"
)

// dropSilent drops the routes of peers that were silent for the hold time.
//
// GoBGP takes that for a graceful restart, and would keep them for the restart
// time: two minutes in which packets go nowhere, while the other router could
// take them. But whoever restarts closes its connections, and RFC 4724 keeps
// routes only then (section 4.2). RFC 8538 would keep them also upon the hold
// time, of peers with its N bit, which we don't set. Long-lived graceful restart
// is asked for by those who want stale routes rather than none: theirs stay.
//
// The peer is removed and added again, as GoBGP then forgets what it kept.
func (s *Speaker) dropSilent() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server == nil || s.stopped {
		return
	}
	for _, addr := range sortedKeys(s.applied.peers) {
		p := s.applied.peers[addr]
		if !s.book.page(addr).takeSilent() || p.GracefulRestart == 0 || p.LongLived > 0 {
			continue
		}
		s.log.Info("a BGP peer was silent for its hold time; its routes go", "peer", p.Name)
		if err := s.addAnew(addr, p); err != nil {
			s.log.Error("can't drop the routes of a silent BGP peer", "peer", p.Name, "error", err)
		}
	}
}

// addAnew removes a peer and adds it; what is known of its last session stays.
func (s *Speaker) addAnew(addr netip.Addr, p bgp.Peer) error {
	ctx, page := context.Background(), s.book.page(addr)
	page.mu.Lock()
	since, message := page.since, page.lastError
	page.mu.Unlock()
	if err := s.removePeer(ctx, p); err != nil {
		return err
	}
	if err := s.addPeer(ctx, s.config, p); err != nil {
		return err
	}
	page.mu.Lock()
	defer page.mu.Unlock()
	if !page.established.Load() {
		page.since, page.message = since, message
	}
	return nil
}
