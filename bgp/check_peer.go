package bgp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

const (
	// maxPassword is what the kernel takes as a TCP MD5 key (TCP_MD5SIG_MAXKEYLEN).
	maxPassword = 80
	// maxRestart is the largest restart time that fits its 12 bits (RFC 4724, section 3).
	maxRestart = 4095 * time.Second
	// maxLongLived is the largest stale time that fits its 24 bits (RFC 9494, section 3.1).
	maxLongLived = (1<<24 - 1) * time.Second
	// minConnectRetry is the shortest time between attempts to connect that GoBGP knows.
	minConnectRetry = 2 * time.Second
	// maxOwnASN bounds Peer.AllowOwnASN: a path that came through us more often than
	// that is a loop, whatever the network.
	maxOwnASN = 10
)

// check reports what makes p unusable as a peer of c, whatever the other peers
// are.
func (p Peer) check(c Config) error {
	switch {
	case !isHost(p.Address):
		return fmt.Errorf("%v is not an address of a peer", p.Address)
	case IsLinkLocal(p.Address) && p.Address.Zone() == "":
		return fmt.Errorf("the address %v is link-local: say of which link, as in %v%%eth0", p.Address, p.Address)
	case p.ASN == 0:
		return errors.New("the AS number must not be 0 (RFC 7607)")
	case len(p.Password) > maxPassword:
		return fmt.Errorf("the password has %d bytes; TCP MD5 takes at most %d", len(p.Password), maxPassword)
	case p.MaxPrefixes < 0:
		return fmt.Errorf("the limit of prefixes %d must not be negative", p.MaxPrefixes)
	case p.WarnPrefixes < 0:
		return fmt.Errorf("the number of prefixes to warn at %d must not be negative", p.WarnPrefixes)
	case p.MaxPrefixes > 0 && p.WarnPrefixes > p.MaxPrefixes:
		return fmt.Errorf("the number of prefixes to warn at %d is above the limit %d, at which the session ends: make it lower", p.WarnPrefixes, p.MaxPrefixes)
	}
	for _, o := range p.Owned {
		if err := checkPrefix(o); err != nil {
			return fmt.Errorf("owned: %w", err)
		}
	}
	for _, check := range []func(Config) error{p.checkTimers, p.checkTransport, p.checkFamilies, p.checkNumbers} {
		if err := check(c); err != nil {
			return err
		}
	}
	if err := checkRules(p.Import); err != nil {
		return fmt.Errorf("import: %w", err)
	}
	if err := checkRules(p.Export); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return p.checkExportPaths()
}

// checkExportPaths is about export rules that look at AS paths: GoBGP changes paths
// as the session has it before the rules see them, so that a rule would miss what
// it is to reject.
func (p Peer) checkExportPaths() error {
	changed := ""
	switch {
	case p.ASOverride:
		changed = "AS override replaces numbers in paths"
	case p.RemovePrivateAS != PrivateASKeep:
		changed = "private AS numbers are taken out of paths"
	default:
		return nil
	}
	if i := slices.IndexFunc(p.Export, func(r Rule) bool { return r.ASPathRegexp != "" }); i >= 0 {
		return fmt.Errorf("export: rule %d: %s before export rules see them, so none can match AS paths: match communities that the import rules of the routes' peers add, or leave paths as they are",
			i+1, changed)
	}
	return nil
}

func (p Peer) checkTimers(Config) error {
	switch {
	case p.Hold != 0 && (p.Hold < 3*time.Second || p.Hold > 65535*time.Second):
		return fmt.Errorf("the hold time %v must be from 3 s to 65535 s (RFC 4271, section 4.2)", p.Hold)
	case p.Keepalive < 0 || p.Keepalive > p.EffectiveHold():
		return fmt.Errorf("the keepalive time %v must be less than the hold time %v", p.Keepalive, p.EffectiveHold())
	case p.ConnectRetry != 0 && p.ConnectRetry < minConnectRetry:
		return fmt.Errorf("the time %v between attempts to connect must be at least %v: more often the speaker doesn't call", p.ConnectRetry, minConnectRetry)
	case p.GracefulRestart < 0 || p.GracefulRestart > maxRestart:
		return fmt.Errorf("the restart time %v must be from 0 to %v (RFC 4724, section 3)", p.GracefulRestart, maxRestart)
	case p.LongLived < 0 || p.LongLived > maxLongLived:
		return fmt.Errorf("the long-lived stale time %v must be from 0 to %v (RFC 9494, section 3.1)", p.LongLived, maxLongLived)
	case p.LongLived > 0 && p.GracefulRestart == 0:
		return errors.New("long-lived graceful restart follows upon graceful restart: give a restart time, too (RFC 9494, section 4.1)")
	}
	return nil
}

