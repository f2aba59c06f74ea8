package agent

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/bgp"
)

// addSession takes in a session of the plan, after the pools. One of which a part
// makes no sense is left out as a whole: half of its options may not be safe.
func (d *desired) addSession(s *v1alpha1.PlannedSession) error {
	peer := bgp.Peer{
		Name:            s.Name,
		Kind:            bgp.PeerNode,
		Port:            uint16(s.PeerPort),
		ASN:             uint32(s.PeerASN),
		Passive:         s.Passive,
		ConnectRetry:    defaultConnectRetry,
		GracefulRestart: gracefulRestart(s.GracefulRestart),
		LongLived:       longLived(s.GracefulRestart),
		ASOverride:      s.ASOverride,
		AllowOwnASN:     int(s.AllowOwnASN),
		MaxPrefixes:     int(s.MaxPrefixes),
		WarnPrefixes:    int(s.WarnPrefixes),
	}
	if s.Kind == v1alpha1.SessionExternal {
		peer.Kind = bgp.PeerExternal
		peer.Export = slices.Clone(d.withheld)
	}
	setTimers(&peer, s.Timers)
	for _, set := range []func(*bgp.Peer, *v1alpha1.PlannedSession) error{setTransport, setRoutes, setRules} {
		if err := set(&peer, s); err != nil {
			return err
		}
	}
	if s.PeerPrefix != "" {
		return d.addCallers(s, peer)
	}
	var err error
	if peer.Address, err = netip.ParseAddr(s.PeerAddress); err != nil {
		return fmt.Errorf("peer address: %w", err)
	}
	if s.PasswordSecretRef != nil {
		d.passwords[peer.Address] = *s.PasswordSecretRef
	}
	if s.Departed {
		d.departed[peer.Address] = true
	}
	d.speaker.Peers = append(d.speaker.Peers, peer)
	return nil
}

// addCallers takes in that peers of which only the range is known may call.
func (d *desired) addCallers(s *v1alpha1.PlannedSession, peer bgp.Peer) error {
	prefix, err := netip.ParsePrefix(s.PeerPrefix)
	switch {
	case err != nil:
		return fmt.Errorf("peer range: %w", err)
	case s.PasswordSecretRef != nil:
		return errors.New("who calls from a range can have no password")
	}
	d.speaker.Callers = append(d.speaker.Callers, bgp.Callers{Prefix: prefix, Most: int(s.MaxPeers), Peer: peer})
	return nil
}

// setTransport sets how packets get to the peer and back.
func setTransport(peer *bgp.Peer, s *v1alpha1.PlannedSession) (err error) {
	if s.SourceAddress != "" {
		if peer.SourceAddress, err = netip.ParseAddr(s.SourceAddress); err != nil {
			return fmt.Errorf("source address: %w", err)
		}
	}
	if peer.MultihopTTL, err = toUint8(s.EBGPMultihop); err != nil {
		return fmt.Errorf("ebgpMultihop: %w", err)
	}
	if peer.GTSMHops, err = toUint8(s.TTLSecurity); err != nil {
		return fmt.Errorf("ttlSecurity: %w", err)
	}
	return nil
}

// setRoutes sets what the session carries, and with which attributes.
func setRoutes(peer *bgp.Peer, s *v1alpha1.PlannedSession) error {
	local, err := toUint32(&s.LocalASN)
	if err != nil {
		return fmt.Errorf("local AS number: %w", err)
	}
	peer.LocalASN = *local
	switch s.Reflection {
	case "":
	case v1alpha1.ReflectionClient:
		peer.Reflection = bgp.ReflectionClient
	case v1alpha1.ReflectionServer:
		peer.Reflection = bgp.ReflectionServer
	default:
		return fmt.Errorf("reflection: %q is no part that is known", s.Reflection)
	}
	for _, f := range s.Families {
		switch f {
		case v1alpha1.FamilyIPv4:
			peer.Families |= bgp.IPv4
		case v1alpha1.FamilyIPv6:
			peer.Families |= bgp.IPv6
		default:
			return fmt.Errorf("families: %q is none that is known", f)
		}
	}
	switch s.NextHop {
	case "", v1alpha1.NextHopAuto:
	case v1alpha1.NextHopSelf:
		peer.NextHop = bgp.NextHopSelf
	case v1alpha1.NextHopKeep:
		peer.NextHop = bgp.NextHopKeep
	default:
		return fmt.Errorf("next hop: %q is none that is known", s.NextHop)
	}
	switch s.RemovePrivateASN {
	case "", v1alpha1.PrivateASNKeep:
	case v1alpha1.PrivateASNRemove:
		peer.RemovePrivateAS = bgp.PrivateASRemove
	case v1alpha1.PrivateASNReplace:
		peer.RemovePrivateAS = bgp.PrivateASReplace
	default:
		return fmt.Errorf("private AS numbers: %q is nothing that is known", s.RemovePrivateASN)
	}
	return nil
}

