package bgp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// DefaultMostCallers is how many peers may call from a range where Callers.Most
// is zero.
const DefaultMostCallers = 100

// Callers are external peers of which only the range is known that they call
// from ("dynamic neighbours"). Each that calls becomes a peer, and is one until it
// has been away for longer than its routes are kept.
type Callers struct {
	Prefix netip.Prefix
	Most   int // peers at a time; zero: DefaultMostCallers
	// Peer is what each is: Name is the range's, to which "/" and the address are
	// added; Address is the caller's. The speaker waits for calls and makes none.
	Peer Peer
}

// Caller is the peer that a caller from an address becomes, by the longest prefix
// that contains the address, or false: nobody may call from there. Who is one of
// Peers is no caller, nor is who is Barred.
func (c Config) Caller(a netip.Addr) (Peer, bool) {
	if slices.Contains(c.Barred, a) {
		return Peer{}, false
	}
	for _, p := range c.Peers {
		if p.Address == a {
			return Peer{}, false
		}
	}
	i := c.rangeOf(a)
	if i < 0 {
		return Peer{}, false
	}
	return c.Callers[i].caller(a), true
}

// CallersFrom are those whose range an address is in, or false: it is in none.
func (c Config) CallersFrom(a netip.Addr) (Callers, bool) {
	i := c.rangeOf(a)
	if i < 0 {
		return Callers{}, false
	}
	return c.Callers[i], true
}

// rangeOf returns the index of the range that an address is in, or -1.
func (c Config) rangeOf(a netip.Addr) int {
	best := -1
	for i, r := range c.Callers {
		if r.Prefix.Contains(a) && (best < 0 || r.Prefix.Bits() > c.Callers[best].Prefix.Bits()) {
			best = i
		}
	}
	return best
}

func (r Callers) caller(a netip.Addr) Peer {
	p := r.Peer
	p.Name, p.Address, p.Kind, p.Passive = r.Peer.Name+"/"+a.String(), a, PeerExternal, true
	return p
}

// MayCall reports whether one more may become a peer by the range that an address
// is in, when these have.
func (c Config) MayCall(a netip.Addr, have []netip.Addr) bool {
	i := c.rangeOf(a)
	if i < 0 {
		return false
	}
	most := c.Callers[i].Most
	if most == 0 {
		most = DefaultMostCallers
	}
	for _, h := range have {
		if h != a && c.rangeOf(h) == i {
			most--
		}
	}
	return most > 0
}

// usableCallers returns the ranges that can be used, and what is wrong with the
// others as *PeerErrors, joined.
func (c Config) usableCallers() ([]Callers, error) {
	var (
		usable = make([]Callers, 0, len(c.Callers))
		errs   []error
		seen   = make(map[netip.Prefix]string, len(c.Callers))
	)
	for _, r := range c.Callers {
		err := r.check(c)
		if other, twice := seen[r.Prefix]; err == nil && twice {
			err = fmt.Errorf("has the range %v of %s", r.Prefix, other)
		}
		if err != nil {
			errs = append(errs, &PeerError{Peer: r.Peer.Name, Err: err})
			continue
		}
		seen[r.Prefix] = r.Peer.Name
		usable = append(usable, r)
	}
	return usable, errors.Join(errs...)
}

func (r Callers) check(c Config) error {
	if err := checkPrefix(r.Prefix); err != nil {
		return err
	}
	switch {
	case r.Prefix.Bits() == 0:
		return fmt.Errorf("%v is everybody: give the range that the routers are in", r.Prefix)
	case r.Most < 0:
		return fmt.Errorf("%d peers must not be negative", r.Most)
	case r.Peer.Kind != PeerExternal:
		return errors.New("nodes are known by their addresses: callers are routers")
	case r.Peer.Password != "":
		return errors.New("TCP MD5 needs the address before the first packet: give the routers' addresses instead of the range, or no password")
	}
	// Any address of the range does for what does not depend on it.
	a := r.Prefix.Addr()
	if !isHost(a) {
		a = a.Next()
	}
	return r.caller(a).check(c)
}
