package gobgp

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/bgptest/sender"
)

// callSink counts how many prefixes each call brings, and how many prefixes have
// two ways.
type callSink struct {
	mu    sync.Mutex
	calls []int
	at    []time.Time
	two   map[netip.Prefix]bool
}

func (s *callSink) Learned(changed []bgp.Route, gone []netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls, s.at = append(s.calls, len(changed)+len(gone)), append(s.at, time.Now())
	for _, r := range changed {
		if delete(s.two, r.Prefix); len(r.NextHops) == 2 {
			s.two[r.Prefix] = true
		}
	}
}

func (s *callSink) InSync() {}

func (s *callSink) both() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.two)
}

// TestLostPeerIsOneChange: two routers announce the same. When one is lost, the
// sink is told of all its routes at once, so that routes can take its next hop
// away at once, too.
func TestLostPeerIsOneChange(t *testing.T) {
	const n = 1000
	s := &callSink{two: map[netip.Prefix]bool{}}
	sp := start(t, Options{Sink: s})
	c := baseConfig(t)
	prefixes := make([]netip.Prefix, n)
	for i := range prefixes {
		prefixes[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
	}
	var routers []*remote
	for _, a := range []string{"127.0.0.2", "127.0.0.3"} {
		asn := 65000 + uint32(addr(a).As4()[3])
		c.Peers = append(c.Peers, bgp.Peer{
			Name: a, Kind: bgp.PeerExternal, Address: addr(a), Port: 1, ASN: asn, MaxPrefixes: 2 * n,
			Import: []bgp.Rule{{Match: bgp.Match{Ranges: []bgp.Range{rng("10.0.0.0/8", 24)}}, Accept: true}},
		})
		o := external(a, asn)
		o.RestartTime = 0
		routers = append(routers, newPeerAt(t, speakerAddr(c), o))
	}
	set(t, sp, c)
	for _, r := range routers {
		r.connect()
		r.send(sender.Update(sender.Route{NextHop: r.options.Local, ASPath: []uint32{r.options.ASN}}, prefixes...))
	}
	eventually(t, func() string {
		if s.both() < n {
			return "not every prefix has two ways"
		}
		return ""
	})
	s.mu.Lock()
	before := len(s.calls)
	s.mu.Unlock()
	begin := time.Now()
	routers[0].breakOff()
	eventually(t, func() string {
		if s.both() > 0 {
			return "the lost router's ways are not gone"
		}
		return ""
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	t.Logf("%d prefixes of a lost router: told in calls of %v after %v", n, s.calls[before:], s.at[len(s.at)-1].Sub(begin))
	if len(s.calls) != before+1 {
		t.Errorf("told in %d calls, want 1", len(s.calls)-before)
	}
}
