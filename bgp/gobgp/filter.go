package gobgp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/osrg/gobgp/v4/api"

	"github.com/godwit-net/godwit/bgp"
)

// document is a policy in GoBGP's words: defined sets, and statements that
// refer to them. A set of neighbours without members matches everyone, and a
// set of prefixes has one family: neither must be made otherwise.
type document struct {
	sets       []*api.DefinedSet
	names      map[string]bool // of the sets
	statements map[string][]*api.Statement
	everyone   []netip.Addr // whom sets of neighbours have to tell apart
}

func newDocument(everyone []netip.Addr) *document {
	return &document{everyone: everyone, names: make(map[string]bool), statements: make(map[string][]*api.Statement)}
}

// match holds conditions, all of which a route must meet. No peers and no
// ranges match nothing, unless anyone and anyPrefix say that they do not matter.
type match struct {
	anyone    bool
	peers     []netip.Addr // that a route comes from, or is to be sent to
	anyPrefix bool
	ranges    []bgp.Range
	families  bgp.Families // zero: all
	local     bool         // only our own
	origin    string       // a mark of where it comes from, see originOf; empty: any
	standard  []string     // expressions, each for some standard community
	large     []string     // the same for large ones
	either    string       // the same for one of any kind; empty: none
	asPath    string       // an expression; empty: any
}

// matchOf translates what a rule says of the route itself.
func matchOf(m bgp.Match) match {
	out := match{anyPrefix: len(m.Ranges) == 0, ranges: slices.Clone(m.Ranges)}
	for _, c := range m.Communities {
		if bgp.IsLargeCommunity(c) {
			out.large = append(out.large, exact(c))
		} else {
			out.standard = append(out.standard, exact(c))
		}
	}
	if m.CommunityRegexp != "" {
		out.either = verbatim(m.CommunityRegexp)
	}
	if m.ASPathRegexp != "" {
		out.asPath = verbatim(m.ASPathRegexp)
	}
	return out
}

// exact is an expression for one community.
func exact(community string) string { return "^" + community + "$" }

// verbatim keeps GoBGP from reading more into an expression than it says: it
// takes a bare community for one that is anchored, and some AS path expressions
// for shorthands.
func verbatim(expression string) string { return "(?:" + expression + ")" }

// originOf marks, inside of our table, of which kind the peer is that a route
// comes from: export policies can't ask. It is a route origin (RFC 4360, section
// 5) of the last AS number, which is reserved (RFC 7300), taken away before a
// route is sent.
func originOf(k bgp.PeerKind) string {
	if k == bgp.PeerNode {
		return "65535:1735354487"
	}
	return "65535:1735354488"
}

// originReflected marks, beside originOf, what comes from a reflector.
const originReflected = "65535:1735354489"

// originGone marks a path that is there only to go, see withdrawAgain.
const originGone = "65535:1735354490"

// origins are all such marks of what is learned.
func origins() []string {
	return []string{originOf(bgp.PeerNode), originOf(bgp.PeerExternal), originReflected}
}

func add(origin string) *api.CommunityAction {
	return &api.CommunityAction{Type: api.CommunityAction_TYPE_ADD, Communities: []string{"soo:" + origin}}
}

func remove(origins ...string) *api.CommunityAction {
	a := &api.CommunityAction{Type: api.CommunityAction_TYPE_REMOVE}
	for _, o := range origins {
		a.Communities = append(a.Communities, "soo:"+exact(o))
	}
	return a
}

func accept() *api.Actions { return &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT} }
func reject() *api.Actions { return &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_REJECT} }

// stepsOf are the actions of statements with the same conditions, one after the
// other, that change a route and then accept it. A statement either adds or
// removes communities; added ones come first, as what is added makes no condition
// fail, but what is removed may.
//
// GoBGP adds what is there already once more, which routers should not send (RFC
// 8092, section 5): so it is taken away before, unless conditions need it.
func stepsOf(r bgp.Rule, asn uint32) []*api.Actions {
	a, last := r.Set, accept()
	var steps []*api.Actions
	added := slices.DeleteFunc(slices.Clone(a.AddCommunities), func(c string) bool {
		return slices.Contains(r.Communities, c) || slices.Contains(a.RemoveCommunities, c)
	})
	if len(added) > 0 {
		if r.CommunityRegexp == "" && !slices.Contains(added, bgp.GracefulShutdown) {
			before := &api.Actions{}
			before.Community, before.LargeCommunity = communities(api.CommunityAction_TYPE_REMOVE, added, exact)
			steps = append(steps, before)
		}
		adding := &api.Actions{}
		adding.Community, adding.LargeCommunity = communities(api.CommunityAction_TYPE_ADD, added, strings.Clone)
		steps = append(steps, adding)
	}
	steps = append(steps, last)
	last.Community, last.LargeCommunity = communities(api.CommunityAction_TYPE_REMOVE, a.RemoveCommunities, exact)
	if a.LocalPref != nil {
		last.LocalPref = &api.LocalPrefAction{Value: *a.LocalPref}
	}
	if a.MED != nil {
		last.Med = &api.MedAction{Type: api.MedAction_TYPE_REPLACE, Value: int64(*a.MED)}
	}
	if a.Prepend > 0 {
		last.AsPrepend = &api.AsPrependAction{Asn: asn, Repeat: uint32(a.Prepend)}
	}
	return steps
}

