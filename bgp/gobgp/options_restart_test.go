package gobgp

import (
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
)

const (
	withRestart   = "graceful restart"
	withLongLived = "long-lived graceful restart"
	shortRestart  = "a restart time that is over soon"
	noRestart     = "no graceful restart"
)

// restartOptions have to do with what routers keep while we are away.
func restartOptions() []option {
	proof := func(t *testing.T, s *seat) string { return hasOwn(t, s, "64512") }
	return []option{
		{name: withRestart, internal: true, proof: proof, peer: func(p *bgp.Peer) { p.GracefulRestart = time.Minute }},
		{name: shortRestart, internal: true, proof: proof, peer: func(p *bgp.Peer) { p.GracefulRestart = time.Second }},
		{name: withLongLived, internal: true, proof: proof, peer: func(p *bgp.Peer) {
			p.GracefulRestart, p.LongLived = time.Second, 10*time.Minute
		}},
		{name: noRestart, internal: true, proof: proof},
	}
}

// testKept kills the speaker and sees what the routers keep.
func testKept(t *testing.T, b *rack, sp *child) {
	sp.kill()
	path := func(s *seat) string {
		if s.internal() {
			return ""
		}
		return "64512"
	}
	for option, communities := range map[string]string{
		withRestart:   "",
		shortRestart:  "gone",
		withLongLived: "65535:6", // LLGR_STALE
		noRestart:     "gone",
	} {
		t.Run(option+" over a kill", func(t *testing.T) {
			for _, s := range b.seats {
				if s.option.name != option {
					continue
				}
				soon(t, func() string {
					if l := s.look(t); l.established {
						return l.text
					}
					if communities == "gone" {
						return s.sees(t, ownPrefix, "")
					}
					return s.sees(t, ownPrefix, words(path(s), s.ours(), communities))
				})
			}
		})
	}
}
