package gobgp

import (
	"fmt"
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
)

const (
	retriesSoon = "connect retry of 2 s"
	retriesLate = "connect retry of 5 min"
)

// transportOptions have to do with how packets come to the other side.
func transportOptions() []option {
	proof := func(t *testing.T, s *seat) string { return hasOwn(t, s, "64512") }
	return []option{
		{
			name: "multihop", far: true, bird: "multihop 2;", frr: "ebgp-multihop 2",
			peer:  func(p *bgp.Peer) { p.MultihopTTL = 2 },
			proof: proof,
		},
		{name: "a router a hop away without multihop", far: true, bird: "multihop 2;", frr: "ebgp-multihop 2", down: true},
		{
			name: "TTL security over two hops", far: true, bird: "multihop 2;\nttl security on;", frr: "ttl-security hops 2",
			peer:  func(p *bgp.Peer) { p.GTSMHops = 2 },
			proof: proof,
		},
		{
			name: "TTL security over one hop to a router of two", far: true, bird: "multihop 2;\nttl security on;", frr: "ttl-security hops 2",
			peer: func(p *bgp.Peer) { p.GTSMHops = 1 },
			down: true,
		},
		{
			name: "TTL security", internal: true, bird: "ttl security on;", frr: "ttl-security hops 1",
			peer:  func(p *bgp.Peer) { p.GTSMHops = 1 },
			proof: proof,
		},
		{
			name: "a router with TTL security, which we have not", bird: "ttl security on;", frr: "ttl-security hops 1",
			down: true,
		},
		{
			name: "TTL security, which the router has not",
			peer: func(p *bgp.Peer) { p.GTSMHops = 1 },
			down: true,
		},
		{
			name: "port", internal: true,
			proof: func(t *testing.T, s *seat) string {
				if l := s.look(t); !s.bird() { // BIRD does not say; it has no other port
					return expect("its own port", l.ownPort, fmt.Sprint(s.peer.EffectivePort()))
				}
				return proof(t, s)
			},
		},
		{name: retriesSoon, late: true, peer: func(p *bgp.Peer) { p.ConnectRetry = 2 * time.Second }},
		{name: retriesLate, late: true, peer: func(p *bgp.Peer) { p.ConnectRetry = 5 * time.Minute }},
		{
			name: "a range that the router calls from", internal: true, ranged: true, active: true,
			sends: sendsMany, // what others also send may be sent on with the next hop of either
			peer:  takeAll,
			proof: proof,
		},
		{
			name: "password", internal: true, peer: func(p *bgp.Peer) { p.Password = password },
			proof: proof,
		},
		{
			name: "another password", suffix: "x", peer: func(p *bgp.Peer) { p.Password = password },
			down: true,
		},
		{name: "a password at the router only", suffix: "x", down: true},
		{
			name: "new password", internal: true, peer: func(p *bgp.Peer) { p.Password = password },
			proof: proof,
		},
	}
}

// testRetry lets us call, and sees who is called.
func testRetry(t *testing.T, b *rack) {
	t.Run("connect retry", func(t *testing.T) {
		for _, option := range []string{retriesLate, retriesSoon} {
			for _, tor := range []string{"tor1", "tor2"} {
				s := b.seat(t, tor, option)
				b.node.Run("ip", "addr", "add", s.ours()+"/24", "dev", fmt.Sprint("gw", s.i))
			}
		}
		for _, tor := range []string{"tor1", "tor2"} {
			s := b.seat(t, tor, retriesSoon)
			soon(t, func() string { return first(s.up(t), hasOwn(t, s, "64512")) })
		}
		for _, tor := range []string{"tor1", "tor2"} {
			if s := b.seat(t, tor, retriesLate); s.up(t) == "" {
				t.Errorf("%s is up, though it was not yet to be called again", s.name())
			}
		}
	})
}

// testRotation gives a session of each router a new password, first here and then
// there, and sees that no other is touched.
func testRotation(t *testing.T, b *rack, sp bgp.Speaker) {
	const option = "new password"
	t.Run(option, func(t *testing.T) {
		rotated := func(s *seat) bool { return s.option.name == option }
		before, ours := b.uptimes(t, func(s *seat) bool { return s.option.name == "password" || rotated(s) }), b.upSince(t, sp)
		set(t, sp, b.change(rotated, func(p *bgp.Peer) { p.Password = "n3w-s3cret" }))
		for _, s := range b.seats {
			if rotated(s) {
				soon(t, func() string {
					if l := s.look(t); l.established && l.isSince(before[s.name()]) {
						return l.text
					}
					return ""
				})
				s.password = "n3w-s3cret"
			}
		}
		b.configureAll(t)
		for _, s := range b.seats {
			if rotated(s) {
				soon(t, func() string { return first(s.up(t), hasOwn(t, s, "64512")) })
			}
		}
		b.mustHaveStayed(t, sp, before, ours, rotated)
	})
}
