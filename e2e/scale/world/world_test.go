package world

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
)

// sink takes note that all is learned; more is never told.
type sink struct{ synced int }

func (s *sink) Learned([]bgp.Route, []netip.Prefix) {}
func (s *sink) InSync()                             { s.synced++ }

func addr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}) }

func block(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 25, byte(i), 0}), 26)
}

// cluster is nodes 1 to 6, of which 1 and 2 are reflectors: 3 and 4 are clients of
// both, 5 of 1 and 6 of 2. Each node has the block of its number.
type cluster struct {
	*World
	t        *testing.T
	speakers map[int]*Speaker
	configs  map[int]bgp.Config
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{World: New(), t: t, speakers: map[int]*Speaker{}, configs: map[int]bgp.Config{}}
	servers := map[int][]int{1: {2}, 2: {1}, 3: {1, 2}, 4: {1, 2}, 5: {1}, 6: {2}}
	for i := 1; i <= 6; i++ {
		cfg := bgp.Config{
			ASN: 64512, RouterID: addr(i), ListenPort: 179, Advertise: []netip.Prefix{block(i)},
			ValidateOrigin: true, Reflector: i <= 2,
		}
		for other, of := range servers {
			p := bgp.Peer{Name: fmt.Sprintf("n%d", other), Address: addr(other), Port: 179, ASN: 64512}
			switch {
			case slices.Contains(servers[i], other):
				p.Reflection = bgp.ReflectionServer
			case slices.Contains(of, i):
				p.Reflection, p.Owned = bgp.ReflectionClient, []netip.Prefix{block(other)}
			default:
				continue
			}
			cfg.Peers = append(cfg.Peers, p)
		}
		c.configs[i] = cfg
	}
	return c
}

func (c *cluster) start(i int) *sink {
	c.t.Helper()
	s := &sink{}
	c.speakers[i] = c.Speaker(addr(i), s)
	c.set(i)
	return s
}

func (c *cluster) set(i int) {
	c.t.Helper()
	if err := c.speakers[i].Set(c.t.Context(), c.configs[i]); err != nil {
		c.t.Fatal(err)
	}
}

// sees compares what a node reports of its sessions, by the other's number:
// accepted and refused; a session that is down is left out.
func (c *cluster) sees(i int, want map[int][2]int) {
	c.t.Helper()
	time.Sleep(countInterval) // for so long what is known may be out of date
	sessions, err := c.speakers[i].Sessions(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	got := map[int][2]int{}
	for _, s := range sessions {
		if s.State == bgp.StateEstablished {
			got[int(s.Address.As4()[3])] = [2]int{s.Accepted, s.RefusedCount}
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		c.t.Errorf("n%d: accepted and refused %v, want %v", i, got, want)
	}
}

func TestWorld(t *testing.T) {
	c := newCluster(t)
	if s := c.start(3); s.synced != 1 {
		t.Errorf("in sync %d times", s.synced)
	}
	c.sees(3, map[int][2]int{})
	for _, i := range []int{1, 2, 4, 5, 6} {
		c.start(i)
	}
	// Of all other five, but of what only the other reflector's clients announce: that
	// comes by way of both.
	c.sees(3, map[int][2]int{1: {5, 0}, 2: {5, 0}})
	c.sees(5, map[int][2]int{1: {5, 0}})
	// Of each client its own block; of the other reflector its own and those of its clients.
	c.sees(1, map[int][2]int{2: {4, 0}, 3: {1, 0}, 4: {1, 0}, 5: {1, 0}})

	// A block that the plan does not give to its announcer yet.
	cfg := c.configs[5]
	cfg.Advertise = append(slices.Clone(cfg.Advertise), block(50))
	c.configs[5] = cfg
	c.set(5)
	c.sees(1, map[int][2]int{2: {4, 0}, 3: {1, 0}, 4: {1, 0}, 5: {1, 1}})

	// A session ends when one side is not configured for it any more, and when one
	// side stops.
	cfg = c.configs[3]
	cfg.Peers = slices.DeleteFunc(slices.Clone(cfg.Peers), func(p bgp.Peer) bool { return p.Address == addr(1) })
	c.configs[3] = cfg
	c.set(3)
	c.sees(1, map[int][2]int{2: {4, 0}, 4: {1, 0}, 5: {1, 1}})
	if err := c.speakers[2].Stop(t.Context(), bgp.StopRestart); err != nil {
		t.Fatal(err)
	}
	c.sees(3, map[int][2]int{})
	c.start(2)
	c.sees(3, map[int][2]int{2: {6, 0}})
}
