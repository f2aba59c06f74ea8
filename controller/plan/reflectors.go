package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// reflection is a node's part in route reflection, as planned.
type reflection struct {
	// reflects tells that the node is a reflector.
	reflects bool
	servers  []*node // its reflectors
	clients  []*node // whose servers has it, reflectors included
	// fellows are nodes that are to become reflectors at the same time.
	fellows []*node
	// acted tells that it was a reflector so far that the others took for one.
	acted bool
}

// partners returns the nodes with which n has sessions for route reflection,
// sorted by name.
func (n *node) partners() []*node {
	all := slices.Concat(n.servers, n.clients, n.fellows)
	slices.SortFunc(all, func(a, b *node) int { return strings.Compare(a.name, b.name) })
	return slices.Compact(all)
}

// partOf tells which part other has in a session with n.
func (n *node) partOf(other *node) v1alpha1.Reflection {
	switch {
	case other.reflects && slices.Contains(n.servers, other):
		return v1alpha1.ReflectionServer
	case n.reflects && slices.Contains(other.servers, n):
		return v1alpha1.ReflectionClient
	case slices.Contains(n.fellows, other):
		return v1alpha1.ReflectionServer // which it is about to be
	}
	return ""
}

// planReflectors decides which nodes are reflectors and whose. elected are those
// that are to be. Where there are none so far (first), all is at once as it is to
// be. Else it goes in steps that take no route away:
//
//   - Nodes become reflectors when they have learned everything as clients of all
//     the others, and have sessions with each other: as a reflector each is told of
//     a node by that node's own reflectors only.
//   - A node that gets other reflectors keeps those it had until it has learned
//     everything from the new ones.
//   - A reflector that is to be none any more remains one for as long as nodes keep
//     it. Then the others take it for their client, and only when they tell it of
//     everything it takes itself for one.
func (p *Plan) planReflectors(elected []*node, first bool) {
	for _, n := range elected {
		n.reflects = first || n.acted
	}
	if !slices.ContainsFunc(elected, func(n *node) bool { return n.reflects }) {
		former := p.reflectors()
		if !slices.ContainsFunc(former, func(n *node) bool { return n.counts }) {
			former = elected // there is nobody to learn from
		}
		for _, n := range former {
			n.reflects = true
		}
	}
	var acting, rest []*node
	for _, n := range p.nodes {
		if n.reflects {
			acting = append(acting, n)
		} else {
			rest = append(rest, n)
		}
	}
	p.promote(elected, &acting, &rest)
	for _, n := range acting {
		n.servers = without(acting, n)
	}
	var retiring []*node
	for _, n := range rest {
		if n.reflecting() {
			retiring = append(retiring, n)
		}
	}
	var choosing []*node // others are being promoted, or have what they had
	for _, n := range rest {
		if n.departed {
			n.servers = n.keptServers(acting)
		}
		if len(n.servers) == 0 {
			choosing = append(choosing, n)
		}
	}
	p.assign(choosing, acting)
	for _, n := range rest {
		if !n.reflecting() {
			p.keepServers(n, acting, retiring)
		}
	}
	p.retire(acting, retiring)
	for _, n := range p.nodes {
		for _, r := range n.servers {
			r.clients = append(r.clients, n)
		}
	}
}

// keptServers returns those of the reflectors that the node had: where it is, by
// which others would be chosen, is not known any more.
func (n *node) keptServers(reflectors []*node) []*node {
	before := n.serversBefore()
	return slices.DeleteFunc(slices.Clone(reflectors), func(r *node) bool { return !before[r.name] })
}

// keepServers lets a node keep the reflectors that it had until it has learned
// everything from its own. One that is not waited for keeps none that is to be no
// reflector any more.
func (p *Plan) keepServers(n *node, acting, retiring []*node) {
	before := n.serversBefore()
	var kept, leaving []*node
	for _, r := range acting {
		if before[r.name] && !slices.Contains(n.servers, r) {
			kept = append(kept, r)
		}
	}
	for _, r := range retiring {
		if before[r.name] && n.counts {
			leaving = append(leaving, r)
		}
	}
	if len(kept)+len(leaving) == 0 || p.missingServed(n, n.servers) == "" {
		return
	}
	p.Waiting = true
	for _, r := range leaving {
		r.reflects = r.acted
	}
	n.servers = slices.Concat(n.servers, kept, leaving)
}

// promote lets those of the elected that are no reflectors yet learn everything as
// clients of all that are, and makes reflectors of those that have, when no other
// change of reflectors is under way.
func (p *Plan) promote(elected []*node, acting, rest *[]*node) {
	var candidates []*node
	for _, n := range elected {
		if !n.reflects && len(candidates) < clientsEach {
			candidates = append(candidates, n)
		}
	}
	if len(candidates) == 0 {
		return
	}
	retiring := slices.ContainsFunc(*rest, func(n *node) bool { return n.reflecting() && !slices.Contains(candidates, n) })
	if !retiring && p.agreed() {
		for _, n := range p.learned(candidates, *acting) {
			n.reflects = true
			*rest = without(*rest, n)
			*acting = append(*acting, n)
		}
		slices.SortFunc(*acting, func(a, b *node) int { return strings.Compare(a.name, b.name) })
		candidates = slices.DeleteFunc(candidates, func(n *node) bool { return n.reflects })
	}
	for _, n := range candidates {
		n.servers = slices.Clone(*acting)
		n.fellows = without(candidates, n)
		p.Waiting = true
	}
}

