package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NodeNetwork is one node's part of the network and bears the node's name. Its
// spec is the node's plan, written by the controller and complete in itself:
// the agent of the node watches this one object and needs no other. Its status
// is what the agent reports.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=godwit,shortName=nnet
// +kubebuilder:printcolumn:name="Address",type=string,JSONPath=`.spec.addresses[0]`
// +kubebuilder:printcolumn:name="ASN",type=integer,JSONPath=`.spec.asn`
// +kubebuilder:printcolumn:name="Sessions",type=string,JSONPath=`.status.summary.sessions`
// +kubebuilder:printcolumn:name="Blocks",type=integer,JSONPath=`.status.summary.blocks`
// +kubebuilder:printcolumn:name="Pods",type=integer,JSONPath=`.status.summary.pods`
// +kubebuilder:printcolumn:name="Routes",type=integer,JSONPath=`.status.summary.routes`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type NodeNetwork struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// The plan of the node, written by the controller.
	// +optional
	Spec NodeNetworkSpec `json:"spec,omitempty"`
	// What is so on the node, written by its agent.
	// +optional
	Status NodeNetworkStatus `json:"status,omitempty"`
}

// NodeNetworkSpec is the plan of a node. Whoever changes it by hand sees the
// controller change it back. Its lists have one writer, who writes them as a whole:
// were they maps to the API server, it would keep the owner of every field of every
// session, which is more than the plan itself.
type NodeNetworkSpec struct {
	// The node's addresses, at most one of a family.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=2
	Addresses []string `json:"addresses,omitempty"`
	// The node's AS number.
	// +optional
	ASN int64 `json:"asn,omitempty"`
	// The node's BGP identifier (RFC 6286), written as an IPv4 address.
	// +optional
	RouterID string `json:"routerID,omitempty"`
	// The TCP port on which the node's speaker listens.
	// +optional
	ListenPort int32 `json:"listenPort,omitempty"`
	// Whether of other nodes' routes only those of the blocks are taken that their
	// sessions here name.
	// +optional
	ValidateOrigin bool `json:"validateOrigin,omitempty"`
	// Whether the node is a route reflector: it passes on to its clients what other
	// nodes announce (RFC 4456).
	// +optional
	Reflector bool `json:"reflector,omitempty"`
	// Whether the node is being drained: it asks others to prefer other ways.
	// +optional
	Draining bool `json:"draining,omitempty"`
	// The tunnels that the node is to have, whether or not a pool uses them yet.
	// +optional
	// +listType=set
	Tunnels []TunnelKind `json:"tunnels,omitempty"`
	// The settings of the tunnels and of pods' interfaces.
	// +optional
	Network *NetworkConfigSpec `json:"network,omitempty"`
	// Whether the blocks of other nodes are to be routed as the API tells.
	// +optional
	BlocksFromAPI bool `json:"blocksFromAPI,omitempty"`
	// The other nodes, when blocks are routed as the API tells.
	// +optional
	// +listType=atomic
	Nodes []PlannedNode `json:"nodes,omitempty"`
	// The pools of the cluster that are in order.
	// +optional
	// +listType=atomic
	Pools []PlannedPool `json:"pools,omitempty"`
	// Whether some namespace chooses pools for its pods by an annotation: only then are
	// pods' namespaces asked for it.
	// +optional
	NamespacesChoosePools bool `json:"namespacesChoosePools,omitempty"`
	// Pools of the cluster that are left out, since somebody else has some of their
	// addresses.
	// +optional
	// +listType=atomic
	RefusedPools []RefusedPool `json:"refusedPools,omitempty"`
	// The node's BGP sessions, one for each address of another end, or range that
	// others call from. A node and a BGPPeer may share a name.
	// +optional
	// +listType=atomic
	Sessions []PlannedSession `json:"sessions,omitempty"`
	// Blocks of nodes whose Node is gone: the agent is to report of each whether BGP
	// tells it of a route to it. They are freed when nobody is told of one any more.
	// +optional
	// +listType=atomic
	DepartedBlocks []string `json:"departedBlocks,omitempty"`
}

// TunnelKind is a kind of tunnel.
// +kubebuilder:validation:Enum=IPIP;VXLAN
type TunnelKind string

