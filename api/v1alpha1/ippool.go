package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Encapsulation says how packets between pods of different nodes cross the
// underlying network.
// +kubebuilder:validation:Enum=None;IPIP;IPIPCrossSubnet;VXLAN;VXLANCrossSubnet
type Encapsulation string

// The encapsulations.
const (
	// EncapsulationNone routes pod packets bare: the network between the nodes
	// must know, or be told by BGP, where each block is.
	EncapsulationNone Encapsulation = "None"
	// EncapsulationIPIP puts each packet into one more IPv4 header (RFC 2003). Only
	// for IPv4 pools.
	EncapsulationIPIP Encapsulation = "IPIP"
	// EncapsulationIPIPCrossSubnet is IPIP towards nodes of other subnets, and None
	// towards those of the node's own.
	EncapsulationIPIPCrossSubnet Encapsulation = "IPIPCrossSubnet"
	// EncapsulationVXLAN puts each packet into UDP (RFC 7348), over the underlying
	// network's IPv4 for an IPv4 pool and its IPv6 for an IPv6 pool.
	EncapsulationVXLAN Encapsulation = "VXLAN"
	// EncapsulationVXLANCrossSubnet is VXLAN towards nodes of other subnets, and None
	// towards those of the node's own.
	EncapsulationVXLANCrossSubnet Encapsulation = "VXLANCrossSubnet"
)

// Tunnel returns the kind of tunnel that the encapsulation uses; empty: none.
func (e Encapsulation) Tunnel() TunnelKind {
	switch e {
	case EncapsulationIPIP, EncapsulationIPIPCrossSubnet:
		return TunnelIPIP
	case EncapsulationVXLAN, EncapsulationVXLANCrossSubnet:
		return TunnelVXLAN
	case EncapsulationNone:
	}
	return ""
}

// CrossSubnet tells whether only packets to nodes of other subnets are
// encapsulated.
func (e Encapsulation) CrossSubnet() bool {
	return e == EncapsulationIPIPCrossSubnet || e == EncapsulationVXLANCrossSubnet
}

// Allocation says how addresses of a pool come to pods.
// +kubebuilder:validation:Enum=Blocks;Claims
type Allocation string

// The allocations.
const (
	// AllocationBlocks has nodes claim blocks, of which any of their pods get
	// addresses.
	AllocationBlocks Allocation = "Blocks"
	// AllocationClaims has each address claimed by itself, by an IPClaim, and given
	// only to pods that ask for it.
	AllocationClaims Allocation = "Claims"
)

// IPPool is a range of addresses for pods. Nodes claim blocks of it and
// announce them over BGP; pods get their addresses from their node's blocks.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=godwit
// +kubebuilder:printcolumn:name="CIDR",type=string,JSONPath=`.spec.cidr`
// +kubebuilder:printcolumn:name="Encap",type=string,JSONPath=`.spec.encapsulation`
// +kubebuilder:printcolumn:name="NAT",type=boolean,JSONPath=`.spec.natOutgoing`
// +kubebuilder:printcolumn:name="Blocks",type=string,JSONPath=`.status.summary`
// +kubebuilder:printcolumn:name="Allocated",type=integer,JSONPath=`.status.allocated`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Left",type=string,JSONPath=`.status.left`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type IPPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// What the pool is.
	// +required
	Spec IPPoolSpec `json:"spec"`
	// What the controller found out about the pool.
	// +optional
	Status IPPoolStatus `json:"status,omitempty"`
}