// learned returns those of the candidates that have learned everything from the
// reflectors and from each other.
func (p *Plan) learned(candidates, acting []*node) []*node {
	var all []*node
	for _, n := range candidates {
		if !n.counts || p.missingServed(n, acting) != "" {
			continue
		}
		if !slices.ContainsFunc(all, func(o *node) bool { return !n.takes(o) || !o.takes(n) }) {
			all = append(all, n)
		}
	}
	return all
}

// takes tells whether n reports that it takes the blocks of other in a session
// with it, or that can't be.
func (n *node) takes(other *node) bool {
	addr, ok := n.reach(other)
	got, up := n.acceptedFromNodes()[addr.String()]
	return !ok || n.fresh && up && got >= other.owned.expected(n, other)
}

// retire plans for the reflectors that are to be none any more.
func (p *Plan) retire(acting, retiring []*node) {
	var still []*node
	for _, n := range retiring {
		if n.reflects {
			still = append(still, n)
		}
	}
	for _, n := range acting {
		n.servers = slices.Concat(n.servers, still)
	}
	var down []*node
	for _, n := range retiring {
		switch {
		case n.reflects:
			n.servers = slices.Concat(acting, without(still, n))
		case n.counts && p.missingServed(n, n.servers) != "":
			down = append(down, n)
		}
	}
	for _, n := range down {
		n.reflects = true
		n.servers = slices.Concat(acting, still, without(down, n))
		p.Waiting = true
	}
}

func without(nodes []*node, n *node) []*node {
	return slices.DeleteFunc(slices.Clone(nodes), func(o *node) bool { return o == n })
}

// findActed finds out which nodes were reflectors so far. One that others take for
// their client was not: it stepped down.
func (p *Plan) findActed() {
	byName := make(map[string]*node)
	for _, n := range p.nodes {
		if n.reflecting() {
			n.acted = true
			byName[n.name] = n
		}
	}
	for _, n := range byName {
		for i := range n.before.Sessions {
			s := &n.before.Sessions[i]
			if other := byName[s.Name]; other != nil && s.Kind == v1alpha1.SessionNode && s.Reflection == v1alpha1.ReflectionClient {
				other.acted = false
			}
		}
	}
}

// agreed tells whether reflectors take for reflectors exactly those that are: the
// last that became one did so in all plans.
func (p *Plan) agreed() bool {
	for _, n := range p.nodes {
		if !n.acted {
			continue
		}
		servers := n.serversBefore()
		for _, other := range p.nodes {
			_, reachable := n.reach(other)
			if other != n && reachable && servers[other.name] != other.acted {
				return false
			}
		}
	}
	return true
}

// missingServed says what a node lacks of what its reflectors are to tell it, and
// whether they tell others of it; empty: nothing. Reflectors that don't count are
// not waited for.
func (p *Plan) missingServed(n *node, servers []*node) string {
	if !n.fresh {
		return n.name + " has not reported its sessions"
	}
	if !slices.ContainsFunc(servers, func(r *node) bool { return r.counts }) {
		return n.name + " has no reflector that is ready"
	}
	accepted := n.acceptedFromNodes()
	for _, r := range servers {
		addr, ok := n.reach(r)
		if r == n || !r.counts || !ok {
			continue
		}
		if !r.fresh || !r.reflecting() || r.partBefore(n.name) != v1alpha1.ReflectionClient {
			return fmt.Sprintf("reflector %s has not reported that %s is its client", r.name, n.name)
		}
		got, up := accepted[addr.String()]
		if !up {
			return fmt.Sprintf("%s has no session with reflector %s", n.name, r.name)
		}
		if want := p.told(n, r); got < want {
			return fmt.Sprintf("%s has taken %d of %d blocks from reflector %s", n.name, got, want, r.name)
		}
	}
	return ""
}

// told returns how many blocks a reflector tells a client: those of all other
// nodes that count, of families that both have.
func (p *Plan) told(n, r *node) int {
	want := 0
	for v6, all := range map[bool]int{false: p.counted.v4, true: p.counted.v6} {
		if !n.hasFamily(v6) || !r.hasFamily(v6) {
			continue
		}
		want += all
		if n.counts {
			want -= n.owned.of(v6)
		}
	}
	return want
}

// missingReflected returns which nodes have yet to report that they have learned,
// by way of reflectors, the blocks of all others that count.
func (p *Plan) missingReflected() []lack {
	var missing []lack
	for _, n := range p.nodes {
		if !n.counts {
			continue
		}
		what := ""
		if n.reflects {
			what = p.missingReflector(n)
		} else {
			what = p.missingServed(n, n.servers)
		}
		if what != "" {
			missing = append(missing, lack{what, false})
		}
	}
	return missing
}

// missingReflector says what a reflector lacks of what its clients and the other
// reflectors tell it; empty: nothing.
func (p *Plan) missingReflector(n *node) string {
	if !n.fresh || !n.reflecting() {
		return n.name + " has not reported its sessions"
	}
	accepted := n.acceptedFromNodes()
	for _, other := range n.partners() {
		addr, ok := n.reach(other)
		if !other.counts || !ok {
			continue
		}
		got, up := accepted[addr.String()]
		if !up {
			return fmt.Sprintf("reflector %s has no session with %s", n.name, other.name)
		}
		want := other.owned.expected(n, other)
		if n.partOf(other) == v1alpha1.ReflectionServer {
			for _, c := range other.clients {
				if c != n && c.counts && !c.reflects {
					want += c.owned.expected(n, c)
				}
			}
		}
		if got < want {
			return fmt.Sprintf("reflector %s has taken %d of %d blocks from %s", n.name, got, want, other.name)
		}
	}
	return ""
}
