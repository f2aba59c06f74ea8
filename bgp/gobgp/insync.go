package gobgp

import (
	"net/netip"
	"time"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/godwit-net/godwit/bgp"
)

// begin starts the time for waiting at the first Set.
func (l *learned) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.began.IsZero() {
		l.began = time.Now()
		time.AfterFunc(l.timeout, l.signal)
	}
	l.signal()
}

// complete reports whether there is nothing left to wait for: every peer has
// sent all it has, or the time is over. Without peers the time decides, as
// they may be configured in the next moment.
func (l *learned) complete() bool {
	if l.began.IsZero() {
		return false
	}
	if time.Since(l.began) >= l.timeout {
		return true
	}
	if l.open {
		return false
	}
	for _, s := range l.peers {
		if !s.complete {
			return false
		}
	}
	return len(l.peers) > 0
}

// endOfRIB notes that a peer has sent all it has of a family. Its routes came
// before, in the same stream of events, and so did the session's start.
func (l *learned) endOfRIB(epoch int, peer netip.Addr, family bgp.Families) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if epoch != l.epoch {
		return
	}
	s := l.peers[peer.Unmap()]
	if s == nil || s.complete || s.awaited&family == 0 {
		return
	}
	s.awaited &^= family
	if s.awaited == 0 {
		s.complete = true
		l.signal()
	}
}

// session notes a session's state. End-of-RIB can be expected only where both
// sides know graceful restart, and then for each family that the session
// carries; of others a moment of patience must do.
func (l *learned) session(epoch int, e *apiutil.WatchEventMessage_PeerEvent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	addr := e.Peer.State.NeighborAddress.Unmap()
	s := l.peers[addr]
	if epoch != l.epoch || s == nil || s.complete {
		return
	}
	s.changes++
	s.awaited = 0
	if e.Peer.State.SessionState != packet.BGP_FSM_ESTABLISHED {
		return
	}
	carried := s.families & offered(e.Peer.State.RemoteCap)
	if s.sendsEOR && carried != 0 && hasGracefulRestart(e.Peer.State.RemoteCap) {
		s.awaited = carried
		return
	}
	change := s.changes
	time.AfterFunc(quiet, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.epoch == epoch && s.changes == change {
			s.complete = true
			l.signal()
		}
	})
}

func hasGracefulRestart(caps []packet.ParameterCapabilityInterface) bool {
	for _, c := range caps {
		if c.Code() == packet.BGP_CAP_GRACEFUL_RESTART {
			return true
		}
	}
	return false
}