// The kinds of tunnels.
const (
	// TunnelIPIP is IPv4 in IPv4 (RFC 2003).
	TunnelIPIP TunnelKind = "IPIP"
	// TunnelVXLAN is Ethernet in UDP (RFC 7348), over each family of the node's
	// addresses.
	TunnelVXLAN TunnelKind = "VXLAN"
)

// Interface returns the name of the interface of such a tunnel between nodes'
// IPv4 or IPv6 addresses; empty: there is none.
func (k TunnelKind) Interface(v6 bool) string {
	switch {
	case k == TunnelIPIP && !v6:
		return "godwit.ipip"
	case k == TunnelVXLAN && !v6:
		return "godwit.vxlan"
	case k == TunnelVXLAN:
		return "godwit.vxlan6"
	}
	return ""
}

// PlannedNode is another node, as one needs to know it to route its blocks.
type PlannedNode struct {
	// The name of the node.
	Name string `json:"name"`
	// The node's addresses, at most one of a family.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=2
	Addresses []string `json:"addresses"`
}

// PlannedPool is what a node needs to know of a pool.
type PlannedPool struct {
	// The name of the pool.
	Name string `json:"name"`
	// The pool's range.
	CIDR string `json:"cidr"`
	// The prefix length of the pool's blocks.
	BlockSize int32 `json:"blockSize"`
	// Whether addresses of the pool are claimed one by one, by IPClaims: then Allocate
	// is whether pods of this node can have them.
	// +optional
	Claims bool `json:"claims,omitempty"`
	// How packets between pods of different nodes cross the network below.
	Encapsulation Encapsulation `json:"encapsulation"`
	// Whether pods of the pool leave under their node's address.
	// +optional
	NATOutgoing bool `json:"natOutgoing,omitempty"`
	// Whether this node gives out new addresses of the pool: the pool is enabled
	// and its node selector matches.
	// +optional
	Allocate bool `json:"allocate,omitempty"`
	// How many blocks of the pool the node may claim, if not any number.
	// +optional
	MaxBlocksPerNode *int32 `json:"maxBlocksPerNode,omitempty"`
	// For how many seconds a block must have been empty before it is given back, if
	// not the agent's default.
	// +optional
	EmptyBlockSeconds *int32 `json:"emptyBlockSeconds,omitempty"`
	// The namespaces whose pods take addresses of this pool.
	// +optional
	NamespaceSelector *metav1.LabelSelector `json:"namespaceSelector,omitempty"`
	// Ranges that are never given to pods.
	// +optional
	// +listType=atomic
	ReservedCIDRs []string `json:"reservedCIDRs,omitempty"`
	// How the node announces its blocks of the pool, communities as numbers.
	// +optional
	Advertise *PoolAdvertisement `json:"advertise,omitempty"`
}

// RefusedPool is a pool that nodes leave alone.
type RefusedPool struct {
	// The name of the pool.
	Name string `json:"name"`
	// Why it is left out, and what to do.
	Message string `json:"message"`
}

// SessionKind tells who is at the other end of a session.
// +kubebuilder:validation:Enum=Node;External
type SessionKind string

// The kinds of a session.
const (
	// SessionNode is a session with another node of the cluster.
	SessionNode SessionKind = "Node"
	// SessionExternal is a session with a router outside the cluster.
	SessionExternal SessionKind = "External"
)

