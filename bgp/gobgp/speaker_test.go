package gobgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/bgptest/sender"
)

func TestAnnouncesOwnAndLearnsOthers(t *testing.T) {
	s := newSink()
	sp := start(t, Options{Sink: s})
	c := baseConfig(t)
	tor := bgp.Peer{
		Name: "tor", Kind: bgp.PeerExternal, Address: addr("127.0.0.3"), Port: 1, ASN: 65001,
		Import: []bgp.Rule{{Match: bgp.Match{Ranges: []bgp.Range{rng("10.9.0.0/16", 24)}}, Accept: true}},
	}
	c.Peers = []bgp.Peer{nodePeer("127.0.0.2", 1), tor}
	set(t, sp, c)
	node := newPeerAt(t, speakerAddr(c), internal("127.0.0.2"))
	rack := newPeerAt(t, speakerAddr(c), external("127.0.0.3", 65001))
	node.connect()
	rack.connect()

	// Both are told our prefix, with our address of the session as next hop, and no
	// one is told what the other announced.
	node.announce(sender.Route{NextHop: addr("127.0.0.2"), LocalPref: 100}, "172.25.0.192/26")
	rack.announce(sender.Route{NextHop: addr("127.0.0.3"), ASPath: []uint32{65001}}, "10.9.1.0/24")
	s.waitRoutes(t, "10.9.1.0/24 via 127.0.0.3", "172.25.0.192/26 via 127.0.0.2")
	own := map[string]string{"172.25.0.128/26": "127.0.0.1"}
	node.waitRoutes(own)
	rack.waitRoutes(own)
	if r := s.routes[pfx("172.25.0.192/26")]; !r.FromNode {
		t.Error("a node's route is not said to come from a node")
	}
	if r := s.routes[pfx("10.9.1.0/24")]; r.FromNode {
		t.Error("a router's route is said to come from a node")
	}

	c.Advertise = []netip.Prefix{pfx("172.25.1.0/26")}
	set(t, sp, c)
	own = map[string]string{"172.25.1.0/26": "127.0.0.1"}
	node.waitRoutes(own)
	rack.waitRoutes(own)

	node.withdraw("172.25.0.192/26")
	s.waitRoutes(t, "10.9.1.0/24 via 127.0.0.3")

	got := sessionOf(t, sp, "tor")
	if got.State != bgp.StateEstablished || got.Received != 1 || got.Accepted != 1 || got.Advertised != 1 || got.Since.IsZero() || got.Message != "" {
		t.Errorf("the session with the router is reported as %+v", got)
	}
	// (GoBGP sends withdrawals past the policy, also of what it never announced.)
	for _, r := range []*remote{node, rack} {
		if log := fmt.Sprint(r.events()); strings.Contains(log, "+10.9.") || strings.Contains(log, "+172.25.0.192") {
			t.Errorf("%v was told of others' routes: %v", r.options.Local, log)
		}
	}
}

func TestPeersAreChangedOneByOne(t *testing.T) {
	s := newSink()
	sp := start(t, Options{Sink: s})
	c := baseConfig(t)
	a, b := nodePeer("127.0.0.2", 1), nodePeer("127.0.0.3", 1)
	c.Peers = []bgp.Peer{a, b}
	set(t, sp, c)
	ra := newPeerAt(t, speakerAddr(c), internal("127.0.0.2"))
	rb := newPeerAt(t, speakerAddr(c), internal("127.0.0.3"))
	rd := newPeerAt(t, speakerAddr(c), internal("127.0.0.4"))
	ra.connect()
	stays := rb.connect()
	rb.announce(sender.Route{NextHop: addr("127.0.0.3"), LocalPref: 100}, "172.25.3.0/26")

	steps := map[string]func(){
		"hold":     func() { a.Hold = 30 * time.Second },
		"restart":  func() { a.GracefulRestart = 90 * time.Second },
		"password": func() { a.Password = "secret"; ra.options.Password = "secret" },
		"re-key":   func() { a.Password = "other"; ra.options.Password = "other" },
		"bare":     func() { a.Password = ""; ra.options.Password = "" },
		"port":     func() { a.Port = 2 },
	}
	for _, name := range []string{"hold", "restart", "password", "re-key", "bare", "port"} {
		old := ra.session
		steps[name]()
		c.Peers = []bgp.Peer{a, b}
		set(t, sp, c)
		select {
		case <-old.Done():
		case <-time.After(patience):
			t.Fatalf("%s: the session was not reset", name)
		}
		ra.connect()
		ra.waitRoutes(map[string]string{"172.25.0.128/26": "127.0.0.1"})
	}
	c.Peers = []bgp.Peer{a, b, nodePeer("127.0.0.4", 1)}
	set(t, sp, c)
	rd.connect()
	c.Peers = []bgp.Peer{b}
	set(t, sp, c)
	for _, r := range []*remote{ra, rd} {
		<-r.session.Done()
	}
	set(t, sp, c)
	s.waitRoutes(t, "172.25.3.0/26 via 127.0.0.3")
	select {
	case <-stays.Done():
		t.Errorf("the session that nothing changed of was reset: %v", stays.Err())
	default:
	}
	if log := s.events(); slices.Contains(log, "-172.25.3.0/26") {
		t.Errorf("its route went away: %v", log)
	}
}

