package gobgp

import (
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp/bgptest/sender"
)

// TestPeerThatLostPower: a peer that is back before it was missed has its session at
// once, not when it was to be sent the next KEEPALIVE; its routes stay meanwhile.
func TestPeerThatLostPower(t *testing.T) {
	s := newSink()
	sp := start(t, Options{Sink: s})
	c := baseConfig(t)
	p := nodePeer("127.0.0.2", 1)
	p.Hold, p.Keepalive = 90*time.Second, 30*time.Second
	c.Peers = append(c.Peers, p)
	c.Advertise = append(c.Advertise, pfx("172.25.0.128/26"))
	set(t, sp, c)
	r := newPeerAt(t, speakerAddr(c), internal("127.0.0.2"))
	r.connect()
	route := sender.Route{NextHop: addr("127.0.0.2"), LocalPref: 100}
	r.announce(route, "172.25.1.0/26")
	s.waitRoutes(t, "172.25.1.0/26 via 127.0.0.2")
	r.waitRoutes(map[string]string{"172.25.0.128/26": "127.0.0.1"})
	// Of what is said once more to a peer that comes up while routes change, it would
	// come out that this one is gone.
	up := time.Now()
	eventually(t, func() string {
		if time.Since(up) < arrival+3*limitInterval {
			return "it may be told everything once more"
		}
		return ""
	})
	told := len(s.events())

	if err := r.session.Vanish(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r.connect()
	took := time.Since(began)
	t.Logf("the session was back after %v", took)
	if most := p.Keepalive / 2; took > most {
		t.Errorf("the session was back after %v, not within %v", took, most)
	}
	r.announce(route, "172.25.1.0/26", "172.25.1.64/26")
	s.waitRoutes(t, "172.25.1.0/26 via 127.0.0.2", "172.25.1.64/26 via 127.0.0.2")
	for _, e := range s.events()[told:] {
		if strings.HasPrefix(e, "-") {
			t.Errorf("meanwhile the sink was told %q", e)
		}
	}
}
