package gobgp

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
)

// birdCapabilities are, in our words, those that BIRD says both ends have.
func birdCapabilities(t *testing.T, text string) []string {
	t.Helper()
	_, text, ok := strings.Cut(text, "Local capabilities\n")
	if !ok {
		t.Fatalf("BIRD tells no capabilities:\n%s", text)
	}
	local, rest, _ := strings.Cut(text, "Neighbor capabilities\n")
	neighbor, _, _ := strings.Cut(rest, "Session:")
	var both []string
	for line, words := range map[string]string{
		"AF announced: ipv4": "IPv4 unicast", "Route refresh": "route refresh", "Enhanced refresh": "enhanced route refresh",
		"Extended next hop": "IPv6 next hops of IPv4", "Extended message": "extended message", "Graceful restart": "graceful restart",
		"Long-lived graceful restart": "long-lived graceful restart", "4-octet AS numbers": "4-octet AS",
	} {
		has := func(text string) bool {
			return slices.ContainsFunc(strings.Split(text, "\n"), func(l string) bool { return strings.TrimSpace(l) == line })
		}
		if has(local) && has(neighbor) {
			both = append(both, words)
		}
	}
	slices.Sort(both)
	return both
}

// frrCapabilities are, in our words, those that FRR says both ends have.
func frrCapabilities(t *testing.T, text string) []string {
	t.Helper()
	var neighbors map[string]struct {
		NeighborCapabilities map[string]any
	}
	if err := json.Unmarshal([]byte(text), &neighbors); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	var both []string
	for _, n := range neighbors {
		for key, words := range map[string]string{
			"4byteAs": "4-octet AS", "extendedMessage": "extended message", "extendedNexthop": "IPv6 next hops of IPv4",
			"longLivedGracefulRestart": "long-lived graceful restart", "routeRefresh": "route refresh",
			"enhancedRouteRefresh": "enhanced route refresh", "gracefulRestart": "graceful restart",
		} {
			if said, _ := n.NeighborCapabilities[key].(string); strings.HasPrefix(said, "advertisedAndReceived") {
				both = append(both, words)
			}
		}
		if families, _ := n.NeighborCapabilities["multiprotocolExtensions"].(map[string]any); families["ipv4Unicast"] != nil {
			both = append(both, "IPv4 unicast")
		}
	}
	slices.Sort(both)
	return both
}

// waitSession waits until the session with a peer is as it should be.
func waitSession(t *testing.T, sp bgp.Speaker, name string, ok func(bgp.Session) bool) bgp.Session {
	t.Helper()
	var s bgp.Session
	eventually(t, func() string {
		if s = sessionOf(t, sp, name); ok(s) {
			return ""
		}
		return fmt.Sprintf("the session is %+v", s)
	})
	return s
}

// saysWhy waits until the session is down, or was, for a reason.
func saysWhy(t *testing.T, sp bgp.Speaker, name string, flaps int, lastError string) {
	t.Helper()
	waitSession(t, sp, name, func(s bgp.Session) bool { return s.Flaps == flaps && s.LastError == lastError })
}

func (b *testbed) contains(t *testing.T, name, command, want string) {
	t.Helper()
	eventually(t, func() string {
		if out := b.show(t, name, command); !strings.Contains(out, want) {
			return fmt.Sprintf("%s says nothing like %q:\n%s", name, want, out)
		}
		return ""
	})
}

