package gobgp

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/bgptest/sender"
)

// TestSessionThatEndsAtOnceStartsOver: it comes up again without the rest of 5 s
// that GoBGP takes, but for once only, and not where routes are kept.
func TestSessionThatEndsAtOnceStartsOver(t *testing.T) {
	const rest = 5 * time.Second
	s := newSink()
	sp := start(t, Options{Sink: s})
	c := baseConfig(t)
	c.Peers = []bgp.Peer{nodePeer("127.0.0.2", 1), nodePeer("127.0.0.3", 1)}
	set(t, sp, c)
	r, keeps := newPeerAt(t, speakerAddr(c), internal("127.0.0.2")), newPeerAt(t, speakerAddr(c), internal("127.0.0.3"))
	keeps.connect()
	keeps.announce(sender.Route{NextHop: addr("127.0.0.3"), LocalPref: 100}, "172.25.1.0/26")
	s.waitRoutes(t, "172.25.1.0/26 via 127.0.0.3")
	keeps.breakOff()

	told := func() int {
		return len(slices.DeleteFunc(r.events(), func(e string) bool { return e != "eor" }))
	}
	up := func(before int) {
		t.Helper()
		r.connect()
		eventually(t, func() string {
			if one := sessionOf(t, sp, c.Peers[0].Name); one.State != bgp.StateEstablished || told() == before {
				return fmt.Sprintf("%+v", one)
			}
			return ""
		})
	}
	back := func() time.Duration {
		before := told()
		r.breakOff()
		began := time.Now()
		up(before)
		return time.Since(began)
	}
	up(0)
	first := back()
	second := back()
	t.Logf("back after %v, and then %v", first, second)
	if first > rest*4/5 {
		t.Errorf("the session was back after %v, with a rest of %v", first, rest)
	}
	if second < rest*4/5 {
		t.Errorf("the session was back after %v for the second time", second)
	}
	s.waitRoutes(t, "172.25.1.0/26 via 127.0.0.3")
	if one := sessionOf(t, sp, c.Peers[1].Name); !one.PeerRestarting {
		t.Errorf("the peer with routes started over, too: %+v", one)
	}
}
