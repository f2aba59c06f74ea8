package ctl

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// Agreement is what `godwitctl ipam check -o json` prints.
type Agreement struct {
	// What was compared.
	Nodes     int `json:"nodes"`
	Blocks    int `json:"blocks"`    // in the API
	Addresses int `json:"addresses"` // that nodes have given to pods
	Pods      int `json:"pods"`      // that have addresses of pools
	// Differences are what does not agree, sorted; none: all does.
	Differences []Difference `json:"differences"`
}

// Difference is something that does not agree.
type Difference struct {
	Kind    string `json:"kind"` // of the object that it is about: IPBlock, Pod, Node or Address
	Name    string `json:"name"`
	Node    string `json:"node"` // where it is; empty: nowhere in particular
	Reason  string `json:"reason"`
	Message string `json:"message"` // what is wrong
	Action  string `json:"action"`  // what to do
}

// same tells whether another difference is the same one, at another time: figures
// in its words may have changed.
func (d Difference) same(o Difference) bool {
	return d.Kind == o.Kind && d.Name == o.Name && d.Node == o.Node && d.Reason == o.Reason
}

// Reasons of differences.
const (
	reasonUnknownBlock = "UnknownBlock" // a node holds a block that the API does not have
	reasonOthersBlock  = "OthersBlock"  // a node holds a block that is another's by the API
	reasonNotHeld      = "NotHeld"      // a node does not hold a block that is its own by the API
	reasonNodeGone     = "NodeGone"     // a block's node is not in the API
	reasonNoPool       = "NoPool"       // a block is in no pool of its name
	reasonNoClaim      = "NoClaim"      // a node has an address for a pod that no IPClaim is for
	reasonOverlap      = "Overlap"      // two nodes hold the same addresses
	reasonUnreadable   = "Unreadable"   // a status can't be read
	reasonTwice        = "Twice"        // two pods have the same address
	reasonNoRecord     = "NoRecord"     // a pod's address is not in use on its node
	reasonNoPod        = "NoPod"        // an address is in use, and no pod has it
	reasonNotLearned   = "NotLearned"   // a node has not learned a block by BGP
	reasonStray        = "Stray"        // a node has learned a block that nobody should announce
	reasonOther        = "OtherBlocks"  // a node has learned other blocks than it should
	reasonRefused      = "Refused"      // a node announces a block that is not its own
	reasonOnNode       = "OnNode"       // a node's own sources don't agree
)

// maxInUse bounds how far into a block the addresses in use are looked for: a
// status that is wrong must not cost more memory than there is.
const maxInUse = 1 << 16

// holding is a block that a node says it has.
type holding struct {
	node  string
	cidr  netip.Prefix
	inUse v1alpha1.Offsets
	idle  bool // nobody misses it when its node is drained
}

// comparison is what compare works with.
type comparison struct {
	addressing
	Agreement

	owner    map[netip.Prefix]string // of blocks, by the API
	networks map[string]*v1alpha1.NodeNetwork
	holdings []holding
	inUse    map[netip.Addr]string // the node that has given an address to a pod
}

// compare names everything that does not agree. It is pure.
func compare(o addressing) Agreement {
	c := &comparison{
		addressing: o, Agreement: Agreement{Differences: []Difference{}, Nodes: len(o.networks)},
		owner: map[netip.Prefix]string{}, networks: map[string]*v1alpha1.NodeNetwork{}, inUse: map[netip.Addr]string{},
	}
	for i := range o.networks {
		c.networks[o.networks[i].Name] = &o.networks[i]
	}
	c.takeHoldings()
	c.compareBlocks()
	c.compareClaims()
	c.compareHoldings()
	c.comparePods()
	c.compareLearned()
	c.compareNodes()
	slices.SortStableFunc(c.Differences, func(a, b Difference) int {
		return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Name, b.Name), strings.Compare(a.Node, b.Node), strings.Compare(a.Reason, b.Reason))
	})
	return c.Agreement
}

func (c *comparison) differ(kind, name, node, reason, action, format string, args ...any) {
	c.Differences = append(c.Differences, Difference{
		Kind: kind, Name: name, Node: node, Reason: reason, Message: fmt.Sprintf(format, args...), Action: action,
	})
}

