package gobgp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/bgptest/sender"
)

// arena is a speaker with a peer that behaves and others that don't. Each of
// those serves for one session, as a session that fell rests for a while.
type arena struct {
	t       testing.TB // for which all of it lasts
	speaker *Speaker
	sink    *sink
	config  bgp.Config
	steady  bgp.Session // as it was when all began
	rogue   *remote     // the session that is up, if any
	used    int         // rogues that had a session
}

const (
	steadyName  = "node-127.0.0.3"
	steadyRoute = "172.25.3.0/26 via 127.0.0.3"
)

// rogueAddress is the address of a peer that misbehaves.
func rogueAddress(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, 0, byte(1 + i/250), byte(1 + i%250)})
}

// accepts is the rule that takes the prefixes of a length inside of another.
func accepts(cidr string, length int) bgp.Rule {
	return bgp.Rule{Match: bgp.Match{Ranges: []bgp.Range{rng(cidr, length)}}, Accept: true}
}

// arenaConfig is a speaker with a node peer and external peers that only call.
func arenaConfig(t testing.TB, rogues int) bgp.Config {
	c := baseConfig(t)
	c.NextHops = []netip.Addr{addr("127.0.0.1"), addr("fd00::1")} // both families
	c.Peers = []bgp.Peer{nodePeer("127.0.0.3", 1)}
	for i := range rogues {
		c.Peers = append(c.Peers, bgp.Peer{
			Name: fmt.Sprint("rogue", i), Kind: bgp.PeerExternal, Address: rogueAddress(i), ASN: rogueASN, Passive: true,
			Import: []bgp.Rule{accepts("10.9.0.0/16", 24), accepts("fd09::/32", 64)},
		})
	}
	return c
}

func newArena(t testing.TB, rogues int) *arena {
	t.Helper()
	a := &arena{t: t, sink: newSink(), config: arenaConfig(t, rogues)}
	a.speaker = start(t, Options{Sink: a.sink})
	set(t, a.speaker, a.config)
	steady := newPeerAt(t, speakerAddr(a.config), internal("127.0.0.3"))
	steady.connect()
	steady.announce(sender.Route{NextHop: addr("127.0.0.3"), LocalPref: 100}, "172.25.3.0/26")
	a.sink.waitRoutes(t, steadyRoute)
	a.steady = sessionOf(t, a.speaker, steadyName)
	return a
}

// undisturbed checks that the peer that behaves has not noticed anything.
func (a *arena) undisturbed(t testing.TB) {
	t.Helper()
	if now := sessionOf(t, a.speaker, steadyName); now.State != bgp.StateEstablished || !now.Since.Equal(a.steady.Since) || now.Flaps != a.steady.Flaps {
		t.Fatalf("another session was disturbed: %+v, before %+v", now, a.steady)
	}
	if slices.Contains(a.sink.events(), "-172.25.3.0/26") {
		t.Fatal("another peer's route went away")
	}
}

// roguery has a session up over which a rogue has announced the route.
func (a *arena) roguery(t testing.TB) *remote {
	t.Helper()
	if a.rogue == nil {
		o := external(rogueAddress(a.used).String(), rogueASN)
		o.RestartTime = 0 // a session that ends takes its routes along
		a.used++
		a.rogue = newPeerAt(a.t, speakerAddr(a.config), o)
		a.rogue.connect()
	}
	a.rogue.announce(sender.Route{NextHop: formerHop, ASPath: []uint32{rogueASN}}, rogueRoute.String())
	a.sink.waitRoutes(t, steadyRoute, fmt.Sprint(rogueRoute, " via ", formerHop))
	return a.rogue
}

// end is how a session ended.
func end(s *sender.Session) fate {
	f := ends
	var n *sender.Notification
	if errors.As(s.Err(), &n) {
		f.code, f.subcode = n.Code, n.Subcode
	}
	return f
}

