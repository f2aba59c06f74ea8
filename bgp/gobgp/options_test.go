package gobgp

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
)

// option is a scenario for an option of a peer: how the two ends of a session
// are configured, and how the router's own output shows what comes of it. There
// is a session with each ToR, and with each router of our AS where the option is
// for those, too.
type option struct {
	name     string
	internal bool // also with routers of our own AS
	onlyFRR  bool
	far      bool // a hop away
	brief    bool // it does not stay up
	late     bool // we can't call at first: our address is missing
	active   bool // the router calls; else it only listens
	ranged   bool // we know the range only that the router is in
	asn      uint32
	// bothFamilies has the router offer both, else IPv4 only.
	bothFamilies bool
	suffix       string // of the router's password, which makes it another one
	peer         func(*bgp.Peer)
	bird, frr    string // lines of the session in the routers' configuration
	channel      string // more of BIRD's channel
	sends        string // which routes the router announces, as ranges
	// proof says what is missing in the router's words; down is that the session
	// must not come up.
	proof func(t *testing.T, s *seat) string
	down  bool
}

// remoteAS is our AS number in the router's configuration.
func (o *option) remoteAS() uint32 {
	if o.asn != 0 {
		return o.asn
	}
	return 64512
}

func relay(p *bgp.Peer) {
	p.Export = []bgp.Rule{{Match: bgp.Match{Source: bgp.SourceLearned}, Accept: true}}
}

func takeAll(p *bgp.Peer) { p.Import = []bgp.Rule{{Accept: true}} }

func TestOptions(t *testing.T) {
	t.Parallel()
	options := slices.Concat(ordinaryOptions(), pathOptions(), transportOptions(), restartOptions())
	b := newRack(t, options)
	sp := startChild(t, b.node.Name, false)
	began := time.Now()
	set(t, sp, b.config)
	for _, down := range []bool{false, true} { // the latter had time enough then
		for k := range options {
			if o := &options[k]; o.down == down && !o.late {
				t.Run(o.name, func(t *testing.T) { b.prove(t, o) })
			}
		}
	}
	t.Logf("all of it seen after %v", time.Since(began).Round(time.Millisecond))
	testRetry(t, b)
	testCounts(t, b, sp)
	testRotation(t, b, sp)
	testKept(t, b, sp)
}

// prove has the routers prove an option.
func (b *rack) prove(t *testing.T, o *option) {
	for _, s := range b.seats {
		if s.option != o {
			continue
		}
		t.Run(s.router, func(t *testing.T) {
			if o.down {
				if l := s.look(t); l.established {
					t.Errorf("the session is up: %s", l.text)
				}
				return
			}
			soon(t, func() string {
				if missing := s.up(t); missing != "" && !o.brief {
					return missing
				}
				return o.proof(t, s)
			})
		})
	}
}

// seat is the session of a router for an option.
func (b *rack) seat(t *testing.T, router, option string) *seat {
	t.Helper()
	for _, s := range b.seats {
		if s.router == router && s.option.name == option {
			return s
		}
	}
	t.Fatalf("%s has no session for %q", router, option)
	return nil
}

// ordinaryOptions have to do with timers, families and who calls whom.
func ordinaryOptions() []option {
	return []option{
		{
			name: "nothing asked for", internal: true,
			proof: func(t *testing.T, s *seat) string {
				l := s.look(t)
				return first(
					expect("hold time", l.hold, "90"), expect("our AS", l.remoteAS, "64512"), expect("our end", l.us, s.ours()),
					hasOwn(t, s, "64512"),
				)
			},
		},
		{
			name: "hold and keepalive time", internal: true, bird: "debug { packets };",
			peer: func(p *bgp.Peer) { p.Hold, p.Keepalive = 33*time.Second, time.Second },
			proof: func(t *testing.T, s *seat) string {
				l := s.look(t)
				if l.keepalives < 4 { // by default there would be three at most until we lose patience
					return fmt.Sprintf("it heard only %d keepalives", l.keepalives)
				}
				return expect("hold time", l.hold, "33")
			},
		},
		{
			name: "passive", internal: true, active: true,
			peer: func(p *bgp.Peer) { p.Passive = true },
			proof: func(t *testing.T, s *seat) string {
				if l := s.look(t); !s.bird() && l.port != fmt.Sprint(bgp.DefaultPort) {
					return "our port is " + l.port + ": we have called"
				}
				return hasOwn(t, s, "64512")
			},
		},
		{name: "passive at both ends", internal: true, down: true, peer: func(p *bgp.Peer) { p.Passive = true }},
		{
			name: "IPv4 only", internal: true, bothFamilies: true,
			peer:  func(p *bgp.Peer) { p.Families = bgp.IPv4 },
			proof: func(t *testing.T, s *seat) string { return expect("our families", s.look(t).families, "ipv4") },
		},
		{
			name: "IPv6 only", internal: true, bothFamilies: true,
			peer: func(p *bgp.Peer) { p.Families = bgp.IPv6 },
			proof: func(t *testing.T, s *seat) string {
				return first(expect("our families", s.look(t).families, "ipv6"), s.sees(t, ownPrefix, ""))
			},
		},
		{
			name: "both families", internal: true, bothFamilies: true,
			proof: func(t *testing.T, s *seat) string { return expect("our families", s.look(t).families, "ipv4 ipv6") },
		},
		{
			name: "as many prefixes as are warned of", sends: sendsMany,
			peer:  func(p *bgp.Peer) { p.MaxPrefixes, p.WarnPrefixes = 10, manyRoutes },
			proof: func(t *testing.T, s *seat) string { return hasOwn(t, s, "64512") },
		},
		{
			name: "fewer prefixes than are warned of", sends: sendsMany,
			peer:  func(p *bgp.Peer) { p.MaxPrefixes, p.WarnPrefixes = manyRoutes+1, manyRoutes+1 },
			proof: func(t *testing.T, s *seat) string { return hasOwn(t, s, "64512") },
		},
		{
			name: "more prefixes than the limit", sends: sendsMany, brief: true,
			peer: func(p *bgp.Peer) { p.MaxPrefixes = manyRoutes - 1 },
			proof: func(t *testing.T, s *seat) string {
				if l := s.look(t); l.established || !strings.Contains(strings.ToLower(l.warning), "administrative shutdown") {
					return l.text
				}
				return ""
			},
		},
	}
}

func expect(what, got, want string) string {
	if got != want {
		return fmt.Sprintf("the router has %q as %s, not %q", got, what, want)
	}
	return ""
}

// first is the first of what is missing.
func first(all ...string) string {
	for _, missing := range all {
		if missing != "" {
			return missing
		}
	}
	return ""
}

// hasOwn says whether the router has our prefix, by our end, with a path or, when it
// is of our AS, without.
func hasOwn(t *testing.T, s *seat, path string) string {
	t.Helper()
	if s.internal() {
		path = ""
	}
	return s.sees(t, ownPrefix, words(path, s.ours(), ""))
}
