package plan

import (
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// A node departs when its Node goes while IPBlocks are its own. It may live on: its
// Node was deleted by mistake, or while it could not reach the API. So its
// NodeNetwork and the sessions with it stay, and others are asked whether they
// still hear of its blocks, until the blocks are freed:
//
//	Node gone, blocks there ──▶ sessions stay, departedBlocks in the plans of who would hear
//	                                          │ answers in their statuses (Hear)
//	Node back ──▶ as before           nobody hears, for long ──▶ blocks freed ──▶ sessions go

// findDeparted finds out which blocks belong to nodes that are gone.
func (p *Plan) findDeparted(nodes []corev1.Node, blocks []v1alpha1.IPBlock) {
	exists := make(map[string]bool, len(nodes))
	for i := range nodes {
		exists[nodes[i].Name] = true
	}
	p.departedBlocks = make(map[string][]string)
	for i := range blocks {
		if spec := &blocks[i].Spec; !exists[spec.NodeName] {
			p.departedBlocks[spec.NodeName] = append(p.departedBlocks[spec.NodeName], spec.CIDR)
			p.asked = append(p.asked, spec.CIDR)
		}
	}
	slices.Sort(p.asked)
	p.asked = slices.Compact(p.asked)
}

// Departed tells whether a node has no Node any more but blocks.
func (p *Plan) Departed(name string) bool { return len(p.departedBlocks[name]) > 0 }

// planDeparted plans for the nodes that departed as for the others, but for what
// follows from the labels that are gone: there they keep what they had. An address
// that another node has by now is not theirs any more.
func (p *Plan) planDeparted(known map[string]*v1alpha1.NodeNetwork, owner map[netip.Addr]string) {
	for _, name := range slices.Sorted(maps.Keys(p.departedBlocks)) {
		nn := known[name]
		if nn == nil || nn.DeletionTimestamp != nil {
			continue
		}
		n := &node{
			name: name, draining: nn.Spec.Draining, created: nn.CreationTimestamp, before: &nn.Spec, departed: true,
			report: report{status: &nn.Status, leaving: true, heard: nn.Status.ObservedGeneration != 0, fresh: nn.Status.ObservedGeneration == nn.Generation},
		}
		for _, s := range nn.Spec.Addresses {
			if a, ok := parseAddr(s); ok && owner[a] == "" {
				owner[a] = name
				n.addrs, n.shown = append(n.addrs, a), append(n.shown, a.String())
			}
		}
		if len(n.addrs) > 0 {
			p.nodes = append(p.nodes, n)
		}
	}
}

// ask decides which nodes are asked about the blocks of those that departed: in a
// mesh all, else the reflectors, which hear of everything, and of those that have
// a session with the same router the first that counts. At least one is asked.
func (p *Plan) ask() {
	if len(p.asked) == 0 {
		return
	}
	var first *node
	routers := make(map[string]bool)
	some := false
	for _, n := range p.nodes {
		if n.departed {
			continue
		}
		n.asked = p.meshed || p.reflected && n.reflects
		if n.counts {
			for i := range n.external {
				if at := n.external[i].PeerAddress; !routers[at] {
					routers[at], n.asked = true, true
				}
			}
		}
		some = some || n.asked
		if first == nil || n.counts && !first.counts {
			first = n
		}
	}
	if !some && first != nil {
		first.asked = true
	}
}

// Heard is what nodes answer to the question who announces the blocks of a node
// that departed.
type Heard struct {
	Answers   int      // of nodes that know about all of the blocks
	Announced []string // the blocks that some node hears of, sorted
	By        []string // the nodes that do, sorted
}

// Hear gathers what nodes that count answer about blocks. networks are the
// NodeNetworks to look into; nodes has each Node by name.
//
// A node that does not count, because its Node is not ready, may have answered
// long ago. One that counts and does not answer is passed over.
func Hear(blocks []string, nodes map[string]*corev1.Node, networks []v1alpha1.NodeNetwork) Heard {
	var h Heard
	for i := range networks {
		nn := &networks[i]
		if len(nn.Status.DepartedBlocks) == 0 || nodes[nn.Name] == nil {
			continue
		}
		if r := hear(nodes[nn.Name], nn); !r.counts {
			continue
		}
		answers := make(map[string]bool, len(nn.Status.DepartedBlocks))
		for _, b := range nn.Status.DepartedBlocks {
			answers[b.CIDR] = b.Announced
		}
		known := 0
		for _, b := range blocks {
			announced, answered := answers[b]
			if answered {
				known++
			}
			if announced {
				h.Announced, h.By = append(h.Announced, b), append(h.By, nn.Name)
			}
		}
		if known == len(blocks) {
			h.Answers++
		}
	}
	for _, list := range []*[]string{&h.Announced, &h.By} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	return h
}

// String says which blocks are announced, and who hears it.
func (h Heard) String() string {
	return names(h.Announced) + " (heard by " + names(h.By) + ")"
}