// PlannedSession is one BGP session that a node is to have.
type PlannedSession struct {
	// The name of the other node, or of the BGPPeer.
	Name string `json:"name"`
	// Who is at the other end.
	Kind SessionKind `json:"kind"`
	// The address of the other end, if it is known.
	// +optional
	PeerAddress string `json:"peerAddress,omitempty"`
	// The interface at the other end of whose link it is found, if its address is not
	// known.
	// +optional
	PeerInterface string `json:"peerInterface,omitempty"`
	// The range that others call from, if their addresses are not known.
	// +optional
	PeerPrefix string `json:"peerPrefix,omitempty"`
	// How many may call from that range at a time.
	// +optional
	MaxPeers int32 `json:"maxPeers,omitempty"`
	// The TCP port of the other end.
	PeerPort int32 `json:"peerPort"`
	// The AS number of the other end.
	PeerASN int64 `json:"peerASN"`
	// The AS number by which the other end knows this node, if not its own.
	// +optional
	LocalASN int64 `json:"localASN,omitempty"`
	// Whether the node waits for the other end to connect.
	// +optional
	Passive bool `json:"passive,omitempty"`
	// This end of the session, if the kernel is not to choose it.
	// +optional
	SourceAddress string `json:"sourceAddress,omitempty"`
	// The TTL of packets to the other end, where it is not on a link.
	// +optional
	EBGPMultihop int32 `json:"ebgpMultihop,omitempty"`
	// How many hops away the other end may be, if that is checked (RFC 5082).
	// +optional
	TTLSecurity int32 `json:"ttlSecurity,omitempty"`
	// The families that the session carries, if not all that the node has.
	// +optional
	// +listType=atomic
	Families []AddressFamily `json:"families,omitempty"`
	// The next hop of routes of others, if not Auto.
	// +optional
	NextHop NextHop `json:"nextHop,omitempty"`
	// Whether the other end's AS number is replaced in AS paths that it gets.
	// +optional
	ASOverride bool `json:"asOverride,omitempty"`
	// How many times the node's AS number may be in AS paths of the other end.
	// +optional
	AllowOwnASN int32 `json:"allowOwnASN,omitempty"`
	// What becomes of private AS numbers in AS paths that the other end gets, if they
	// do not stay.
	// +optional
	RemovePrivateASN PrivateASN `json:"removePrivateASN,omitempty"`
	// The other node's part in route reflection, if it has any.
	// +optional
	Reflection Reflection `json:"reflection,omitempty"`
	// The blocks that the other node owns.
	// +optional
	// +listType=atomic
	Blocks []string `json:"blocks,omitempty"`
	// Whether the other node's Node is gone: the session is kept for as long as it
	// has blocks, and that it is down is nothing to complain about.
	// +optional
	Departed bool `json:"departed,omitempty"`
	// Where the password is, when the session has one.
	// +optional
	PasswordSecretRef *SecretKeyRef `json:"passwordSecretRef,omitempty"`
	// The rules for routes of an external peer, the first match deciding. A node's
	// routes are taken when they are blocks of a pool.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=2048
	ImportRules []BGPFilterRule `json:"importRules,omitempty"`
	// The rules by which routes are announced to a router, in order, communities as
	// numbers.
	// +optional
	// +listType=atomic
	ExportRules []BGPFilterRule `json:"exportRules,omitempty"`
	// How many routes the other end may send before the session is ended.
	// +optional
	MaxPrefixes int32 `json:"maxPrefixes,omitempty"`
	// From how many routes on the session's status warns.
	// +optional
	WarnPrefixes int32 `json:"warnPrefixes,omitempty"`
	// The session's timers.
	// +optional
	Timers *BGPTimers `json:"timers,omitempty"`
	// The session's graceful restart.
	// +optional
	GracefulRestart *GracefulRestart `json:"gracefulRestart,omitempty"`
}

// Reflection is the part of the other end of a session in route reflection.
// +kubebuilder:validation:Enum=Client;Server
type Reflection string

// The parts.
const (
	// ReflectionClient is a node that this node tells what others announce.
	ReflectionClient Reflection = "Client"
	// ReflectionServer is a reflector, which announces what others do.
	ReflectionServer Reflection = "Server"
)

// Condition types and reasons of a NodeNetwork.
const (
	// ConditionReady tells whether pods can be attached to the node's network.
	ConditionReady = "Ready"
	// ConditionPlanApplied tells whether the plan makes sense and is carried out
	// in full.
	ConditionPlanApplied = "PlanApplied"
	// ConditionHostSound tells whether nothing on the node was found that may keep
	// Godwit from working, of other pod networks or in the firewall; the reason says
	// what (OtherCNIConfig, OtherLinks, OtherRoutes, OtherFirewall, ForwardingDenied,
	// Several).
	ConditionHostSound = "HostSound"
	// ConditionSessionsEstablished tells whether all planned sessions are.
	ConditionSessionsEstablished = "SessionsEstablished"
	// ConditionRoutesInstalled tells whether all routes are in the kernel.
	ConditionRoutesInstalled = "RoutesInstalled"
	// ConditionTunnelsReady tells whether all planned tunnels carry packets; the
	// reason says why not (DeviceConflict, PortInUse, NotSupported, MTUTooSmall,
	// MTUTooLarge, NoAddress, Invalid, Failed).
	ConditionTunnelsReady = "TunnelsReady"
	// ConditionSessionsSound tells whether the established sessions are as they
	// should be: the message says of which peers something is not, such as the
	// number of prefixes that comes near its limit.
	ConditionSessionsSound = "SessionsSound"
	// ConditionOriginsValid tells whether the other nodes announce what they own and
	// nothing else; the reason is OriginRefused when one does not.
	ConditionOriginsValid = "OriginsValid"
)

