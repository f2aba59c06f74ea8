package agent

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/bgp"
)

// told returns the events since the last call.
func told(r *record.FakeRecorder) []string {
	var out []string
	for {
		select {
		case e := <-r.Events:
			out = append(out, e)
		default:
			return out
		}
	}
}

func torSession() bgp.Session {
	return bgp.Session{Name: "tor1", Kind: bgp.PeerExternal, Address: netip.MustParseAddr("10.0.0.1"), ASN: 65001, State: bgp.StateIdle}
}

func nodeSession() bgp.Session {
	return bgp.Session{Name: "n3", Address: netip.MustParseAddr("10.0.0.3"), ASN: 64512, State: bgp.StateIdle}
}

func TestEvents(t *testing.T) {
	up := func(s *bgp.Session) { s.State, s.PeerRestarting = bgp.StateEstablished, false }
	down := func(s *bgp.Session) { s.State, s.PeerRestarting = bgp.StateActive, false; s.Flaps++ }
	restarting := func(s *bgp.Session) { down(s); s.PeerRestarting = true }
	same := func(*bgp.Session) {}
	type step struct {
		change func(*bgp.Session)
		want   []string
	}
	for _, tt := range []struct {
		name  string
		begin bgp.Session
		steps []step
	}{
		{"a router with another AS number", torSession(), []step{
			{same, nil},
			{
				func(s *bgp.Session) {
					s.LastError = "we closed the session: error in OPEN: unexpected AS number (65001 is configured)"
				},
				[]string{"Warning BGPSessionDown the BGP session with peer tor1 (10.0.0.1, AS 65001) does not come up: we closed the session: error in OPEN: unexpected AS number (65001 is configured)"},
			},
			{same, nil},
			{up, []string{"Normal BGPSessionUp the BGP session with peer tor1 (10.0.0.1, AS 65001) is established"}},
			{
				func(s *bgp.Session) { down(s); s.LastError = "we closed the session: peer de-configured" },
				[]string{"Warning BGPSessionDown the BGP session with peer tor1 (10.0.0.1, AS 65001) is down: we closed the session: peer de-configured"},
			},
			{
				func(s *bgp.Session) { s.LastError = "it closed the session: error in OPEN: unexpected AS number" },
				[]string{"Warning BGPSessionDown the BGP session with peer tor1 (10.0.0.1, AS 65001) does not come up: it closed the session: error in OPEN: unexpected AS number"},
			},
			{func(s *bgp.Session) { s.LastError = "connection refused" }, nil},
			{func(s *bgp.Session) { s.LastError = "it closed the session: error in OPEN: unexpected AS number" }, nil},
		}},
		{"a router", torSession(), []step{
			{same, nil},
			{up, []string{"Normal BGPSessionUp the BGP session with peer tor1 (10.0.0.1, AS 65001) is established"}},
			{same, nil},
			{
				func(s *bgp.Session) { down(s); s.LastError = "it closed the session: administrative shutdown" },
				[]string{"Warning BGPSessionDown the BGP session with peer tor1 (10.0.0.1, AS 65001) is down: it closed the session: administrative shutdown"},
			},
			{func(s *bgp.Session) { s.State = bgp.StateConnect }, nil},
			{up, []string{"Normal BGPSessionUp the BGP session with peer tor1 (10.0.0.1, AS 65001) is established"}},
		}},
		{"a router, between two looks", torSession(), []step{
			{up, []string{"Normal BGPSessionUp the BGP session with peer tor1 (10.0.0.1, AS 65001) is established"}},
			{
				func(s *bgp.Session) { s.Flaps++; s.LastError = "the connection was lost" },
				[]string{"Warning BGPSessionFlapped the BGP session with peer tor1 (10.0.0.1, AS 65001) went down and came up again: the connection was lost"},
			},
		}},
		{"a router whose session is reset for what changed", torSession(), []step{
			{up, []string{"Normal BGPSessionUp the BGP session with peer tor1 (10.0.0.1, AS 65001) is established"}},
			{
				func(s *bgp.Session) {
					down(s)
					s.LastError = "its configuration changed, which takes a new session: hold time"
				},
				[]string{"Warning BGPSessionDown the BGP session with peer tor1 (10.0.0.1, AS 65001) is down: its configuration changed, which takes a new session: hold time"},
			},
			{up, []string{"Normal BGPSessionUp the BGP session with peer tor1 (10.0.0.1, AS 65001) is established"}},
		}},
		{"a router that restarts", torSession(), []step{
			{up, []string{"Normal BGPSessionUp the BGP session with peer tor1 (10.0.0.1, AS 65001) is established"}},
			{restarting, []string{"Warning BGPSessionDown the BGP session with peer tor1 (10.0.0.1, AS 65001) is down; its routes are kept for its restart time"}},
			{func(s *bgp.Session) { s.PeerRestarting = false }, nil},
		}},
		{"a node that restarts", nodeSession(), []step{{up, nil}, {restarting, nil}, {same, nil}, {up, nil}}},
		{"a node that does not come back", nodeSession(), []step{
			{up, nil},
			{restarting, nil},
			{
				func(s *bgp.Session) {
					s.PeerRestarting, s.Message = false, "it did not come back within its restart time"
				},
				[]string{"Warning BGPSessionDown the BGP session with node n3 (10.0.0.3, AS 64512) is down: it did not come back within its restart time"},
			},
			{same, nil},
			{up, []string{"Normal BGPSessionUp the BGP session with node n3 (10.0.0.3, AS 64512) is established"}},
		}},
		{"a rogue node", nodeSession(), []step{
			{up, nil},
			{
				func(s *bgp.Session) { s.Refused, s.RefusedCount = prefixes(1), 1 },
				[]string{"Warning BGPOriginRefused node n3 announces what it does not own: 10.0.0.0/24"},
			},
			{func(s *bgp.Session) { s.Refused, s.RefusedCount = prefixes(8), 10000 }, nil},
			{
				func(s *bgp.Session) { s.Refused, s.RefusedCount = nil, 0 },
				[]string{"Normal BGPOriginsValid node n3 announces only what it owns again"},
			},
		}},
		{"near a limit", torSession(), []step{
			{up, []string{"Normal BGPSessionUp the BGP session with peer tor1 (10.0.0.1, AS 65001) is established"}},
			{
				func(s *bgp.Session) { s.Warning = "900 prefixes, of at most 1000" },
				[]string{"Warning BGPSessionWarning the BGP session with peer tor1 (10.0.0.1, AS 65001): 900 prefixes, of at most 1000"},
			},
			{func(s *bgp.Session) { s.Warning = "901 prefixes, of at most 1000" }, nil},
		}},
	} {
		r := record.NewFakeRecorder(100)
		teller := newTeller(r, "n1", slog.New(slog.DiscardHandler))
		now, s := time.Unix(1700000000, 0), tt.begin
		for i, step := range tt.steps {
			step.change(&s)
			teller.look([]bgp.Session{s}, now)
			if got := told(r); !slices.Equal(got, step.want) {
				t.Errorf("%s, step %d: events %q, want %q", tt.name, i, got, step.want)
			}
			now = now.Add(time.Hour)
		}
	}
}

