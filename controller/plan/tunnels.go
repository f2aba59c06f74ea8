package plan

import (
	"cmp"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// A pool's encapsulation is changed without taking a way from packets, from the
// plans so far and what nodes report:
//
//	           wanted                     all that count                    all that count
//	plans ──▶ + its tunnel ──▶ nodes ──▶ report the tunnel ──▶ + its use ──▶ took that plan ──▶ − the old tunnel
//	           in every plan   make it                          in every plan
//
// At any time a node may send by the old or the new encapsulation, and every
// other one has the tunnels of both.

// planEncapsulations works out with which encapsulation each pool is planned and
// which tunnels nodes have.
func (p *Plan) planEncapsulations() {
	sofar := p.encapsulationsSoFar()
	for _, pl := range p.pools {
		p.planEncapsulation(pl, sofar[pl])
	}
	p.planTunnels()
}

// encapsulationsSoFar counts, for each pool, how many nodes know it by which
// encapsulation. There are two of one pool when plans were written in part.
func (p *Plan) encapsulationsSoFar() map[*pool]map[v1alpha1.Encapsulation]int {
	type key struct{ name, cidr string }
	byKey := make(map[key]*pool, len(p.pools))
	sofar := make(map[*pool]map[v1alpha1.Encapsulation]int, len(p.pools))
	for _, pl := range p.pools {
		byKey[key{pl.obj.Name, pl.cidr.String()}] = pl
		sofar[pl] = make(map[v1alpha1.Encapsulation]int)
	}
	for _, n := range p.nodes {
		if n.before == nil {
			continue
		}
		for _, known := range n.before.Pools {
			if pl := byKey[key{known.Name, known.CIDR}]; pl != nil {
				sofar[pl][known.Encapsulation]++
			}
		}
	}
	return sofar
}

// planEncapsulation gives a pool the encapsulation that it asks for, unless nodes
// know it by another one and some that count lack the tunnel.
func (p *Plan) planEncapsulation(pl *pool, sofar map[v1alpha1.Encapsulation]int) {
	pl.encapsulation = pl.wanted()
	var missing []lack
	if needsTunnels(pl.wanted(), sofar) {
		// Where a plan so far has it, all nodes had the tunnel, and no plan has lost
		// it since. Otherwise the report must not be of an older plan: there may be a
		// tunnel of before, on its way out.
		_, begun := sofar[pl.wanted()]
		missing = p.missingTunnels(pl, pl.wanted().Tunnel(), begun)
	}
	if len(missing) == 0 {
		p.Pools[pl.obj.Name] = append(p.Pools[pl.obj.Name], metav1.Condition{
			Type: v1alpha1.ConditionEncapsulationApplied, Status: metav1.ConditionTrue, Reason: ReasonApplied,
			Message: fmt.Sprintf("the plans of nodes have %s", pl.wanted()),
		})
		return
	}
	p.Waiting = true
	pl.encapsulation = p.keepEncapsulation(pl, sofar)
	p.Pools[pl.obj.Name] = append(p.Pools[pl.obj.Name], metav1.Condition{
		Type: v1alpha1.ConditionEncapsulationApplied, Status: metav1.ConditionFalse, Reason: ReasonWaitingForTunnels,
		Message: fmt.Sprintf("nodes keep to %s until all can do %s: %s", pl.encapsulation, pl.wanted(), lacks(missing)),
	})
}

// needsTunnels tells whether nodes must have a tunnel before a pool that they
// know by other encapsulations is planned with the wanted one. A pool that
// nobody knows has no packets yet, and what only narrows the use of a tunnel
// takes nothing away.
func needsTunnels(wanted v1alpha1.Encapsulation, sofar map[v1alpha1.Encapsulation]int) bool {
	narrows := wanted.CrossSubnet()
	others := 0
	for e := range sofar {
		if e != wanted {
			others++
			narrows = narrows && e.Tunnel() == wanted.Tunnel()
		}
	}
	return others > 0 && wanted.Tunnel() != "" && !narrows
}

// missingTunnels returns which nodes have yet to report the tunnel that a pool's
// packets to them would need. With trusted, the report may be of an older plan.
//
// A node that is not ready is not waited for, unless it says that it can't have
// a tunnel: a short outage must not let through what it has kept back.
func (p *Plan) missingTunnels(pl *pool, kind v1alpha1.TunnelKind, trusted bool) []lack {
	device := kind.Interface(pl.cidr.Addr().Is6())
	var missing []lack
	for _, n := range p.nodes {
		failure := n.tunnelFailure()
		if !n.has(pl.cidr.Addr()) || !n.counts && (failure == nil || n.leaving) {
			continue
		}
		switch {
		case n.carries(device) && (trusted || n.fresh):
		case failure != nil:
			missing = append(missing, lack{fmt.Sprintf("%s: %s: %s", n.name, failure.Reason, failure.Message), true})
		default:
			missing = append(missing, lack{fmt.Sprintf("%s has not reported %s", n.name, device), false})
		}
	}
	return missing
}

// keepEncapsulation chooses, among those by which nodes know the pool so far, the
// encapsulation that they keep: one that all can do, or else that of most nodes.
func (p *Plan) keepEncapsulation(pl *pool, sofar map[v1alpha1.Encapsulation]int) v1alpha1.Encapsulation {
	var best v1alpha1.Encapsulation
	var bestCan bool
	for e, nodes := range sofar {
		can := e.Tunnel() == "" || len(p.missingTunnels(pl, e.Tunnel(), true)) == 0
		if cmp.Or(boolCompare(can, bestCan), cmp.Compare(nodes, sofar[best]), cmp.Compare(best, e)) > 0 {
			best, bestCan = e, can
		}
	}
	return best
}

// planTunnels works out which kinds of tunnels nodes have: those that a pool asks
// for or is planned with, and those by which a node may still send, because its
// plan so far or the one that it last reported to carry out does.
func (p *Plan) planTunnels() {
	used := make(map[v1alpha1.TunnelKind]bool)
	for _, pl := range p.pools {
		used[pl.encapsulation.Tunnel()] = true
	}
	kept := make(map[v1alpha1.TunnelKind]bool)
	for _, pl := range p.pools {
		kept[pl.wanted().Tunnel()] = true
	}
	for _, n := range p.nodes {
		if n.before == nil {
			continue
		}
		for _, known := range n.before.Pools {
			kept[known.Encapsulation.Tunnel()] = true
		}
		// A plan without the tunnel was made when no node could send by it any more.
		if n.counts && !n.fresh {
			for _, kind := range n.before.Tunnels {
				kept[kind] = true
			}
		}
	}
	for _, kind := range []v1alpha1.TunnelKind{v1alpha1.TunnelIPIP, v1alpha1.TunnelVXLAN} {
		if used[kind] || kept[kind] {
			p.tunnels = append(p.tunnels, kind)
		}
		p.Waiting = p.Waiting || kept[kind] && !used[kind]
	}
}

// tunnelsOf returns the tunnels that a node is to have. IPIP is between IPv4
// addresses, and VXLAN between those of either family.
func (p *Plan) tunnelsOf(n *node) []v1alpha1.TunnelKind {
	if n.addrs[0].Is4() {
		return p.tunnels
	}
	return slices.DeleteFunc(slices.Clone(p.tunnels), func(k v1alpha1.TunnelKind) bool { return k == v1alpha1.TunnelIPIP })
}
