package plan

import (
	"fmt"
	"maps"
	"slices"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// A pool warns when so many of its blocks are claimed: a cluster that grows by a
// quarter then fills it, which leaves the time to add another pool. It is quiet
// again a little below, so that a block that comes and goes is not two events.
const (
	warnClaimed  = 80 // percent
	quietClaimed = 75
)

// planLives works out, for each pool in the plan, whether it has room for more
// blocks, or what is left of one that gives out no new addresses, and which pools
// must not go.
func (p *Plan) planLives(blocks []v1alpha1.IPBlock) {
	byName := make(map[string]*pool, len(p.pools))
	for _, pl := range p.pools {
		byName[pl.obj.Name] = pl
	}
	owners := make(map[*pool]map[string]int, len(p.pools))
	for i := range blocks {
		spec := &blocks[i].Spec
		if pl := byName[spec.Pool]; pl != nil && pl.holds(&blocks[i]) {
			if owners[pl] == nil {
				owners[pl] = make(map[string]int)
			}
			owners[pl][spec.NodeName]++
		}
	}
	p.held = make(map[string]bool, len(p.pools))
	for _, pl := range p.pools {
		name := pl.obj.Name
		if pl.obj.Closing() {
			p.Pools[name] = append(p.Pools[name], pl.drained(owners[pl]))
		} else if !pl.claims() { // of which nodes need no other block
			claimed := 0
			for _, n := range owners[pl] {
				claimed += n
			}
			p.Pools[name] = append(p.Pools[name], pl.hasRoom(int64(claimed)))
		}
		p.held[name] = pl.obj.DeletionTimestamp == nil || len(owners[pl]) > 0 || p.claimable(pl)
	}
}

// Holds tells whether a pool must not go: nodes have blocks of it, or may claim
// some. One that is not in the plan nobody uses.
func (p *Plan) Holds(pool string) bool { return p.held[pool] }

// claimable tells whether a node may claim a block of a pool although it is being
// deleted: its plan so far says so, or its agent has not yet carried out the one
// that doesn't.
func (p *Plan) claimable(pl *pool) bool {
	for _, n := range p.nodes {
		if before := pl.before(n); before != nil && (before.Allocate || n.counts && !n.fresh) {
			p.Waiting = true
			return true
		}
	}
	return false
}

// hasRoom judges how many of the pool's blocks are claimed.
func (pl *pool) hasRoom(claimed int64) metav1.Condition {
	capacity, _ := pl.capacity()
	limit := float64(warnClaimed)
	if c := apimeta.FindStatusCondition(pl.obj.Status.Conditions, v1alpha1.ConditionHasRoom); c != nil && c.Status == metav1.ConditionFalse {
		limit = quietClaimed
	}
	c := metav1.Condition{Type: v1alpha1.ConditionHasRoom, Status: metav1.ConditionFalse}
	switch {
	case claimed >= capacity:
		c.Reason = ReasonFull
		c.Message = "nodes have claimed all blocks: pods find no address where their node's blocks are used up; add a pool"
	case float64(claimed) >= float64(capacity)*limit/100:
		c.Reason = ReasonNearlyFull
		c.Message = fmt.Sprintf("%d %% of the blocks or more are claimed: add a pool before all are", int(limit))
	default:
		c.Status, c.Reason = metav1.ConditionTrue, ReasonEnough
		c.Message = fmt.Sprintf("less than %d %% of the blocks are claimed", warnClaimed)
	}
	return c
}

// drained says which nodes have blocks of a pool that gives out no new addresses.
// owners are how many each has.
func (pl *pool) drained(owners map[string]int) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionDrained, Status: metav1.ConditionTrue, Reason: ReasonUnused}
	if len(owners) == 0 {
		c.Message = "no node has a block of the pool"
		return c
	}
	list := make([]string, 0, len(owners))
	for _, name := range slices.Sorted(maps.Keys(owners)) {
		list = append(list, fmt.Sprintf("%s (%d)", name, owners[name]))
	}
	c.Status, c.Reason = metav1.ConditionFalse, ReasonInUse
	c.Message = fmt.Sprintf("nodes have blocks of the pool until their pods are gone: %s; see kubectl get ipblocks --field-selector spec.pool=%s",
		names(list), pl.obj.Name)
	return c
}