func TestWrongPasswordStaysOut(t *testing.T) {
	sp := start(t, Options{Sink: newSink()})
	c := baseConfig(t)
	p := nodePeer("127.0.0.2", 1)
	p.Password = "right"
	c.Peers = []bgp.Peer{p}
	set(t, sp, c)
	for _, password := range []string{"", "wrong"} {
		o := internal("127.0.0.2")
		o.Password = password
		ctx, cancel := context.WithTimeout(context.Background(), 700*time.Millisecond)
		if s, err := sender.Dial(ctx, speakerAddr(c), o); err == nil {
			t.Errorf("a session came up with the password %q", password)
			s.Close()
		}
		cancel()
	}
	o := internal("127.0.0.2")
	o.Password = "right"
	newPeerAt(t, speakerAddr(c), o).connect()
}

func TestUnusablePeersDoNotHoldUpOthers(t *testing.T) {
	sp := start(t, Options{Sink: newSink()})
	c := baseConfig(t)
	good := nodePeer("127.0.0.2", 1)
	noASN := nodePeer("127.0.0.3", 1)
	noASN.ASN = 0
	twice := nodePeer("127.0.0.2", 1)
	twice.Name = "twice"
	c.Peers = []bgp.Peer{good, noASN, twice}
	err := sp.Set(context.Background(), c)
	if err == nil || !strings.Contains(err.Error(), "node-127.0.0.3: ") || !strings.Contains(err.Error(), "peer twice: ") {
		t.Fatalf("the error is %v", err)
	}
	var pe *bgp.PeerError
	if !errors.As(err, &pe) {
		t.Fatalf("%v is no *PeerError", err)
	}
	r := newPeerAt(t, speakerAddr(c), internal("127.0.0.2"))
	r.connect()

	// A known peer whose new properties make no sense keeps its old ones.
	bad := good
	bad.ASN = 0
	c.Peers = []bgp.Peer{bad}
	if err := sp.Set(context.Background(), c); err == nil {
		t.Fatal("a peer without AS number gave no error")
	}
	r.waitRoutes(map[string]string{"172.25.0.128/26": "127.0.0.1"})
	select {
	case <-r.session.Done():
		t.Errorf("the session was reset: %v", r.session.Err())
	default:
	}
	c.ASN = 0
	if err := sp.Set(context.Background(), c); err == nil {
		t.Error("AS 0 gave no error")
	}
}

func TestNewASNumberRestartsTheServer(t *testing.T) {
	s := newSink()
	sp := start(t, Options{Sink: s})
	c := baseConfig(t)
	p := nodePeer("127.0.0.2", 1)
	c.Peers = []bgp.Peer{p}
	set(t, sp, c)
	r := newPeerAt(t, speakerAddr(c), internal("127.0.0.2"))
	r.connect()
	r.announce(sender.Route{NextHop: addr("127.0.0.2"), LocalPref: 100}, "172.25.3.0/26")
	s.waitRoutes(t, "172.25.3.0/26 via 127.0.0.2")
	c.ASN, p.ASN = 64513, 64513
	c.Peers = []bgp.Peer{p}
	set(t, sp, c)
	s.waitRoutes(t)
	<-r.session.Done()
	r.options.ASN = 64513
	r.connect()
	r.announce(sender.Route{NextHop: addr("127.0.0.2"), LocalPref: 100}, "172.25.3.0/26")
	s.waitRoutes(t, "172.25.3.0/26 via 127.0.0.2")
	r.waitRoutes(map[string]string{"172.25.0.128/26": "127.0.0.1"})
}

