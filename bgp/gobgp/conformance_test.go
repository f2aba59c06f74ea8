package gobgp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/bgptest"
	"github.com/godwit-net/godwit/bgp/bgptest/sender"
)

func TestConformance(t *testing.T) {
	bgptest.Conformance(t, func(t *testing.T, sink bgp.Sink, syncTimeout time.Duration) *bgptest.Bench {
		c := baseConfig(t)
		return &bgptest.Bench{
			Speaker: start(t, Options{Sink: sink, SyncTimeout: syncTimeout}),
			Config:  bgp.Config{ASN: c.ASN, RouterID: c.RouterID, ListenAddresses: c.ListenAddresses, ListenPort: c.ListenPort},
			Local:   c.ListenAddresses[0],
			Router: func(i int, asn uint32, restartTime time.Duration) bgptest.Router {
				o := external(fmt.Sprint("127.0.0.", i+1), asn)
				o.RestartTime = restartTime
				return &benchRouter{remote: newPeerAt(t, speakerAddr(c), o)}
			},
		}
	})
}

// benchRouter makes a remote a bgptest.Router.
type benchRouter struct {
	*remote
	left bool // we have ended the last session ourselves
}

func (r *benchRouter) Peer() bgp.Peer {
	return bgp.Peer{Name: r.options.Local.String(), Address: r.options.Local, Port: 1, ASN: r.options.ASN}
}

func (r *benchRouter) Connect() {
	r.mu.Lock()
	clear(r.routes)
	r.mu.Unlock()
	r.connect()
	r.left = false
}

func (r *benchRouter) Announce(hop netip.Addr, length int, prefixes ...netip.Prefix) {
	route := sender.Route{NextHop: hop, ASPath: slices.Repeat([]uint32{r.options.ASN}, length)}
	if length == 0 {
		route.LocalPref = 100
	}
	r.send(sender.Update(route, prefixes...))
}

func (r *benchRouter) Withdraw(prefixes ...netip.Prefix) { r.send(sender.Withdraw(prefixes...)) }

func (r *benchRouter) EndOfRIB() { r.send(sender.EndOfRIB(true)) }

func (r *benchRouter) Break() {
	r.left = true
	r.breakOff()
}

func (r *benchRouter) Cease() {
	r.left = true
	r.session.Cease(2)
}

func (r *benchRouter) Routes() map[netip.Prefix]netip.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.routes)
}

func (r *benchRouter) Ended() (ended, cease bool) {
	r.mu.Lock()
	s := r.session
	r.mu.Unlock()
	if s == nil || r.left {
		return false, false
	}
	select {
	case <-s.Done():
		var n *sender.Notification
		return true, errors.As(s.Err(), &n) && n.Code == codeCease
	default:
		return false, false
	}
}

func TestStopBeforeSet(t *testing.T) {
	sp := start(t, Options{Sink: newSink()})
	if err := sp.Stop(context.Background(), bgp.StopRestart); err != nil {
		t.Error(err)
	}
}