// takeHoldings reads what nodes say they hold.
func (c *comparison) takeHoldings() {
	for i := range c.addressing.networks {
		nn := &c.addressing.networks[i]
		for _, b := range nn.Status.Blocks {
			cidr, err := netip.ParsePrefix(b.CIDR)
			if err != nil {
				c.differ(kindNode, nn.Name, nn.Name, reasonUnreadable, "restart its agent, which writes its status anew", "it reports a block %q", b.CIDR)
				continue
			}
			h := holding{node: nn.Name, cidr: cidr, idle: b.Allocated == 0}
			if h.inUse, err = v1alpha1.ParseOffsets(b.InUse, uint32(min(size(b.CIDR), maxInUse))); err != nil {
				c.differ(kindNode, nn.Name, nn.Name, reasonUnreadable, "restart its agent, which writes its status anew",
					"of block %s it reports addresses that can't be read: %v", b.CIDR, err)
			}
			for _, t := range nn.Status.Tunnels {
				if a, err := netip.ParseAddr(t.Address); err == nil && cidr.Contains(a) {
					h.idle = false
				}
			}
			c.Addresses += h.inUse.Len()
			c.holdings = append(c.holdings, h)
		}
	}
	slices.SortFunc(c.holdings, func(a, b holding) int {
		return cmp.Or(a.cidr.Addr().Compare(b.cidr.Addr()), cmp.Compare(a.cidr.Bits(), b.cidr.Bits()), strings.Compare(a.node, b.node))
	})
}

// compareBlocks looks at each block of the API.
func (c *comparison) compareBlocks() {
	pools := map[string]netip.Prefix{}
	for i := range c.pools {
		if p, err := netip.ParsePrefix(c.pools[i].Spec.CIDR); err == nil {
			pools[c.pools[i].Name] = p
		}
	}
	nodes := map[string]bool{}
	for i := range c.nodes {
		nodes[c.nodes[i].Name] = true
	}
	held := map[holdingKey]bool{}
	for _, h := range c.holdings {
		held[holdingKey{h.node, h.cidr}] = true
	}
	c.Blocks = len(c.blocks)
	for i := range c.blocks {
		b := &c.blocks[i]
		node := b.Spec.NodeName
		cidr, err := netip.ParsePrefix(b.Spec.CIDR)
		if err != nil {
			continue // the API server refuses it
		}
		c.owner[cidr] = node
		if p, ok := pools[b.Spec.Pool]; !ok || !p.Contains(cidr.Addr()) || cidr.Bits() < p.Bits() {
			c.differ(kindBlock, b.Name, node, reasonNoPool, "nobody routes it: create the pool again, or move its pods and `kubectl delete ipblock "+b.Name+"`",
				"%s of node %s is in no pool of the name %s", cidr, node, b.Spec.Pool)
		}
		nn := c.networks[node]
		switch {
		case !nodes[node]:
			c.differ(kindBlock, b.Name, node, reasonNodeGone, "the controller frees it when the node has been gone for long enough; see that it runs",
				"%s is of node %s, which is not there", cidr, node)
		case nn == nil || nn.Status.ObservedGeneration == 0:
			c.differ(kindBlock, b.Name, node, reasonNotHeld, "see that the controller and the node's agent run",
				"%s is of node %s, whose agent has reported nothing yet", cidr, node)
		case !held[holdingKey{node, cidr}]:
			c.differ(kindBlock, b.Name, node, reasonNotHeld, "the agent takes it when it next reads its blocks, within 10 minutes or when it is restarted; "+
				"if it does not, `kubectl delete ipblock "+b.Name+"`",
				"%s is node %s's by the API, and the node does not hold it", cidr, node)
		}
	}
}

// compareClaims looks at each block that a node has for one pod.
func (c *comparison) compareClaims() {
	claimed := map[string]bool{}
	for i := range c.pools {
		claimed[c.pools[i].Name] = c.pools[i].Spec.Allocation == v1alpha1.AllocationClaims
	}
	claims := map[string]*v1alpha1.IPClaimSpec{}
	for i := range c.claims {
		claims[c.claims[i].Spec.Address] = &c.claims[i].Spec
	}
	for i := range c.blocks {
		b := &c.blocks[i]
		address, _, _ := strings.Cut(b.Spec.CIDR, "/")
		if !claimed[b.Spec.Pool] {
			continue
		}
		claim, pod := claims[address], b.Spec.Pod
		if claim != nil && claim.IsFor(pod) {
			continue
		}
		c.differ(kindBlock, b.Name, b.Spec.NodeName, reasonNoClaim, "delete the pod, or create an IPClaim that is for it",
			"node %s has %s for %s, which no IPClaim is for: nobody else takes the route to it", b.Spec.NodeName, address, pod)
	}
}

type holdingKey struct {
	node string
	cidr netip.Prefix
}

