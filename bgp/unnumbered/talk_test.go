package unnumbered

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// clock plays a talk from moment to moment.
type clock struct {
	t   *testing.T
	now time.Time
	talk
	sent []string // with the second of each
}

func newClock(t *testing.T) *clock {
	c := &clock{t: t, now: time.Unix(1000, 0)}
	c.begin(c.now)
	return c
}

// pass lets time pass, and each due moment happen.
func (c *clock) pass(d time.Duration) {
	end := c.now.Add(d)
	for {
		advertise, solicit, next := c.due(c.now)
		for what, is := range map[string]bool{"advertise": advertise, "solicit": solicit} {
			if is {
				c.sent = append(c.sent, what)
			}
		}
		if !next.After(c.now) {
			c.t.Fatalf("at %v the next moment is %v", c.now, next)
		}
		if next.After(end) {
			c.now = end
			return
		}
		c.now = next
	}
}

func router(n string) netip.Addr { return netip.MustParseAddr("fe80::" + n + "%eth1") }

func TestTalkUntilARouterIsKnown(t *testing.T) {
	c := newClock(t)
	c.pass(60 * time.Second)
	// At 0, 3 and 6 s, and then every 10 s; and every 4 s.
	if a, s := len(c.sent)-c.countOf("solicit"), c.countOf("solicit"); a != 8 || s != 16 {
		t.Errorf("%d advertisements and %d solicitations in a minute; want 8 and 16", a, s)
	}
	if p := c.problem("eth1"); !strings.Contains(p, "no router advertisement has come in on eth1") {
		t.Errorf("problem: %q", p)
	}
	c.sent = nil
	c.heard(router("1"), c.now)
	c.pass(60 * time.Second)
	if n := c.countOf("solicit"); n != 0 || c.router != router("1") || c.problem("eth1") != "" {
		t.Errorf("%d solicitations of a router that is known: %v, %q", n, c.router, c.problem("eth1"))
	}
}

func (c *clock) countOf(what string) (n int) {
	for _, s := range c.sent {
		if s == what {
			n++
		}
	}
	return n
}

// However often it is asked, it does not advertise more often than every 3 s.
func TestAnswersAreRare(t *testing.T) {
	c := newClock(t)
	c.heard(router("1"), c.now)
	c.pass(20 * time.Second)
	c.sent = nil
	for range 300 {
		c.asked(c.now)
		c.pass(100 * time.Millisecond)
	}
	if n := c.countOf("advertise"); n < 9 || n > 11 {
		t.Errorf("%d answers within 30 s; want 10", n)
	}
}

func TestAnotherRouter(t *testing.T) {
	for name, c := range map[string]struct {
		// hear says which of two routers is heard at a second after the other was first.
		hear    func(second int) (first, other bool)
		router  string
		problem string
	}{
		"instead": {
			hear:   func(s int) (bool, bool) { return false, s%3 == 0 },
			router: "2",
		},
		"beside it": {
			hear:    func(s int) (bool, bool) { return s%3 == 0, s%3 == 1 },
			router:  "1",
			problem: "there is a second router fe80::2 on eth1 beside fe80::1",
		},
		"for a moment": {
			hear:   func(s int) (bool, bool) { return s%3 == 0, s == 0 },
			router: "1",
		},
		"that the first answers only when asked twice": {
			hear:    func(s int) (bool, bool) { return s%7 == 6, s%3 == 0 },
			router:  "1",
			problem: "there is a second router fe80::2 on eth1 beside fe80::1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := newClock(t)
			k.heard(router("1"), k.now)
			k.pass(time.Minute)
			k.sent = nil
			for s := range 90 {
				first, other := c.hear(s)
				if other {
					k.heard(router("2"), k.now)
				}
				if first {
					k.heard(router("1"), k.now)
				}
				k.pass(time.Second)
			}
			if k.router != router(c.router) {
				t.Errorf("the neighbour is %v; want %v", k.router, router(c.router))
			}
			if p := k.problem("eth1"); (p == "") != (c.problem == "") || !strings.HasPrefix(p, c.problem) {
				t.Errorf("problem: %q; want %q", p, c.problem)
			}
			if k.countOf("solicit") == 0 {
				t.Error("nobody was asked")
			}
		})
	}
}

// A link that comes up again is asked at once: there may be another router now.
func TestLinkComesBack(t *testing.T) {
	c := newClock(t)
	c.heard(router("1"), c.now)
	c.pass(time.Minute)
	c.sent = nil
	c.begin(c.now)
	c.pass(time.Second)
	if c.countOf("solicit") != 1 || c.router != router("1") {
		t.Errorf("%v sent; the neighbour is %v", c.sent, c.router)
	}
}
