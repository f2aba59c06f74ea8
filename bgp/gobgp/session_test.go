package gobgp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/bgptest/sender"
)

func TestRestartingSpeakerAnnouncesAllBeforeEndOfRIB(t *testing.T) {
	sp := start(t, Options{Sink: newSink(), Restarting: true})
	c := baseConfig(t)
	c.Advertise = nil
	for i := range 100 {
		c.Advertise = append(c.Advertise, sender.TablePrefix(i))
	}
	c.Peers = []bgp.Peer{nodePeer("127.0.0.2", 1), nodePeer("127.0.0.3", 1)} // the second does not come
	set(t, sp, c)
	r := newPeerAt(t, speakerAddr(c), internal("127.0.0.2"))
	began := time.Now()
	r.connect()
	r.send(sender.EndOfRIB(true))
	eventually(t, func() string {
		if log := r.events(); len(log) != 101 || log[100] != "eor" {
			return fmt.Sprint(log)
		}
		return ""
	})
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %v; a peer that does not come must not hold up the others", took)
	}
}

// A peer that loses us once more before it has heard of our prefixes drops what it
// kept, so it hears of them at once, and not when GoBGP has waited for all others.
func TestRestartingSpeakerAnnouncesAtOnce(t *testing.T) {
	var took []time.Duration
	for range 3 { // a busy machine may take its time
		sp := start(t, Options{Sink: newSink(), Restarting: true})
		c := baseConfig(t)
		c.Peers = []bgp.Peer{nodePeer("127.0.0.2", 1), nodePeer("127.0.0.3", 1)} // the second does not come
		set(t, sp, c)
		r := newPeerAt(t, speakerAddr(c), internal("127.0.0.2"))
		r.connect()
		began := time.Now()
		r.waitTold()
		took = append(took, time.Since(began))
		if took[len(took)-1] < deferral*time.Second/2 {
			return
		}
	}
	t.Errorf("it took %v from the session to the end of the announcement", took)
}

// waitTold waits until all is sent that there was to send: the one own prefix.
func (r *remote) waitTold() {
	r.t.Helper()
	eventually(r.t, func() string {
		if log := r.events(); len(log) < 2 || log[1] != "eor" {
			return fmt.Sprint(log)
		}
		return ""
	})
}

func TestStopToLeaveWithdrawsAndCeases(t *testing.T) {
	sp := start(t, Options{Sink: newSink()})
	c := baseConfig(t)
	c.Peers = []bgp.Peer{nodePeer("127.0.0.2", 1)}
	set(t, sp, c)
	r := newPeerAt(t, speakerAddr(c), internal("127.0.0.2"))
	session := r.connect()
	r.waitTold()
	if err := sp.Stop(context.Background(), bgp.StopLeave); err != nil {
		t.Fatal(err)
	}
	var n *sender.Notification
	if err := session.Err(); !errors.As(err, &n) || n.Code != codeCease {
		t.Errorf("the session ended with %v, not with a Cease", err)
	}
	if log := r.events(); log[len(log)-1] != "-172.25.0.128/26" {
		t.Errorf("nothing was withdrawn: %v", log)
	}
}

