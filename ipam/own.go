package ipam

import (
	"net/netip"
	"slices"
)

// nodeContainer is the container id in owners that are the node itself. A
// runtime can't give it: container ids begin with a letter or digit (CNI
// specification, CNI_CONTAINERID).
const nodeContainer = "_node"

// NodeOwner is the owner of the addresses that the node itself has on one of its
// interfaces, such as a tunnel's.
//
// Allocate and Release work for it as for pods, but for this: the addresses
// belong to no pod, so nothing that looks after pods releases them, and BlockUsage
// counts them apart. Nor does the owner go, as pods do, when pools change.
// Therefore a request that comes again keeps each address that it would still
// be given, one in a block that the node holds, of a pool that is asked for, and
// not reserved; even if the pool gives out no new ones. What else it has is
// replaced, and given up when the new one is on record. Before SetBlocks told of
// the node's blocks it would all be replaced.
func NodeOwner(ifName string) Owner { return Owner{ContainerID: nodeContainer, Interface: ifName} }

// IsNode tells whether the owner is the node itself.
func (o Owner) IsNode() bool { return o.ContainerID == nodeContainer }

// renew parts the addresses of an owner that is the node into those that it
// keeps and those that are outdated, and returns the lists of the families of
// which it lacks one. n.mu is held.
func (n *Node) renew(r Request, lists [][]string) (missing [][]string, outdated []netip.Addr) {
	kept := map[bool]bool{} // by whether it is IPv4
	for _, a := range n.owners[r.Owner] {
		b := n.blockOf(a)
		good := b != nil && b.state == blockHeld && slices.Contains(r.Pools, b.Pool) && !b.isReserved(a)
		// An agent that ended between making a record and releasing the one before left
		// both.
		if !good || kept[a.Is4()] {
			outdated = append(outdated, a)
			continue
		}
		kept[a.Is4()] = true
	}
	for _, list := range lists {
		if !kept[n.pools[list[0]].CIDR.Addr().Is4()] {
			missing = append(missing, list)
		}
	}
	return missing, outdated
}
