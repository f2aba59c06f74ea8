package gobgp

import (
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
)

// tenSessions are ten sessions: three with each ToR and two with each router of
// our AS.
func tenSessions(t *testing.T) *rack {
	protected := func(p *bgp.Peer) {
		takeAll(p)
		p.Password, p.GracefulRestart = password, time.Minute
	}
	return newRack(t, []option{
		{name: "first", internal: true, sends: sendsAll, peer: protected},
		{name: "second", internal: true, sends: sendsMany, peer: protected},
		{name: "third", sends: sendsMany, peer: protected},
	})
}

// TestNineOfTenSessionsStay changes one session, at one router after the other,
// and sees that no other goes down, by what is said of it at both of its ends.
func TestNineOfTenSessionsStay(t *testing.T) {
	t.Parallel()
	b := tenSessions(t)
	if len(b.seats) != 10 {
		t.Fatalf("there are %d sessions", len(b.seats))
	}
	sp := startChild(t, b.node.Name, false)
	set(t, sp, b.config)
	for _, s := range b.seats {
		soon(t, func() string { return first(s.up(t), hasOwn(t, s, "64512")) })
	}
	for _, router := range []string{"tor1", "tor2"} {
		one := b.seat(t, router, "second")
		for _, change := range []struct {
			name     string
			how      func(*bgp.Peer)
			password string // that the router gets
			reset    string // what for, if it is
		}{
			{"filter", func(p *bgp.Peer) {
				p.Import = []bgp.Rule{{Match: bgp.Match{Ranges: []bgp.Range{rng("10.5.0.0/16", 24)}}, Accept: true}}
			}, "", ""},
			{"description", func(p *bgp.Peer) { p.Name += " in the other row" }, "", ""},
			{"password", func(p *bgp.Peer) { p.Password = "n3w-s3cret" }, "n3w-s3cret", "password"},
			{"timer", func(p *bgp.Peer) { p.Hold = 30 * time.Second }, "", "hold time, keepalive time"},
		} {
			t.Run(router+"/"+change.name, func(t *testing.T) {
				everyone := func(*seat) bool { return true }
				touched := func(s *seat) bool { return change.reset != "" && s == one }
				before, ours := b.uptimes(t, everyone), b.upSince(t, sp)
				began := time.Now()
				set(t, sp, b.change(func(s *seat) bool { return s == one }, change.how))
				if change.password != "" {
					one.password = change.password
					b.configureAll(t)
				}
				if touched(one) {
					soon(t, func() string {
						if l := one.look(t); !l.established || l.isSince(before[one.name()]) {
							return l.text
						}
						return hasOwn(t, one, "64512")
					})
					t.Logf("it was up again %v after the change", time.Since(began).Round(time.Millisecond))
				}
				b.mustHaveStayed(t, sp, before, ours, touched)
				if change.reset != "" {
					want := "its configuration changed, which takes a new session: " + change.reset
					if got := b.sessions(t, sp)[one]; got.LastError != want {
						t.Errorf("the session's last error is %q, not %q", got.LastError, want)
					}
				}
			})
		}
	}
}
