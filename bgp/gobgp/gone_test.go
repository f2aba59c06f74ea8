package gobgp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/bgptest/sender"
)

// TestWithdrawalsWhileSessionsComeUp: nodes withdraw one prefix after the other while
// the sessions of others come up that are told of them, and of so many others that this
// takes a while. In the end each of these knows what is left.
func TestWithdrawalsWhileSessionsComeUp(t *testing.T) {
	const (
		nodes = 10
		late  = 20 // half of them clients, half routers that are sent everything
		each  = 200
		going = 150 // of each node's
	)
	s := newSink()
	sp := start(t, Options{Sink: s})
	c := baseConfig(t)
	c.Reflector, c.Blocks = true, []bgp.Range{rng("10.0.0.0/8", 24)}
	prefix := func(node, i int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(node<<4 + i>>8), byte(i), 0}), 24)
	}
	left := make(map[netip.Prefix]bool)
	left[c.Advertise[0]] = true
	var told, withdrawing []*remote
	for i := range late {
		o := internal(fmt.Sprint("127.0.0.", 101+i))
		p := nodePeer(o.Local.String(), 1)
		if p.Reflection = bgp.ReflectionClient; i%2 > 0 {
			o.ASN = 65001
			p.Kind, p.ASN, p.Reflection, p.Export = bgp.PeerExternal, o.ASN, bgp.ReflectionNone, []bgp.Rule{{Accept: true}}
		}
		c.Peers, told = append(c.Peers, p), append(told, newPeerAt(t, speakerAddr(c), o))
	}
	for n := range nodes {
		o := internal(fmt.Sprint("127.0.0.", 2+n))
		c.Peers, withdrawing = append(c.Peers, nodePeer(o.Local.String(), 1)), append(withdrawing, newPeerAt(t, speakerAddr(c), o))
	}
	set(t, sp, c)
	for n, r := range withdrawing {
		var all []netip.Prefix
		for i := range each {
			all = append(all, prefix(n, i))
			if i >= going {
				left[prefix(n, i)] = true
			}
		}
		r.connect()
		r.send(sender.Update(sender.Route{NextHop: r.options.Local, LocalPref: 100}, all...))
	}
	s.wait(t, "all is learned", func() bool { return len(s.routes) == nodes*each })

	var busy sync.WaitGroup
	for _, r := range told {
		busy.Go(func() { r.connect() })
	}
	for n, r := range withdrawing {
		busy.Go(func() {
			for i := range going {
				r.send(sender.Withdraw(prefix(n, i)))
				time.Sleep(time.Millisecond) // the moment is not known: all are tried
			}
		})
	}
	busy.Wait()
	s.wait(t, "what goes is gone", func() bool { return len(s.routes) == len(left)-1 })
	for _, r := range told {
		eventually(t, func() string {
			r.mu.Lock()
			defer r.mu.Unlock()
			stale, missing := 0, len(left)
			for p := range r.routes {
				if left[p] {
					missing--
				} else {
					stale++
				}
			}
			if stale == 0 && missing == 0 {
				return ""
			}
			return fmt.Sprintf("%v lacks %d prefixes and still has %d that went", r.options.Local, missing, stale)
		})
		if again := comesBack(r.events()); again != "" {
			t.Errorf("%v was told %q after that had gone", r.options.Local, again)
		}
		if one := sessionOf(t, sp, "node-"+r.options.Local.String()); one.Advertised != len(left) {
			t.Errorf("a session is reported as %+v", one)
		}
	}
	if again := comesBack(s.events()); again != "" {
		t.Errorf("the sink was told %q after that had gone", again)
	}
}

// comesBack finds the first announcement after a withdrawal of the same.
func comesBack(log []string) string {
	gone := make(map[string]bool)
	for _, e := range log {
		switch p, _, _ := strings.Cut(e[1:], "["); {
		case strings.HasPrefix(e, "-"):
			gone[p] = true
		case gone[p]:
			return e
		}
	}
	return ""
}

