package gobgp

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/osrg/gobgp/v4/api"

	"github.com/godwit-net/godwit/bgp"
)

// exportGroup are the external peers with the same rules for what they are
// sent, to whom it is sent in the same way.
type exportGroup struct {
	peers []netip.Addr // sorted
	way   exportWay
	rules []bgp.Rule
}

// exportWay is what decides over next hops and AS paths.
type exportWay struct {
	hopOf    bgp.Families // of which routes can have the session's address as next hop
	internal bool
	asn      uint32 // by which the peers know us
	nextHop  bgp.NextHopMode
}

// exported adds the export statements: first all that concern own prefixes, and
// after them, where only learned routes are left, those of learned ones. What is
// there only to go comes before all rules.
func (p *policy) exported(d *document) {
	own := exactlyAll(slices.Concat(p.own, p.aggregates))
	nodes := slices.Clone(p.nodes)
	for _, o := range p.owners {
		nodes = append(nodes, o.peer)
	}
	d.add(exportPolicy, "gone", match{anyone: true, anyPrefix: true, local: true, origin: originGone}, reject())
	if len(p.aggregates) > 0 {
		d.add(exportPolicy, "aggregates", match{peers: nodes, ranges: exactlyAll(p.aggregates), local: true}, reject())
	}
	for i, g := range p.exports {
		p.exportRules(d, fmt.Sprint("own-", i), g, true)
	}
	// A session of a prefix's own family, or of a link's, has a next hop of itself; on
	// others the prefix keeps the one that it was originated with.
	for _, f := range (bgp.IPv4 | bgp.IPv6).Each() {
		bySelf := accept()
		bySelf.Nexthop = &api.NexthopAction{Self: true}
		d.add(exportPolicy, "session"+suffix(f), match{peers: p.sessions[f], ranges: own, families: f, local: true}, bySelf)
	}
	d.add(exportPolicy, "export-own", match{anyone: true, ranges: own, local: true}, accept())
	d.add(exportPolicy, "not-own", match{anyone: true, anyPrefix: true, local: true}, reject())
	p.reflect(d)
	for i, g := range p.exports {
		p.exportRules(d, fmt.Sprint("learned-", i), g, false)
	}
}

// reflect adds what a reflector passes on: to clients what nodes announced, to
// other reflectors what did not come from one of them. Next hops stay.
func (p *policy) reflect(d *document) {
	if !p.reflects {
		return
	}
	passOn := accept()
	passOn.ExtCommunity = remove(origins()...)
	node := originOf(bgp.PeerNode)
	d.add(exportPolicy, "reflected", match{peers: p.servers, anyPrefix: true, origin: originReflected}, reject())
	d.add(exportPolicy, "reflect", match{peers: slices.Concat(p.clients, p.servers), anyPrefix: true, origin: node}, passOn)
}

// exportRules adds what the rules of a group say of own or of learned routes.
func (p *policy) exportRules(d *document, name string, g exportGroup, own bool) {
	if g.way.internal && !own {
		// GoBGP would tell routers of our AS of nodes, as if we reflected (see apiPeer).
		d.add(exportPolicy, name+"-nodes", match{peers: g.peers, anyPrefix: true, origin: originOf(bgp.PeerNode)}, reject())
	}
	for j, r := range g.rules {
		if own && (r.Source == bgp.SourceLearned || r.PeerKind != nil) || !own && r.Source == bgp.SourceOwn {
			continue
		}
		m := matchOf(r.Match)
		m.peers, m.local = g.peers, own
		if r.PeerKind != nil {
			m.origin = originOf(*r.PeerKind)
		}
		if !g.way.internal && m.asPath != "" {
			m.asPath = behind(g.way.asn, m.asPath)
		}
		statement := fmt.Sprintf("%s-%d", name, j)
		if !r.Accept {
			d.add(exportPolicy, statement, m, reject())
			continue
		}
		for _, f := range (bgp.IPv4 | bgp.IPv6).Each() {
			hop, ok := p.nextHop(g.way, f, own)
			if !ok {
				continue
			}
			steps := stepsOf(r, g.way.asn)
			last := steps[len(steps)-1]
			last.Nexthop = hop
			if p.origins && !own {
				last.ExtCommunity = remove(origins()...)
			}
			m.families = f
			d.add(exportPolicy, statement, m, steps...)
		}
	}
}

// nextHop says in GoBGP's words with which next hop a route of a family is
// announced; nil leaves it to GoBGP, which puts the session's address in place of
// that of a learned route to an external peer, and of an unspecified one. Over a
// session of the other family that would be an address of the wrong one.
func (p *policy) nextHop(w exportWay, f bgp.Families, own bool) (action *api.NexthopAction, ok bool) {
	self := w.nextHop == bgp.NextHopSelf || w.nextHop == bgp.NextHopAuto && !w.internal
	switch {
	case own && len(p.hops) > 0 && w.hopOf.Has(f):
		return &api.NexthopAction{Self: true}, true
	case own:
		return nil, true
	case !self:
		return &api.NexthopAction{Unchanged: true}, true
	case w.hopOf.Has(f):
		return &api.NexthopAction{Self: true}, true
	}
	hop, given := p.hops[f]
	return &api.NexthopAction{Address: hop.String()}, given
}

// exportRulesOf are the rules that count for a peer.
func exportRulesOf(p bgp.Peer) []bgp.Rule {
	if p.Kind == bgp.PeerNode {
		return nil
	}
	return slices.Clip(p.Export)
}
