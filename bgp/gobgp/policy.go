package gobgp

import (
	"context"
	"fmt"
	"net/netip"
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
// the same outcome share a set (a tree).
type policy struct {
	own    []netip.Prefix // sorted
	blocks []bgp.Range
	nodes  []netip.Addr // sorted
	groups []ruleGroup
	// sessions are the peers by the family of their session, sorted, when own
	// prefixes have next hops that are not the session's.
	sessions map[bgp.Families][]netip.Addr
}

// ruleGroup are the external peers with the same rules.
type ruleGroup struct {
	peers []netip.Addr // sorted
	rules []bgp.Rule
}

func newPolicy(c bgp.Config) *policy {
	p := &policy{own: slices.Clone(c.Advertise), blocks: slices.Clone(c.Blocks)}
	slices.SortFunc(p.own, netip.Prefix.Compare)
	p.own = slices.Compact(p.own)
	peers := slices.Clone(c.Peers)
	slices.SortFunc(peers, func(a, b bgp.Peer) int { return a.Address.Compare(b.Address) })
	if len(c.NextHops) > 0 {
		p.sessions = make(map[bgp.Families][]netip.Addr)
	}
	for _, peer := range peers {
		if p.sessions != nil {
			f := bgp.FamilyOf(peer.Address)
			p.sessions[f] = append(p.sessions[f], peer.Address)
		}
		if peer.Kind == bgp.PeerNode {
			p.nodes = append(p.nodes, peer.Address)
			continue
		}
		i := slices.IndexFunc(p.groups, func(g ruleGroup) bool { return slices.Equal(g.rules, peer.Import) })
		if i < 0 {
			i = len(p.groups)
			p.groups = append(p.groups, ruleGroup{rules: slices.Clone(peer.Import)})
		}
		p.groups[i].peers = append(p.groups[i].peers, peer.Address)
	}
	return p
}

// document is a policy in GoBGP's words: defined sets, and statements that
// refer to them. A set of neighbours without members matches everyone, and a
// set of prefixes has one family: neither must be made otherwise.
type document struct {
	sets       []*api.DefinedSet
	statements map[string][]*api.Statement
}

func (p *policy) document() *document {
	d := &document{statements: make(map[string][]*api.Statement)}
	own := make([]bgp.Range, 0, len(p.own))
	inside := make([]bgp.Range, 0, len(p.own))
	for _, o := range p.own {
		own = append(own, bgp.Range{CIDR: o, MinLength: o.Bits(), MaxLength: o.Bits()})
		inside = append(inside, bgp.Range{CIDR: o, MinLength: o.Bits(), MaxLength: o.Addr().BitLen()})
	}
	// What we originate goes through the import policy as well.
	d.statements[importPolicy] = append(d.statements[importPolicy], &api.Statement{
		Name:       "originated",
		Conditions: &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL},
		Actions:    &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT},
	})
	d.add(importPolicy, "own", inside, nil, reject)
	for i, g := range p.groups {
		for j := 0; j < len(g.rules); {
			run := j
			ranges := []bgp.Range{}
			for ; j < len(g.rules) && g.rules[j].Accept == g.rules[run].Accept; j++ {
				ranges = append(ranges, g.rules[j].Range)
			}
			verdict := reject
			if g.rules[run].Accept {
				verdict = accept
			}
			d.add(importPolicy, fmt.Sprintf("external-%d-%d", i, run), ranges, g.peers, verdict)
		}
	}
	if len(p.nodes) > 0 {
		d.add(importPolicy, "node", p.blocks, p.nodes, accept)
	}
	// A session of a prefix's own family has a next hop of itself; on others the
	// prefix keeps the one that it was originated with.
	for f, peers := range p.sessions {
		same := slices.DeleteFunc(slices.Clone(own), func(r bgp.Range) bool { return bgp.FamilyOf(r.CIDR.Addr()) != f })
		d.add(exportPolicy, "session"+suffix(f), same, peers, acceptBySelf)
	}
	d.add(exportPolicy, "export-own", own, nil, accept)
	return d
}

// verdict is what a statement says of the routes that match it.
type verdict int

const (
	reject verdict = iota
	accept
	acceptBySelf // with our address of the session as next hop
)

func (v verdict) actions() *api.Actions {
	switch v {
	case accept:
		return &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT}
	case acceptBySelf:
		return &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT, Nexthop: &api.NexthopAction{Self: true}}
	}
	return &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_REJECT}
}

func suffix(f bgp.Families) string {
	if f == bgp.IPv4 {
		return "-v4"
	}
	return "-v6"
}

// add appends a statement: routes to the ranges get a verdict, when imported
// from or exported to the peers (nil: anyone). Exported routes must be our own
// besides.
func (d *document) add(policy, name string, ranges []bgp.Range, peers []netip.Addr, v verdict) {
	var v4, v6 []*api.Prefix
	for _, r := range ranges {
		p := &api.Prefix{IpPrefix: r.CIDR.String(), MaskLengthMin: uint32(r.MinLength), MaskLengthMax: uint32(r.MaxLength)}
		if r.CIDR.Addr().Is4() {
			v4 = append(v4, p)
		} else {
			v6 = append(v6, p)
		}
	}
	if len(peers) > 0 && len(ranges) > 0 {
		list := make([]string, len(peers))
		for i, a := range peers {
			list[i] = netip.PrefixFrom(a.WithZone(""), a.BitLen()).String()
		}
		d.sets = append(d.sets, &api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_NEIGHBOR, Name: name + "-peers", List: list})
	}
	for family, prefixes := range map[bgp.Families][]*api.Prefix{bgp.IPv4: v4, bgp.IPv6: v6} {
		if len(prefixes) == 0 {
			continue
		}
		set := name + suffix(family)
		d.sets = append(d.sets, &api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_PREFIX, Name: set, Prefixes: prefixes})
		st := &api.Statement{
			Name:       set,
			Conditions: &api.Conditions{PrefixSet: &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: set}},
			Actions:    v.actions(),
		}
		if len(peers) > 0 {
			st.Conditions.NeighborSet = &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: name + "-peers"}
		}
		if policy == exportPolicy {
			st.Conditions.RouteType = api.Conditions_ROUTE_TYPE_LOCAL
		}
		d.statements[policy] = append(d.statements[policy], st)
	}
}

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
