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
	Conformance(t, func(t *testing.T, w World, sink bgp.Sink, syncTimeout time.Duration) *Bench {
		address := func(f bgp.Families, i byte) netip.Addr {
			if f == bgp.IPv4 {
				return netip.AddrFrom4([4]byte{10, 0, 0, i})
			}
			return netip.AddrFrom16([16]byte{0: 0xfd, 15: i})
		}
		s := New(Options{Sink: sink, Local: address(w.Session, 1), SyncTimeout: syncTimeout})
		t.Cleanup(func() { _ = s.Stop(context.Background(), bgp.StopLeave) })
		return &Bench{
			Speaker: s,
			Config:  bgp.Config{ASN: 64512, RouterID: address(bgp.IPv4, 1)},
			Local:   func(f bgp.Families) netip.Addr { return address(f, 1) },
			Router: func(i int, asn uint32, restartTime time.Duration) Router {
				mine, other := address(bgp.IPv4, byte(i+1)), address(bgp.IPv6, byte(i+1))
				if w.Session == bgp.IPv6 {
					mine, other = other, mine
				}
				return s.Router(bgp.Peer{Name: mine.String(), Address: mine, ASN: asn}, other, restartTime)
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
			{Name: "tor", Kind: bgp.PeerExternal, Address: netip.MustParseAddr("10.0.0.2"), ASN: 65001, Import: []bgp.Rule{{Match: bgp.Match{Ranges: []bgp.Range{{CIDR: netip.MustParsePrefix("10.9.0.0/16"), MinLength: 24, MaxLength: 24}}}, Accept: true}}},
			{Name: "n2", Address: netip.MustParseAddr("10.0.0.3"), ASN: 64512},
		},
	}
	if err := s.Set(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	r := s.Router(c.Peers[0], netip.Addr{}, 0)
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
