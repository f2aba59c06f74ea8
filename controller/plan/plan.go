// Package plan works out, from what is configured and which nodes there are,
// what each node is to do (the spec of its NodeNetwork) and what is wrong with
// the configuration (the conditions of pools and peers).
//
//	Nodes, NetworkConfig ───────────────────┬─▶ NodeNetworkSpec of each node
//	BGPConfig, BGPPeers, BGPFilters ────────┤
//	IPPools, IPBlocks, ServiceCIDRs ────────┼─▶ conditions of each IPPool and BGPPeer
//	NodeNetworks (plan so far, and status) ─┴─▶ Problems of nodes
//
// Encapsulations and topologies are changed in steps: what is new is added, and
// what is old goes when all nodes that count have reported the new. Which step
// comes next follows from the plans so far and from the statuses alone, so that
// it does not matter who planned before. A node counts when its agent was heard
// of, its Node is ready as far as is said, and it is not being deleted.
//
// Invariants:
//   - It is pure: the same input gives the same plan, whatever its order, and no
//     input is changed. A plan shares memory with its input.
//   - Every spec it returns is accepted by the API: addresses of sessions and
//     names of pools are unique.
//   - Bad input never changes what works. Of two objects that can't both be
//     carried out, the one that is in use, or else the older one, stays; a
//     selector that can't be read leaves the nodes as they are; a node whose
//     addresses vanish keeps those of its plan.
//   - A node's block stays in the plans of others for as long as the IPBlock is
//     there, whatever else becomes of the node. So do its sessions when its Node
//     is gone: nodes that may go on working are not cut off, and who still
//     announces a block can be seen.
//   - No step takes a way from packets between nodes that count: each has the
//     tunnels of all encapsulations by which another may send, and each pair has
//     a session, or the blocks from the API, or both.
package plan

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// Input is everything that a plan is made from.
type Input struct {
	Nodes    []corev1.Node
	Config   *v1alpha1.BGPConfig     // nil: the defaults
	Network  *v1alpha1.NetworkConfig // nil: the defaults
	Peers    []v1alpha1.BGPPeer
	Filters  []v1alpha1.BGPFilter
	Pools    []v1alpha1.IPPool
	Blocks   []v1alpha1.IPBlock
	Networks []v1alpha1.NodeNetwork // as they are now: the plan so far, and what agents report
	Services []networkingv1.ServiceCIDR
}

// Reasons of the conditions of pools and peers, and of Problems.
const (
	ReasonReady          = "Ready"
	ReasonDisabled       = "Disabled"         // the pool is switched off
	ReasonInvalid        = "Invalid"          // a field can't be read
	ReasonOverlaps       = "Overlaps"         // another pool has some of the addresses
	ReasonServices       = "OverlapsServices" // Services have some of the addresses
	ReasonNodes          = "OverlapsNodes"    // a node has one of the addresses
	ReasonNoNodes        = "NoNodes"          // the selector matches no node
	ReasonFilterNotFound = "FilterNotFound"   // the peer names a filter that isn't there
	ReasonInvalidFilter  = "InvalidFilter"    // the peer names a filter that can't be read
	ReasonConflict       = "Conflict"         // another session has the peer's address
	ReasonNoAddress      = "NoAddress"        // the node has no usable InternalIP
	ReasonAddressInUse   = "AddressInUse"     // another node has the node's address

	ReasonApplied           = "Applied"           // the plans have what the pool asks for
	ReasonWaitingForTunnels = "WaitingForTunnels" // not all nodes have the tunnel yet
	ReasonDeleting          = "Deleting"          // the pool is being deleted, and still in use
	ReasonEnough            = "Enough"            // the pool has blocks that nobody has claimed
	ReasonNearlyFull        = "NearlyFull"        // most blocks of the pool are claimed
	ReasonFull              = "Full"              // all blocks of the pool are claimed
	ReasonInUse             = "InUse"             // nodes have blocks of a pool that is to go
	ReasonUnused            = "Unused"            // they have none any more

	ReasonCommunityNotFound = "CommunityNotFound" // the pool names a community that isn't there
)

// DefaultMaxPrefixes is how many prefixes the other end of a session may send
// where its BGPPeer does not say.
const DefaultMaxPrefixes = 10000

// maxReflected is how many prefixes a reflector may send.
const maxReflected = 100000

const (
	defaultPort        = 179
	defaultBlockSizeV4 = 26
	defaultBlockSizeV6 = 122

	defaultWarningPercent = 80 // of the prefixes that a session may have
)

// Plan is what every node is to do, and what is wrong.
type Plan struct {
	// Pools holds the conditions of each pool, by name, without times: Ready and, for
	// a pool in the plan, HasRoom, or Drained of one that gives out no new addresses,
	// EncapsulationApplied and, where it says how it is announced, AdvertisementApplied.
	Pools map[string][]metav1.Condition
	// Peers holds the status of each peer, by name, its one condition without times.
	Peers map[string]v1alpha1.BGPPeerStatus
	// Problems holds what is wrong with nodes, sorted by node.
	Problems []Problem
	// Waiting tells whether a change goes on when nodes report that they are ready
	// for it: until then, reports make no other plan.
	Waiting bool
	// TopologyWaits says what a change of the topology waits for; empty: for nothing.
	TopologyWaits string
	// ReflectorsLack says why there are no route reflectors as asked; empty: there are.
	ReflectorsLack string

	asn     int64
	port    int32
	config  v1alpha1.BGPConfigSpec
	nodes   []*node                // that have a plan, sorted by name
	pools   []*pool                // in the plan, sorted by name
	refused []v1alpha1.RefusedPool // not in the plan, sorted by name

	communities communities
	blocks      map[string][]string // of each node that has any, sorted

	network *v1alpha1.NetworkConfigSpec
	tunnels []v1alpha1.TunnelKind // of nodes with an IPv4 address
	meshed  bool                  // nodes have sessions with each other
	fromAPI bool                  // nodes route each other's blocks as the API tells
	// reflected tells that nodes have sessions with reflectors.
	reflected bool
	counted   ownedBlocks // of all nodes that count

	held map[string]bool // pools that must not go, by name

	departedBlocks map[string][]string // of nodes whose Node is gone, by name
	asked          []string            // all of them, sorted: what nodes are asked about
}

