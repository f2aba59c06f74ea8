package gobgp

import (
	"log/slog"
	"testing"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/godwit-net/godwit/bgp"
)

// story is what happens to one session, told to a book.
type story struct {
	book *book
	at   time.Time
}

func (s *story) event(state packet.FSMState, reason api.PeerState_DisconnectReason) {
	s.at = s.at.Add(time.Second)
	e := &apiutil.WatchEventMessage_PeerEvent{Peer: apiutil.Peer{State: apiutil.PeerState{
		NeighborAddress: addr("10.0.0.1"), SessionState: state, DisconnectReason: reason,
	}}}
	s.book.event(e, s.at)
}

func (s *story) up() {
	s.event(packet.BGP_FSM_ESTABLISHED, api.PeerState_DISCONNECT_REASON_UNSPECIFIED)
}

func (s *story) down(reason api.PeerState_DisconnectReason) { s.event(packet.BGP_FSM_IDLE, reason) }

func (s *story) hear(message string, attrs ...any) {
	r := slog.NewRecord(s.at, slog.LevelInfo, message, 0)
	r.Add(attrs...)
	s.book.page(addr("10.0.0.1")).hear(r)
}

func (s *story) received(code, sub int, reason string) {
	s.hear("received notification", "Code", code, "Subcode", sub, "Communicated-Reason", reason)
}

func TestWhySessionsGoDown(t *testing.T) {
	const (
		received = api.PeerState_DISCONNECT_REASON_NOTIFICATION_RECEIVED
		restart  = api.PeerState_DISCONNECT_REASON_GRACEFUL_RESTART
		lost     = api.PeerState_DISCONNECT_REASON_READ_FAILED
	)
	for _, tt := range []struct {
		name      string
		tell      func(*story)
		flaps     int
		lastError string
	}{
		{"up", func(s *story) { s.up() }, 0, ""},
		{"never up", func(s *story) { s.down(lost); s.hear("failed to connect", "Error", "dial tcp: no route to host") }, 0, ""},
		{
			"shut down with a message, and why it can't come up afterwards",
			func(s *story) {
				s.up()
				s.received(6, 2, "maintenance")
				s.down(received)
				s.hear("failed to connect", "Error", "dial tcp 10.0.0.1:179: connect: connection refused")
			},
			1, "it closed the session: administrative shutdown: maintenance",
		},
		{"lost", func(s *story) { s.up(); s.down(lost) }, 1, "the connection was lost"},
		{"lost, its routes kept", func(s *story) { s.up(); s.down(restart) }, 1, "the connection was lost"},
		{
			"hold timer, its routes kept",
			func(s *story) { s.up(); s.hear("sent notification", "Code", 4, "Subcode", 0); s.down(restart) },
			1, "we closed the session: hold time over without a keepalive",
		},
		{
			"hold timer",
			func(s *story) { s.up(); s.down(api.PeerState_DISCONNECT_REASON_HOLD_TIMER_EXPIRED) },
			1, "we closed the session: hold time over without a keepalive",
		},
		{
			"refused before it was ever up",
			func(s *story) { s.hear("sent notification", "Code", 2, "Subcode", 2) },
			0, "we closed the session: error in OPEN: unexpected AS number (65001 is configured)",
		},
		{"it stays said when the session is up again", func(s *story) { s.up(); s.received(6, 4, ""); s.down(received); s.up() }, 1, "it closed the session: administrative reset"},
		{"the newest counts", func(s *story) { s.up(); s.received(6, 4, ""); s.down(received); s.up(); s.down(lost) }, 2, "the connection was lost"},
		{"a collision is no error", func(s *story) { s.received(6, 7, ""); s.up() }, 0, ""},
		{"reconfigured", func(s *story) { s.up(); s.book.reset(addr("10.0.0.1"), s.at); s.up() }, 1, "its configuration changed"},
		{"reset for its hold time", func(s *story) {
			s.up()
			s.book.reconfigure(addr("10.0.0.1"), "hold time")
			s.book.reset(addr("10.0.0.1"), s.at)
			s.up()
		}, 1, "its configuration changed, which takes a new session: hold time"},
		{"reconfigured, the event being late", func(s *story) {
			s.up()
			s.book.reset(addr("10.0.0.1"), s.at.Add(time.Minute))
			s.down(api.PeerState_DISCONNECT_REASON_DECONFIGURED)
		}, 1, "its configuration changed"},
		{"above its limit", func(s *story) {
			s.up()
			p := s.book.page(addr("10.0.0.1"))
			p.held, p.message = true, "it sent 11 prefixes, more than its limit of 10"
			s.hear("sent notification", "Code", 6, "Subcode", 2)
			s.down(api.PeerState_DISCONNECT_REASON_ADMIN_DOWN)
		}, 1, "it sent 11 prefixes, more than its limit of 10"},
	} {
		s := &story{book: newBook(), at: time.Unix(1700000000, 0)}
		p := s.book.page(addr("10.0.0.1"))
		p.peer = bgp.Peer{ASN: 65001}
		tt.tell(s)
		if p.flaps != tt.flaps || p.lastError != tt.lastError {
			t.Errorf("%s: %d flaps, last error %q; want %d and %q", tt.name, p.flaps, p.lastError, tt.flaps, tt.lastError)
		}
	}
}

// A peer that is removed and added again does not start over, half up as it may be,
// for what GoBGP then still tells of its last session.
func TestLateEventsAreOfTheSessionBefore(t *testing.T) {
	s := &story{book: newBook(), at: time.Unix(1700000000, 0)}
	shortLived := func() {
		s.up()
		s.down(api.PeerState_DISCONNECT_REASON_NOTIFICATION_RECEIVED)
	}
	p := s.book.page(addr("10.0.0.1"))
	s.book.reset(addr("10.0.0.1"), s.at.Add(time.Minute))
	shortLived()
	if p.established.Load() || p.takeCrossed(s.at) || len(s.book.crossed) > 0 {
		t.Error("what happened before the reset is taken for its new session's")
	}
	s.at = s.at.Add(time.Minute)
	shortLived()
	if len(s.book.crossed) == 0 || !p.takeCrossed(s.at) {
		t.Error("a session that ended as soon as it was up does not start over")
	}
}
