package gobgp

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/bgptest/sender"
)

// racks is a configuration in which routers may call from 127.0.9.0/24.
func racks(t *testing.T) bgp.Config {
	c := baseConfig(t)
	rule := bgp.Rule{Match: bgp.Match{Ranges: []bgp.Range{rng("10.9.0.0/16", 24)}}, Accept: true}
	c.Callers = []bgp.Callers{{Prefix: pfx("127.0.9.0/24"), Peer: bgp.Peer{
		Name: "racks", Kind: bgp.PeerExternal, ASN: 65001, GracefulRestart: 60 * time.Second, LongLived: time.Hour, Import: []bgp.Rule{rule},
	}}}
	return c
}

// forgetAfter has the speaker look whom to forget as if so much time had passed.
func (s *Speaker) forgetAfter(away time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.callers.forgetGone(time.Now().Add(away))
}

func mustHaveNoSessions(t *testing.T, sp *Speaker) {
	t.Helper()
	if all, err := sp.Sessions(context.Background()); err != nil || len(all) != 0 {
		t.Errorf("there are sessions left: %+v, %v", all, err)
	}
}

// TestCallersAreForgotten: who called and is away is a peer as long as its routes
// are kept, which it says itself, and until it has been away for long.
func TestCallersAreForgotten(t *testing.T) {
	t.Parallel()
	s := newSink()
	sp := start(t, Options{Sink: s})
	c := racks(t)
	set(t, sp, c)
	r := newPeerAt(t, speakerAddr(c), external("127.0.9.2", 65001))
	lose := func(keeps time.Duration) {
		t.Helper()
		r.options.RestartTime, r.log = keeps, nil
		r.connect()
		r.announce(sender.Route{NextHop: addr("127.0.9.2"), ASPath: []uint32{65001}}, "10.9.1.0/24")
		r.send(sender.EndOfRIB(true))
		s.waitRoutes(t, "10.9.1.0/24 via 127.0.9.2")
		r.waitTold()
		r.breakOff()
		eventually(t, func() string {
			if one := sessionOf(t, sp, "racks/127.0.9.2"); one.State == bgp.StateEstablished {
				return fmt.Sprintf("%+v", one)
			}
			if sp.book.page(addr("127.0.9.2")).established.Load() {
				return "that the session ended was not told yet"
			}
			return ""
		})
	}
	lose(10 * time.Minute)
	sp.forgetAfter(9 * time.Minute)
	s.waitRoutes(t, "10.9.1.0/24 via 127.0.9.2")
	if one := sessionOf(t, sp, "racks/127.0.9.2"); !one.PeerRestarting {
		t.Errorf("%+v", one)
	}

	lose(time.Second)
	s.waitRoutes(t)
	sp.forgetAfter(callerRest - time.Minute)
	sessionOf(t, sp, "racks/127.0.9.2")
	sp.forgetAfter(callerRest + time.Minute)
	mustHaveNoSessions(t, sp)

	// It may call again; who is barred may not, though it is one of a range.
	r.log = nil
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

// Who called and never had a session has no routes to be kept, and makes room for
// others.
func TestCallersThatNeverCameUpAreForgotten(t *testing.T) {
	sp := start(t, Options{Sink: newSink()})
	set(t, sp, racks(t))
	sp.callers.admit(addr("127.0.9.2"))
	sessionOf(t, sp, "racks/127.0.9.2")
	sp.forgetAfter(callerRest + time.Minute)
	mustHaveNoSessions(t, sp)
}

// That a range is full is said once, from however many of its addresses a host
// calls.
func TestFullRangeIsSaidOnce(t *testing.T) {
	log := &journal{}
	sp := start(t, Options{Sink: newSink(), Log: slog.New(slog.NewTextHandler(log, nil))})
	c := racks(t)
	c.Callers[0].Most = 1
	set(t, sp, c)
	for i := range 20 {
		sp.callers.admit(addr(fmt.Sprint("127.0.9.", i+2)))
	}
	if n := strings.Count(log.String(), "is not let in"); n != 1 || len(sp.callers.full) != 1 {
		t.Errorf("it is remembered of %d and said %d times: %s", len(sp.callers.full), n, log.String())
	}
}
