package agent

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/bgp"
)

// prefixes returns n distinct prefixes.
func prefixes(n int) []netip.Prefix {
	out := make([]netip.Prefix, n)
	for i := range out {
		out[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), 0}), 24)
	}
	return out
}

func TestSessionStatus(t *testing.T) {
	up := bgp.Session{
		Name: "tor1", Kind: bgp.PeerExternal, Address: netip.MustParseAddr("10.0.0.1"), ASN: 65001,
		State: bgp.StateEstablished, Received: 5, Accepted: 4, Advertised: 3,
		Flaps: 2, LastError: "it closed the session: administrative shutdown",
		Capabilities: []string{"4-octet AS", "IPv4 unicast", "graceful restart"},
	}
	want := v1alpha1.SessionStatus{
		Name: "tor1", Kind: v1alpha1.SessionExternal, PeerAddress: "10.0.0.1", PeerASN: 65001,
		State: "Established", Received: 5, Accepted: 4, Advertised: 3, Flaps: 2, LastError: up.LastError, Capabilities: up.Capabilities,
	}
	if got := sessionStatus(&up, true); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}

	const noRestart = "it does not do graceful restart: whenever the agent restarts it drops this node's routes"
	without := up
	without.Capabilities = []string{"IPv4 unicast"}
	for _, tt := range []struct {
		name, warning, want string
		wants               bool
		state               bgp.State
	}{
		{"no graceful restart", "", noRestart, true, bgp.StateEstablished},
		{"no graceful restart, and a warning", "900 of 1000", "900 of 1000; " + noRestart, true, bgp.StateEstablished},
		{"none wanted", "", "", false, bgp.StateEstablished},
		{"not established", "", "", true, bgp.StateActive},
	} {
		s := without
		s.Warning, s.State = tt.warning, tt.state
		if got := sessionStatus(&s, tt.wants).Warning; got != tt.want {
			t.Errorf("%s: warning %q, want %q", tt.name, got, tt.want)
		}
	}

	rogue := bgp.Session{Name: "n3", State: bgp.StateEstablished, Refused: prefixes(20), RefusedCount: 10000}
	if got := sessionStatus(&rogue, false); len(got.Refused) != maxRefused || got.RefusedCount != 10000 || got.Refused[1] != "10.0.1.0/24" {
		t.Errorf("refused %v of %d", got.Refused, got.RefusedCount)
	}
}

func TestSessionConditions(t *testing.T) {
	node := func(name string, refused int) bgp.Session {
		return bgp.Session{Name: name, State: bgp.StateEstablished, Refused: prefixes(min(refused, 8)), RefusedCount: refused}
	}
	for _, tt := range []struct {
		name           string
		sessions       []bgp.Session
		sound, origins string
	}{
		{"well", []bgp.Session{node("n2", 0)}, "True Sound ", "True Valid "},
		{
			"one offender",
			[]bgp.Session{node("n2", 0), node("n3", 2)},
			"True Sound ", "False OriginRefused node n3 announces what it does not own: 10.0.0.0/24, 10.0.1.0/24",
		},
		{
			"many prefixes, two offenders",
			[]bgp.Session{node("n2", 10000), node("n3", 1)},
			"True Sound ", "False OriginRefused node n2 announces what it does not own: 10.0.0.0/24, 10.0.1.0/24, 10.0.2.0/24, 10.0.3.0/24 and 9996 more; " +
				"node n3 announces what it does not own: 10.0.0.0/24",
		},
		{
			"many warnings",
			[]bgp.Session{{Name: "a", Warning: "w"}, {Name: "b", Warning: "w"}, {Name: "c", Warning: "w"}, {Name: "d", Warning: "w"}, {Name: "e", Warning: "w"}, {Name: "f", Warning: "w"}},
			"False Warning a: w; b: w; c: w; d: w; and 2 more peers", "True Valid ",
		},
	} {
		s := status(&observation{sessions: tt.sessions}, &v1alpha1.NodeNetworkStatus{}, metav1.Now())
		for kind, want := range map[string]string{v1alpha1.ConditionSessionsSound: tt.sound, v1alpha1.ConditionOriginsValid: tt.origins} {
			c := apimeta.FindStatusCondition(s.Conditions, kind)
			if c == nil {
				t.Fatalf("%s: there is no condition %s", tt.name, kind)
			}
			if got := string(c.Status) + " " + c.Reason + " " + c.Message; got != want {
				t.Errorf("%s: %s is %q, want %q", tt.name, kind, got, want)
			}
		}
	}
}

