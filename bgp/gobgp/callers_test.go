package gobgp

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/bgptest/sender"
)

// TestCallersAreForgotten: who called and is away is a peer, whose routes are
// kept as is due, until it has been away for long.
func TestCallersAreForgotten(t *testing.T) {
	s := newSink()
	sp := start(t, Options{Sink: s})
	c := baseConfig(t)
	rule := bgp.Rule{Match: bgp.Match{Ranges: []bgp.Range{rng("10.9.0.0/16", 24)}}, Accept: true}
	c.Callers = []bgp.Callers{{Prefix: pfx("127.0.9.0/24"), Peer: bgp.Peer{
		Name: "racks", Kind: bgp.PeerExternal, ASN: 65001, GracefulRestart: 60 * time.Second, Import: []bgp.Rule{rule},
	}}}
	set(t, sp, c)
	r := newPeerAt(t, speakerAddr(c), external("127.0.9.2", 65001))
	r.connect()
	r.announce(sender.Route{NextHop: addr("127.0.9.2"), ASPath: []uint32{65001}}, "10.9.1.0/24")
	r.send(sender.EndOfRIB(true))
	s.waitRoutes(t, "10.9.1.0/24 via 127.0.9.2")
	r.waitTold()
	r.breakOff()
	eventually(t, func() string {
		if one := sessionOf(t, sp, "racks/127.0.9.2"); one.State == bgp.StateEstablished || !one.PeerRestarting {
			return fmt.Sprintf("%+v", one)
		}
		if sp.book.page(addr("127.0.9.2")).established.Load() {
			return "that the session ended was not told yet"
		}
		return ""
	})
	forgetAfter := func(away time.Duration) {
		sp.mu.Lock()
		defer sp.mu.Unlock()
		sp.callers.forgetGone(time.Now().Add(away))
	}
	forgetAfter(callerRest - time.Minute)
	s.waitRoutes(t, "10.9.1.0/24 via 127.0.9.2")
	sessionOf(t, sp, "racks/127.0.9.2")
	forgetAfter(callerRest + time.Minute)
	s.waitRoutes(t)
	if all, err := sp.Sessions(context.Background()); err != nil || len(all) != 0 {
		t.Errorf("there are sessions left: %+v, %v", all, err)
	}

	// It may call again; who is barred may not, though it is one of a range.
	r.connect()
	r.waitTold()
	c.Barred = []netip.Addr{addr("127.0.9.2")}
	set(t, sp, c)
	eventually(t, func() string {
		if all, err := sp.Sessions(context.Background()); err != nil || len(all) != 0 {
			return fmt.Sprintf("there are sessions left: %+v, %v", all, err)
		}
		return ""
	})
}