// compareHoldings looks at each block that a node says it has.
func (c *comparison) compareHoldings() {
	var last *holding // that reaches furthest
	for i := range c.holdings {
		h := &c.holdings[i]
		name := v1alpha1.IPBlockName(h.cidr)
		switch owner, known := c.owner[h.cidr]; {
		case !known:
			c.differ(kindBlock, name, h.node, reasonUnknownBlock, "the agent claims it again when it next reads its blocks, within 10 minutes or when it is restarted",
				"node %s holds %s with %d addresses in use, and the API has no such block", h.node, h.cidr, h.inUse.Len())
		case owner != h.node:
			c.differ(kindBlock, name, h.node, reasonOthersBlock, fmt.Sprintf("the agent of %s gives it up when it next reads its blocks, within 10 minutes or when it is restarted", h.node),
				"node %s holds %s with %d addresses in use, and by the API it is node %s's", h.node, h.cidr, h.inUse.Len(), owner)
		}
		if last != nil && last.cidr.Overlaps(h.cidr) {
			c.differ(kindBlock, name, h.node, reasonOverlap, "delete the pods that have addresses of it on the node whose it is not by the API",
				"nodes %s and %s hold the same addresses: %s and %s", last.node, h.node, last.cidr, h.cidr)
			continue
		}
		last = h
	}
	for _, h := range c.holdings {
		for _, a := range h.inUse.Addresses(h.cidr) {
			if other, twice := c.inUse[a]; twice && other != h.node {
				c.differ(kindAddress, a.String(), h.node, reasonTwice, "delete the pod that has it on the node whose block it is not by the API",
					"nodes %s and %s have both given it to a pod", other, h.node)
			}
			c.inUse[a] = h.node
		}
	}
}

// comparePods looks at the addresses of pods, and at those that no pod has.
func (c *comparison) comparePods() {
	var pools []netip.Prefix
	for i := range c.pools {
		if p, err := netip.ParsePrefix(c.pools[i].Spec.CIDR); err == nil {
			pools = append(pools, p)
		}
	}
	pods := map[netip.Addr]*corev1.Pod{}
	known := map[netip.Addr]bool{} // also of pods that are done
	for i := range c.pods {
		p := &c.pods[i]
		counted := false
		for _, a := range podAddresses(p) {
			if !slices.ContainsFunc(pools, func(pool netip.Prefix) bool { return pool.Contains(a) }) {
				continue
			}
			known[a] = true
			// An address of a pod that is done, or about to go, may be free, or another's.
			if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || p.DeletionTimestamp != nil {
				continue
			}
			counted = true
			c.comparePod(p, a, pods[a])
			pods[a] = p
		}
		if counted {
			c.Pods++
		}
	}
	for _, h := range c.holdings {
		for _, a := range h.inUse.Addresses(h.cidr) {
			if !known[a] {
				c.differ(kindAddress, a.String(), h.node, reasonNoPod, "the runtime frees it when it deletes the pod's container (CNI DEL) or cleans up (CNI GC); the file of the address in the agent's run directory names the container",
					"it is in use on node %s, and no pod has it", h.node)
			}
		}
	}
}

func (c *comparison) comparePod(p *corev1.Pod, a netip.Addr, other *corev1.Pod) {
	name := p.Namespace + "/" + p.Name
	if other != nil {
		c.differ(kindPod, name, p.Spec.NodeName, reasonTwice, "delete one of the pods, so that it gets another address",
			"it has %s, as pod %s/%s on node %s has", a, other.Namespace, other.Name, other.Spec.NodeName)
	}
	switch node, used := c.inUse[a]; {
	case !used:
		c.differ(kindPod, name, p.Spec.NodeName, reasonNoRecord, "restart the agent of node "+p.Spec.NodeName+", which reads its pods' links anew; if that does not help, delete the pod",
			"it has %s, which node %s does not have in use", a, p.Spec.NodeName)
	case node != p.Spec.NodeName:
		c.differ(kindPod, name, p.Spec.NodeName, reasonNoRecord, "delete the pod, so that it gets another address",
			"it has %s and is on node %s, but the address is in use on node %s", a, p.Spec.NodeName, node)
	}
}

// podAddresses are a pod's own addresses.
func podAddresses(p *corev1.Pod) []netip.Addr {
	if p.Spec.HostNetwork {
		return nil
	}
	var out []netip.Addr
	for _, ip := range p.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// compareNodes takes over what nodes say of themselves and of each other.
func (c *comparison) compareNodes() {
	for i := range c.addressing.networks {
		nn := &c.addressing.networks[i]
		for _, d := range nn.Status.Differences {
			kind := kindAddress
			if p, err := netip.ParsePrefix(d.Object); err == nil {
				kind, d.Object = kindBlock, v1alpha1.IPBlockName(p)
			}
			c.differ(kind, d.Object, nn.Name, reasonOnNode, "see the agent's log on node "+nn.Name, "on node %s: %s", nn.Name, d.Message)
		}
		for _, s := range nn.Status.Sessions {
			for _, r := range s.Refused {
				if p, err := netip.ParsePrefix(r); err == nil {
					c.differ(kindBlock, v1alpha1.IPBlockName(p), s.Name, reasonRefused, "see the log of the agent of node "+s.Name,
						"node %s announces %s, which is not its own by the API; node %s refuses it", s.Name, p, nn.Name)
				}
			}
		}
	}
}

// Kinds of differences.
const (
	kindBlock   = "IPBlock"
	kindPod     = "Pod"
	kindNode    = "Node"
	kindAddress = "Address"
)