// NodeNetworkStatus is what is so on a node.
type NodeNetworkStatus struct {
	// The generation of the plan that the agent carries out.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Ready, PlanApplied, HostSound, SessionsEstablished, SessionsSound, OriginsValid,
	// RoutesInstalled and, where there are tunnels, TunnelsReady.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// The version of the agent.
	// +optional
	AgentVersion string `json:"agentVersion,omitempty"`
	// The node's addresses as found on its interfaces, with their prefix length.
	// +optional
	// +listType=map
	// +listMapKey=address
	Addresses []NodeAddress `json:"addresses,omitempty"`
	// The node's tunnels that carry packets.
	// +optional
	// +listType=map
	// +listMapKey=interface
	Tunnels []TunnelStatus `json:"tunnels,omitempty"`
	// The MTU that new pods get, in bytes.
	// +optional
	MTU int32 `json:"mtu,omitempty"`
	// Whether the blocks of all other nodes are routed as the API tells.
	// +optional
	BlocksFromAPI bool `json:"blocksFromAPI,omitempty"`
	// The node's blocks.
	// +optional
	// +listType=atomic
	Blocks []BlockStatus `json:"blocks,omitempty"`
	// The blocks that other nodes announce.
	// +optional
	Learned *LearnedBlocks `json:"learned,omitempty"`
	// What does not agree on the node and stays so, at most 16 of it.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Differences []Difference `json:"differences,omitempty"`
	// The node's BGP sessions.
	// +optional
	// +listType=atomic
	Sessions []SessionStatus `json:"sessions,omitempty"`
	// Routes that could not be installed, at most 16 of them.
	// +optional
	// +listType=atomic
	FailedRoutes []FailedRoute `json:"failedRoutes,omitempty"`
	// The blocks of the plan's departedBlocks, when the agent knows what BGP tells of
	// them.
	// +optional
	// +listType=map
	// +listMapKey=cidr
	DepartedBlocks []DepartedBlock `json:"departedBlocks,omitempty"`
	// Figures for one line a node.
	// +optional
	Summary NodeSummary `json:"summary,omitempty"`
}

// NodeAddress is an address of a node as found on an interface.
type NodeAddress struct {
	// The address with its prefix length, such as 10.211.55.101/24.
	Address string `json:"address"`
	// The interface that has the address.
	Interface string `json:"interface"`
	// The interface's MTU, in bytes.
	MTU int32 `json:"mtu"`
}

// TunnelStatus is a tunnel of a node.
type TunnelStatus struct {
	// The tunnel's interface: godwit.ipip, godwit.vxlan or, for VXLAN over IPv6,
	// godwit.vxlan6.
	Interface string `json:"interface"`
	// The kind of tunnel.
	Kind TunnelKind `json:"kind"`
	// The tunnel's own address, from a block of the node, under which the node
	// reaches pods behind the tunnel. There is none as long as no pool uses the
	// tunnel.
	// +optional
	Address string `json:"address,omitempty"`
	// The tunnel's MTU, in bytes.
	MTU int32 `json:"mtu"`
}

// BlockStatus is one block of a node.
type BlockStatus struct {
	// The block.
	CIDR string `json:"cidr"`
	// The pool that it is part of.
	Pool string `json:"pool"`
	// How many of its addresses pods hold.
	Allocated int32 `json:"allocated"`
	// Which of its addresses pods hold, as offsets in the block: 2-5,9.
	// +optional
	InUse string `json:"inUse,omitempty"`
}

