package plan

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

const (
	defaultRedundancy = 3
	defaultMeshLimit  = 100
	// clientsEach is how many clients a reflector is to have at most, in Auto.
	clientsEach = 500
	// rackLabel is what many give racks by; Kubernetes knows regions and zones only.
	rackLabel = "topology.kubernetes.io/rack"
)

// reflection is a node's part in route reflection, as planned.
type reflection struct {
	// reflects tells that the node is a reflector.
	reflects bool
	servers  []*node // its reflectors
	clients  []*node // whose servers has it, reflectors included
	// acted tells that it was a reflector so far that the others took for one.
	acted bool
}

// partners returns the nodes with which n has sessions for route reflection,
// sorted by name.
func (n *node) partners() []*node {
	all := slices.Concat(n.servers, n.clients)
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
	}
	return ""
}

// planReflectors decides which nodes are reflectors and whose. elected are those
// that are to be. Where there are none so far (first), all is at once as it is to
// be. Else it goes in steps that take no route away:
//
//   - A node becomes a reflector, one at a time, when it has learned everything as
//     a client of all the others: as a reflector it is told of each node by that
//     node's own reflectors only.
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
	for _, n := range rest {
		if n.departed {
			n.servers = n.keptServers(acting)
		}
		if len(n.servers) == 0 { // else it is being promoted, or has what it had
			n.servers = p.choose(n, acting)
		}
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

// promote lets the first of the elected that is no reflector yet learn everything
// as a client of all that are, and makes it one when it has, and no other change of
// reflectors is under way.
func (p *Plan) promote(elected []*node, acting, rest *[]*node) {
	i := slices.IndexFunc(elected, func(n *node) bool { return !n.reflects })
	if i < 0 {
		return
	}
	n := elected[i]
	retiring := slices.ContainsFunc(*rest, func(o *node) bool { return o != n && o.reflecting() })
	if !n.counts || retiring || !p.agreed() || p.missingServed(n, *acting) != "" {
		n.servers = slices.Clone(*acting)
		p.Waiting = true
		return
	}
	n.reflects = true
	*rest = without(*rest, n)
	*acting = append(*acting, n)
	slices.SortFunc(*acting, func(a, b *node) int { return strings.Compare(a.name, b.name) })
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

// elect returns the nodes that are to be reflectors, those that are first; none
// when there can't be any. what says why not.
func (p *Plan) elect() (elected []*node, what string) {
	selector := labels.Everything()
	if rr := p.config.RouteReflectors; rr != nil && rr.NodeSelector != nil {
		s, err := parseSelector(rr.NodeSelector)
		if err != nil {
			return p.reflectors(), fmt.Sprintf("routeReflectors.nodeSelector: %v", err)
		}
		selector = s
	}
	var candidates []*node
	for _, n := range p.nodes {
		if n.ready && !n.draining && selector.Matches(n.labels) {
			candidates = append(candidates, n)
		}
	}
	if len(candidates) == 0 {
		return p.reflectors(), "no node that routeReflectors.nodeSelector matches is ready to be a reflector"
	}
	slices.SortFunc(candidates, func(a, b *node) int {
		return cmp.Or(boolCompare(b.acted, a.acted), boolCompare(b.counts, a.counts),
			a.created.Compare(b.created.Time), strings.Compare(a.name, b.name))
	})
	if p.config.Topology == v1alpha1.TopologyRouteReflectors {
		return candidates, ""
	}
	return spread(candidates, p.reflectorsWanted()), ""
}

// reflectors returns the nodes that are reflectors in the plan so far.
func (p *Plan) reflectors() []*node {
	return slices.DeleteFunc(slices.Clone(p.nodes), func(n *node) bool { return !n.acted })
}

// reflectorsWanted is how many reflectors Auto has: as many as each node has, and
// more when each would have too many clients.
func (p *Plan) reflectorsWanted() int {
	k := p.redundancy()
	return max(k, (len(p.nodes)*k+clientsEach-1)/clientsEach)
}

func (p *Plan) redundancy() int {
	if rr := p.config.RouteReflectors; rr != nil {
		return int(deref(rr.Redundancy, defaultRedundancy))
	}
	return defaultRedundancy
}

// meshLimit is up to how many nodes Auto is a mesh. Where there are reflectors
// they stay down to four fifths of it, so that a node that comes and goes does not
// change the topology each time.
func (p *Plan) meshLimit(reflected bool) int {
	limit := defaultMeshLimit
	if rr := p.config.RouteReflectors; rr != nil {
		limit = int(deref(rr.MeshLimit, defaultMeshLimit))
	}
	if reflected {
		return limit * 4 / 5
	}
	return limit
}

// spread takes so many candidates, the first ones first, but from zones and in
// them racks that have the fewest yet. Of those that are reflectors none is let
// go for less than twice the number.
func spread(candidates []*node, want int) []*node {
	var taken []*node
	zones, racks := make(map[string]int), make(map[string]int)
	take := func(n *node) {
		taken = append(taken, n)
		zones[n.zone()]++
		racks[n.rack()]++
	}
	rest := slices.Clone(candidates)
	for len(rest) > 0 && rest[0].acted && len(taken) < 2*want {
		take(rest[0])
		rest = rest[1:]
	}
	for len(rest) > 0 && len(taken) < want {
		best := 0
		for i, n := range rest {
			if cmp.Or(cmp.Compare(zones[n.zone()], zones[rest[best].zone()]), boolCompare(rest[best].counts, n.counts),
				cmp.Compare(racks[n.rack()], racks[rest[best].rack()])) < 0 {
				best = i
			}
		}
		take(rest[best])
		rest = slices.Delete(rest, best, best+1)
	}
	return taken
}

func (n *node) zone() string { return n.labels[corev1.LabelTopologyZone] }
func (n *node) rack() string { return n.zone() + "/" + n.labels[rackLabel] }

// choose returns the reflectors of a node: the first of its own zone when there
// is one, the others of other zones as far as there are. Among equals a hash of
// both names decides, so that another reflector changes little.
func (p *Plan) choose(n *node, reflectors []*node) []*node {
	rest := make([]*node, 0, len(reflectors))
	for _, r := range reflectors {
		if _, ok := n.reach(r); ok && r != n {
			rest = append(rest, r)
		}
	}
	weight := make(map[*node]uint64, len(rest))
	for _, r := range rest {
		weight[r] = rendezvous(n.name, r.name)
	}
	slices.SortFunc(rest, func(a, b *node) int {
		return cmp.Or(cmp.Compare(n.lacks(a), n.lacks(b)), boolCompare(a.draining, b.draining),
			boolCompare(a.zone() != n.zone(), b.zone() != n.zone()), cmp.Compare(weight[a], weight[b]))
	})
	zones := make(map[string]int)
	var chosen []*node
	for len(rest) > 0 && len(chosen) < p.redundancy() {
		best := 0
		for i, r := range rest {
			if cmp.Or(cmp.Compare(n.lacks(r), n.lacks(rest[best])), cmp.Compare(zones[r.zone()], zones[rest[best].zone()])) < 0 {
				best = i
			}
		}
		chosen = append(chosen, rest[best])
		zones[rest[best].zone()]++
		rest = slices.Delete(rest, best, best+1)
	}
	slices.SortFunc(chosen, func(a, b *node) int { return strings.Compare(a.name, b.name) })
	return chosen
}

// lacks counts the families of n that r can't tell it of.
func (n *node) lacks(r *node) int {
	lacking := 0
	for _, a := range n.addrs {
		if !r.has(a) {
			lacking++
		}
	}
	return lacking
}

// rendezvous weighs a pair of names (highest random weight hashing).
func rendezvous(a, b string) uint64 {
	h := fnv.New64a()
	var length [4]byte
	binary.BigEndian.PutUint32(length[:], uint32(len(a)))
	_, _ = h.Write(length[:])
	_, _ = h.Write([]byte(a))
	_, _ = h.Write([]byte(b))
	// FNV's high bits depend little on the last bytes.
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return x
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
