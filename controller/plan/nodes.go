package plan

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// node is a node that has a plan.
type node struct {
	name     string
	labels   labels.Set
	addrs    []netip.Addr // at most one of a family, IPv4 first
	shown    []string     // the same in the API's form
	routerID netip.Addr
	draining bool
	created  metav1.Time
	owned    ownedBlocks
	reflection
	external []v1alpha1.PlannedSession // sorted by name
	peers    map[place]string          // who has the external session at a place
	before   *v1alpha1.NodeNetworkSpec // the plan so far, nil when there is none
	departed bool                      // its Node is gone
	asked    bool                      // whether others announce blocks of those that departed
	report
}

// has tells whether the node has an address of the family of a.
func (n *node) has(a netip.Addr) bool { return n.hasFamily(a.Is6()) }

func (n *node) hasFamily(v6 bool) bool { return n.address(v6).IsValid() }

// address returns the node's address of a family; the zero Addr when it has none.
func (n *node) address(v6 bool) netip.Addr {
	for _, a := range n.addrs {
		if a.Is6() == v6 {
			return a
		}
	}
	return netip.Addr{}
}

// reach returns the address under which n speaks with other: the first of
// other's that is of a family that n has. Both ends choose the same family.
func (n *node) reach(other *node) (netip.Addr, bool) {
	for _, a := range other.addrs {
		if n.has(a) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// Draining tells whether a node is to be drained of routes: it has the label
// v1alpha1.DrainKey, with any value but "false", or a taint of that key. That it is
// cordoned says nothing of its routes.
func Draining(n *corev1.Node) bool {
	if value, ok := n.Labels[v1alpha1.DrainKey]; ok && value != "false" {
		return true
	}
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == v1alpha1.DrainKey })
}

// planNodes finds out which nodes get a plan, and their addresses and router
// IDs. An address that two nodes claim belongs to the older one.
func (p *Plan) planNodes(nodes []corev1.Node, networks []v1alpha1.NodeNetwork) {
	known := make(map[string]*v1alpha1.NodeNetwork, len(networks))
	for i := range networks {
		known[networks[i].Name] = &networks[i]
	}
	owner := make(map[netip.Addr]string, len(nodes))
	for _, obj := range byAge(nodes, func(n *corev1.Node) *metav1.ObjectMeta { return &n.ObjectMeta }) {
		nn := known[obj.Name]
		n := &node{name: obj.Name, labels: obj.Labels, draining: Draining(obj), created: obj.CreationTimestamp, report: hear(obj, nn)}
		if nn != nil {
			n.before = &nn.Spec
		}
		addrs := internalIPs(obj)
		if len(addrs) == 0 {
			addrs = p.keepAddresses(n)
		}
		for _, a := range addrs {
			if other, taken := owner[a]; taken {
				p.problem(n.name, ReasonAddressInUse, fmt.Sprintf(
					"InternalIP %s is also that of node %s, which is older: if that node is gone, delete its Node object", a, other))
				continue
			}
			owner[a] = n.name
			n.addrs, n.shown = append(n.addrs, a), append(n.shown, a.String())
		}
		if len(n.addrs) > 0 {
			p.nodes = append(p.nodes, n)
		}
	}
	p.planDeparted(known, owner)
	assignRouterIDs(p.nodes)
	slices.SortFunc(p.nodes, func(a, b *node) int { return strings.Compare(a.name, b.name) })
	slices.SortFunc(p.Problems, func(a, b Problem) int { return strings.Compare(a.Node, b.Node) })
}

// keepAddresses returns the addresses that the plan so far has for a node whose
// own are gone, as they are for a while when a cloud provider sets them anew.
func (p *Plan) keepAddresses(n *node) []netip.Addr {
	var kept []netip.Addr
	if n.before != nil {
		for _, s := range n.before.Addresses {
			if a, ok := parseAddr(s); ok {
				kept = append(kept, a)
			}
		}
	}
	message := "the node has no usable InternalIP in status.addresses: it gets no plan and no BGP sessions"
	if len(kept) > 0 {
		message = fmt.Sprintf("the node has no usable InternalIP in status.addresses any more: its plan keeps %s", kept[0])
	}
	p.problem(n.name, ReasonNoAddress, message)
	return kept
}

func (p *Plan) problem(node, reason, message string) {
	p.Problems = append(p.Problems, Problem{Node: node, Reason: reason, Message: message})
}

// internalIPs returns the node's first usable InternalIP of each family, IPv4
// first.
func internalIPs(n *corev1.Node) []netip.Addr {
	var v4, v6 []netip.Addr
	for _, na := range n.Status.Addresses {
		if na.Type != corev1.NodeInternalIP {
			continue
		}
		a, ok := parseAddr(na.Address)
		switch {
		case !ok:
		case a.Is4() && v4 == nil:
			v4 = []netip.Addr{a}
		case a.Is6() && v6 == nil:
			v6 = []netip.Addr{a}
		}
	}
	return append(v4, v6...)
}

// assignRouterIDs gives each node a BGP identifier that no other has (RFC 6286,
// section 2.1): its IPv4 address or, on a node without one, a number made from
// its name. The nodes must come from the oldest to the youngest, so that a new
// one never changes the identifier of an old one.
func assignRouterIDs(nodes []*node) {
	taken := make(map[netip.Addr]bool, len(nodes))
	for _, n := range nodes {
		if n.addrs[0].Is4() {
			n.routerID = n.addrs[0]
			taken[n.routerID] = true
		}
	}
	for _, n := range nodes {
		for salt := 0; !n.routerID.IsValid(); salt++ {
			if id, ok := hashRouterID(n.name, salt); ok && !taken[id] {
				n.routerID = id
				taken[id] = true
			}
		}
	}
}

// hashRouterID makes an identifier from a name and tells whether it is one that
// routers take: a unicast IPv4 address, not in 0/8 or 127/8.
func hashRouterID(name string, salt int) (netip.Addr, bool) {
	h := fnv.New32a()
	_, _ = fmt.Fprintf(h, "%s/%d", name, salt)
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], h.Sum32())
	return netip.AddrFrom4(b), b[0] != 0 && b[0] != 127 && b[0] < 224
}
