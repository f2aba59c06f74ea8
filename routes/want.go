package routes

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// entry is a destination that somebody wants or wanted.
type entry struct {
	dst     netip.Prefix
	want    [classCount]*target // nil: not wanted
	counted Class               // the class for which it counts as installed; classCount: none
	queued  bool
	puzzled bool // something unknown has its place; the next snapshot tells what
	attempt
	healed  time.Time // each time it is put right after somebody else's doing adds healEvery
	waiters []*waiter
}

// active is the target that has its way; nil when nobody wants the destination.
func (e *entry) active() (*target, Class) {
	for c, t := range e.want {
		if t != nil {
			return t, Class(c)
		}
	}
	return nil, classCount
}

// target is where routes send packets; one for all routes that agree.
type target struct {
	key       string
	bad       error // the route makes no sense
	blackhole bool
	link      string
	hops      []*hop
	refs      int                 // wishes of entries
	users     map[*entry]struct{} // kept for links only
	from      *target             // that all wishes for this one left; nil once it was worked on
	owned                         // the group: of more than one hop, or of what an inherited one is left with
}

// hop is a wanted next hop; one for all targets that have it.
type hop struct {
	NextHop
	refs   int
	fresh  bool // way and wayErr are up to date
	way    path
	wayErr error
	owned
	checked uint64 // the plan that looked at it last
	written uint64 // the plan that wrote its object last
}

// owned is a nexthop object that a hop or target has or is to have.
type owned struct {
	hop    *hop // whose it is: one of the two
	target *target
	id     uint32
	attempt
	tried content // what the last attempt was to write
}

// attempt remembers how often something failed.
type attempt struct {
	err   error
	tries int
	next  time.Time
}

const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 30 * time.Second
)

func backoff(tries int) time.Duration {
	return min(firstRetry<<min(tries, 10), lastRetry)
}

func (a *attempt) fail(err error, now time.Time) {
	a.err = err
	a.next = now.Add(backoff(a.tries))
	a.tries++
}

func (a *attempt) succeed() { *a = attempt{} }

// waiter awaits destinations to be as desired.
type waiter struct {
	left int
	done chan error // holds one
}

// hear takes in that one of the destinations is settled.
func (w *waiter) hear(err error) {
	w.left--
	if w.left < 0 {
		return // already answered
	}
	if err != nil || w.left == 0 {
		w.left = 0
		w.done <- err
	}
}

// canonical brings a route into one form; routes that say the same are equal
// then.
func (r Route) canonical() Route {
	r.Dst = r.Dst.Masked()
	if len(r.NextHops) == 0 {
		return r
	}
	hops := make([]NextHop, len(r.NextHops))
	for i, nh := range r.NextHops {
		nh.Gateway = nh.Gateway.Unmap()
		if zone := nh.Gateway.Zone(); zone != "" {
			nh.Gateway = nh.Gateway.WithZone("")
			nh.Link = cmp.Or(nh.Link, zone)
		}
		hops[i] = nh
	}
	if len(hops) > 1 {
		slices.SortFunc(hops, func(a, b NextHop) int {
			onlink := 0
			if a.OnLink != b.OnLink {
				onlink = 1
				if b.OnLink {
					onlink = -1
				}
			}
			return cmp.Or(a.Gateway.Compare(b.Gateway), cmp.Compare(a.Link, b.Link), onlink)
		})
		hops = slices.Compact(hops)
	}
	r.NextHops = hops
	return r
}

// check says what makes no sense in a canonical route.
func (r Route) check() error {
	ways := 0
	for _, is := range []bool{r.Blackhole, r.Link != "", len(r.NextHops) > 0} {
		if is {
			ways++
		}
	}
	if ways != 1 {
		return errors.New("a route needs exactly one of a blackhole, a link and next hops")
	}
	for _, nh := range r.NextHops {
		switch gw := nh.Gateway; {
		case !gw.IsValid() || gw.IsUnspecified() || gw.IsMulticast() || gw.IsLoopback():
			return fmt.Errorf("%s can't be a gateway", gw)
		case gw.Is4() && !r.Dst.Addr().Is4():
			return fmt.Errorf("gateway %s is not of the destination's family", gw)
		}
	}
	return nil
}

// appendKey appends what tells a canonical route's target from others.
func (r Route) appendKey(b []byte) []byte {
	if err := r.check(); err != nil {
		return append(append(b, '?'), err.Error()...)
	}
	switch {
	case r.Blackhole:
		return append(b, '!')
	case r.Link != "":
		return append(append(b, '@'), r.Link...)
	}
	for _, nh := range r.NextHops {
		flags := byte(0)
		if nh.OnLink {
			flags |= 1
		}
		if nh.Gateway.Is4() {
			flags |= 2
		}
		a := nh.Gateway.As16()
		b = append(append(b, a[:]...), flags, byte(len(nh.Link)))
		b = append(b, nh.Link...)
	}
	return b
}