// setRules sets which routes are taken and announced.
func setRules(peer *bgp.Peer, s *v1alpha1.PlannedSession) error {
	for _, b := range s.Blocks {
		block, err := netip.ParsePrefix(b)
		if err != nil {
			return fmt.Errorf("block: %w", err)
		}
		peer.Owned = append(peer.Owned, block)
	}
	for i := range s.ImportRules {
		r, err := rule(&s.ImportRules[i])
		if err != nil {
			return fmt.Errorf("import rule: %w", err)
		}
		peer.Import = append(peer.Import, r)
	}
	for i := range s.ExportRules {
		r, err := rule(&s.ExportRules[i])
		if err != nil {
			return fmt.Errorf("export rule: %w", err)
		}
		peer.Export = append(peer.Export, r)
	}
	return nil
}

func rule(r *v1alpha1.BGPFilterRule) (bgp.Rule, error) {
	out := bgp.Rule{
		Match: bgp.Match{
			Communities:     r.Communities,
			CommunityRegexp: r.CommunityRegex,
			ASPathRegexp:    r.ASPathRegex,
		},
	}
	if r.CIDR != "" {
		cidr, err := netip.ParsePrefix(r.CIDR)
		if err != nil {
			return out, err
		}
		prefixes := bgp.Range{CIDR: cidr, MinLength: cidr.Bits(), MaxLength: cidr.Bits()}
		if r.MaxLength != nil {
			prefixes.MaxLength = int(*r.MaxLength)
		}
		if r.MinLength != nil {
			prefixes.MinLength = int(*r.MinLength)
			prefixes.MaxLength = max(prefixes.MaxLength, prefixes.MinLength)
		}
		out.Ranges = []bgp.Range{prefixes}
	}
	switch r.Source {
	case "":
	case v1alpha1.SourceOwn:
		out.Source = bgp.SourceOwn
	case v1alpha1.SourceLearned:
		out.Source = bgp.SourceLearned
	default:
		return out, fmt.Errorf("source: %q is none that is known", r.Source)
	}
	switch r.PeerType {
	case "":
	case v1alpha1.SessionNode:
		out.PeerKind = new(bgp.PeerNode)
	case v1alpha1.SessionExternal:
		out.PeerKind = new(bgp.PeerExternal)
	default:
		return out, fmt.Errorf("type of peer: %q is none that is known", r.PeerType)
	}
	switch r.Action {
	case v1alpha1.FilterAccept:
		out.Accept = true
	case v1alpha1.FilterReject:
	default:
		return out, fmt.Errorf("action: %q is none that is known", r.Action)
	}
	if r.Set == nil {
		return out, nil
	}
	var err error
	out.Set, err = attributes(r.Set)
	return out, err
}

func attributes(set *v1alpha1.RouteAttributes) (out bgp.Attributes, err error) {
	if out.LocalPref, err = toUint32(set.LocalPref); err != nil {
		return out, fmt.Errorf("local preference: %w", err)
	}
	if out.MED, err = toUint32(set.MED); err != nil {
		return out, fmt.Errorf("MED: %w", err)
	}
	out.AddCommunities, out.RemoveCommunities = set.AddCommunities, set.RemoveCommunities
	out.Prepend = int(set.Prepend)
	return out, nil
}

// toUint32 gives a number of the API the type of its field in BGP; nil stays nil.
func toUint32(n *int64) (*uint32, error) {
	if n == nil {
		return nil, nil
	}
	if *n < 0 || *n > math.MaxUint32 {
		return nil, fmt.Errorf("%d does not fit 32 bits", *n)
	}
	return new(uint32(*n)), nil
}

func toUint8(n int32) (uint8, error) {
	if n < 0 || n > math.MaxUint8 {
		return 0, fmt.Errorf("%d does not fit 8 bits", n)
	}
	return uint8(n), nil
}

func setTimers(peer *bgp.Peer, t *v1alpha1.BGPTimers) {
	peer.Hold = defaultHold
	if t != nil {
		if t.HoldSeconds != nil {
			peer.Hold = time.Duration(*t.HoldSeconds) * time.Second
		}
		if t.KeepaliveSeconds != nil {
			peer.Keepalive = time.Duration(*t.KeepaliveSeconds) * time.Second
		}
		if t.ConnectRetrySeconds != nil {
			peer.ConnectRetry = time.Duration(*t.ConnectRetrySeconds) * time.Second
		}
	}
	if peer.Keepalive == 0 {
		peer.Keepalive = peer.Hold / 3
	}
}

func gracefulRestart(g *v1alpha1.GracefulRestart) time.Duration {
	switch {
	case g == nil:
		return defaultGracefulRestart
	case g.Disabled:
		return 0
	case g.RestartSeconds != nil:
		return time.Duration(*g.RestartSeconds) * time.Second
	}
	return defaultGracefulRestart
}

// longLived is zero where graceful restart is off, without which it can't be.
func longLived(g *v1alpha1.GracefulRestart) time.Duration {
	if g == nil || g.Disabled || g.LongLivedSeconds == nil {
		return 0
	}
	return time.Duration(*g.LongLivedSeconds) * time.Second
}
