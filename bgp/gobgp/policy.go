package gobgp

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"github.com/osrg/gobgp/v4/api"

	"github.com/godwit-net/godwit/bgp"
)

const (
	importPolicy = "import"
	exportPolicy = "export"
)

// policy is what import and export depend on, in a form to compare.
//
// GoBGP evaluates it for each route as a list of statements, so external peers
// with the same rules share theirs, and the prefixes of neighbouring rules with
// the same outcome share a set (a tree). Origin validation takes a statement, one
// for each family, for every node peer, and a route that is refused is looked at by
// all of them: with 100 node peers of two blocks of each family it costs 17 µs,
// where one that is taken without origin validation costs 12 µs, see
// BenchmarkOriginValidation.
type policy struct {
	own []netip.Prefix // sorted
	// aggregates are of our own, too, but only for external peers.
	aggregates []netip.Prefix // sorted
	blocks     []bgp.Range
	nodes      []netip.Addr // sorted; those that may announce any block
	owners     []owner      // sorted; with
	// validate tells that there is origin validation.
	validate bool
	groups   []ruleGroup
	// sessions are the peers by the families of which routes can have their session's
	// address as next hop, sorted, when own prefixes have next hops that are not the
	// session's.
	sessions map[bgp.Families][]netip.Addr
	exports  []exportGroup
	hops     map[bgp.Families]netip.Addr // our own addresses
	// known are the peers that know us by another AS number.
	known []knownPeer
	// origins tells that rules ask of which kind the peer is that a route comes
	// from, see originOf.
	origins bool
	// reflects tells that we are a reflector; clients and servers, sorted, are the
	// node peers of these parts then.
	reflects         bool
	clients, servers []netip.Addr
	// everyone are the peers that there are while the policy is in force, sorted.
	everyone []netip.Addr
}

// knownPeer is a peer that knows us by another AS number than ours, which may be
// in its paths so many times.
type knownPeer struct {
	peer    netip.Addr
	asn     uint32 // ours
	allowed int
}

// owner is a node peer with the blocks that it may announce.
type owner struct {
	peer  netip.Addr
	owned []bgp.Range
}

// ruleGroup are the external peers with the same rules.
type ruleGroup struct {
	peers []netip.Addr // sorted
	asn   uint32       // by which they know us
	rules []bgp.Rule
}

func newPolicy(c bgp.Config) *policy {
	p := &policy{
		own: slices.Clone(c.Advertise), blocks: slices.Clone(c.Blocks), validate: c.ValidateOrigin,
		reflects: c.Reflector, origins: c.Reflector,
		hops: make(map[bgp.Families]netip.Addr),
	}
	slices.SortFunc(p.own, netip.Prefix.Compare)
	p.own = slices.Compact(p.own)
	for _, a := range c.Aggregates {
		if !slices.Contains(p.own, a) {
			p.aggregates = append(p.aggregates, a)
		}
	}
	slices.SortFunc(p.aggregates, netip.Prefix.Compare)
	p.aggregates = slices.Compact(p.aggregates)
	peers := slices.Clone(c.Peers)
	slices.SortFunc(peers, func(a, b bgp.Peer) int { return a.Address.Compare(b.Address) })
	if len(c.NextHops) > 0 {
		p.sessions = make(map[bgp.Families][]netip.Addr)
	}
	for _, hop := range c.NextHops {
		p.hops[bgp.FamilyOf(hop)] = hop
	}
	for _, peer := range peers {
		p.everyone = append(p.everyone, peer.Address)
		if p.sessions != nil {
			for _, f := range hopOf(peer.Address).Each() {
				p.sessions[f] = append(p.sessions[f], peer.Address)
			}
		}
		if peer.Kind == bgp.PeerNode {
			p.addNode(c, peer)
		} else {
			p.addExternal(c, peer)
		}
	}
	return p
}

// hopOf are the families of which routes can have the address of a session with
// peer as next hop: its own, and both over a session between link-local addresses
// (RFC 8950).
func hopOf(peer netip.Addr) bgp.Families {
	if bgp.IsLinkLocal(peer) {
		return bgp.IPv4 | bgp.IPv6
	}
	return bgp.FamilyOf(peer)
}

func (p *policy) addNode(c bgp.Config, peer bgp.Peer) {
	if c.ValidateOrigin && peer.Reflection != bgp.ReflectionServer {
		p.owners = append(p.owners, ownerOf(c, peer))
	} else {
		p.nodes = append(p.nodes, peer.Address)
	}
	switch {
	case !c.Reflector || peer.Reflection == bgp.ReflectionNone:
	case peer.Reflection == bgp.ReflectionClient:
		p.clients = append(p.clients, peer.Address)
	default:
		p.servers = append(p.servers, peer.Address)
	}
}