// LearnedBlocks is what a node has learned by BGP from other nodes, short enough
// to be compared with what it should have learned.
type LearnedBlocks struct {
	// How many blocks.
	Count int32 `json:"count"`
	// A digest of the blocks, in no order, in hexadecimal.
	Digest string `json:"digest"`
}

// Difference is something on which a node's own sources don't agree: the records
// of its addresses, its pods' links and routes, and its blocks.
type Difference struct {
	// What it is about: an address or a block.
	Object string `json:"object"`
	// What is wrong, and what to do.
	Message string `json:"message"`
}

// SessionStatus is the state of a BGP session.
type SessionStatus struct {
	// The name of the other node or of the BGPPeer; for one that called from a range,
	// with a slash and its address.
	Name string `json:"name"`
	// Who is at the other end.
	Kind SessionKind `json:"kind"`
	// The address of the other end. Of one at an interface it is the address found,
	// such as fe80::1%eth1, or %eth1 while none is.
	PeerAddress string `json:"peerAddress"`
	// The interface at which the other end was looked for.
	// +optional
	PeerInterface string `json:"peerInterface,omitempty"`
	// The AS number of the other end.
	PeerASN int64 `json:"peerASN"`
	// The state of the session (RFC 4271, section 8.2.2): Idle, Connect, Active,
	// OpenSent, OpenConfirm or Established.
	State string `json:"state"`
	// When the session came into that state or, if it is not Established, when it
	// last stopped being so.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`
	// How many prefixes the other end has sent.
	// +optional
	Received int32 `json:"received,omitempty"`
	// How many of them were taken.
	// +optional
	Accepted int32 `json:"accepted,omitempty"`
	// How many prefixes the other end was sent.
	// +optional
	Advertised int32 `json:"advertised,omitempty"`
	// Why the session is not established, as far as known.
	// +optional
	Message string `json:"message,omitempty"`
	// What is not as it should be though the session is established.
	// +optional
	Warning string `json:"warning,omitempty"`
	// How many times the session went down after it was established, since the
	// agent knows it.
	// +optional
	Flaps int32 `json:"flaps,omitempty"`
	// Why the session last went down, and who ended it.
	// +optional
	LastError string `json:"lastError,omitempty"`
	// What both ends are capable of (RFC 5492), such as IPv4 unicast, 4-octet AS or
	// graceful restart; only while the session is established.
	// +optional
	// +listType=set
	Capabilities []string `json:"capabilities,omitempty"`
	// Whether the other end is away and its routes are kept until it is back or its
	// restart time is over (RFC 4724).
	// +optional
	PeerRestarting bool `json:"peerRestarting,omitempty"`
	// Prefixes that the other end, a node, announces though it does not own them, at
	// most 8 of them. They are not taken.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	Refused []string `json:"refused,omitempty"`
	// How many such prefixes there are.
	// +optional
	RefusedCount int32 `json:"refusedCount,omitempty"`
}

// FailedRoute is a route that could not be installed.
type FailedRoute struct {
	// The route's destination.
	Destination string `json:"destination"`
	// Why not.
	Message string `json:"message"`
}

// DepartedBlock is what BGP tells a node of a block whose own node is gone.
type DepartedBlock struct {
	// The block.
	CIDR string `json:"cidr"`
	// Whether there is a route to it.
	Announced bool `json:"announced"`
}

// NodeSummary holds figures for one line a node.
type NodeSummary struct {
	// Established sessions of all sessions, such as 4/4.
	// +optional
	Sessions string `json:"sessions,omitempty"`
	// How many blocks the node owns.
	// +optional
	// +kubebuilder:default=0
	Blocks int32 `json:"blocks,omitempty"`
	// How many pod addresses the node has given out.
	// +optional
	// +kubebuilder:default=0
	Pods int32 `json:"pods,omitempty"`
	// How many routes learned by BGP are in the kernel.
	// +optional
	// +kubebuilder:default=0
	Routes int32 `json:"routes,omitempty"`
}

// NodeNetworkList is a list of node networks.
// +kubebuilder:object:root=true
type NodeNetworkList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NodeNetwork `json:"items"`
}
