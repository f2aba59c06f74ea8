package bgp

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// What a peer gets where its fields are zero.
const (
	DefaultPort         = 179
	DefaultHold         = 90 * time.Second
	DefaultKeepalive    = 30 * time.Second
	DefaultConnectRetry = 5 * time.Second
)

// maxPassword is what the kernel takes as a TCP MD5 key (TCP_MD5SIG_MAXKEYLEN).
const maxPassword = 80

// maxRestart is the largest restart time that fits its 12 bits (RFC 4724, section 3).
const maxRestart = 4095 * time.Second

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
	for _, p := range c.Advertise {
		if err := checkPrefix(p); err != nil {
			return fmt.Errorf("advertise: %w", err)
		}
	}
	for _, r := range c.Blocks {
		if err := r.check(); err != nil {
			return fmt.Errorf("blocks: %w", err)
		}
	}
	return nil
}

// Usable returns the peers that can be used, and what is wrong with the others
// as *PeerErrors, joined.
func (c Config) Usable() ([]Peer, error) {
	var (
		usable = make([]Peer, 0, len(c.Peers))
		errs   []error
		seen   = make(map[netip.Addr]string, len(c.Peers))
	)
	for _, p := range c.Peers {
		err := p.check()
		if other, twice := seen[p.Address]; err == nil && twice {
			err = fmt.Errorf("has the address %v of peer %s; sessions are told apart by address", p.Address, other)
		}
		if err != nil {
			errs = append(errs, &PeerError{Peer: p.Name, Err: err})
			continue
		}
		seen[p.Address] = p.Name
		usable = append(usable, p)
	}
	return usable, errors.Join(errs...)
}

func (p Peer) check() error {
	switch {
	case !p.Address.IsValid() || p.Address.IsUnspecified() || p.Address.IsMulticast() || p.Address.Is4In6():
		return fmt.Errorf("%v is not an address of a peer", p.Address)
	case p.ASN == 0:
		return errors.New("the AS number must not be 0 (RFC 7607)")
	case len(p.Password) > maxPassword:
		return fmt.Errorf("the password has %d bytes; TCP MD5 takes at most %d", len(p.Password), maxPassword)
	case p.Hold != 0 && (p.Hold < 3*time.Second || p.Hold > 65535*time.Second):
		return fmt.Errorf("the hold time %v must be from 3 s to 65535 s (RFC 4271, section 4.2)", p.Hold)
	case p.Keepalive < 0 || p.Keepalive > p.EffectiveHold():
		return fmt.Errorf("the keepalive time %v must be less than the hold time %v", p.Keepalive, p.EffectiveHold())
	case p.GracefulRestart < 0 || p.GracefulRestart > maxRestart:
		return fmt.Errorf("the restart time %v must be from 0 to %v (RFC 4724, section 3)", p.GracefulRestart, maxRestart)
	case p.MaxPrefixes < 0:
		return fmt.Errorf("the limit of prefixes %d must not be negative", p.MaxPrefixes)
	}
	for _, r := range p.Import {
		if err := r.check(); err != nil {
			return fmt.Errorf("import: %w", err)
		}
	}
	return nil
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
