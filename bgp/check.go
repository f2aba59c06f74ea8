package bgp

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"time"
)

// What a peer gets where its fields are zero.
const (
	DefaultPort      = 179
	DefaultHold      = 90 * time.Second
	DefaultKeepalive = 30 * time.Second
	// DefaultConnectRetry is far less than RFC 4271 suggests (section 10): a router
	// that comes back is to be asked within seconds. One that nothing is heard of
	// costs GoBGP an attempt of 2 s, after which it waits for this time.
	DefaultConnectRetry = 3 * time.Second
)

// Check reports what makes c unusable as a whole, whatever its peers are.
func (c Config) Check() error {
	switch {
	case c.ASN == 0:
		return errors.New("the AS number must not be 0 (RFC 7607)")
	case !c.RouterID.Is4() || c.RouterID.IsUnspecified():
		return fmt.Errorf("the router id %v must be an IPv4 address that is not 0.0.0.0", c.RouterID)
	}
	for i, a := range c.NextHops {
		if !a.IsValid() || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() {
			return fmt.Errorf("next hops: %v is not an address by which others reach a node", a)
		}
		if other, _ := c.NextHop(FamilyOf(a)); other != c.NextHops[i] {
			return fmt.Errorf("next hops: %v and %v are of one family", other, a)
		}
	}
	for _, p := range c.Originates() {
		if err := checkPrefix(p); err != nil {
			return fmt.Errorf("advertise: %w", err)
		}
	}
	for _, r := range c.Blocks {
		if err := r.check(); err != nil {
			return fmt.Errorf("blocks: %w", err)
		}
	}
	for _, m := range c.Marks {
		if err := errors.Join(checkPrefix(m.CIDR), checkCommunities(m.Communities)); err != nil {
			return fmt.Errorf("marks: %w", err)
		}
	}
	return nil
}

// Usable returns the configuration with the peers and the ranges of callers that
// can be used, and what is wrong with the others as *PeerErrors, joined. Peers that
// can't be used are Barred.
func (c Config) Usable() (Config, error) {
	var (
		usable = make([]Peer, 0, len(c.Peers))
		barred = slices.Clone(c.Barred)
		errs   []error
		seen   = make(map[netip.Addr]string, len(c.Peers))
	)
	for _, p := range c.Peers {
		err := p.check(c)
		if other, twice := seen[p.Address]; err == nil && twice {
			err = fmt.Errorf("has the address %v of peer %s; sessions are told apart by address", p.Address, other)
		}
		if err == nil && IsLinkLocal(p.Address) {
			err = p.apartOnLinks(usable, c)
		}
		if err != nil {
			errs, barred = append(errs, &PeerError{Peer: p.Name, Err: err}), append(barred, p.Address)
			continue
		}
		seen[p.Address] = p.Name
		usable = append(usable, p)
	}
	callers, err := c.usableCallers()
	c.Peers, c.Callers, c.Barred = usable, callers, barred
	return c, errors.Join(append(errs, err)...)
}

// apartOnLinks reports a peer with the link-local address of p on another link that
// is not treated like p, or whose calls can't be told from p's.
func (p Peer) apartOnLinks(peers []Peer, c Config) error {
	bare := p.Address.WithZone("")
	for _, q := range peers {
		switch {
		case q.Address.WithZone("") != bare:
		case !p.treatedLike(q, c):
			return fmt.Errorf("has the address %v of peer %s on another link, and other rules: routes of the two can't be told apart, so give one of the routers another link-local address, or both the same rules",
				bare, q.Name)
		case !p.signsLike(q):
			return fmt.Errorf("has the address %v of peer %s on another link, and another password: calls from that address are taken with one password only, so give one of the routers another link-local address, or both the same password",
				bare, q.Name)
		}
	}
	return nil
}

// treatedLike reports whether routes of and to p are treated as those of q.
func (p Peer) treatedLike(q Peer, c Config) bool {
	same := reflect.DeepEqual
	return p.Kind == q.Kind && p.internal(c) == q.internal(c) && p.LocalASN == q.LocalASN && p.AllowOwnASN == q.AllowOwnASN &&
		p.NextHop == q.NextHop && p.Reflection == q.Reflection && same(p.Import, q.Import) && same(p.Export, q.Export) &&
		same(p.Owned, q.Owned)
}

// signsLike reports whether p and q, that have one address on two links, can each
// have its password: who calls is known to the kernel by the address alone, and must
// have signed with the one that is set for it. One without a password is not let in
// then, and has its session if we call.
func (p Peer) signsLike(q Peer) bool {
	switch {
	case p.Password == q.Password:
		return true
	case p.Password == "":
		return !p.Passive
	case q.Password == "":
		return !q.Passive
	}
	return false
}

// EffectiveHold is the hold time that the peer is offered.
func (p Peer) EffectiveHold() time.Duration {
	if p.Hold == 0 {
		return DefaultHold
	}
	return p.Hold
}

// EffectiveKeepalive is the time between keepalives: a third of the hold time
// when the peer has its own hold time but no keepalive time.
func (p Peer) EffectiveKeepalive() time.Duration {
	if p.Keepalive == 0 {
		return p.EffectiveHold() / 3
	}
	return p.Keepalive
}

// EffectiveConnectRetry is the time between attempts to connect.
func (p Peer) EffectiveConnectRetry() time.Duration {
	if p.ConnectRetry <= 0 {
		return DefaultConnectRetry
	}
	return p.ConnectRetry
}

// EffectivePort is the TCP port that the peer is called at.
func (p Peer) EffectivePort() uint16 {
	if p.Port == 0 {
		return DefaultPort
	}
	return p.Port
}

func (r Range) check() error {
	if err := checkPrefix(r.CIDR); err != nil {
		return err
	}
	if r.MinLength < 0 || r.MaxLength > r.CIDR.Addr().BitLen() || r.MinLength > r.MaxLength {
		return fmt.Errorf("the lengths %d to %d do not fit %v", r.MinLength, r.MaxLength, r.CIDR)
	}
	return nil
}

func checkPrefix(p netip.Prefix) error {
	if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
		return fmt.Errorf("%v is not a prefix in its canonical form", p)
	}
	return nil
}
