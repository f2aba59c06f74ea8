package plan

import (
	"fmt"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// established is the state of a session that carries routes (RFC 4271, section
// 8.2.2).
const established = "Established"

// The topology is changed without taking a route away, from the plans so far and
// what nodes report:
//
//	Mesh ──▶ sessions + blocks from the API ──all that count route all blocks──────▶ None
//	None ──▶ sessions + blocks from the API ──all that count have all sessions up──▶ Mesh
//
// A node that joins in between gets both, like the others: every pair of nodes
// has the one or the other at any time.

// planTopology decides whether nodes have sessions with each other, and whether
// they route each other's blocks as the API tells.
func (p *Plan) planTopology() {
	meshed, fromAPI := false, false // in any plan so far
	for _, n := range p.nodes {
		meshed = meshed || n.meshed()
		fromAPI = fromAPI || n.fromAPI()
	}
	var missing []lack
	if p.config.Topology == v1alpha1.TopologyNone {
		if meshed {
			missing = p.missingBlocks()
		}
		p.fromAPI, p.meshed = true, len(missing) > 0
	} else {
		if fromAPI {
			missing = p.missingSessions()
		}
		p.meshed, p.fromAPI = true, len(missing) > 0
	}
	if len(missing) > 0 {
		p.Waiting = true
		p.TopologyWaits = lacks(missing)
	}
}

// missingBlocks returns which nodes have yet to report that they route the blocks
// of all others as the API tells. A node whose plan has lost its sessions did so
// before: the plans were written in part.
func (p *Plan) missingBlocks() []lack {
	var missing []lack
	for _, n := range p.nodes {
		if !n.counts || n.fromAPI() && n.status.BlocksFromAPI && (n.fresh || !n.meshed()) {
			continue
		}
		missing = append(missing, lack{n.name + " has not reported that it routes blocks from the API", false})
	}
	return missing
}

// missingSessions returns which nodes have yet to report that they take, in
// sessions with all others that count, the blocks of these. A node whose plan
// routes no blocks from the API any more did so before.
func (p *Plan) missingSessions() []lack {
	owned := p.ownedBlocks()
	var missing []lack
	for _, n := range p.nodes {
		if !n.counts {
			continue
		}
		if !n.fresh && n.fromAPI() {
			missing = append(missing, lack{n.name + " has not reported its sessions", false})
			continue
		}
		if waits := p.missingSession(n, owned); waits != "" {
			missing = append(missing, lack{waits, false})
		}
	}
	return missing
}

// missingSession says what a node lacks of its sessions with others; empty:
// nothing. owned has the blocks of each node.
func (p *Plan) missingSession(n *node, owned []ownedBlocks) string {
	accepted := make(map[string]int, len(n.status.Sessions))
	for _, s := range n.status.Sessions {
		if s.Kind == v1alpha1.SessionNode && s.State == established {
			accepted[s.PeerAddress] = int(s.Accepted)
		}
	}
	for i, other := range p.nodes {
		addr, ok := n.reach(other)
		if other == n || !other.counts || !ok {
			continue
		}
		got, up := accepted[addr.String()]
		if !up {
			return fmt.Sprintf("%s has no session with %s", n.name, other.name)
		}
		if want := owned[i].expected(n, other); got < want {
			return fmt.Sprintf("%s has taken %d of %d blocks from %s", n.name, got, want, other.name)
		}
	}
	return ""
}

// ownedBlocks is how many blocks a node has of pools in the plan.
type ownedBlocks struct{ v4, v6 int }

// ownedBlocks counts the blocks that each node reports to have, and so announces.
func (p *Plan) ownedBlocks() []ownedBlocks {
	v6 := make(map[string]bool, len(p.pools))
	for _, pl := range p.pools {
		v6[pl.obj.Name] = pl.cidr.Addr().Is6()
	}
	owned := make([]ownedBlocks, len(p.nodes))
	for i, n := range p.nodes {
		for _, b := range n.status.Blocks {
			switch six, known := v6[b.Pool]; {
			case six:
				owned[i].v6++
			case known:
				owned[i].v4++
			}
		}
	}
	return owned
}

// expected returns how many blocks of their owner a node is to take: those of
// families in which the two reach each other.
func (o ownedBlocks) expected(n, owner *node) int {
	want := 0
	if n.hasFamily(false) && owner.hasFamily(false) {
		want += o.v4
	}
	if n.hasFamily(true) && owner.hasFamily(true) {
		want += o.v6
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