// flap takes a session down and up, as often as asked for.
func flap(teller *teller, s bgp.Session, times int, now time.Time) {
	for range times {
		s.State = bgp.StateEstablished
		teller.look([]bgp.Session{s}, now)
		s.State = bgp.StateActive
		teller.look([]bgp.Session{s}, now)
	}
}

func TestEventsOfOneSessionAreLimited(t *testing.T) {
	r := record.NewFakeRecorder(1000)
	teller := newTeller(r, "n1", slog.New(slog.DiscardHandler))
	now := time.Unix(1700000000, 0)
	flap(teller, torSession(), 50, now)
	if got := told(r); len(got) != peerEventBurst {
		t.Errorf("%d events of 100 changes, want %d", len(got), peerEventBurst)
	}
	flap(teller, torSession(), 1, now.Add(peerEventInterval))
	got := told(r)
	if len(got) != 1 || !strings.Contains(got[0], "(96 changes of this session before were too many to be told)") {
		t.Errorf("events a while later: %q", got)
	}
	// In the long run there is one in each interval.
	for i := range 600 {
		flap(teller, torSession(), 1, now.Add(2*peerEventInterval+time.Duration(i)*time.Second))
	}
	if got := len(told(r)); got < 9 || got > 13 {
		t.Errorf("%d events in 10 minutes, want about 10", got)
	}
}

func TestEventsOfAllSessionsAreLimited(t *testing.T) {
	r := record.NewFakeRecorder(10000)
	teller := newTeller(r, "n1", slog.New(slog.DiscardHandler))
	now := time.Unix(1700000000, 0)
	sessions := make([]bgp.Session, 1000)
	for i := range sessions {
		sessions[i] = nodeSession()
		sessions[i].Address = netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		sessions[i].State = bgp.StateEstablished
	}
	teller.look(sessions, now)
	if got := told(r); len(got) > 0 {
		t.Errorf("events when a mesh comes up: %q", got)
	}
	for i := range sessions {
		sessions[i].State = bgp.StateActive
	}
	teller.look(sessions, now)
	if got := told(r); len(got) != eventBurst {
		t.Errorf("%d events when a mesh falls apart, want %d", len(got), eventBurst)
	}
	teller.look(nil, now)
	if len(teller.peers) != 0 {
		t.Errorf("%d peers are remembered after they are gone", len(teller.peers))
	}
}

// testEvents has events arrive at an API server, on the Node.
func testEvents(t *testing.T, cfg *rest.Config, c client.Client) {
	events, stop, err := NewEventRecorder(cfg, "n1")
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	teller := newTeller(events, "n1", slog.New(slog.DiscardHandler))
	s := torSession()
	s.State = bgp.StateEstablished
	teller.look([]bgp.Session{s}, time.Now())
	s.State, s.LastError = bgp.StateActive, "it closed the session: administrative shutdown"
	teller.look([]bgp.Session{s}, time.Now())
	deadline := time.Now().Add(20 * time.Second)
	for {
		var list corev1.EventList
		if err := c.List(t.Context(), &list, client.InNamespace("default")); err != nil {
			t.Fatal(err)
		}
		got := map[string]corev1.Event{}
		for _, e := range list.Items {
			if e.Source.Component == "godwit-agent" {
				got[e.Reason] = e
			}
		}
		if down, ok := got[eventSessionDown]; ok {
			if _, ok := got[eventSessionUp]; !ok {
				t.Errorf("events %v", got)
			}
			if o := down.InvolvedObject; o.Kind != "Node" || o.Name != "n1" || o.UID != "n1" || down.Source.Host != "n1" || down.Type != corev1.EventTypeWarning {
				t.Errorf("event %+v", down)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("events %v", got)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
