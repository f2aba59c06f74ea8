package gobgp

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/bgptest/sender"
	"github.com/godwit-net/godwit/internal/netnstest"
)

func TestMain(m *testing.M) {
	if os.Getenv(processVar) != "" {
		if err := speakerProcess(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// When a session's state machine ends, GoBGP may leave the goroutine of its
	// queue behind, if something was put into the queue in the last moment.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/eapache/channels.(*InfiniteChannel).infiniteBuffer"))
}

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// sink records what it is told.
type sink struct {
	mu     sync.Mutex
	routes map[netip.Prefix]bgp.Route
	log    []string
	synced int
	turn   chan struct{} // closed and replaced at each change
}

func newSink() *sink {
	return &sink{routes: make(map[netip.Prefix]bgp.Route), turn: make(chan struct{})}
}

func (s *sink) Learned(changed []bgp.Route, gone []netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range changed {
		s.routes[r.Prefix] = r
		s.log = append(s.log, fmt.Sprint("+", r.Prefix, r.NextHops))
	}
	for _, p := range gone {
		delete(s.routes, p)
		s.log = append(s.log, fmt.Sprint("-", p))
	}
	s.changed()
}

func (s *sink) InSync() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.synced++
	s.log = append(s.log, "in sync")
	s.changed()
}

func (s *sink) changed() {
	close(s.turn)
	s.turn = make(chan struct{})
}

// wait waits until what is true of the sink.
func (s *sink) wait(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for {
		s.mu.Lock()
		ok, turn := cond(), s.turn
		s.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-turn:
		case <-deadline:
			s.mu.Lock()
			defer s.mu.Unlock()
			t.Fatalf("%s: not so after %v; the sink has %v", what, patience, s.log)
		}
	}
}

func (s *sink) waitRoutes(t testing.TB, want ...string) {
	t.Helper()
	slices.Sort(want)
	s.wait(t, fmt.Sprintf("the routes are %v", want), func() bool { return slices.Equal(s.list(), want) })
}

// list shows the routes as "10.0.0.0/26 via a b", sorted; the lock is held.
func (s *sink) list() []string {
	out := []string{}
	for _, r := range s.routes {
		line := r.Prefix.String() + " via"
		for _, h := range r.NextHops {
			line += " " + h.String()
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return out
}

func (s *sink) events() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log)
}

// eventually waits until f returns "", which says what is missing else.
func eventually(t testing.TB, f func() string) {
	t.Helper()
	missing := ""
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if missing = f(); missing == "" {
			return
		}
	}
	t.Fatalf("after %v: %s", patience, missing)
}

func addr(s string) netip.Addr  { return netip.MustParseAddr(s) }
func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// rng are the prefixes of a length inside of another.
func rng(s string, l int) bgp.Range {
	return bgp.Range{CIDR: pfx(s), MinLength: l, MaxLength: l}
}

// freePort is a TCP port that nobody listens on now.
func freePort(t testing.TB) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// baseConfig is a speaker at 127.0.0.1 in AS 64512, with nobody to talk to.
func baseConfig(t testing.TB) bgp.Config {
	return bgp.Config{
		ASN: 64512, RouterID: addr("10.255.0.1"),
		ListenAddresses: []netip.Addr{addr("127.0.0.1")}, ListenPort: freePort(t),
		Blocks:    []bgp.Range{rng("172.25.0.0/16", 26)},
		Advertise: []netip.Prefix{pfx("172.25.0.128/26")},
	}
}

func nodePeer(a string, port uint16) bgp.Peer {
	return bgp.Peer{
		Name: "node-" + a, Kind: bgp.PeerNode, Address: addr(a), Port: port, ASN: 64512, GracefulRestart: 60 * time.Second,
	}
}

// start makes a speaker that is stopped when the test ends.
func start(t testing.TB, o Options) *Speaker {
	t.Helper()
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop(context.Background(), bgp.StopRestart) })
	return s
}

