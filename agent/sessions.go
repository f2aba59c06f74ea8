package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/bgp"
)

// refusalGrace is for how long a node announces what it does not own before that
// is reported: a block that was just claimed may be announced before this node's
// plan has it.
const refusalGrace = 10 * time.Second

const (
	maxRefused = 8 // prefixes of a peer in a status
	maxNamed   = 4 // peers and prefixes in the message of a condition
)

// capabilityGR is how the words for graceful restart (RFC 4724) begin in
// bgp.Session.Capabilities, whether or not the peer itself may restart.
const capabilityGR = "graceful restart"

// sessionStatus puts a session's state into the API's words. wantsRestart says
// that the session is to have graceful restart.
func sessionStatus(b *bgp.Session, wantsRestart bool) v1alpha1.SessionStatus {
	s := v1alpha1.SessionStatus{
		Name:           b.Name,
		Kind:           v1alpha1.SessionNode,
		PeerAddress:    b.Address.String(),
		PeerASN:        int64(b.ASN),
		State:          string(b.State),
		Received:       int32(b.Received),
		Accepted:       int32(b.Accepted),
		Advertised:     int32(b.Advertised),
		Message:        b.Message,
		Warning:        b.Warning,
		Flaps:          int32(b.Flaps),
		LastError:      b.LastError,
		Capabilities:   b.Capabilities,
		PeerRestarting: b.PeerRestarting,
		RefusedCount:   int32(b.RefusedCount),
	}
	if b.Kind == bgp.PeerExternal {
		s.Kind = v1alpha1.SessionExternal
	}
	if !b.Since.IsZero() {
		since := metav1.NewTime(b.Since.Truncate(time.Second))
		s.Since = &since
	}
	for _, p := range b.Refused[:min(len(b.Refused), maxRefused)] {
		s.Refused = append(s.Refused, p.String())
	}
	if b.State == bgp.StateEstablished && wantsRestart && !slices.ContainsFunc(b.Capabilities, isRestart) {
		// It is said, but makes no condition false: the peer may be as its owner wants it.
		s.Warning = joinWords(s.Warning, "it does not do graceful restart: whenever the agent restarts it drops this node's routes")
	}
	return s
}

func isRestart(capability string) bool { return strings.HasPrefix(capability, capabilityGR) }

// restarts are the peers whose sessions are to have graceful restart.
func (d *desired) restarts(sessions []bgp.Session) map[netip.Addr]bool {
	wanted := make(map[netip.Addr]bool, len(sessions))
	for i := range d.speaker.Peers {
		wanted[d.speaker.Peers[i].Address] = d.speaker.Peers[i].GracefulRestart > 0
	}
	if len(d.speaker.Callers) == 0 {
		return wanted
	}
	for i := range sessions {
		if caller, ok := d.speaker.Caller(sessions[i].Address); ok {
			wanted[caller.Address] = caller.GracefulRestart > 0
		}
	}
	return wanted
}

// expected returns the sessions that should be up: not those with nodes whose
// Node is gone, unless they are.
func (d *desired) expected(sessions []bgp.Session) []bgp.Session {
	return slices.DeleteFunc(slices.Clone(sessions), func(s bgp.Session) bool {
		return d.departed[s.Address] && s.State != bgp.StateEstablished
	})
}

// suspicion knows since when nodes announce what they do not own.
type suspicion map[netip.Addr]time.Time

// weigh takes from sessions what is refused of nodes for too short a time to be
// reported.
func (s suspicion) weigh(sessions []bgp.Session, now time.Time) {
	refused := make(map[netip.Addr]bool)
	for i := range sessions {
		b := &sessions[i]
		if b.RefusedCount == 0 {
			continue
		}
		refused[b.Address] = true
		if _, known := s[b.Address]; !known {
			s[b.Address] = now
		}
		if now.Sub(s[b.Address]) < refusalGrace {
			b.Refused, b.RefusedCount = nil, 0
		}
	}
	for addr := range s {
		if !refused[addr] {
			delete(s, addr)
		}
	}
}

// warnings says of which sessions something is not as it should be; empty: of none.
func warnings(sessions []bgp.Session) string {
	var said []string
	for i := range sessions {
		if w := sessions[i].Warning; w != "" {
			said = append(said, sessions[i].Name+": "+w)
		}
	}
	return few(said, "; ")
}

// refusals says which nodes announce what they do not own, and what; empty: none
// does.
func refusals(sessions []bgp.Session) string {
	var said []string
	for i := range sessions {
		if sessions[i].RefusedCount > 0 {
			said = append(said, refusal(&sessions[i]))
		}
	}
	return few(said, "; ")
}

// refusal says what a node announces though it does not own it.
func refusal(s *bgp.Session) string {
	first := make([]string, 0, maxNamed)
	for _, p := range s.Refused[:min(len(s.Refused), maxNamed)] {
		first = append(first, p.String())
	}
	names := strings.Join(first, ", ")
	if more := s.RefusedCount - len(first); more > 0 {
		names = fmt.Sprintf("%s and %d more", names, more)
	}
	return fmt.Sprintf("node %s announces what it does not own: %s", s.Name, names)
}

// few joins the first of some words and counts the rest.
func few(words []string, separator string) string {
	if more := len(words) - maxNamed; more > 0 {
		words = append(slices.Clone(words[:maxNamed]), fmt.Sprintf("and %d more peers", more))
	}
	return strings.Join(words, separator)
}

func joinWords(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}

// withoutSessionCounts takes the figures that change all the time from a status.
// What is left of words that hold figures is whether there are any.
func withoutSessionCounts(s *v1alpha1.SessionStatus) {
	s.Received, s.Accepted, s.Advertised = 0, 0, 0
	s.RefusedCount, s.Refused = min(s.RefusedCount, 1), nil
	if s.Warning != "" {
		s.Warning = "there is one"
	}
}