func (p *policy) addExternal(c bgp.Config, peer bgp.Peer) {
	asn := c.ASN
	if peer.LocalASN != 0 {
		asn = peer.LocalASN
		p.known = append(p.known, knownPeer{peer.Address, c.ASN, peer.AllowOwnASN})
	}
	i := slices.IndexFunc(p.groups, func(g ruleGroup) bool { return g.asn == asn && sameRules(g.rules, peer.Import) })
	if i < 0 {
		i = len(p.groups)
		p.groups = append(p.groups, ruleGroup{asn: asn, rules: slices.Clone(peer.Import)})
	}
	p.groups[i].peers = append(p.groups[i].peers, peer.Address)

	if len(peer.Export) == 0 {
		return
	}
	p.origins = p.origins || slices.ContainsFunc(peer.Export, func(r bgp.Rule) bool { return r.PeerKind != nil })
	way := exportWay{hopOf: hopOf(peer.Address), internal: peer.ASN == asn, asn: asn, nextHop: peer.NextHop}
	p.origins = p.origins || way.internal
	i = slices.IndexFunc(p.exports, func(g exportGroup) bool { return g.way == way && sameRules(g.rules, peer.Export) })
	if i < 0 {
		i = len(p.exports)
		p.exports = append(p.exports, exportGroup{way: way, rules: slices.Clone(peer.Export)})
	}
	p.exports[i].peers = append(p.exports[i].peers, peer.Address)
}

// among adds peers that are there, too, though they are not to be.
func (p *policy) among(peers []netip.Addr) {
	p.everyone = slices.Concat(p.everyone, peers)
	slices.SortFunc(p.everyone, netip.Addr.Compare)
	p.everyone = slices.Compact(p.everyone)
}

// marksReflected tells whether routes of a node peer are marked as those of a
// reflector.
func (p *policy) marksReflected(peer bgp.Peer) bool {
	return p.reflects && peer.Reflection == bgp.ReflectionServer
}

// ownerOf finds what a node peer may announce: its blocks that are blocks at all.
func ownerOf(c bgp.Config, peer bgp.Peer) owner {
	o := owner{peer: peer.Address}
	for _, p := range peer.Owned {
		if slices.ContainsFunc(c.Blocks, func(r bgp.Range) bool { return r.Contains(p) }) {
			o.owned = append(o.owned, exactly(p))
		}
	}
	return o
}

// exactly is the range that a prefix alone is in.
func exactly(p netip.Prefix) bgp.Range {
	return bgp.Range{CIDR: p, MinLength: p.Bits(), MaxLength: p.Bits()}
}

func exactlyAll(prefixes []netip.Prefix) []bgp.Range {
	out := make([]bgp.Range, len(prefixes))
	for i, p := range prefixes {
		out[i] = exactly(p)
	}
	return out
}

// sameRules reports whether rules are the same, in the same order.
func sameRules(a, b []bgp.Rule) bool {
	return slices.EqualFunc(a, b, func(x, y bgp.Rule) bool { return reflect.DeepEqual(x, y) })
}

// document says the policy in GoBGP's words.
func (p *policy) document() *document {
	d := newDocument(p.everyone)
	p.imports(d)
	p.exported(d)
	return d
}

func (p *policy) imports(d *document) {
	inside := make([]bgp.Range, 0, len(p.own))
	for _, o := range p.own {
		inside = append(inside, bgp.Range{CIDR: o, MinLength: o.Bits(), MaxLength: o.Addr().BitLen()})
	}
	inside = append(inside, exactlyAll(p.aggregates)...)
	// What we originate goes through the import policy as well.
	d.add(importPolicy, "originated", match{anyone: true, anyPrefix: true, local: true}, accept())
	d.add(importPolicy, "own", match{anyone: true, ranges: inside}, reject())
	d.add(importPolicy, "martians", match{anyone: true, ranges: bgp.Martians()}, reject())
	for i, k := range p.known {
		// GoBGP looks for the number only by which the peer knows us.
		d.add(importPolicy, fmt.Sprint("loop-", i), match{
			peers: []netip.Addr{k.peer}, anyPrefix: true, asPath: moreThan(k.allowed, k.asn),
		}, reject())
	}
	if p.origins {
		// Nobody else may say where a route comes from.
		for i, o := range origins() {
			d.add(importPolicy, fmt.Sprint("foreign-origin-", i), match{anyone: true, anyPrefix: true, origin: o},
				&api.Actions{ExtCommunity: remove(o)})
		}
	}
	d.add(importPolicy, "leaving", match{anyone: true, anyPrefix: true, standard: []string{exact(bgp.GracefulShutdown)}},
		&api.Actions{LocalPref: &api.LocalPrefAction{Value: bgp.LocalPrefLast}})
	pools := p.pools()
	for i, g := range p.groups {
		name := fmt.Sprint("external-", i)
		p.importRules(d, name+"-pools", ruleGroup{peers: g.peers, asn: g.asn, rules: inPools(g.rules, pools)})
		d.add(importPolicy, name+"-pools", match{peers: g.peers, ranges: pools}, reject())
		p.importRules(d, name, g)
	}
	taken := accept()
	if p.origins {
		taken.ExtCommunity = add(originOf(bgp.PeerNode))
		// GoBGP does not compare the lengths of cluster lists (RFC 4456, section 9). Two
		// reflectors that each prefer what the other passes on would take their own routes
		// back from each other, and so on without end: the direct way must be the better.
		d.add(importPolicy, "reflected", match{peers: p.servers, ranges: p.blocks}, &api.Actions{
			ExtCommunity: add(originReflected), Med: &api.MedAction{Type: api.MedAction_TYPE_REPLACE, Value: 1},
		})
	}
	d.add(importPolicy, "node", match{peers: p.nodes, ranges: p.blocks}, taken)
	for i, o := range p.owners {
		d.add(importPolicy, fmt.Sprint("owner-", i), match{peers: []netip.Addr{o.peer}, ranges: o.owned}, taken)
	}
}