// judge sends a message and sees what becomes of it. One that is to end the
// session is waited for; of others, what is announced after it shows that it was
// dealt with.
func (a *arena) judge(t testing.TB, m malformed) fate {
	t.Helper()
	const next = "10.9.8.0/24"
	r := a.roguery(t)
	r.send(m.message)
	if m.want().outcome != reset {
		// It may have hung up all the same.
		_ = r.session.Send(sender.Update(sender.Route{NextHop: formerHop, ASPath: []uint32{rogueASN}}, pfx(next)))
	}
	for deadline := time.Now().Add(patience); !a.hop(pfx(next)).IsValid(); time.Sleep(time.Millisecond) {
		select {
		case <-r.session.Done():
			a.rogue = nil
			a.sink.waitRoutes(t, steadyRoute)
			return end(r.session)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v the speaker has neither ended the session nor taken up what came next", patience)
		}
	}
	got := withdraws
	switch a.hop(rogueRoute) {
	case rogueHop:
		got = takes
	case formerHop:
		got = ignores
	}
	r.send(sender.Withdraw(pfx(next), rogueRoute))
	a.sink.waitRoutes(t, steadyRoute)
	return got
}

// hop is by which next hop a prefix is reached; invalid: by none or several.
func (a *arena) hop(prefix netip.Prefix) netip.Addr {
	a.sink.mu.Lock()
	defer a.sink.mu.Unlock()
	if hops := a.sink.routes[prefix].NextHops; len(hops) == 1 {
		return hops[0]
	}
	return netip.Addr{}
}

func TestMalformedMessages(t *testing.T) {
	all := malformedMessages()
	a := newArena(t, len(all))
	for _, m := range all {
		t.Run(m.name, func(t *testing.T) {
			if got := a.judge(t, m); !m.expects(got) {
				t.Errorf("the speaker %v, not %v", got, m.want())
			}
			a.undisturbed(t)
		})
	}
}

func TestMalformedOpens(t *testing.T) {
	t.Parallel()
	all := malformedOpens()
	a := newArena(t, len(all))
	for i, m := range all {
		t.Run(m.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			got, err := sendFirst(ctx, speakerAddr(a.config), rogueAddress(i), m.message, nil)
			if err != nil {
				t.Fatal(err)
			}
			if !m.expects(got) {
				t.Errorf("the speaker %v, not %v", got, m.want())
			}
			a.undisturbed(t)
		})
	}
	// A peer of which such a thing came is let in when it behaves.
	a.roguery(t)
}

// sendFirst sends a message as the first of a connection, and tells what the
// speaker made of it. If the peer is let in, it hangs up, or says more if there is
// any, until the speaker hangs up.
func sendFirst(ctx context.Context, to netip.AddrPort, from netip.Addr, message, more []byte) (fate, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from.AsSlice()}}
	for {
		conn, err := d.DialContext(ctx, "tcp", to.String())
		if err != nil {
			return fate{}, err
		}
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		_, _ = conn.Write(message) // it may have hung up
		got, heard := verdict(conn, more)
		stop()
		_ = conn.Close()
		switch {
		case ctx.Err() != nil:
			return fate{}, fmt.Errorf("the speaker does not hang up; it has answered: %v", heard)
		case heard:
			return got, nil
		}
		// It was not ready for a connection of this peer yet.
		select {
		case <-ctx.Done():
			return fate{}, errors.New("the speaker does not let the peer in")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// verdict reads what the speaker makes of a first message, see sendFirst; heard
// tells whether it has said anything.
func verdict(conn io.ReadWriter, more []byte) (f fate, heard bool) {
	f = ends
	var head [19]byte
	for {
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return f, heard
		}
		body := make([]byte, max(0, int(binary.BigEndian.Uint16(head[16:]))-len(head)))
		if _, err := io.ReadFull(conn, body); err != nil {
			return f, heard
		}
		heard = true
		switch {
		case head[18] == messageKeepalive && f != letsIn:
			f = letsIn
			if more == nil {
				return f, true
			}
			_, _ = conn.Write(more) // it may have hung up
		case f == letsIn:
		case head[18] == messageNotification && len(body) >= 2:
			f.code, f.subcode = body[0], body[1]
		}
	}
}
