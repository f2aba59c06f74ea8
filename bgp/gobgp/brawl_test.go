package gobgp

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/bgptest/sender"
)

// rest is for how long GoBGP lets no one in whose session fell.
const rest = 5 * time.Second

// brawlers are how many peers take turns at a fuzz target. With each resting for a
// while, that says how fast it goes; for the seeds alone a few will do.
func brawlers() int {
	if f := flag.Lookup("test.fuzz"); f != nil && f.Value.String() != "" {
		return 1000
	}
	return 250
}

// brawl is a speaker that is sent anything at all. What must hold meanwhile is
// checked at each step and at each change of routes.
type brawl struct {
	sink   *guard
	at     netip.AddrPort
	steady *remote
	others []*remote // that are sent on what is learned
	ready  chan *brawler
}

// brawler is one of the peers; every third is a node, and every fifth knows AS
// numbers of two octets only (RFC 6793).
type brawler struct {
	options sender.Options
	session *sender.Session // nil: none is up
	told    chan struct{}   // has something when a route came
}

// guard is a sink that knows what may be learned.
type guard struct {
	mu    sync.Mutex
	has   bool // the steady peer's route
	wrong error
}

var (
	guarded = pfx("172.25.3.0/26")
	allowed = []bgp.Range{rng("10.9.0.0/16", 24), rng("fd09::/32", 64), rng("172.25.0.0/16", 26)}
)

func (g *guard) Learned(changed []bgp.Route, gone []netip.Prefix) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range changed {
		ok := false
		for _, a := range allowed {
			ok = ok || a.Contains(r.Prefix)
		}
		if !ok || pfx("172.25.0.128/26").Contains(r.Prefix.Addr()) {
			g.wrong = fmt.Errorf("%v was learned, which no policy allows", r)
		}
		for _, h := range r.NextHops {
			if bgp.NextHopOf(netip.Addr{}, r.Prefix, h) != h {
				g.wrong = fmt.Errorf("%v was learned by a next hop that makes no sense", r)
			}
		}
		g.has = g.has || r.Prefix == guarded
	}
	for _, p := range gone {
		if p == guarded {
			g.wrong = fmt.Errorf("the route of the steady peer went away")
		}
	}
}

func (g *guard) InSync() {}

func (g *guard) check() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.has {
		return fmt.Errorf("the route of the steady peer is not there")
	}
	return g.wrong
}

func newBrawl(t testing.TB) *brawl {
	c := arenaConfig(t, 0)
	many := brawlers()
	b := &brawl{sink: &guard{}, at: speakerAddr(c), ready: make(chan *brawler, many)}
	passOn := []bgp.Rule{{Match: bgp.Match{Source: bgp.SourceLearned}, Accept: true, Set: bgp.Attributes{AddCommunities: []string{"64512:1", "64512:1:2"}, Prepend: 2}}}
	for i, at := range []string{"127.0.9.1", "127.0.9.2"} {
		o := external(at, 65002)
		o.TwoOctetAS = i == 1
		c.Peers = append(c.Peers, bgp.Peer{Name: at, Kind: bgp.PeerExternal, Address: o.Local, ASN: o.ASN, Passive: true, Export: passOn})
		b.others = append(b.others, newPeerAt(t, b.at, o))
	}
	for i := range many {
		name, o := fmt.Sprint("brawler", i), external(rogueAddress(i).String(), rogueASN)
		p := bgp.Peer{
			Name: name, Kind: bgp.PeerExternal, Address: o.Local, ASN: rogueASN, Passive: true,
			Import: []bgp.Rule{
				{Match: bgp.Match{Communities: []string{"1:1", "1:2:3"}}},
				{Match: bgp.Match{CommunityRegexp: "^6[0-9]+:1"}},
				{Match: bgp.Match{ASPathRegexp: "_65009_"}},
				accepts("10.9.0.0/16", 24), accepts("fd09::/32", 64),
			},
		}
		if i%3 == 0 {
			p.Kind, p.ASN, p.Import, o.ASN = bgp.PeerNode, c.ASN, nil, c.ASN
		}
		c.Peers = append(c.Peers, p)
		o.RestartTime, o.TwoOctetAS = 0, i%5 == 0
		one := &brawler{options: o}
		b.ready <- one
		t.Cleanup(one.down)
	}
	s := start(t, Options{Sink: b.sink})
	set(t, s, c)
	b.steady = newPeerAt(t, b.at, internal("127.0.0.3"))
	b.steady.connect()
	for _, r := range b.others {
		r.connect()
	}
	// Nobody else's way to it is as good.
	b.steady.announce(sender.Route{NextHop: addr("127.0.0.3"), LocalPref: 1 << 31}, guarded.String())
	eventually(t, func() string {
		if err := b.sink.check(); err != nil {
			return err.Error()
		}
		return ""
	})
	return b
}

// undisturbed checks that the peers that behave have not noticed anything, and
// were sent nothing that makes no sense.
func (b *brawl) undisturbed(t testing.TB) {
	t.Helper()
	for _, r := range append(b.others, b.steady) {
		select {
		case <-r.session.Done():
			t.Fatalf("the session of %v fell: %v", r.options.Local, r.session.Err())
		default:
		}
	}
	if err := b.sink.check(); err != nil {
		t.Fatal(err)
	}
}

// next is a peer whose turn it is.
func (b *brawl) next(t testing.TB) *brawler {
	t.Helper()
	select {
	case p := <-b.ready:
		return p
	case <-time.After(patience):
		t.Fatal("the speaker lets none of the peers in again")
	}
	return nil
}

// later gives a peer whose session fell its next turn when it has rested.
func (b *brawl) later(p *brawler) { time.AfterFunc(rest, func() { b.ready <- p }) }

func (p *brawler) down() {
	if p.session != nil {
		p.session.Close()
	}
}

// up brings the session up.
func (p *brawler) up(t testing.TB, at netip.AddrPort) {
	t.Helper()
	if p.session != nil {
		select {
		case <-p.session.Done(): // it fell late
		default:
			return
		}
	}
	told := make(chan struct{}, 100)
	p.told = told
	o := p.options
	o.OnUpdate = func(c sender.Change) {
		if len(c.Announced) == 0 && !o.TwoOctetAS {
			return
		}
		select {
		case told <- struct{}{}:
		default: // enough is enough
		}
	}
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		p.session, err = sender.Dial(ctx, at, o)
		cancel()
		if err == nil {
			p.wait(t) // for what the speaker has
			return
		}
	}
	t.Fatalf("%v is not let in: %v", o.Local, err)
}

// wait waits until the peer was told a route, or the session ended.
func (p *brawler) wait(t testing.TB) (ended bool) {
	t.Helper()
	select {
	case <-p.session.Done():
		return true
	case <-p.told:
		return false
	case <-time.After(patience):
		t.Fatal("the speaker neither goes on with the session nor ends it")
	}
	return true
}

// send has the next peer send a message over its session, and sees to it that
// the speaker deals with it.
func (b *brawl) send(t *testing.T, message []byte) {
	t.Helper()
	if len(message) > 4096 {
		return // longer ones may not be sent
	}
	p := b.next(t)
	p.up(t, b.at)
	for len(p.told) > 0 {
		<-p.told
	}
	_ = p.session.Send(message)
	// The answer to this shows that the message was dealt with.
	_ = p.session.Refresh(true)
	if p.wait(t) {
		p.down()
		p.session = nil
		b.later(p)
	} else {
		b.ready <- p
	}
	b.undisturbed(t)
}