// A session that was lost just before is no excuse: its peer keeps our routes
// until it hears from us.
func TestStopToLeaveWaitsForWhomItLost(t *testing.T) {
	t.Parallel()
	s := newSink()
	sp := start(t, Options{Sink: s})
	c := baseConfig(t)
	c.Peers = []bgp.Peer{nodePeer("127.0.0.2", 1)}
	set(t, sp, c)
	r := newPeerAt(t, speakerAddr(c), internal("127.0.0.2"))
	r.connect()
	r.announce(sender.Route{NextHop: addr("127.0.0.2"), LocalPref: 100}, "172.25.3.0/26")
	s.waitRoutes(t, "172.25.3.0/26 via 127.0.0.2")
	r.send(sender.EndOfRIB(true))
	r.waitTold()
	r.breakOff()
	eventually(t, func() string {
		if one := sessionOf(t, sp, c.Peers[0].Name); one.State == bgp.StateEstablished {
			return fmt.Sprint(one)
		}
		return ""
	})
	stopped := make(chan error, 1)
	go func() { stopped <- sp.Stop(context.Background(), bgp.StopLeave) }()
	session := r.connect()
	select {
	case <-session.Done():
	case <-time.After(patience):
		t.Fatal("the session does not end")
	}
	var n *sender.Notification
	if err := session.Err(); !errors.As(err, &n) || n.Code != codeCease {
		t.Errorf("the session ended with %v, not with a Cease", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestInSync(t *testing.T) {
	route := sender.Route{NextHop: addr("127.0.0.2"), LocalPref: 100}
	config := func(t *testing.T) (bgp.Config, *remote, *remote) {
		c := baseConfig(t)
		c.Peers = []bgp.Peer{nodePeer("127.0.0.2", 1), nodePeer("127.0.0.3", 1)}
		return c, newPeerAt(t, speakerAddr(c), internal("127.0.0.2")), newPeerAt(t, speakerAddr(c), internal("127.0.0.3"))
	}
	t.Run("when all peers have sent all", func(t *testing.T) {
		s := newSink()
		sp := start(t, Options{Sink: s, SyncTimeout: time.Hour})
		c, a, b := config(t)
		set(t, sp, c)
		a.connect()
		a.announce(route, "172.25.3.0/26")
		a.send(sender.EndOfRIB(true))
		s.waitRoutes(t, "172.25.3.0/26 via 127.0.0.2")
		b.connect()
		b.announce(route, "172.25.4.0/26")
		s.waitRoutes(t, "172.25.3.0/26 via 127.0.0.2", "172.25.4.0/26 via 127.0.0.2")
		if slices.Contains(s.events(), "in sync") {
			t.Error("in sync before the last End-of-RIB")
		}
		b.announce(route, "172.25.5.0/26")
		b.send(sender.EndOfRIB(true))
		s.wait(t, "in sync", func() bool { return s.synced == 1 })
		if log := s.events(); log[len(log)-1] != "in sync" || len(log) != 4 {
			t.Errorf("in sync came too early: %v", log)
		}
		set(t, sp, c)
		a.send(sender.EndOfRIB(true))
		a.announce(route, "172.25.6.0/26")
		s.wait(t, "one more route", func() bool { return len(s.routes) == 4 })
		if s.synced != 1 {
			t.Errorf("in sync %d times", s.synced)
		}
	})
	t.Run("when the time is over", func(t *testing.T) {
		s := newSink()
		sp := start(t, Options{Sink: s, SyncTimeout: 200 * time.Millisecond})
		c, _, _ := config(t)
		began := time.Now()
		set(t, sp, c)
		s.wait(t, "in sync", func() bool { return s.synced == 1 })
		if took := time.Since(began); took < 200*time.Millisecond {
			t.Errorf("in sync after %v", took)
		}
	})
	t.Run("when the peer that is waited for is no longer wanted", func(t *testing.T) {
		s := newSink()
		sp := start(t, Options{Sink: s, SyncTimeout: time.Hour})
		c, a, _ := config(t)
		set(t, sp, c)
		a.connect()
		a.announce(route, "172.25.3.0/26")
		a.send(sender.EndOfRIB(true))
		s.waitRoutes(t, "172.25.3.0/26 via 127.0.0.2")
		c.Peers = c.Peers[:1]
		set(t, sp, c)
		s.wait(t, "in sync", func() bool { return s.synced == 1 })
	})
	t.Run("with a peer that sends no End-of-RIB", func(t *testing.T) {
		s := newSink()
		sp := start(t, Options{Sink: s, SyncTimeout: time.Hour})
		c, a, _ := config(t)
		c.Peers = c.Peers[:1]
		set(t, sp, c)
		a.options.RestartTime = 0
		a.connect()
		s.wait(t, "in sync", func() bool { return s.synced == 1 })
	})
}

func TestSessionsSayWhyTheyAreDown(t *testing.T) {
	t.Parallel()
	sp := start(t, Options{Sink: newSink()})
	c := baseConfig(t)
	c.Peers = []bgp.Peer{nodePeer("127.0.0.2", 1)}
	set(t, sp, c)
	message := func(want string) {
		t.Helper()
		eventually(t, func() string {
			if got := sessionOf(t, sp, "node-127.0.0.2"); got.Message != want {
				return fmt.Sprintf("the message is %q, not %q", got.Message, want)
			}
			return ""
		})
	}
	message("can't connect: connection refused")

	r := newPeerAt(t, speakerAddr(c), external("127.0.0.2", 65001))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var n *sender.Notification
	if _, err := sender.Dial(ctx, r.at, r.options); !errors.As(err, &n) || n.Code != codeOpen || n.Subcode != subcodeBadAS {
		t.Fatalf("the wrong AS number gave %v", err)
	}
	message("we closed the session: error in OPEN: unexpected AS number (64512 is configured)")

	// A peer that hangs up, and one that refuses our OPEN when we dial it.
	l, err := net.Listen("tcp", "127.0.0.4:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	answer := make(chan []byte, 1)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 4096)
			_, _ = conn.Read(buf)
			select {
			case b := <-answer:
				_, _ = conn.Write(b)
				_, _ = conn.Read(buf)
			default:
			}
			_ = conn.Close()
		}
	}()
	p := nodePeer("127.0.0.4", netip.MustParseAddrPort(l.Addr().String()).Port())
	p.Name = "node-127.0.0.2"
	c.Peers = []bgp.Peer{p}
	set(t, sp, c)
	message("it closed the connection without a word (does it know this node as a peer?)")
	notification := append(slices.Repeat([]byte{0xff}, 16), 0, 21, 3, codeOpen, subcodeBadAS)
	answer <- notification
	message("it refused our OPEN; its own log says why (often the AS number or the address it expects)")
}
