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
	// clientsEach is about how many clients a reflector is to have at most, in Auto.
	// What a reflector has to send, and the size of its plan and its status, grow with
	// them: see docs/scale.md.
	clientsEach = 100
	// rackLabel is what many give racks by; Kubernetes knows regions and zones only.
	rackLabel = "topology.kubernetes.io/rack"
)

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
// more when each would have too many clients. They become a quarter more each time,
// as each change of them changes the plans of many nodes.
func (p *Plan) reflectorsWanted() int {
	want := p.redundancy()
	for want*clientsEach < len(p.nodes)*p.redundancy() {
		want += (want + 3) / 4
	}
	return want
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

// assign chooses the reflectors of nodes. They keep those that they have, as far as
// that is right for their zones and no reflector has many more clients than others
// have, so that another reflector changes little; new nodes get those with the fewest.
func (p *Plan) assign(nodes, reflectors []*node) {
	if len(reflectors) == 0 {
		return
	}
	// Half as many again as all have on average is not too many.
	limit := (3*len(nodes)*p.redundancy() + 2*len(reflectors) - 1) / (2 * len(reflectors))
	load := make(map[*node]int, len(reflectors))
	kept := make([]map[*node]bool, len(nodes))
	for i, n := range nodes {
		before := n.serversBefore()
		if len(before) == 0 {
			continue
		}
		kept[i] = make(map[*node]bool)
		for _, r := range reflectors {
			if before[r.name] {
				kept[i][r] = load[r] < limit
				load[r]++
			}
		}
	}
	for i, n := range nodes {
		n.servers = p.choose(n, reflectors, kept[i], load, limit)
		for _, r := range n.servers {
			if _, had := kept[i][r]; !had {
				load[r]++
			}
		}
		for r := range kept[i] {
			if !slices.Contains(n.servers, r) {
				load[r]--
			}
		}
	}
}

// choose returns the reflectors of a node: the first of its own zone when there
// is one, the others of other zones as far as there are. had has those that it had,
// and whether each of them has room for it; others have with fewer clients than the
// limit. Among equals a hash of both names decides.
func (p *Plan) choose(n *node, reflectors []*node, had map[*node]bool, load map[*node]int, limit int) []*node {
	rest := make([]choice, 0, len(reflectors))
	zone := n.zone()
	for _, r := range reflectors {
		if _, ok := n.reach(r); !ok || r == n {
			continue
		}
		c := choice{reflector: r, lacks: n.lacks(r), zone: r.zone(), load: load[r], weight: rendezvous(n.name, r.name)}
		room, known := had[r]
		c.other, c.elsewhere, c.full = !known, c.zone != zone, !room && (known || c.load >= limit)
		rest = append(rest, c)
	}
	zones := make(map[string]int)
	var chosen []*node
	for len(rest) > 0 && len(chosen) < p.redundancy() {
		best := 0
		for i := range rest {
			if rest[i].compare(&rest[best], zones) < 0 {
				best = i
			}
		}
		chosen = append(chosen, rest[best].reflector)
		zones[rest[best].zone]++
		rest = slices.Delete(rest, best, best+1)
	}
	slices.SortFunc(chosen, func(a, b *node) int { return strings.Compare(a.name, b.name) })
	return chosen
}

// choice is a reflector that a node may choose.
type choice struct {
	reflector *node
	lacks     int // families that it can't tell of
	zone      string
	elsewhere bool // not in the node's own zone
	full      bool // it has too many clients
	other     bool // the node did not have it
	load      int  // its clients
	weight    uint64
}

// compare tells which of two is the better, when so many of each zone are chosen
// already.
func (c *choice) compare(o *choice, zones map[string]int) int {
	if d := cmp.Compare(c.lacks, o.lacks); d != 0 {
		return d
	}
	if c.zone != o.zone {
		if d := cmp.Compare(zones[c.zone], zones[o.zone]); d != 0 {
			return d
		}
	}
	return cmp.Or(boolCompare(c.reflector.draining, o.reflector.draining), boolCompare(c.elsewhere, o.elsewhere),
		boolCompare(c.full, o.full), boolCompare(c.other, o.other), cmp.Compare(c.load, o.load), cmp.Compare(c.weight, o.weight))
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