func set(t testing.TB, s bgp.Speaker, c bgp.Config) {
	t.Helper()
	if err := s.Set(context.Background(), c); err != nil {
		t.Fatal(err)
	}
}

// remote is the other end of a session: it keeps dialling the speaker until
// the test has enough, and notes what it is told.
type remote struct {
	t       testing.TB
	options sender.Options
	at      netip.AddrPort
	ns      *netnstest.NS // to dial from; nil: our own

	mu      sync.Mutex
	session *sender.Session
	routes  map[netip.Prefix]netip.Addr
	log     []string
}

func newPeerAt(t testing.TB, speaker netip.AddrPort, o sender.Options) *remote {
	r := &remote{t: t, options: o, at: speaker, routes: make(map[netip.Prefix]netip.Addr)}
	r.options.OnUpdate = r.update
	t.Cleanup(r.breakOff)
	return r
}

func (r *remote) update(c sender.Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range c.Withdrawn {
		delete(r.routes, p)
		r.log = append(r.log, "-"+p.String())
	}
	for _, p := range c.Announced {
		r.routes[p] = c.Route.NextHop
		r.log = append(r.log, "+"+p.String())
	}
	if c.EndOfRIB4 {
		r.log = append(r.log, "eor")
	}
	if c.EndOfRIB6 {
		r.log = append(r.log, "eor6")
	}
}

// connect brings the session up, however often it takes.
func (r *remote) connect() *sender.Session {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var err error
	for ctx.Err() == nil {
		var s *sender.Session
		attempt, stop := context.WithTimeout(ctx, 2*time.Second)
		dial := func() { s, err = sender.Dial(attempt, r.at, r.options) }
		if r.ns != nil {
			r.ns.Do(dial)
		} else {
			dial()
		}
		stop()
		if err == nil {
			r.mu.Lock()
			r.session = s
			r.mu.Unlock()
			return s
		}
		time.Sleep(20 * time.Millisecond)
	}
	r.t.Fatalf("no session of %v with %v: %v", r.options.Local, r.at, err)
	return nil
}

func (r *remote) breakOff() {
	r.mu.Lock()
	s := r.session
	r.session = nil
	r.mu.Unlock()
	if s != nil {
		s.Close()
	}
}

func (r *remote) announce(route sender.Route, prefixes ...string) {
	r.t.Helper()
	ps := make([]netip.Prefix, len(prefixes))
	for i, p := range prefixes {
		ps[i] = pfx(p)
	}
	r.send(sender.Update(route, ps...))
}

func (r *remote) withdraw(prefix string) {
	r.t.Helper()
	r.send(sender.Withdraw(pfx(prefix)))
}

func (r *remote) send(b []byte) {
	r.t.Helper()
	if err := r.session.Send(b); err != nil {
		r.t.Fatal(err)
	}
}

func (r *remote) waitRoutes(want map[string]string) {
	r.t.Helper()
	eventually(r.t, func() string {
		r.mu.Lock()
		defer r.mu.Unlock()
		got := make(map[string]string)
		for p, h := range r.routes {
			got[p.String()] = h.String()
		}
		if maps.Equal(got, want) {
			return ""
		}
		return fmt.Sprintf("%v was told %v, not %v", r.options.Local, got, want)
	})
}

func (r *remote) events() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.log)
}

// internal is a router that stands for another node, at a loopback address.
func internal(a string) sender.Options {
	return sender.Options{Local: addr(a), ASN: 64512, RouterID: addr(a), RestartTime: 60 * time.Second}
}

// external is a router of another AS.
func external(a string, asn uint32) sender.Options {
	o := internal(a)
	o.ASN = asn
	return o
}

func speakerAddr(c bgp.Config) netip.AddrPort {
	return netip.AddrPortFrom(c.ListenAddresses[0], c.ListenPort)
}

func sessionOf(t testing.TB, s bgp.Speaker, name string) bgp.Session {
	t.Helper()
	all, err := s.Sessions(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range all {
		if one.Name == name {
			return one
		}
	}
	t.Fatalf("no session %s among %v", name, all)
	return bgp.Session{}
}