// IPPoolSpec is what a person asks of a pool.
//
// +kubebuilder:validation:XValidation:rule="self.cidr == oldSelf.cidr",fieldPath=".cidr",message="cidr is immutable: make a new pool and disable this one"
// +kubebuilder:validation:XValidation:rule="has(self.blockSize) == has(oldSelf.blockSize) && (!has(self.blockSize) || self.blockSize == oldSelf.blockSize)",fieldPath=".blockSize",message="blockSize is immutable: make a new pool and disable this one"
// +kubebuilder:validation:XValidation:rule="!isCIDR(self.cidr) || !has(self.blockSize) || self.blockSize >= cidr(self.cidr).prefixLength()",fieldPath=".blockSize",message="blockSize must not be larger than the pool: give a prefix length at least that of cidr"
// +kubebuilder:validation:XValidation:rule="!isCIDR(self.cidr) || !has(self.blockSize) || (cidr(self.cidr).ip().family() == 4 ? (self.blockSize >= 20 && self.blockSize <= 32) : (self.blockSize >= 116 && self.blockSize <= 128))",fieldPath=".blockSize",message="blockSize must be 20 to 32 for an IPv4 pool and 116 to 128 for an IPv6 pool"
// +kubebuilder:validation:XValidation:rule="!isCIDR(self.cidr) || has(self.blockSize) || has(self.allocation) && self.allocation == 'Claims' || cidr(self.cidr).prefixLength() <= (cidr(self.cidr).ip().family() == 4 ? 26 : 122)",fieldPath=".blockSize",message="the pool is smaller than the default block (/26, /122): set blockSize"
// +kubebuilder:validation:XValidation:rule="(has(self.allocation) ? self.allocation : 'Blocks') == (has(oldSelf.allocation) ? oldSelf.allocation : 'Blocks')",fieldPath=".allocation",message="allocation is immutable: make a new pool and disable this one"
// +kubebuilder:validation:XValidation:rule="!has(self.allocation) || self.allocation != 'Claims' || !has(self.blockSize)",fieldPath=".blockSize",message="the addresses of a pool with allocation Claims are claimed one by one: leave blockSize out"
// +kubebuilder:validation:XValidation:rule="!has(self.allocation) || self.allocation != 'Claims' || !has(self.namespaceSelector) && !has(self.maxBlocksPerNode) && !has(self.emptyBlockSeconds)",fieldPath=".allocation",message="namespaceSelector, maxBlocksPerNode and emptyBlockSeconds say nothing of a pool with allocation Claims: leave them out"
// +kubebuilder:validation:XValidation:rule="!isCIDR(self.cidr) || !has(self.reservedCIDRs) || self.reservedCIDRs.all(r, !isCIDR(r) || cidr(self.cidr).containsCIDR(r))",fieldPath=".reservedCIDRs",message="reservedCIDRs must lie inside cidr"
// +kubebuilder:validation:XValidation:rule="!isCIDR(self.cidr) || cidr(self.cidr).ip().family() == 4 || !has(self.encapsulation) || !self.encapsulation.startsWith('IPIP')",fieldPath=".encapsulation",message="IPIP carries IPv4 only: use VXLAN, VXLANCrossSubnet or None for an IPv6 pool"
type IPPoolSpec struct {
	// The range of addresses, such as 172.25.0.0/16 or fd00:25::/48. It must be
	// the network address of the range, and it can't be changed later.
	// +required
	// +kubebuilder:validation:MaxLength=43
	// +kubebuilder:validation:XValidation:rule="isCIDR(self) && cidr(self) == cidr(self).masked()",message="must be a network in CIDR form with no host bits set, such as 172.25.0.0/16"
	// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || cidr(self).ip().isGlobalUnicast()",message="must be a range of unicast addresses, not all of them, loopback, link-local or multicast"
	CIDR string `json:"cidr"`

	// The prefix length of the blocks that nodes claim: 20 to 32 for IPv4 (26 when
	// not given), 116 to 128 for IPv6 (122 when not given). It can't be changed
	// later.
	// +optional
	BlockSize *int32 `json:"blockSize,omitempty"`

	// How addresses of the pool come to pods. Blocks: nodes claim blocks of it, and
	// any pod gets an address of its node's. Claims: each address is claimed by itself
	// by an IPClaim, and a pod that asks for it has it on whichever node it runs. It
	// can't be changed later.
	// +optional
	// +kubebuilder:default=Blocks
	Allocation Allocation `json:"allocation,omitempty"`

	// How packets between pods of different nodes cross the network below: None
	// routes them bare, IPIP and VXLAN put them into tunnels, and IPIPCrossSubnet
	// and VXLANCrossSubnet do so only between nodes of different subnets. It can be
	// changed at any time: nodes go over to the new one when all of them can.
	// +optional
	// +kubebuilder:default=None
	Encapsulation Encapsulation `json:"encapsulation,omitempty"`

	// Whether pods of this pool reach destinations outside of all pools and nodes
	// under their node's address (masquerade).
	// +optional
	// +kubebuilder:default=false
	NATOutgoing bool `json:"natOutgoing,omitempty"`

	// Which nodes take blocks of this pool: all when not given.
	// +optional
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`

	// The namespaces whose pods take addresses of this pool: all when not given.
	// Where pools with a selector match a pod's namespace, pools without one are
	// not used.
	// +optional
	NamespaceSelector *metav1.LabelSelector `json:"namespaceSelector,omitempty"`

	// Whether the pool gives out no new addresses. Pods that have one keep it, and
	// their blocks stay announced.
	// +optional
	Disabled bool `json:"disabled,omitempty"`

	// How many blocks of the pool a node may claim: any number when not given. Blocks
	// that a node has beyond it, as it was lowered, stay until they are empty.
	// +optional
	// +kubebuilder:validation:Minimum=1
	MaxBlocksPerNode *int32 `json:"maxBlocksPerNode,omitempty"`

	// For how many seconds a block must have had no address in use before its node
	// gives it back: 600 when not given. It does so when its other blocks of the pool
	// have 32 addresses free, or as many as two of them have if they are smaller, so
	// that the last one stays; in any case when the pool is disabled or being deleted,
	// or the node is not among its nodes any more.
	// +optional
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=2592000
	EmptyBlockSeconds *int32 `json:"emptyBlockSeconds,omitempty"`

	// Ranges inside cidr that are never given to pods.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=43
	// +kubebuilder:validation:items:XValidation:rule="isCIDR(self) && cidr(self) == cidr(self).masked()",message="must be a network in CIDR form with no host bits set, such as 172.25.0.0/28"
	ReservedCIDRs []string `json:"reservedCIDRs,omitempty"`

	// How nodes announce their blocks of the pool.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!has(self.communities) || self.communities.all(c, c.matches('^([a-zA-Z][a-zA-Z0-9._-]*|[0-9]{1,5}:[0-9]{1,5}|[0-9]{1,10}:[0-9]{1,10}:[0-9]{1,10})$') && (c.matches('^[a-zA-Z]') || c.split(':').all(n, int(n) <= (c.split(':').size() == 2 ? 65535 : 4294967295))))",fieldPath=".communities",message="must be names of communities, such as no-export, standard ones of two numbers up to 65535, such as 64512:100, or large ones of three up to 4294967295, such as 64512:1:2"
	Advertise *PoolAdvertisement `json:"advertise,omitempty"`
}

// PoolAdvertisement says how nodes announce their blocks of a pool.
type PoolAdvertisement struct {
	// Whether the blocks are kept from routers outside the cluster. Nodes announce
	// them to each other all the same.
	// +optional
	Disabled bool `json:"disabled,omitempty"`
	// Whether nodes that have blocks of the pool announce its cidr to routers outside
	// the cluster, too. With disabled it is all that they announce of the pool there.
	// +optional
	Aggregate bool `json:"aggregate,omitempty"`
	// Communities that the blocks are announced with: standard ones (RFC 1997) such
	// as 64512:100, large ones (RFC 8092) such as 64512:1:2, names of the BGPConfig or
	// well-known names such as no-export.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=32
	Communities []string `json:"communities,omitempty"`
	// The local preference that the blocks are announced with to nodes and to routers
	// of the nodes' own AS: 100 when not given.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	LocalPref *int64 `json:"localPref,omitempty"`
}

// ConditionEncapsulationApplied is the type of a pool's condition that tells
// whether the plans of nodes have the encapsulation which the pool asks for.
const ConditionEncapsulationApplied = "EncapsulationApplied"

// ConditionAdvertisementApplied is the type of a pool's condition that tells
// whether nodes announce their blocks of it as the pool asks.
const ConditionAdvertisementApplied = "AdvertisementApplied"

// ConditionHasRoom is the type of a pool's condition that tells whether nodes can
// claim many more blocks of it.
const ConditionHasRoom = "HasRoom"

// ConditionDrained is the type of the condition of a pool that gives out no new
// addresses which tells whether nodes have no blocks of it any more.
const ConditionDrained = "Drained"

// PoolFinalizer keeps an IPPool that is deleted for as long as nodes have blocks
// of it. It gives out no new addresses then.
const PoolFinalizer = GroupName + "/blocks"

// IPPoolStatus is what the controller found out about a pool.
type IPPoolStatus struct {
	// Ready tells whether nodes may claim blocks of the pool; the reason says why not
	// (Overlaps, OverlapsServices, OverlapsNodes, Disabled, Deleting, Invalid, NoNodes).
	// HasRoom turns False when 80 % of its blocks are claimed (NearlyFull), and when all
	// are (Full). Drained, of a pool that is disabled or being deleted, tells whether
	// nodes have no blocks of it any more, and else which do (InUse).
	// EncapsulationApplied, of a pool that nodes know, tells whether they use the
	// encapsulation that the pool asks for: while it is False (WaitingForTunnels), they
	// use the one before. AdvertisementApplied, of a pool with advertise, tells whether
	// nodes announce it so; when not (CommunityNotFound), they announce it as before.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// How many blocks nodes have claimed.
	// +optional
	Blocks int64 `json:"blocks,omitempty"`
	// How many blocks the pool has, without those that are reserved as a whole.
	// +optional
	Capacity int64 `json:"capacity,omitempty"`
	// How many blocks nodes can claim yet.
	// +optional
	// +kubebuilder:default=0
	Free int64 `json:"free,omitempty"`
	// How many addresses the pool has, without those that are reserved.
	// +optional
	Addresses int64 `json:"addresses,omitempty"`
	// How many addresses pods hold, as last reported by the nodes.
	// +optional
	// +kubebuilder:default=0
	Allocated int64 `json:"allocated,omitempty"`
	// Claimed blocks of all blocks, such as 3/1024.
	// +optional
	Summary string `json:"summary,omitempty"`
	// What is left of a pool that is disabled or being deleted, such as 2 blocks, 14
	// addresses; none when it is out of use.
	// +optional
	Left string `json:"left,omitempty"`
}

// Closing tells whether the pool gives out no new addresses to anybody: it is
// disabled or being deleted.
func (p *IPPool) Closing() bool { return p.Spec.Disabled || p.DeletionTimestamp != nil }

// IPPoolList is a list of pools.
// +kubebuilder:object:root=true
type IPPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPPool `json:"items"`
}