// importRules adds the statements of some external peers.
func (p *policy) importRules(d *document, name string, g ruleGroup) {
	for j := 0; j < len(g.rules); {
		run := j
		r := g.rules[run]
		m := matchOf(r.Match)
		m.peers = g.peers
		for j++; plain(r) && j < len(g.rules) && plain(g.rules[j]) && g.rules[j].Accept == r.Accept; j++ {
			m.ranges = append(m.ranges, g.rules[j].Ranges...)
		}
		statement := fmt.Sprintf("%s-%d", name, run)
		if !r.Accept {
			d.add(importPolicy, statement, m, reject())
			continue
		}
		if m.anyPrefix { // a default route is taken only by a rule that names it
			m.anyPrefix, m.ranges = false, allButDefault()
		}
		steps := stepsOf(r, g.asn)
		last := steps[len(steps)-1]
		if p.origins {
			last.ExtCommunity = add(originOf(bgp.PeerExternal))
		}
		if r.Set.LocalPref != nil {
			// That the sender will go away counts more than what the rule prefers.
			leaving := m
			leaving.standard = append(slices.Clone(m.standard), exact(bgp.GracefulShutdown))
			d.add(importPolicy, statement+"-leaving", leaving, withLocalPref(steps, bgp.LocalPrefLast)...)
		}
		d.add(importPolicy, statement, m, steps...)
	}
}

// plain reports whether a rule looks at prefixes alone and changes nothing.
func plain(r bgp.Rule) bool {
	return len(r.Ranges) > 0 && reflect.DeepEqual(r.Match, bgp.Match{Ranges: r.Ranges}) && reflect.DeepEqual(r.Set, bgp.Attributes{})
}

func allButDefault() []bgp.Range {
	return []bgp.Range{
		{CIDR: netip.PrefixFrom(netip.IPv4Unspecified(), 0), MinLength: 1, MaxLength: 32},
		{CIDR: netip.PrefixFrom(netip.IPv6Unspecified(), 0), MinLength: 1, MaxLength: 128},
	}
}

// sameWay reports whether what is sent to external peers differs between two
// policies in nothing that is not the peer's own.
func sameWay(a, b *policy) bool { return a.origins == b.origins && maps.Equal(a.hops, b.hops) }

// rejectAll puts the empty policies in force, with reject as their default.
func (s *server) rejectAll(ctx context.Context) error {
	if err := s.setPolicy(ctx, &policy{}); err != nil {
		return err
	}
	for name, dir := range map[string]api.PolicyDirection{
		importPolicy: api.PolicyDirection_POLICY_DIRECTION_IMPORT,
		exportPolicy: api.PolicyDirection_POLICY_DIRECTION_EXPORT,
	} {
		err := s.SetPolicyAssignment(ctx, &api.SetPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
			Name:          "global",
			Direction:     dir,
			Policies:      []*api.Policy{{Name: name}},
			DefaultAction: api.RouteAction_ROUTE_ACTION_REJECT,
		}})
		if err != nil {
			return err
		}
	}
	return nil
}

// setPolicy replaces the policies as one; their assignment stays. Routes that
// were received before are not evaluated anew by this.
func (s *server) setPolicy(ctx context.Context, p *policy) error {
	d := p.document()
	return s.SetPolicies(ctx, &api.SetPoliciesRequest{
		DefinedSets: d.sets,
		Policies: []*api.Policy{
			{Name: importPolicy, Statements: d.statements[importPolicy]},
			{Name: exportPolicy, Statements: d.statements[exportPolicy]},
		},
	})
}
