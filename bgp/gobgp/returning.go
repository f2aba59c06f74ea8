package gobgp

import (
	"context"
	"net/netip"
	"time"

	"github.com/osrg/gobgp/v4/api"
)

// announceTimeout bounds how long a session that is said to be up is waited for to
// take what is announced.
const announceTimeout = time.Second

// announceReturned announces our own prefixes to peers that have us back, after a
// restart. GoBGP waits with that until all peers have announced theirs, or for
// deferral. But a peer that loses us again before it has heard anything
// drops what it kept (RFC 4724, section 4.2), and ours depends on nobody. What a
// reflector announces does, so that one waits.
func (s *Speaker) announceReturned() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server == nil || s.stopped {
		return
	}
	for _, addr := range sortedKeys(s.applied.peers) {
		if !s.book.page(addr).takeReturned() || s.config.Reflector {
			continue
		}
		if err := s.server.announceTo(addr); err != nil {
			s.log.Debug("own prefixes are announced later to a BGP peer", "peer", s.applied.peers[addr].Name, "error", err)
		}
	}
}

// announceTo sends a peer that has just come up all that it is to know.
func (s *server) announceTo(addr netip.Addr) error {
	ctx, key := context.Background(), addr.String()
	// GoBGP tells of the new state a moment before it is in it.
	for end := time.Now().Add(announceTimeout); time.Now().Before(end) && !s.isUp(ctx, key); time.Sleep(pollInterval) {
	}
	return s.announceAgain(addr)
}

// announceAgain sends a peer whose session is up all that it is to know.
func (s *server) announceAgain(addr netip.Addr) error {
	return s.ResetPeer(context.Background(), &api.ResetPeerRequest{
		Address: addr.String(), Soft: true, Direction: api.ResetPeerRequest_DIRECTION_OUT,
	})
}

// follows tells whether GoBGP tells a peer of changes: its session is up, and GoBGP
// does not wait, after our restart, for other peers.
func (s *server) follows(addr netip.Addr) bool {
	follows := false
	_ = s.ListPeer(context.Background(), &api.ListPeerRequest{Address: addr.String()}, func(p *api.Peer) {
		follows = p.State.SessionState == api.PeerState_SESSION_STATE_ESTABLISHED && !p.GracefulRestart.GetLocalRestarting()
	})
	return follows
}

func (s *server) isUp(ctx context.Context, addr string) bool {
	up := false
	_ = s.ListPeer(ctx, &api.ListPeerRequest{Address: addr}, func(p *api.Peer) {
		up = p.State.SessionState == api.PeerState_SESSION_STATE_ESTABLISHED
	})
	return up
}