// communities divides communities into those of each kind, in an action.
func communities(what api.CommunityAction_Type, all []string, word func(string) string) (standard, large *api.CommunityAction) {
	for _, c := range all {
		to := &standard
		if bgp.IsLargeCommunity(c) {
			to = &large
		}
		if *to == nil {
			*to = &api.CommunityAction{Type: what}
		}
		(*to).Communities = append((*to).Communities, word(c))
	}
	return standard, large
}

// withLocalPref is steps with another local preference.
func withLocalPref(steps []*api.Actions, pref uint32) []*api.Actions {
	out := slices.Clone(steps)
	last := out[len(out)-1]
	out[len(out)-1] = &api.Actions{
		RouteAction: last.RouteAction, Community: last.Community, LargeCommunity: last.LargeCommunity,
		ExtCommunity: last.ExtCommunity, Med: last.Med, AsPrepend: last.AsPrepend, Nexthop: last.Nexthop,
		LocalPref: &api.LocalPrefAction{Value: pref},
	}
	return out
}

// add appends statements that do the steps with what matches. It takes several
// where GoBGP's conditions are narrower: for each family, and for each kind of
// community that an expression may match. The sets of a name are made once: what
// is added by one name differs in its families at most.
func (d *document) add(policy, name string, m match, steps ...*api.Actions) {
	if !m.anyone && len(m.peers) == 0 {
		return
	}
	for _, c := range d.prefixConditions(name, m) {
		if !m.anyone {
			c.NeighborSet = d.neighbors(name, m.peers)
		}
		if m.local {
			c.RouteType = api.Conditions_ROUTE_TYPE_LOCAL
		}
		if m.origin != "" {
			c.ExtCommunitySet = d.set(api.DefinedType_DEFINED_TYPE_EXT_COMMUNITY, name+"-origin", "soo:"+exact(m.origin))
		}
		if m.asPath != "" {
			c.AsPathSet = d.set(api.DefinedType_DEFINED_TYPE_AS_PATH, name+"-path", m.asPath)
		}
		for _, c := range d.withCommunities(name, m, c) {
			for _, actions := range steps {
				d.statements[policy] = append(d.statements[policy], &api.Statement{
					Name: fmt.Sprintf("%s#%d", name, len(d.statements[policy])), Conditions: c, Actions: actions,
				})
			}
		}
	}
}

// withCommunities adds to conditions those for communities. There are two sets
// of conditions, any of which is met, for an expression that may match either kind.
func (d *document) withCommunities(name string, m match, c *api.Conditions) []*api.Conditions {
	with := func(name string, standard, large []string) *api.Conditions {
		out := &api.Conditions{
			PrefixSet: c.PrefixSet, NeighborSet: c.NeighborSet, RouteType: c.RouteType, AfiSafiIn: c.AfiSafiIn,
			ExtCommunitySet: c.ExtCommunitySet, AsPathSet: c.AsPathSet,
		}
		if len(standard) > 0 {
			out.CommunitySet = d.set(api.DefinedType_DEFINED_TYPE_COMMUNITY, name+"-standard", standard...)
		}
		if len(large) > 0 {
			out.LargeCommunitySet = d.set(api.DefinedType_DEFINED_TYPE_LARGE_COMMUNITY, name+"-large", large...)
		}
		return out
	}
	if m.either == "" {
		return []*api.Conditions{with(name, m.standard, m.large)}
	}
	return []*api.Conditions{
		with(name+"-either", append(slices.Clone(m.standard), m.either), m.large),
		with(name+"-or", m.standard, append(slices.Clone(m.large), m.either)),
	}
}

// prefixConditions are the conditions for the prefix and its family, any of
// which is met.
func (d *document) prefixConditions(name string, m match) []*api.Conditions {
	if m.anyPrefix {
		c := &api.Conditions{}
		for _, f := range m.families.Each() {
			c.AfiSafiIn = append(c.AfiSafiIn, apiFamily(f))
		}
		return []*api.Conditions{c}
	}
	var out []*api.Conditions
	for _, f := range (bgp.IPv4 | bgp.IPv6).Each() {
		if m.families != 0 && !m.families.Has(f) {
			continue
		}
		var prefixes []*api.Prefix
		for _, r := range m.ranges {
			if bgp.FamilyOf(r.CIDR.Addr()) == f {
				prefixes = append(prefixes, &api.Prefix{
					IpPrefix: r.CIDR.String(), MaskLengthMin: uint32(r.MinLength), MaskLengthMax: uint32(r.MaxLength),
				})
			}
		}
		if len(prefixes) == 0 {
			continue
		}
		set := name + suffix(f)
		if !d.names[set] {
			d.names[set] = true
			d.sets = append(d.sets, &api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_PREFIX, Name: set, Prefixes: prefixes})
		}
		out = append(out, &api.Conditions{PrefixSet: &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: set}})
	}
	return out
}

func suffix(f bgp.Families) string {
	if f == bgp.IPv4 {
		return "-v4"
	}
	return "-v6"
}

func (d *document) neighbors(name string, peers []netip.Addr) *api.MatchSet {
	var list []string
	for _, p := range cover(peers, d.everyone) {
		list = append(list, p.String())
	}
	set := d.set(api.DefinedType_DEFINED_TYPE_NEIGHBOR, name+"-peers", list...)
	set.Type = api.MatchSet_TYPE_ANY
	return set
}

// set makes a set, unless it is there, and the condition that all of it is met.
func (d *document) set(what api.DefinedType, name string, list ...string) *api.MatchSet {
	if !d.names[name] {
		d.names[name] = true
		d.sets = append(d.sets, &api.DefinedSet{DefinedType: what, Name: name, List: list})
	}
	return &api.MatchSet{Type: api.MatchSet_TYPE_ALL, Name: name}
}
