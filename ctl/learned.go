package ctl

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// compareLearned holds what nodes have learned by BGP against what the others
// announce: the blocks that they hold and that are theirs by the API. All that a
// node reports of it is a count and a digest; from these it follows which one
// or two blocks it lacks, or which one it has too many.
func (c *comparison) compareLearned() {
	announced := map[string][]netip.Prefix{}
	var all []netip.Prefix // whatever block there may be
	total, sum := 0, uint64(0)
	for _, h := range c.holdings {
		all = append(all, h.cidr)
		nn := c.networks[h.node]
		if c.owner[h.cidr] != h.node || nn.Spec.Draining && h.idle {
			continue
		}
		announced[h.node] = append(announced[h.node], h.cidr)
		total++
		sum ^= v1alpha1.BlockDigest(h.cidr)
	}
	for cidr := range c.owner {
		all = append(all, cidr)
	}
	lacking := map[netip.Prefix][]string{} // the nodes that lack a block
	strays := map[netip.Prefix][]string{}  // the nodes that have one too many
	for i := range c.addressing.networks {
		nn := &c.addressing.networks[i]
		if nn.Spec.BlocksFromAPI || nn.Status.BlocksFromAPI || nn.Status.Learned == nil {
			continue
		}
		got, err := strconv.ParseUint(nn.Status.Learned.Digest, 16, 64)
		if err != nil {
			c.differ(kindNode, nn.Name, nn.Name, reasonUnreadable, "restart its agent, which writes its status anew", "it reports a digest %q", nn.Status.Learned.Digest)
			continue
		}
		want, count := sum, total-len(announced[nn.Name])
		for _, own := range announced[nn.Name] {
			want ^= v1alpha1.BlockDigest(own)
		}
		if got == want && int(nn.Status.Learned.Count) == count {
			continue
		}
		missing, stray := explainDigest(got^want, int(nn.Status.Learned.Count)-count, announced, nn.Name, all)
		switch {
		case missing != nil:
			for _, m := range missing {
				lacking[m] = append(lacking[m], nn.Name)
			}
		case stray.IsValid():
			strays[stray] = append(strays[stray], nn.Name)
		default:
			c.differ(kindNode, nn.Name, nn.Name, reasonOther, "see its sessions (`godwitctl status`) and the other differences, and compare `ip route` there with `kubectl get ipblocks`",
				"it has learned %d blocks of other nodes, and should have learned %d", nn.Status.Learned.Count, count)
		}
	}
	for block, nodes := range strays {
		c.differ(kindBlock, v1alpha1.IPBlockName(block), "", reasonStray, "see who holds it, and the sessions that it comes by (`godwitctl status`)",
			"%s is known by BGP to %s, though nobody has it both by the API and on the node", block, someOf(nodes))
	}
	for block, nodes := range lacking {
		owner := c.owner[block]
		c.differ(kindBlock, v1alpha1.IPBlockName(block), owner, reasonNotLearned, "see the sessions of these nodes (`godwitctl status`), and that the agent of "+owner+" runs",
			"%s of node %s is not known to %s, so that pods there don't reach its pods", block, owner, someOf(nodes))
	}
}

// explainDigest finds which one or two blocks are missing, or which one there is
// too many, when digests differ by an amount and counts by another. It finds
// nothing when it is more.
func explainDigest(differ uint64, more int, announced map[string][]netip.Prefix, self string, all []netip.Prefix) (missing []netip.Prefix, stray netip.Prefix) {
	if more > 0 {
		for _, p := range all {
			if more == 1 && v1alpha1.BlockDigest(p) == differ {
				return nil, p
			}
		}
		return nil, netip.Prefix{}
	}
	digests := map[uint64]netip.Prefix{}
	for node, blocks := range announced {
		if node == self {
			continue
		}
		for _, p := range blocks {
			digests[v1alpha1.BlockDigest(p)] = p
		}
	}
	if p, ok := digests[differ]; ok && more == -1 {
		return []netip.Prefix{p}, netip.Prefix{}
	}
	if len(digests) == -more { // it knows none at all
		for _, p := range digests {
			missing = append(missing, p)
		}
		return missing, netip.Prefix{}
	}
	for node, blocks := range announced { // it lacks a node as a whole
		sum := uint64(0)
		for _, p := range blocks {
			sum ^= v1alpha1.BlockDigest(p)
		}
		if node != self && sum == differ && len(blocks) == -more {
			return blocks, netip.Prefix{}
		}
	}
	if more == -2 {
		for d, p := range digests {
			if q, ok := digests[d^differ]; ok && p != q {
				return []netip.Prefix{p, q}, netip.Prefix{}
			}
		}
	}
	return nil, netip.Prefix{}
}

// someOf names the first few.
func someOf(names []string) string {
	const most = 3
	slices.Sort(names)
	if len(names) <= most {
		return "node" + map[bool]string{true: "s"}[len(names) > 1] + " " + strings.Join(names, ", ")
	}
	return fmt.Sprintf("nodes %s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
