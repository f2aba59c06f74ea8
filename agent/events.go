package agent

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"github.com/godwit-net/godwit/bgp"
)

// How many events there are at most: a session that goes up and down all the
// time, or a large mesh that falls apart, must not burden the API server.
const (
	peerEventInterval = time.Minute // between the events of one session, in the long run
	peerEventBurst    = 4
	eventInterval     = 10 * time.Second // between all events of the node, in the long run
	eventBurst        = 20
)

// Reasons of events on a Node.
const (
	eventSessionUp       = "BGPSessionUp"
	eventSessionDown     = "BGPSessionDown"
	eventSessionFlapped  = "BGPSessionFlapped" // down and up between two looks
	eventSessionWarning  = "BGPSessionWarning"
	eventOriginRefused   = "BGPOriginRefused"
	eventOriginsAccepted = "BGPOriginsValid"
)

// transition is something that became of a session and that a person should know.
type transition struct {
	warning         bool
	reason, message string
}

// teller tells of the transitions of sessions, by events on the node's Node.
//
// That another node's session comes up is told only after it was told to be
// down, and that it restarts gracefully not at all: else each restart of one
// agent would make two events on every other node.
type teller struct {
	events record.EventRecorder // nil: nobody listens
	node   *corev1.ObjectReference
	log    *slog.Logger
	all    *rate.Limiter
	peers  map[netip.Addr]*toldPeer

	conditions map[string]*toldCondition // by type
}

// toldPeer is what was seen of a session, and told.
type toldPeer struct {
	seen    bgp.Session
	down    bool   // it was told to be down, or would have been
	refused string // why it does not come up, as told
	limit   *rate.Limiter
	unheard int // transitions that were too many to be told, since the last that was not
}

func newTeller(events record.EventRecorder, node string, log *slog.Logger) *teller {
	return &teller{
		log:    log,
		events: events,
		node:   nodeReference(node),
		all:    rate.NewLimiter(rate.Every(eventInterval), eventBurst),
		peers:  make(map[netip.Addr]*toldPeer),

		conditions: make(map[string]*toldCondition),
	}
}

// nodeReference is the Node of a name. kubectl describe node looks for events by this
// UID, which the kubelet uses, too.
func nodeReference(name string) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: name, UID: types.UID(name)}
}

// look compares the sessions with how they were and tells what became of them.
// The recorder queues events; it does not wait for the API server.
func (t *teller) look(sessions []bgp.Session, now time.Time) {
	if t.events == nil {
		return
	}
	there := make(map[netip.Addr]bool, len(sessions))
	for i := range sessions {
		s := &sessions[i]
		key := peerKey(s.Address)
		there[key] = true
		p := t.peers[key]
		if p == nil || p.seen.Name != s.Name {
			p = &toldPeer{limit: rate.NewLimiter(rate.Every(peerEventInterval), peerEventBurst)}
			p.seen = bgp.Session{Name: s.Name, State: bgp.StateIdle, Flaps: s.Flaps}
			t.peers[key] = p
		}
		for _, what := range p.transitions(s) {
			t.tell(p, what, now)
		}
	}
	for addr := range t.peers {
		if !there[addr] {
			delete(t.peers, addr)
		}
	}
}

// transitions returns what became of a session since it was last seen.
func (p *toldPeer) transitions(s *bgp.Session) []transition {
	was := p.seen
	p.seen = *s
	var out []transition
	who := "the BGP session with " + describe(s)
	up, wasUp := s.State == bgp.StateEstablished, was.State == bgp.StateEstablished
	fell := wasUp || was.PeerRestarting
	switch {
	case up && wasUp && s.Flaps > was.Flaps && s.Kind == bgp.PeerExternal:
		out = append(out, transition{true, eventSessionFlapped, who + " went down and came up again" + why(s)})
	case !up && p.down && s.Kind == bgp.PeerExternal && refusedOpen(s.LastError) && s.LastError != p.refused:
		// It went down for another reason, and this is why it stays down.
		p.refused = s.LastError
		out = append(out, transition{true, eventSessionDown, who + " does not come up" + why(s)})
	case up && !wasUp && (p.down || s.Kind == bgp.PeerExternal):
		p.down, p.refused = false, ""
		out = append(out, transition{false, eventSessionUp, who + " is established"})
	case !up && !fell && !p.down && s.Kind == bgp.PeerExternal && s.LastError != "" && was.LastError == "":
		// Refused, as for a wrong AS number: it may never come up.
		p.down, p.refused = true, s.LastError
		out = append(out, transition{true, eventSessionDown, who + " does not come up" + why(s)})
	case !up && fell && !p.down && (!s.PeerRestarting || s.Kind == bgp.PeerExternal):
		p.down = true
		what := who + " is down" + why(s)
		if s.PeerRestarting {
			what += "; its routes are kept for its restart time"
		}
		out = append(out, transition{true, eventSessionDown, what})
	}
	if s.Warning != "" && was.Warning == "" {
		out = append(out, transition{true, eventSessionWarning, who + ": " + s.Warning})
	}
	switch {
	case s.RefusedCount > 0 && was.RefusedCount == 0:
		out = append(out, transition{true, eventOriginRefused, refusal(s)})
	case s.RefusedCount == 0 && was.RefusedCount > 0 && up:
		out = append(out, transition{false, eventOriginsAccepted, fmt.Sprintf("node %s announces only what it owns again", s.Name)})
	}
	return out
}

// refusedOpen tells whether a session ended because one side does not want the other
// as it is (RFC 4271, section 6.2), as for its AS number.
func refusedOpen(reason string) bool { return strings.Contains(reason, "error in OPEN") }

func (t *teller) tell(p *toldPeer, what transition, now time.Time) {
	if !p.limit.AllowN(now, 1) || !t.all.AllowN(now, 1) {
		p.unheard++
		return
	}
	kind, say := corev1.EventTypeNormal, t.log.Info
	if what.warning {
		kind, say = corev1.EventTypeWarning, t.log.Warn
	}
	say(what.message)
	if p.unheard > 0 {
		what.message += fmt.Sprintf(" (%d changes of this session before were too many to be told)", p.unheard)
		p.unheard = 0
	}
	t.events.Event(t.node, kind, what.reason, what.message)
}

// describe names the other end of a session.
func describe(s *bgp.Session) string {
	kind := "node"
	if s.Kind == bgp.PeerExternal {
		kind = "peer"
	}
	return fmt.Sprintf("%s %s (%s, AS %d)", kind, s.Name, peerWords(s.Address), s.ASN)
}

// why says why a session went down, as far as known.
func why(s *bgp.Session) string {
	switch {
	case s.LastError != "":
		return ": " + s.LastError
	case s.Message != "":
		return ": " + s.Message
	}
	return ""
}
