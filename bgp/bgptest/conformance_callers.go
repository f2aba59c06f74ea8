package bgptest

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
)

// testCallers has routers call of which only the range is configured.
func testCallers(t *testing.T, f *fixture) {
	const own = "172.25.0.128/26"
	steady := f.add(1, bgp.PeerExternal, 65001, bgp.Rule{Accept: true})
	a, b := f.Router(2, 65002, time.Minute), f.Router(3, 65002, time.Minute)
	address := a.Peer().Address
	racks := netip.PrefixFrom(address, address.BitLen()-6).Masked() // all routers are in it
	callers := func(most int, ranges ...netip.Prefix) {
		f.Config.Callers = nil
		for _, r := range ranges {
			p := a.Peer()
			p.Name, p.Address, p.Import, p.GracefulRestart = "racks", netip.Addr{}, []bgp.Rule{f.accept("10.9.0.0/16", 24, 24)}, time.Minute
			p.Kind = bgp.PeerExternal
			f.Config.Callers = append(f.Config.Callers, bgp.Callers{Prefix: r, Most: most, Peer: p})
		}
		f.set()
	}
	callers(1, racks)
	steady.Connect()
	a.Connect()
	f.waitOwn(a, own)
	f.announce(a, 1, "10.9.1.0/24", "10.8.0.0/24")
	f.announce(steady, 1, "10.9.2.0/24")
	f.sink.WaitRoutes(t, f.via("10.9.1.0/24", a), f.via("10.9.2.0/24", steady))
	if s := f.session(a); s.Name != "racks/"+address.String() || s.Kind != bgp.PeerExternal || s.Accepted != 1 || s.Received != 2 {
		t.Errorf("the session is reported as %+v", s)
	}

	callers(2, racks) // one more may call
	b.Connect()
	f.waitOwn(b, own)
	f.announce(b, 1, "10.9.3.0/24")
	f.sink.WaitRoutes(t, f.via("10.9.1.0/24", a), f.via("10.9.2.0/24", steady), f.via("10.9.3.0/24", b))

	// Away without a word it is waited for, and its routes are kept.
	a.Break()
	f.until(func() string {
		if s := f.session(a); s.State == bgp.StateEstablished {
			return fmt.Sprintf("still up: %+v", s)
		}
		return ""
	})
	f.sink.WaitRoutes(t, f.via("10.9.1.0/24", a), f.via("10.9.2.0/24", steady), f.via("10.9.3.0/24", b))
	a.Connect()
	f.waitOwn(a, own)
	f.announce(a, 1, "10.9.1.0/24")
	a.EndOfRIB(f.Carried)

	// Who is configured by its address is no caller any more, also when it can't be had
	// as it is configured.
	peers := f.Config.Peers
	f.Config.Peers = append(slices.Clone(peers), bgp.Peer{Name: "bad", Kind: bgp.PeerExternal, Address: address})
	var pe *bgp.PeerError
	if err := f.Speaker.Set(t.Context(), f.Config); !errors.As(err, &pe) || pe.Peer != "bad" {
		t.Fatalf("a peer without AS number gave %v", err)
	}
	f.waitEnded(a, true)
	f.sink.WaitRoutes(t, f.via("10.9.2.0/24", steady), f.via("10.9.3.0/24", b))
	f.Config.Peers = peers
	f.set()
	a.Connect()
	f.waitOwn(a, own)

	// A range that is no more ends its sessions, and no others.
	callers(2)
	f.waitEnded(a, true)
	f.waitEnded(b, true)
	f.sink.WaitRoutes(t, f.via("10.9.2.0/24", steady))
	f.mustBeUp(steady)
	all, err := f.Speaker.Sessions(t.Context())
	if err != nil || slices.ContainsFunc(all, func(s bgp.Session) bool { return s.Address != steady.Peer().Address }) {
		t.Errorf("there are sessions left: %+v, %v", all, err)
	}
}
