package plan

import (
	"fmt"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// established is the state of a session that carries routes (RFC 4271, section
// 8.2.2).
const established = "Established"

// ways are the ways by which nodes may learn of each other's blocks.
type ways struct {
	meshed    bool // sessions of each with each
	reflected bool // sessions with reflectors
	fromAPI   bool
}

// The topology is changed without taking a route away, from the plans so far and
// what nodes report: the way that is wanted is added to those that are there,
// which go when all nodes that count have learned everything by the new one. A
// node that joins in between gets all, like the others: every pair of nodes has
// one or the other at any time.

// planTopology decides whether nodes have sessions with each other, or with
// reflectors, and whether they route each other's blocks as the API tells.
func (p *Plan) planTopology() {
	p.countBlocks()
	p.findActed()
	var had ways // in any plan so far
	for _, n := range p.nodes {
		had.meshed = had.meshed || n.meshed()
		had.fromAPI = had.fromAPI || n.fromAPI()
		had.reflected = had.reflected || n.reflecting()
	}
	want, elected := p.wantedTopology(had)
	former := ways{
		meshed: had.meshed && !want.meshed, fromAPI: had.fromAPI && !want.fromAPI, reflected: had.reflected && !want.reflected,
	}
	if former.reflected { // as they are
		elected = p.reflectors()
	}
	if want.reflected || former.reflected {
		p.planReflectors(elected, !had.reflected)
	}
	var missing []lack
	if former != (ways{}) {
		switch {
		case want.fromAPI:
			missing = p.missingBlocks()
		case want.reflected:
			missing = p.missingReflected()
		default:
			missing = p.missingSessions()
		}
	}
	wait := len(missing) > 0
	p.meshed = want.meshed || wait && former.meshed
	p.fromAPI = want.fromAPI || wait && former.fromAPI
	p.reflected = want.reflected || wait && former.reflected
	if wait {
		p.Waiting = true
		p.TopologyWaits = lacks(missing)
	}
	if !p.reflected {
		for _, n := range p.nodes {
			n.reflection = reflection{}
		}
	}
}

// wantedTopology says by which way nodes are to learn of each other, and who the
// reflectors are to be.
func (p *Plan) wantedTopology(had ways) (want ways, elected []*node) {
	switch p.config.Topology {
	case v1alpha1.TopologyNone:
		return ways{fromAPI: true}, nil
	case v1alpha1.TopologyAuto:
		if len(p.nodes) <= p.meshLimit(had.reflected) {
			return ways{meshed: true}, nil
		}
	case v1alpha1.TopologyRouteReflectors:
	default:
		return ways{meshed: true}, nil
	}
	elected, p.ReflectorsLack = p.elect()
	if len(elected) == 0 {
		return ways{meshed: !had.fromAPI || had.meshed, fromAPI: had.fromAPI && !had.meshed}, nil
	}
	return ways{reflected: true}, elected
}

// missingBlocks returns which nodes have yet to report that they route the blocks
// of all others as the API tells. A node whose plan has lost its sessions did so
// before: the plans were written in part.
func (p *Plan) missingBlocks() []lack {
	var missing []lack
	for _, n := range p.nodes {
		if !n.counts || n.fromAPI() && n.status.BlocksFromAPI && (n.fresh || !n.meshed() && len(n.serversBefore()) == 0) {
			continue
		}
		missing = append(missing, lack{n.name + " has not reported that it routes blocks from the API", false})
	}
	return missing
}

// missingSessions returns which nodes have yet to report that they take, in
// sessions with all others that count, the blocks of these. A node whose plan has
// the former way no more did so before.
func (p *Plan) missingSessions() []lack {
	var missing []lack
	for _, n := range p.nodes {
		if !n.counts {
			continue
		}
		if !n.fresh && (n.fromAPI() || n.reflecting() || len(n.serversBefore()) > 0) {
			missing = append(missing, lack{n.name + " has not reported its sessions", false})
			continue
		}
		if waits := p.missingSession(n); waits != "" {
			missing = append(missing, lack{waits, false})
		}
	}
	return missing
}

// acceptedFromNodes returns how many blocks a node reports to take in each
// session with a node that is up, by the address of the other.
func (r *report) acceptedFromNodes() map[string]int {
	accepted := make(map[string]int, len(r.status.Sessions))
	for _, s := range r.status.Sessions {
		if s.Kind == v1alpha1.SessionNode && s.State == established {
			accepted[s.PeerAddress] = int(s.Accepted)
		}
	}
	return accepted
}

// missingSession says what a node lacks of its sessions with others; empty:
// nothing.
func (p *Plan) missingSession(n *node) string {
	accepted := n.acceptedFromNodes()
	for _, other := range p.nodes {
		addr, ok := n.reach(other)
		if other == n || !other.counts || !ok {
			continue
		}
		got, up := accepted[addr.String()]
		if !up {
			return fmt.Sprintf("%s has no session with %s", n.name, other.name)
		}
		if want := other.owned.expected(n, other); got < want {
			return fmt.Sprintf("%s has taken %d of %d blocks from %s", n.name, got, want, other.name)
		}
	}
	return ""
}

// ownedBlocks is how many blocks a node has of pools in the plan.
type ownedBlocks struct{ v4, v6 int }

func (o ownedBlocks) of(v6 bool) int {
	if v6 {
		return o.v6
	}
	return o.v4
}

// countBlocks counts the blocks that each node reports to have, and so announces,
// and those of all that count.
func (p *Plan) countBlocks() {
	v6 := make(map[string]bool, len(p.pools))
	for _, pl := range p.pools {
		v6[pl.obj.Name] = pl.cidr.Addr().Is6()
	}
	for _, n := range p.nodes {
		if n.draining { // it may announce nothing any more
			continue
		}
		for _, b := range n.status.Blocks {
			switch six, known := v6[b.Pool]; {
			case six:
				n.owned.v6++
			case known:
				n.owned.v4++
			}
		}
		if n.counts {
			p.counted.v4 += n.owned.v4
			p.counted.v6 += n.owned.v6
		}
	}
}

// expected returns how many blocks of their owner a node is to take: those of
// families in which the two reach each other.
func (o ownedBlocks) expected(n, owner *node) int {
	want := 0
	for _, v6 := range []bool{false, true} {
		if n.hasFamily(v6) && owner.hasFamily(v6) {
			want += o.of(v6)
		}
	}
	return want
}

// others returns the other nodes, sorted by name.
func (p *Plan) others(n *node) []v1alpha1.PlannedNode {
	others := make([]v1alpha1.PlannedNode, 0, len(p.nodes))
	for _, other := range p.nodes {
		if other != n {
			others = append(others, v1alpha1.PlannedNode{Name: other.name, Addresses: other.shown})
		}
	}
	return others
}