// Problem is something wrong with a node that its plan can't mend.
type Problem struct {
	Node    string
	Reason  string
	Message string
}

// Make makes the plan.
func Make(in Input) *Plan {
	p := &Plan{
		Pools: make(map[string][]metav1.Condition, len(in.Pools)),
		Peers: make(map[string]v1alpha1.BGPPeerStatus, len(in.Peers)),
		asn:   v1alpha1.DefaultASN,
		port:  defaultPort,
	}
	if in.Config != nil {
		p.config = in.Config.Spec
		p.asn = cmp.Or(p.config.ASNumber, p.asn)
		p.port = cmp.Or(p.config.ListenPort, p.port)
	}
	if in.Network != nil {
		p.network = &in.Network.Spec
	}
	p.communities = readCommunities(p.config.Communities)
	p.findDeparted(in.Nodes, in.Blocks)
	p.planNodes(in.Nodes, in.Networks)
	p.planPools(in.Pools, in.Blocks, in.Services)
	p.planAdvertisements()
	p.planBlocks(in.Blocks)
	p.planEncapsulations()
	p.planTopology()
	p.planPeers(in.Peers, in.Filters)
	p.ask()
	return p
}

// Nodes returns the names of the nodes that have a plan, sorted.
func (p *Plan) Nodes() []string {
	names := make([]string, len(p.nodes))
	for i, n := range p.nodes {
		names[i] = n.name
	}
	return names
}

// Spec returns the plan of a node and whether it has one. It is made at each
// call, so that the n² sessions of a mesh, or other nodes, are never in memory at
// once.
func (p *Plan) Spec(name string) (v1alpha1.NodeNetworkSpec, bool) {
	i, ok := slices.BinarySearchFunc(p.nodes, name, func(n *node, name string) int {
		return strings.Compare(n.name, name)
	})
	if !ok {
		return v1alpha1.NodeNetworkSpec{}, false
	}
	n := p.nodes[i]
	spec := v1alpha1.NodeNetworkSpec{
		Addresses:  n.shown,
		ASN:        p.asn,
		RouterID:   n.routerID.String(),
		ListenPort: p.port,
		Draining:   n.draining,
		Tunnels:    p.tunnelsOf(n),
		Network:    p.network,
		Sessions:   n.external,

		RefusedPools: p.refused,
	}
	if p.meshed || p.reflected {
		spec.Sessions, spec.ValidateOrigin = append(p.sessions(n), n.external...), true
		spec.Reflector = n.reflects
	}
	if p.fromAPI {
		spec.BlocksFromAPI, spec.Nodes = true, p.others(n)
	}
	if n.asked {
		spec.DepartedBlocks = p.asked
	}
	for _, pl := range p.pools {
		spec.Pools = append(spec.Pools, pl.planned(n))
	}
	return spec, true
}

// sessions returns the sessions of n with other nodes, sorted by name: of a mesh
// with each that has an address of a family that n has too, else with those by
// which routes are reflected.
func (p *Plan) sessions(n *node) []v1alpha1.PlannedSession {
	others := n.partners()
	if p.meshed {
		others = p.nodes
	}
	sessions := make([]v1alpha1.PlannedSession, 0, len(others)+len(n.external))
	for _, other := range others {
		if other == n {
			continue
		}
		addr, ok := n.reach(other)
		if !ok {
			continue
		}
		s := v1alpha1.PlannedSession{
			Name:            other.name,
			Kind:            v1alpha1.SessionNode,
			PeerAddress:     addr.String(),
			PeerPort:        p.port,
			PeerASN:         p.asn,
			Reflection:      n.partOf(other),
			Departed:        other.departed,
			MaxPrefixes:     DefaultMaxPrefixes,
			Timers:          p.config.Timers,
			GracefulRestart: p.config.GracefulRestart,
		}
		if s.Reflection == v1alpha1.ReflectionServer {
			s.MaxPrefixes = maxReflected
		} else {
			s.Blocks = p.blocks[other.name]
		}
		sessions = append(sessions, s)
	}
	return sessions
}

// byAge sorts objects from the oldest to the youngest, those of one second by
// name. It returns pointers into the slice it is given.
func byAge[T any](objects []T, meta func(*T) *metav1.ObjectMeta) []*T {
	sorted := make([]*T, len(objects))
	for i := range objects {
		sorted[i] = &objects[i]
	}
	slices.SortFunc(sorted, func(a, b *T) int {
		ma, mb := meta(a), meta(b)
		return cmp.Or(ma.CreationTimestamp.Compare(mb.CreationTimestamp.Time), strings.Compare(ma.Name, mb.Name))
	})
	return sorted
}

func ready(message string) metav1.Condition {
	return metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: ReasonReady, Message: message,
	}
}

func notReady(reason, message string) metav1.Condition {
	return metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: reason, Message: message,
	}
}

// parseAddr reads an address and tells whether a node or router can be reached
// under it. Link-local IPv6 addresses don't do: they need an interface.
func parseAddr(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, false
	}
	a = a.Unmap()
	ok := !a.IsLoopback() && (a.IsGlobalUnicast() || (a.Is4() && a.IsLinkLocalUnicast()))
	return a, ok
}
