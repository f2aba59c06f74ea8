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
	"github.com/godwit-net/godwit/internal/netnstest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	bgptest.Conformance(t, func(t *testing.T, w bgptest.World, sink bgp.Sink, syncTimeout time.Duration) *bgptest.Bench {
		b := &bgptest.Bench{Config: baseConfig(t)}
		b.Config.Blocks, b.Config.Advertise = nil, nil
		var ns *netnstest.NS
		prefix := "127.0.0."
		if w.Session == bgp.IPv4 {
			b.Speaker = start(t, Options{Sink: sink, SyncTimeout: syncTimeout})
		} else {
			// Of IPv6 a machine has only one address to itself, but a namespace has many.
			ns, prefix = newV6Namespace(t), "fd00::"
			b.Config.ListenAddresses, b.Config.ListenPort = []netip.Addr{addr("fd00::1")}, 1179
			b.Speaker = startChildWith(t, ns.Name, mode{SyncTimeout: syncTimeout}, sink)
		}
		address := func(f bgp.Families, i int) netip.Addr {
			if f == w.Session {
				return addr(fmt.Sprint(prefix, i))
			}
			return addr(fmt.Sprint(map[bgp.Families]string{bgp.IPv4: "10.0.0.", bgp.IPv6: "fd00:0:0:1::"}[f], i))
		}
		b.Local = func(f bgp.Families) netip.Addr { return address(f, 1) }
		b.Router = func(i int, asn uint32, restartTime time.Duration) bgptest.Router {
			o := external(fmt.Sprint(prefix, i+1), asn)
			o.RouterID, o.RestartTime = address(bgp.IPv4, i+1), restartTime
			r := newPeerAt(t, speakerAddr(b.Config), o)
			r.ns = ns
			return &benchRouter{remote: r, address: func(f bgp.Families) netip.Addr { return address(f, i+1) }}
		}
		return b
	})
}

// newV6Namespace makes a namespace with the addresses fd00::1 to fd00::9.
func newV6Namespace(t testing.TB) *netnstest.NS {
	t.Helper()
	ns := netnstest.New(t)
	for i := range 9 {
		ns.Run("ip", "addr", "add", fmt.Sprintf("fd00::%d/128", i+1), "dev", "lo", "nodad")
	}
	return ns
}

// benchRouter makes a remote a bgptest.Router.
type benchRouter struct {
	*remote
	address func(f bgp.Families) netip.Addr
	left    bool // we have ended the last session ourselves
}

func (r *benchRouter) Address(f bgp.Families) netip.Addr { return r.address(f) }

func (r *benchRouter) Offer(f bgp.Families) {
	r.options.NoIPv4, r.options.NoIPv6 = !f.Has(bgp.IPv4), !f.Has(bgp.IPv6)
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

func (r *benchRouter) EndOfRIB(f bgp.Families) {
	for _, one := range f.Each() {
		r.send(sender.EndOfRIB(one == bgp.IPv4))
	}
}

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
