package plan

import (
	"net/netip"
	"slices"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// planBlocks finds out which blocks each node owns: those that it may announce.
// An IPBlock that is no block of a pool in the plan gives no right to anything, nor
// does one of an address that is claimed by itself without a claim.
func (p *Plan) planBlocks(objects []v1alpha1.IPBlock) {
	owned := make(map[string][]netip.Prefix, len(p.nodes))
	for i := range objects {
		spec := &objects[i].Spec
		if block, err := parseCIDR(spec.CIDR); err == nil && p.isBlock(block) {
			owned[spec.NodeName] = append(owned[spec.NodeName], block)
		}
	}
	p.blocks = make(map[string][]string, len(owned))
	for name, blocks := range owned {
		slices.SortFunc(blocks, netip.Prefix.Compare)
		for _, b := range blocks {
			p.blocks[name] = append(p.blocks[name], b.String())
		}
	}
}

// isBlock tells whether a prefix is a block of a pool in the plan that a node can
// have.
func (p *Plan) isBlock(block netip.Prefix) bool {
	return slices.ContainsFunc(p.pools, func(pl *pool) bool {
		return pl.blockSize == block.Bits() && pl.cidr.Contains(block.Addr()) && (!pl.claims() || p.rightful[block.Addr()])
	})
}