// TestRoutersAndWeAgreeWhySessionsEnd brings sessions down in each way that a
// router and a network have, and holds what is said of them against what the
// router itself says.
func TestRoutersAndWeAgreeWhySessionsEnd(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	for i := range b.config.Peers {
		p := &b.config.Peers[i]
		switch p.Name {
		case "tor2":
			p.WarnPrefixes, p.MaxPrefixes = 8, 100
		case "node4":
			p.Hold, p.Keepalive = 3*time.Second, time.Second
		}
	}
	sp := startChild(t, b.node.Name, false)
	set(t, sp, b.config)
	sp.sink.waitRoutes(t, learnedOfAll()...)
	up := func(s bgp.Session) bool { return s.State == bgp.StateEstablished }

	for i, name := range []string{"tor1", "tor2", "node3", "node4"} {
		var want []string
		if i%2 == 0 {
			want = birdCapabilities(t, b.show(t, name, "show protocols all godwit"))
		} else {
			want = frrCapabilities(t, b.show(t, name, fmt.Sprintf("show bgp neighbors 10.0.%d.1 json", i+1)))
		}
		s := waitSession(t, sp, name, up)
		if !slices.Equal(s.Capabilities, want) || len(want) < 4 {
			t.Errorf("%s: capabilities %q; the router says %q", name, s.Capabilities, want)
		}
		if s.Flaps != 0 || s.PeerRestarting {
			t.Errorf("%s: %+v", name, s)
		}
		t.Logf("%s: %s", name, strings.Join(s.Capabilities, ", "))
	}

	t.Run("shut down with a message", func(t *testing.T) {
		b.show(t, "tor1", `disable godwit "new cables"`)
		saysWhy(t, sp, "tor1", 1, "it closed the session: administrative shutdown: new cables")
		if s := sessionOf(t, sp, "tor1"); len(s.Capabilities) > 0 || s.State == bgp.StateEstablished {
			t.Errorf("%+v", s)
		}
		b.show(t, "tor1", "enable godwit")
		waitSession(t, sp, "tor1", up)
		saysWhy(t, sp, "tor1", 1, "it closed the session: administrative shutdown: new cables") // it stays said

		b.show(t, "tor2", "configure terminal\nrouter bgp 65002\nneighbor 10.0.2.1 shutdown message until tonight")
		saysWhy(t, sp, "tor2", 1, "it closed the session: administrative shutdown: until tonight")
		b.contains(t, "tor2", "show bgp neighbors 10.0.2.1", "Administratively shut down")
		b.show(t, "tor2", "configure terminal\nrouter bgp 65002\nno neighbor 10.0.2.1 shutdown")
		waitSession(t, sp, "tor2", up)
	})
	t.Run("another AS number", func(t *testing.T) {
		const i = 2 // node3
		reconfigure := func(asn uint32) {
			conf := strings.ReplaceAll(birdConf(i, 64512), "as 64512;\n neighbor", fmt.Sprintf("as %d;\n neighbor", asn))
			if err := os.WriteFile(filepath.Join(b.dirs["node3"], "bird.conf"), []byte(conf), 0o600); err != nil {
				t.Fatal(err)
			}
			b.show(t, "node3", "configure")
		}
		reconfigure(64999)
		saysWhy(t, sp, "node3", 1, "we closed the session: error in OPEN: unexpected AS number (64512 is configured)")
		b.contains(t, "node3", "show protocols all godwit", "Received: Bad peer AS")
		reconfigure(64512)
		waitSession(t, sp, "node3", up)
	})
	t.Run("link cut", func(t *testing.T) {
		b.node.Run("nft", "add table inet cut; add chain inet cut in { type filter hook input priority 0; }; add rule inet cut in iifname gw4 drop; "+
			"add chain inet cut out { type filter hook output priority 0; }; add rule inet cut out oifname gw4 drop")
		const why = "we closed the session: hold time over without a keepalive"
		saysWhy(t, sp, "node4", 1, why)
		// Silence is no restart: its routes go.
		sp.sink.waitRoutes(t, slices.DeleteFunc(learnedOfAll(), func(r string) bool { return strings.HasSuffix(r, " via 10.0.4.2") })...)
		waitSession(t, sp, "node4", func(s bgp.Session) bool { return !s.PeerRestarting && !up(s) })
		b.contains(t, "node4", "show bgp neighbors 10.0.4.1", "Hold Timer Expired")
		b.node.Run("nft", "delete", "table", "inet", "cut")
		waitSession(t, sp, "node4", func(s bgp.Session) bool { return up(s) && !s.PeerRestarting && s.Flaps == 1 && s.LastError == why })
		sp.sink.waitRoutes(t, learnedOfAll()...)
	})
	t.Run("too many prefixes", func(t *testing.T) {
		waitSession(t, sp, "tor2", func(s bgp.Session) bool {
			return s.Warning == fmt.Sprintf("it sends %d of at most 100 prefixes; with more its session ends", s.Received) && s.Received >= 8
		})
		b.config.Peers[1].WarnPrefixes, b.config.Peers[1].MaxPrefixes = 4, 5
		set(t, sp, b.config)
		s := waitSession(t, sp, "tor2", func(s bgp.Session) bool { return !up(s) && s.Flaps == 2 })
		if !strings.Contains(s.LastError, "more than its limit of 5") || s.Warning != "" {
			t.Errorf("%+v", s)
		}
		b.contains(t, "tor2", "show bgp neighbors 10.0.2.1", "Cease/Administrative Shutdown")
	})
}