func TestPortInUseIsAnErrorThatCanBeRetried(t *testing.T) {
	sp := start(t, Options{Sink: newSink()})
	first := start(t, Options{Sink: newSink()})
	c := baseConfig(t)
	set(t, first, c)
	if err := sp.Set(context.Background(), c); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Fatalf("the error is %v", err)
	}
	if err := first.Stop(context.Background(), bgp.StopLeave); err != nil {
		t.Fatal(err)
	}
	set(t, sp, c)
}

func TestSlowSinkGetsTheNewestOnly(t *testing.T) {
	s := newSink()
	gate := &gatedSink{sink: s, gate: make(chan struct{}), in: make(chan struct{}, 1000)}
	sp := start(t, Options{Sink: gate})
	c := baseConfig(t)
	c.Peers = []bgp.Peer{nodePeer("127.0.0.2", 1)}
	set(t, sp, c)
	r := newPeerAt(t, speakerAddr(c), internal("127.0.0.2"))
	r.connect()
	r.announce(sender.Route{NextHop: addr("127.0.0.2"), LocalPref: 100}, "172.25.3.0/26")
	<-gate.in // the sink is busy from here on
	for i := range 50 {
		r.announce(sender.Route{NextHop: addr(fmt.Sprint("127.0.1.", i+1)), LocalPref: 100}, "172.25.4.0/26")
		r.withdraw("172.25.4.0/26")
	}
	r.announce(sender.Route{NextHop: addr("127.0.0.9"), LocalPref: 100}, "172.25.4.0/26")
	r.announce(sender.Route{NextHop: addr("127.0.0.9"), LocalPref: 100}, "172.25.5.0/26")
	eventually(t, func() string {
		if got := sessionOf(t, sp, "node-127.0.0.2"); got.Received != 3 {
			return fmt.Sprint(got)
		}
		return ""
	})
	close(gate.gate)
	s.waitRoutes(t, "172.25.3.0/26 via 127.0.0.2", "172.25.4.0/26 via 127.0.0.9", "172.25.5.0/26 via 127.0.0.9")
	if log := s.events(); len(log) > 6 {
		t.Errorf("101 changes of a prefix while the sink was busy gave %d reports: %v", len(log), log)
	}
}

// gatedSink takes no call before its gate is open.
type gatedSink struct {
	*sink
	gate, in chan struct{}
}

func (g *gatedSink) Learned(changed []bgp.Route, gone []netip.Prefix) {
	g.in <- struct{}{}
	<-g.gate
	g.sink.Learned(changed, gone)
}

// Someone who announces our block, or a part of it, with a higher preference
// must not keep us from announcing it, nor draw our pods away.
func TestOwnPrefixesAreOurs(t *testing.T) {
	s := newSink()
	sp := start(t, Options{Sink: s})
	c := baseConfig(t)
	c.Blocks = []bgp.Range{{CIDR: pfx("172.25.0.0/16"), MinLength: 26, MaxLength: 28}}
	c.Peers = []bgp.Peer{nodePeer("127.0.0.2", 1), nodePeer("127.0.0.3", 1)}
	set(t, sp, c)
	thief := newPeerAt(t, speakerAddr(c), internal("127.0.0.2"))
	friend := newPeerAt(t, speakerAddr(c), internal("127.0.0.3"))
	thief.connect()
	friend.connect()
	thief.announce(sender.Route{NextHop: addr("127.0.0.2"), LocalPref: 5000}, "172.25.3.0/26", "172.25.3.16/28", "172.25.4.0/26")
	s.waitRoutes(t, "172.25.3.0/26 via 127.0.0.2", "172.25.3.16/28 via 127.0.0.2", "172.25.4.0/26 via 127.0.0.2")
	c.Advertise = append(slices.Clone(c.Advertise), pfx("172.25.3.0/26"))
	set(t, sp, c)
	s.waitRoutes(t, "172.25.4.0/26 via 127.0.0.2")
	friend.waitRoutes(map[string]string{"172.25.0.128/26": "127.0.0.1", "172.25.3.0/26": "127.0.0.1"})
}