func TestFiguresOfSessionsAloneAreWrittenSeldom(t *testing.T) {
	now := metav1.NewTime(time.Unix(1700000000, 0))
	base := bgp.Session{
		Name: "n3", State: bgp.StateEstablished, Received: 5, Accepted: 4, Advertised: 3,
		Warning: "900 prefixes, of at most 1000", Refused: prefixes(2), RefusedCount: 2,
	}
	of := func(change func(*bgp.Session)) v1alpha1.NodeNetworkStatus {
		s := base
		change(&s)
		full := status(&observation{sessions: []bgp.Session{s}}, &v1alpha1.NodeNetworkStatus{}, now)
		return withoutCounts(&full)
	}
	same := of(func(*bgp.Session) {})
	for _, tt := range []struct {
		name    string
		figures bool
		change  func(*bgp.Session)
	}{
		{"counts", true, func(s *bgp.Session) { s.Received, s.Accepted, s.Advertised = 7, 6, 5 }},
		{"how near a limit is", true, func(s *bgp.Session) { s.Warning = "950 prefixes, of at most 1000" }},
		{"which and how many prefixes are refused", true, func(s *bgp.Session) { s.Refused, s.RefusedCount = prefixes(8), 9000 }},
		{"no more warning", false, func(s *bgp.Session) { s.Warning = "" }},
		{"nothing refused any more", false, func(s *bgp.Session) { s.Refused, s.RefusedCount = nil, 0 }},
		{"a flap", false, func(s *bgp.Session) { s.Flaps = 1 }},
		{"a reason", false, func(s *bgp.Session) { s.LastError = "reason" }},
		{"restarting", false, func(s *bgp.Session) { s.PeerRestarting = true }},
	} {
		if got := reflect.DeepEqual(of(tt.change), same); got != tt.figures {
			t.Errorf("%s: figures alone %v, want %v", tt.name, got, tt.figures)
		}
	}
}

func TestRefusalsAreReportedWhenTheyLast(t *testing.T) {
	suspects := suspicion{}
	start := time.Unix(1700000000, 0)
	for _, step := range []struct {
		after           time.Duration
		refused, report int
	}{
		{0, 1, 0}, // a block that was just claimed
		{time.Second, 1, 0},
		{2 * time.Second, 0, 0}, // now the plan has it
		{refusalGrace, 2, 0},
		{2*refusalGrace - time.Second, 3, 0},
		{2 * refusalGrace, 3, 3},
		{2*refusalGrace + time.Second, 1, 1},
		{3 * refusalGrace, 0, 0},
	} {
		sessions := []bgp.Session{
			{Address: netip.MustParseAddr("10.0.0.2")},
			{Address: netip.MustParseAddr("10.0.0.3"), Refused: prefixes(step.refused), RefusedCount: step.refused},
		}
		suspects.weigh(sessions, start.Add(step.after))
		if got := sessions[1]; got.RefusedCount != step.report || len(got.Refused) != step.report {
			t.Errorf("after %v: %d of %d are reported, want %d", step.after, got.RefusedCount, step.refused, step.report)
		}
	}
	suspects.weigh(nil, start)
	if len(suspects) != 0 {
		t.Errorf("suspects %v are left", suspects)
	}
}

// That the session with a node whose Node is gone is down is no trouble.
func TestDepartedSessionsAreNotMissed(t *testing.T) {
	d, problems := translate(&v1alpha1.NodeNetworkSpec{
		RouterID: "10.0.0.1",
		Sessions: []v1alpha1.PlannedSession{
			{Name: "n2", Kind: v1alpha1.SessionNode, PeerAddress: "10.0.0.2", Departed: true},
			{Name: "n3", Kind: v1alpha1.SessionNode, PeerAddress: "10.0.0.3"},
		},
	})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	for _, tt := range []struct {
		n2, n3        bgp.State
		summary, down string
	}{
		{bgp.StateActive, bgp.StateEstablished, "1/1", ""},
		{bgp.StateEstablished, bgp.StateEstablished, "2/2", ""},
		{bgp.StateActive, bgp.StateActive, "0/1", "not established: n3"},
	} {
		o := &observation{desired: d, sessions: []bgp.Session{
			{Name: "n2", Address: netip.MustParseAddr("10.0.0.2"), State: tt.n2},
			{Name: "n3", Address: netip.MustParseAddr("10.0.0.3"), State: tt.n3},
		}}
		s := status(o, &v1alpha1.NodeNetworkStatus{}, metav1.Now())
		down := ""
		if c := apimeta.FindStatusCondition(s.Conditions, v1alpha1.ConditionSessionsEstablished); c.Status == metav1.ConditionFalse {
			down = c.Message
		}
		if s.Summary.Sessions != tt.summary || down != tt.down || len(s.Sessions) != 2 {
			t.Errorf("n2 %s, n3 %s: %s sessions, %q, %d listed; want %s, %q, 2", tt.n2, tt.n3, s.Summary.Sessions, down, len(s.Sessions), tt.summary, tt.down)
		}
	}
}
