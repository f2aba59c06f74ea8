package unnumbered

import (
	"fmt"
	"net/netip"
	"time"
)

const (
	// advertiseEvery is the time between advertisements: a router that came up finds
	// the node after so long at the latest, if it does not ask.
	advertiseEvery = 10 * time.Second
	// advertiseRest is the least time between two of them (RFC 4861, section 10:
	// MIN_DELAY_BETWEEN_RAS).
	advertiseRest = 3 * time.Second
	// firstAdvertisements come at that interval, for a link that just came up may
	// lose some (MAX_INITIAL_RTR_ADVERTISEMENTS).
	firstAdvertisements = 3
	// solicitEvery is the time between solicitations of a router that is not known
	// yet (RTR_SOLICITATION_INTERVAL).
	solicitEvery = 4 * time.Second
	// answerWithin is how long a router may take to answer a solicitation: it may not
	// advertise more often than once in 3 s, and waits for half a second in addition.
	// There are two solicitations within that time.
	answerWithin = 8 * time.Second
	// rivalStays is for how long after it was last heard a second router is reported,
	// and rivalSolicit how often both are asked meanwhile.
	rivalStays, rivalSolicit = 60 * time.Second, 20 * time.Second
)

// talk is what is said and heard on one link. It is pure: time comes in, and
// what is to be sent goes out.
type talk struct {
	router netip.Addr // the neighbour; zero: none was heard
	// rival is another router, and rivalHeard when it was last heard; while the
	// router itself has not been heard since doubted it may be gone. Once it was, there
	// are both.
	rival      netip.Addr
	rivalHeard time.Time
	doubted    time.Time // zero: it is not in doubt
	both       bool

	advertised time.Time // the last time
	advertise  time.Time // the next time
	count      int       // advertisements so far
	solicit    time.Time // the next time; zero: never
}

// begin starts to talk on a link that has just come up. Who was there may be
// another now.
func (t *talk) begin(now time.Time) {
	t.count = 0
	t.advertise = later(now, t.advertised.Add(advertiseRest))
	t.solicit = now
}

// asked notes a solicitation.
func (t *talk) asked(now time.Time) {
	t.advertise = earlier(t.advertise, later(now, t.advertised.Add(advertiseRest)))
}

// heard notes an advertisement of a router.
func (t *talk) heard(from netip.Addr, now time.Time) {
	switch {
	case !t.router.IsValid() || t.router == from:
		if !t.router.IsValid() {
			t.router, t.solicit = from, time.Time{}
			// It may be up for a moment only, and not know us.
			t.asked(now)
		}
		t.both = t.both || !t.doubted.IsZero()
		t.doubted = time.Time{}
	default:
		t.rival, t.rivalHeard = from, now
		if t.doubted.IsZero() {
			t.doubted, t.solicit = now, now
			t.asked(now)
		}
	}
}

// due moves on to a moment and says what is to be sent then, and when the next
// moment is.
func (t *talk) due(now time.Time) (advertise, solicit bool, next time.Time) {
	if t.doubted.IsZero() && t.rival.IsValid() && !now.Before(t.rivalHeard.Add(rivalStays)) {
		t.rival, t.both = netip.Addr{}, false
	}
	if !t.doubted.IsZero() && !now.Before(t.doubted.Add(answerWithin)) {
		t.router, t.rival, t.doubted, t.both = t.rival, netip.Addr{}, time.Time{}, false
	}
	if advertise = !now.Before(t.advertise); advertise {
		t.advertised = now
		t.count++
		wait := advertiseEvery
		if t.count < firstAdvertisements {
			wait = advertiseRest
		}
		t.advertise = now.Add(wait)
	}
	if solicit = !t.solicit.IsZero() && !now.Before(t.solicit); solicit {
		switch {
		case !t.router.IsValid() || !t.doubted.IsZero():
			t.solicit = now.Add(solicitEvery)
		case t.rival.IsValid():
			t.solicit = now.Add(rivalSolicit)
		default:
			t.solicit = time.Time{}
		}
	}
	next = t.advertise
	if !t.solicit.IsZero() {
		next = earlier(next, t.solicit)
	}
	if !t.doubted.IsZero() {
		next = earlier(next, t.doubted.Add(answerWithin))
	}
	return advertise, solicit, next
}

// problem says what is not as it should be on the link of an interface.
func (t *talk) problem(name string) string {
	switch {
	case !t.router.IsValid():
		return notHeard(name)
	case t.both:
		return fmt.Sprintf("there is a second router %v on %s beside %v, which stays the neighbour: a session by interface is for a link with one router only",
			t.rival.WithZone(""), name, t.router.WithZone(""))
	}
	return ""
}

func notHeard(name string) string {
	return fmt.Sprintf("no router advertisement has come in on %s yet: see that the router sends them there (RFC 4861)", name)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
