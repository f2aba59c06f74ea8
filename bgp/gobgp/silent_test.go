package gobgp

import (
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/bgptest/sender"
)

// gag is a connection over which nothing more goes out once it is on.
type gag struct {
	net.Conn
	on *atomic.Bool
}

func (g gag) Write(b []byte) (int, error) {
	if g.on.Load() {
		return len(b), nil
	}
	return g.Conn.Write(b)
}

// TestSilentPeer: the routes of a peer that is silent go after its hold time,
// though it has graceful restart; those of one that has long-lived graceful
// restart stay. The session comes up again.
func TestSilentPeer(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		longLived time.Duration
		kept      bool
	}{
		{"graceful restart", 0, false},
		{"long-lived graceful restart", time.Hour, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSink()
			sp := start(t, Options{Sink: s})
			c := baseConfig(t)
			p := nodePeer("127.0.0.2", 1)
			p.Hold, p.Keepalive, p.LongLived = 3*time.Second, time.Second, tt.longLived
			c.Peers = []bgp.Peer{p}
			set(t, sp, c)
			o := internal("127.0.0.2")
			var session *sender.Session
			var on atomic.Bool
			eventually(t, func() string {
				d := net.Dialer{LocalAddr: &net.TCPAddr{IP: o.Local.AsSlice()}}
				conn, err := d.DialContext(t.Context(), "tcp", speakerAddr(c).String())
				if err == nil {
					session, err = sender.Start(t.Context(), gag{conn, &on}, o)
				}
				return fmt.Sprint(map[bool]any{true: "", false: err}[err == nil])
			})
			defer session.Close()
			if err := session.Send(sender.Update(sender.Route{NextHop: o.Local, LocalPref: 100}, pfx("172.25.1.0/26"))); err != nil {
				t.Fatal(err)
			}
			s.waitRoutes(t, "172.25.1.0/26 via 127.0.0.2")
			on.Store(true)
			begin := time.Now()
			eventually(t, func() string {
				if one := sessionOf(t, sp, p.Name); one.State == bgp.StateEstablished {
					return "the session is up"
				}
				return ""
			})
			took := time.Since(begin)
			if tt.kept {
				for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
					s.waitRoutes(t, "172.25.1.0/26 via 127.0.0.2")
				}
			} else {
				s.waitRoutes(t)
				t.Logf("down after %v, without routes %v later", took, time.Since(begin)-took)
				eventually(t, func() string {
					if one := sessionOf(t, sp, p.Name); !strings.Contains(one.LastError, "hold time over") || one.Flaps != 1 {
						return fmt.Sprintf("%+v", one)
					}
					return ""
				})
			}
			r := newPeerAt(t, speakerAddr(c), o)
			r.connect()
			r.announce(sender.Route{NextHop: o.Local, LocalPref: 100}, "172.25.1.0/26")
			s.waitRoutes(t, "172.25.1.0/26 via 127.0.0.2")
		})
	}
}