// checkTransport is about how the two ends reach each other.
func (p Peer) checkTransport(c Config) error {
	switch {
	case p.MultihopTTL != 0 && p.GTSMHops != 0:
		return fmt.Errorf("a multihop TTL of %d and TTL security over %d hops exclude each other: TTL security sends with TTL 255 by itself, so leave the multihop TTL out", p.MultihopTTL, p.GTSMHops)
	case p.MultihopTTL != 0 && p.internal(c):
		return fmt.Errorf("a multihop TTL is for external sessions, and AS %d is our own: internal ones are not bound to a link, so leave it out", p.ASN)
	case p.MultihopTTL != 0 && IsLinkLocal(p.Address):
		return fmt.Errorf("a multihop TTL is for peers that are not on a link, and %v is: leave it out", p.Address)
	}
	if s := p.SourceAddress; s.IsValid() {
		switch {
		case !isHost(s):
			return fmt.Errorf("the source address %v is not an address of a node", s)
		case s.Is4() != p.Address.Is4():
			return fmt.Errorf("the source address %v and the peer's address %v must be of one family", s, p.Address)
		case s == p.Address:
			return fmt.Errorf("the source address %v is the peer's own", s)
		case IsLinkLocal(s) && s.Zone() == "":
			return fmt.Errorf("the source address %v is link-local: say of which link, as in %v%%eth0", s, s)
		case IsLinkLocal(p.Address) && s.Zone() != p.Address.Zone():
			return fmt.Errorf("the source address %v is not of the link of the peer's address %v", s, p.Address)
		}
	}
	if p.Passive && !c.listensFor(p) {
		return errors.New("a passive peer must be able to call us, but we don't listen on an address for it: add one to the listen addresses, or have us call it")
	}
	return nil
}

// checkFamilies is about which routes a session is for.
func (p Peer) checkFamilies(c Config) error {
	if p.Families&^(IPv4|IPv6) != 0 {
		return fmt.Errorf("%#x is not a set of address families", uint8(p.Families))
	}
	c.Peers = []Peer{p}
	if c.Families(p.Address) == 0 {
		return errors.New("the node has no address of the families that the session is to carry: leave the families out, or give the node a next hop of one of them")
	}
	return nil
}

// checkNumbers is about AS numbers, and what is done to routes on behalf of the
// session.
func (p Peer) checkNumbers(c Config) error {
	switch {
	case p.LocalASN != 0 && p.LocalASN == p.ASN:
		return fmt.Errorf("the local AS number %d is the peer's own: towards an external peer ours must be another", p.LocalASN)
	case p.LocalASN != 0 && p.internal(c):
		return fmt.Errorf("a local AS number is for external sessions, and AS %d is our own: leave it out", p.ASN)
	case p.ASOverride && p.internal(c):
		return fmt.Errorf("AS override is for external sessions, and AS %d is our own: leave it out", p.ASN)
	case p.RemovePrivateAS != PrivateASKeep && p.internal(c):
		return fmt.Errorf("private AS numbers are removed from paths for external sessions only, and AS %d is our own: leave it out", p.ASN)
	case p.RemovePrivateAS < PrivateASKeep || p.RemovePrivateAS > PrivateASReplace:
		return fmt.Errorf("%d is not a way to treat private AS numbers", p.RemovePrivateAS)
	case p.NextHop < NextHopAuto || p.NextHop > NextHopKeep:
		return fmt.Errorf("%d is not a next-hop mode", p.NextHop)
	case p.AllowOwnASN < 0 || p.AllowOwnASN > maxOwnASN:
		return fmt.Errorf("our own AS number may be allowed from 0 to %d times in a path, not %d times", maxOwnASN, p.AllowOwnASN)
	}
	return nil
}

// internal reports whether the session is one inside c's AS.
func (p Peer) internal(c Config) bool { return p.ASN == c.ASN }

// listensFor reports whether p can call an address that its session may have.
func (c Config) listensFor(p Peer) bool {
	return len(c.ListenAddresses) == 0 || slices.ContainsFunc(c.ListenAddresses, func(a netip.Addr) bool {
		return a.Is4() == p.Address.Is4() && (a.IsUnspecified() || !p.SourceAddress.IsValid() || a == p.SourceAddress)
	})
}

// isHost reports whether a is an address that one host has.
func isHost(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.Is4In6()
}
