package bgp

import "reflect"

// ResetFor lists, in words, what differs between p and what it is to become that
// its session must be reset for; none: the session stays. It needs no reset
//   - for the name and the kind, which are ours only,
//   - for policy: rules, owned blocks, the next-hop mode, the part in route reflection,
//   - for the limits of prefixes, which are watched from outside the session,
//   - for the wanted families as such, see Config.Families: what counts is what is
//     offered.
//
// All else resets it: the transport (port, password, source, TTL, who calls) is
// what the connection was made with; graceful restart and the hold time were agreed
// upon when it was opened, and so was the time between keepalives; and how AS paths
// are treated GoBGP changes with a reset only. ConnectRetry could change alone, but
// GoBGP then forgets what was agreed upon about graceful restart, and the next
// restart of the peer would cost its routes.
func (p Peer) ResetFor(next Peer) []string {
	var words []string
	for _, property := range []struct {
		words string
		of    func(Peer) any
	}{
		{"address", func(p Peer) any { return p.Address }},
		{"port", func(p Peer) any { return p.EffectivePort() }},
		{"AS number", func(p Peer) any { return p.ASN }},
		{"local AS number", func(p Peer) any { return p.LocalASN }},
		{"password", func(p Peer) any { return p.Password }},
		{"hold time", func(p Peer) any { return p.EffectiveHold() }},
		{"keepalive time", func(p Peer) any { return p.EffectiveKeepalive() }},
		{"time between attempts to connect", func(p Peer) any { return p.EffectiveConnectRetry() }},
		{"graceful restart", func(p Peer) any { return p.GracefulRestart }},
		{"long-lived graceful restart", func(p Peer) any { return p.LongLived }},
		{"which side calls", func(p Peer) any { return p.Passive }},
		{"source address", func(p Peer) any { return p.SourceAddress }},
		{"multihop TTL", func(p Peer) any { return p.MultihopTTL }},
		{"TTL security", func(p Peer) any { return p.GTSMHops }},
		{"AS override", func(p Peer) any { return p.ASOverride }},
		{"own AS number in paths", func(p Peer) any { return p.AllowOwnASN }},
		{"private AS numbers in paths", func(p Peer) any { return p.RemovePrivateAS }},
	} {
		if !reflect.DeepEqual(property.of(p), property.of(next)) {
			words = append(words, property.words)
		}
	}
	return words
}
