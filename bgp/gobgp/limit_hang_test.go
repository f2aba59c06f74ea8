package gobgp

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/bgptest/sender"
)

// mute is a connection over which no KEEPALIVE goes out.
type mute struct{ net.Conn }

func (m mute) Write(b []byte) (int, error) {
	const kind, keepalive = 18, 4 // RFC 4271, sections 4.1 and 4.4
	if len(b) > kind && b[kind] == keepalive {
		return len(b), nil
	}
	return m.Conn.Write(b)
}

// A peer that never confirms the OPEN does not hold its session for ever: it is
// ended, and another one comes up.
func TestHungSessionStartsOver(t *testing.T) {
	sp, err := New(Options{Sink: newSink()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sp.Stop(t.Context(), bgp.StopRestart) })
	sp.limits.hangAfter = 500 * time.Millisecond
	c := baseConfig(t)
	c.Peers = []bgp.Peer{nodePeer("127.0.0.2", 1)}
	set(t, sp, c)
	o := internal("127.0.0.2")
	var hung *sender.Session
	eventually(t, func() string {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: o.Local.AsSlice()}}
		conn, err := d.DialContext(t.Context(), "tcp", speakerAddr(c).String())
		if err != nil {
			return err.Error()
		}
		if hung, err = sender.Start(t.Context(), mute{conn}, o); err != nil {
			_ = conn.Close()
			return err.Error()
		}
		return ""
	})
	select {
	case <-hung.Done():
	case <-time.After(patience):
		t.Fatal("the session hangs")
	}
	hung.Close()
	r := newPeerAt(t, speakerAddr(c), o)
	r.connect()
	eventually(t, func() string {
		if one := sessionOf(t, sp, c.Peers[0].Name); one.State != bgp.StateEstablished {
			return fmt.Sprint(one)
		}
		return ""
	})
}