// TestWithdrawAgainIsNoAnnouncement: nobody, whoever it is, hears of the path that a
// withdrawal takes, and one that a peer has is in no way touched by it.
func TestWithdrawAgainIsNoAnnouncement(t *testing.T) {
	s := newSink()
	sp := start(t, Options{Sink: s})
	c := baseConfig(t)
	c.Reflector = true
	c.NextHops = []netip.Addr{addr("10.0.0.1"), addr("fd00::1")}
	c.Blocks = []bgp.Range{rng("172.25.0.0/16", 26), rng("fd01::/64", 122)}
	c.Aggregates = []netip.Prefix{pfx("172.25.0.0/16")}
	everything := []bgp.Rule{{Accept: true}}
	var all []*remote
	for i, p := range []bgp.Peer{
		{ASN: 64512}, // it will announce
		{ASN: 64512, Reflection: bgp.ReflectionClient},
		{ASN: 64512, Reflection: bgp.ReflectionServer},
		{ASN: 65001, Kind: bgp.PeerExternal},
		{ASN: 65001, Kind: bgp.PeerExternal, Export: everything},
		{ASN: 64512, Kind: bgp.PeerExternal, Export: everything},
	} {
		o := external(fmt.Sprint("127.0.0.", 2+i), p.ASN)
		// Others are sent a withdrawal in the place of what is stale, whatever the policy.
		o.LongLived = time.Minute
		p.Name, p.Address, p.Port = o.Local.String(), o.Local, 1
		p.GracefulRestart, p.LongLived = time.Minute, time.Minute
		c.Peers = append(c.Peers, p)
		all = append(all, newPeerAt(t, speakerAddr(c), o))
	}
	set(t, sp, c)
	for _, r := range all {
		r.connect()
	}
	eventually(t, func() string {
		for _, p := range c.Peers {
			if one := sessionOf(t, sp, p.Name); one.State != bgp.StateEstablished || len(one.Capabilities) == 0 {
				return fmt.Sprint(one)
			}
		}
		return ""
	})
	going := []netip.Prefix{pfx("172.25.3.0/26"), pfx("fd01::40/122")}
	withdraw := func() {
		t.Helper()
		sp.mu.Lock()
		defer sp.mu.Unlock()
		if err := sp.server.withdrawAgain(going); err != nil {
			t.Fatal(err)
		}
	}
	has := func(r *remote, events ...string) func() string {
		return func() string {
			log := r.events()
			if slices.ContainsFunc(events, func(e string) bool { return !slices.Contains(log, e) }) {
				return fmt.Sprintf("%v was told %v, and not all of %v", r.options.Local, log, events)
			}
			return ""
		}
	}
	before := sessionOf(t, sp, "127.0.0.6").Advertised
	withdraw()
	for _, r := range all {
		eventually(t, has(r, "-172.25.3.0/26", "-fd01::40/122"))
		if log := r.events(); slices.Contains(log, "+172.25.3.0/26") || slices.Contains(log, "+fd01::40/122") {
			t.Errorf("%v was told %v", r.options.Local, log)
		}
	}
	if got := sessionOf(t, sp, "127.0.0.6").Advertised; got != before {
		t.Errorf("%d prefixes are said to be advertised, where %d were", got, before)
	}

	// The worst path of a peer is better.
	leaving := []uint32{65535 << 16} // GRACEFUL_SHUTDOWN
	all[0].send(sender.Update(sender.Route{NextHop: addr("127.0.0.2"), Communities: leaving}, going[0]))
	all[0].send(sender.Update(sender.Route{NextHop: addr("fd00::2"), Communities: leaving}, going[1]))
	s.waitRoutes(t, "172.25.3.0/26 via 127.0.0.2", "fd01::40/122 via fd00::2")
	eventually(t, has(all[1], "+172.25.3.0/26", "+fd01::40/122"))
	told := len(all[1].events())
	withdraw()
	all[0].send(sender.Update(sender.Route{NextHop: addr("127.0.0.2")}, pfx("172.25.4.0/26")))
	eventually(t, has(all[1], "+172.25.4.0/26"))
	gone := func(e string) bool { return strings.HasPrefix(e, "-") }
	if log := all[1].events()[told:]; slices.ContainsFunc(log, gone) {
		t.Errorf("a client was told %v", log)
	}
	s.waitRoutes(t, "172.25.3.0/26 via 127.0.0.2", "fd01::40/122 via fd00::2", "172.25.4.0/26 via 127.0.0.2")
	if log := s.events(); slices.ContainsFunc(log, gone) {
		t.Errorf("the sink was told %v", log)
	}
}

// TestWithdrawalsAfterARestart: a speaker that restarted tells its peers of changes
// only when all have sent theirs, or after a while. What went meanwhile, its own or
// not, is withdrawn then.
func TestWithdrawalsAfterARestart(t *testing.T) {
	s := newSink()
	sp := start(t, Options{Sink: s, Restarting: true})
	c := baseConfig(t)
	c.Advertise = []netip.Prefix{pfx("172.25.0.128/26"), pfx("172.25.0.192/26")}
	c.Peers = []bgp.Peer{
		nodePeer("127.0.0.2", 1),
		{
			Name: "told", Kind: bgp.PeerExternal, Address: addr("127.0.0.3"), Port: 1, ASN: 65001,
			GracefulRestart: time.Minute, Export: []bgp.Rule{{Accept: true}},
		},
		nodePeer("127.0.0.4", 1), // it does not come
	}
	set(t, sp, c)
	node, told := newPeerAt(t, speakerAddr(c), internal("127.0.0.2")), newPeerAt(t, speakerAddr(c), external("127.0.0.3", 65001))
	node.connect()
	node.announce(sender.Route{NextHop: addr("127.0.0.2"), LocalPref: 100}, "172.25.3.0/26", "172.25.4.0/26")
	s.waitRoutes(t, "172.25.3.0/26 via 127.0.0.2", "172.25.4.0/26 via 127.0.0.2")
	told.connect()
	want := map[string]string{
		"172.25.0.128/26": "127.0.0.1", "172.25.0.192/26": "127.0.0.1", "172.25.3.0/26": "127.0.0.1", "172.25.4.0/26": "127.0.0.1",
	}
	told.waitRoutes(want)

	node.withdraw("172.25.3.0/26")
	c.Advertise = c.Advertise[:1]
	set(t, sp, c)
	delete(want, "172.25.3.0/26")
	delete(want, "172.25.0.192/26")
	told.waitRoutes(want)
	s.waitRoutes(t, "172.25.4.0/26 via 127.0.0.2")
	if again := comesBack(slices.DeleteFunc(told.events(), func(e string) bool { return e == "eor" })); again != "" {
		t.Errorf("it was told %q after that had gone", again)
	}
}
