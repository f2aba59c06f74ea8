package gobgp

import (
	"net/netip"
	"time"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"
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
	for _, s := range l.peers {
		if !s.complete {
			return false
		}
	}
	return len(l.peers) > 0
}

// endOfRIB notes that a peer has sent all it has. Its routes came before, in
// the same stream of events.
func (l *learned) endOfRIB(epoch int, peer netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if epoch != l.epoch {
		return
	}
	if s := l.peers[peer.Unmap()]; s != nil && !s.complete {
		s.complete = true
		l.signal()
	}
}

// session notes a session's state. End-of-RIB can be expected only where both
// sides know graceful restart; of others a moment of patience must do.
func (l *learned) session(epoch int, e *apiutil.WatchEventMessage_PeerEvent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	addr := e.Peer.State.NeighborAddress.Unmap()
	s := l.peers[addr]
	if epoch != l.epoch || s == nil || s.complete {
		return
	}
	s.changes++
	if e.Peer.State.SessionState != packet.BGP_FSM_ESTABLISHED {
		return
	}
	if s.sendsEOR && hasGracefulRestart(e.Peer.State.RemoteCap) {
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
