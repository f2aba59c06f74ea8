package bgptest

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/godwit-net/godwit/bgp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	Conformance(t, func(t *testing.T, sink bgp.Sink, syncTimeout time.Duration) *Bench {
		local := netip.MustParseAddr("10.0.0.1")
		s := New(Options{Sink: sink, Local: local, SyncTimeout: syncTimeout})
		t.Cleanup(func() { _ = s.Stop(context.Background(), bgp.StopLeave) })
		return &Bench{
			Speaker: s, Local: local,
			Config: bgp.Config{ASN: 64512, RouterID: local},
			Router: func(i int, asn uint32, restartTime time.Duration) Router {
				addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})
				return s.Router(bgp.Peer{Name: addr.String(), Address: addr, ASN: asn}, restartTime)
			},
		}
	})
}

func TestDump(t *testing.T) {
	s := New(Options{Sink: NewRecorder(), Local: netip.MustParseAddr("10.0.0.1")})
	t.Cleanup(func() { _ = s.Stop(context.Background(), bgp.StopLeave) })
	c := bgp.Config{
		ASN: 64512, RouterID: netip.MustParseAddr("10.0.0.1"), Advertise: prefixes("172.25.0.0/26"),
		Peers: []bgp.Peer{
			{Name: "tor", Kind: bgp.PeerExternal, Address: netip.MustParseAddr("10.0.0.2"), ASN: 65001, Import: []bgp.Rule{accept("10.9.0.0/16", 24, 24)}},
			{Name: "n2", Address: netip.MustParseAddr("10.0.0.3"), ASN: 64512},
		},
	}
	if err := s.Set(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	r := s.Router(c.Peers[0], 0)
	r.Connect()
	r.Announce(r.Peer().Address, 1, prefixes("10.9.1.0/24")...)
	want := `as 64512, router id 10.0.0.1
announce 172.25.0.0/26
peer tor 10.0.0.2 as 65001 up
peer n2 10.0.0.3 as 64512 down
learned 10.9.1.0/24 via 10.0.0.2
`
	if got := s.Dump(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
