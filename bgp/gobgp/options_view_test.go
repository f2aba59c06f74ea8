package gobgp

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// show asks the router's own program.
func (s *seat) show(t *testing.T, command string) string {
	t.Helper()
	out, err := s.rack.routers[s.router].Show(context.Background(), command)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// look is what a router says of a session.
type look struct {
	text        string // all of it
	established bool
	since       string // in the router's words
	hold        string // agreed upon, in seconds
	families    string // those that we offered, sorted
	remoteAS    string // ours
	us          string // our end
	port        string // ours; BIRD tells none
	ownPort     string
	keepalives  int    // heard
	warning     string // the last NOTIFICATION
}

func (s *seat) look(t *testing.T) look {
	t.Helper()
	if s.bird() {
		return s.lookBIRD(t)
	}
	return s.lookFRR(t)
}

func (s *seat) lookBIRD(t *testing.T) look {
	t.Helper()
	name := fmt.Sprint("s", s.k)
	l := look{text: s.show(t, "show protocols all "+name)}
	part := ""
	for _, line := range strings.Split(l.text, "\n") {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		f := strings.Fields(line)
		switch {
		case len(f) > 5 && f[0] == name:
			l.since = f[4] + " " + f[5]
		case key == "BGP state":
			l.established = value == "Established"
		case key == "Neighbor address":
			l.us = value
		case key == "Neighbor AS":
			l.remoteAS = value
		case key == "Local capabilities", key == "Neighbor capabilities":
			part = key
		case key == "AF announced" && part == "Neighbor capabilities":
			families := strings.Fields(value)
			slices.Sort(families)
			l.families = strings.Join(families, " ")
		case key == "Hold timer":
			_, l.hold, _ = strings.Cut(value, "/")
		case key == "Last error":
			l.warning = value
		}
	}
	// BIRD counts none; the session's log does.
	l.keepalives = strings.Count(s.rack.routers[s.router].Log(), name+": Got KEEPALIVE")
	return l
}

func (s *seat) lookFRR(t *testing.T) look {
	t.Helper()
	l := look{text: s.show(t, "show bgp neighbors "+s.ours()+" json")}
	var all map[string]struct {
		RemoteAs               uint32
		BgpState               string
		BgpTimerHoldTimeMsecs  int
		ConnectionsEstablished int
		HostForeign            string
		PortLocal              int
		PortForeign            int
		LastNotificationReason string
		MessageStats           struct{ KeepalivesRecv int }
		NeighborCapabilities   struct{ MultiprotocolExtensions map[string]map[string]any }
	}
	if err := json.Unmarshal([]byte(l.text), &all); err != nil {
		t.Fatalf("%v: %s", err, l.text)
	}
	n := all[s.ours()]
	l.established, l.remoteAS, l.us = n.BgpState == "Established", fmt.Sprint(n.RemoteAs), n.HostForeign
	l.hold, l.port, l.keepalives = fmt.Sprint(n.BgpTimerHoldTimeMsecs/1000), fmt.Sprint(n.PortForeign), n.MessageStats.KeepalivesRecv
	l.since = fmt.Sprint("session ", n.ConnectionsEstablished) // the time since is computed, and not the same at each look
	l.ownPort = fmt.Sprint(n.PortLocal)
	l.warning = n.LastNotificationReason
	var families []string
	for name, have := range n.NeighborCapabilities.MultiprotocolExtensions {
		for how := range have {
			if strings.Contains(how, "eceived") { // "received" or "advertisedAndReceived"
				families = append(families, strings.ToLower(strings.TrimSuffix(name, "Unicast")))
			}
		}
	}
	slices.Sort(families)
	l.families = strings.Join(families, " ")
	return l
}

// isSince reports whether the session is the one that was up before, in the
// router's words. BIRD's times are a millisecond off at times.
func (l look) isSince(was string) bool {
	const layout = "2006-01-02 15:04:05.999"
	a, err1 := time.Parse(layout, l.since)
	b, err2 := time.Parse(layout, was)
	if err1 != nil || err2 != nil {
		return l.since == was
	}
	return a.Sub(b).Abs() < time.Second/2
}

// has is how the router sees a route of this session: "" when it has none, else
// "path 64512 65001 hop 10.0.1.1" and " communities 1:2", if there are any.
func (s *seat) has(t *testing.T, prefix string) string {
	t.Helper()
	if s.bird() {
		return s.hasBIRD(t, prefix)
	}
	var table struct {
		Paths []struct {
			ASPath    struct{ String string }
			Community struct{ String string }
			Nexthops  []struct{ IP string }
			Peer      struct{ PeerID string }
		}
	}
	text := s.show(t, "show bgp ipv4 unicast "+prefix+" json")
	if err := json.Unmarshal([]byte(text), &table); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	for _, p := range table.Paths {
		if p.Peer.PeerID == s.ours() {
			path := strings.Replace(p.ASPath.String, "Local", "", 1)
			return words(path, p.Nexthops[0].IP, strings.ReplaceAll(p.Community.String, "llgr-stale", "65535:6"))
		}
	}
	return ""
}

func (s *seat) hasBIRD(t *testing.T, prefix string) string {
	t.Helper()
	text, err := s.rack.routers[s.router].Show(context.Background(), fmt.Sprintf("show route %s protocol s%d all", prefix, s.k))
	if err != nil && !strings.Contains(err.Error(), "not found") {
		t.Fatal(err)
	}
	var path, hop, communities string
	for _, line := range strings.Split(text, "\n") {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		switch key {
		case "BGP.as_path":
			path = value
		case "BGP.next_hop":
			hop = value
		case "BGP.community":
			communities = strings.NewReplacer("(", "", ")", "", ",", ":").Replace(value)
		}
	}
	if hop == "" {
		return ""
	}
	return words(path, hop, communities)
}

func words(path, hop, communities string) string {
	out := strings.Join(strings.Fields("path "+path+" hop "+hop), " ")
	if communities != "" {
		out += " communities " + communities
	}
	return out
}

// up says why the session is not established.
func (s *seat) up(t *testing.T) string {
	t.Helper()
	if l := s.look(t); !l.established {
		return l.text
	}
	return ""
}

// sees says why the router does not have a route as it should; an empty want is
// that it has none.
func (s *seat) sees(t *testing.T, prefix, want string) string {
	t.Helper()
	if got := s.has(t, prefix); got != want {
		return fmt.Sprintf("%s has %s as %q, not %q", s.name(), prefix, got, want)
	}
	return ""
}

// soon waits for what must come, looking rarely: a look takes a program's start.
func soon(t *testing.T, f func() string) {
	t.Helper()
	missing := ""
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if missing = f(); missing == "" {
			return
		}
	}
	t.Fatalf("after %v: %s", patience, missing)
}
