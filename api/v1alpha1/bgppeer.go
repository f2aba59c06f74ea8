package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BGPPeer is a router outside the cluster, such as a top-of-rack switch, with
// which nodes hold a BGP session.
//
// The nodes announce their own blocks to it and nothing else, as far as its
// export filters do not say otherwise, and take from it only what its import
// filters accept: without a filter, nothing.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=godwit
// +kubebuilder:printcolumn:name="Peer",type=string,JSONPath=`.spec.peerAddress`
// +kubebuilder:printcolumn:name="Interface",type=string,JSONPath=`.spec.peerInterface`,priority=1
// +kubebuilder:printcolumn:name="Range",type=string,JSONPath=`.spec.peerPrefix`,priority=1
// +kubebuilder:printcolumn:name="ASN",type=integer,JSONPath=`.spec.peerASN`
// +kubebuilder:printcolumn:name="Nodes",type=integer,JSONPath=`.status.nodes`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BGPPeer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// The router and how to speak with it.
	// +required
	Spec BGPPeerSpec `json:"spec"`
	// What the controller found out.
	// +optional
	Status BGPPeerStatus `json:"status,omitempty"`
}

// AddressFamily is a family of addresses.
// +kubebuilder:validation:Enum=IPv4;IPv6
type AddressFamily string

// The families.
const (
	FamilyIPv4 AddressFamily = "IPv4"
	FamilyIPv6 AddressFamily = "IPv6"
)

// NextHop says with which next hop routes are announced.
// +kubebuilder:validation:Enum=Auto;Self;Keep
type NextHop string

// The next hops. A node's own prefixes always have the node.
const (
	// NextHopAuto is what BGP has: the node to a router of another AS, and what was
	// learned to one of the nodes' own (RFC 4271, section 5.1.3).
	NextHopAuto NextHop = "Auto"
	// NextHopSelf is the node.
	NextHopSelf NextHop = "Self"
	// NextHopKeep is what was learned.
	NextHopKeep NextHop = "Keep"
)

// PrivateASN says what becomes of private AS numbers (RFC 6996) in AS paths.
// +kubebuilder:validation:Enum=Keep;Remove;Replace
type PrivateASN string

// What becomes of private AS numbers.
const (
	PrivateASNKeep    PrivateASN = "Keep"
	PrivateASNRemove  PrivateASN = "Remove"
	PrivateASNReplace PrivateASN = "Replace" // by the node's own
)

// SourceNodeAddress is a sourceAddress that stands for each node's own address of
// the family of peerAddress.
const SourceNodeAddress = "NodeAddress"

// BGPPeerSpec says who the router is, which nodes speak with it, and how.
//
// +kubebuilder:validation:XValidation:rule="!has(self.ebgpMultihop) || !has(self.ttlSecurity)",fieldPath=".ttlSecurity",message="ebgpMultihop and ttlSecurity exclude each other: ttlSecurity says by itself how many hops away the router may be"
// +kubebuilder:validation:XValidation:rule="!has(self.localASN) || self.localASN != self.peerASN",fieldPath=".localASN",message="localASN must not be peerASN: it is for routers of another AS that know the nodes by a different number"
// +kubebuilder:validation:XValidation:rule="[has(self.peerAddress), has(self.peerInterface), has(self.peerPrefix)].exists_one(given, given)",message="give one of peerAddress, peerInterface and peerPrefix: the router's address, the nodes' interface that it is at, or the range that routers call from"
// +kubebuilder:validation:XValidation:rule="!has(self.peerInterface) || !has(self.sourceAddress)",fieldPath=".sourceAddress",message="sourceAddress makes no sense with peerInterface: the session runs between the link-local addresses of the interface's link"
// +kubebuilder:validation:XValidation:rule="!has(self.peerInterface) || !has(self.ebgpMultihop)",fieldPath=".ebgpMultihop",message="ebgpMultihop makes no sense with peerInterface: the router is at the other end of the interface's link"
// +kubebuilder:validation:XValidation:rule="has(self.peerPrefix) || !has(self.maxPeers)",fieldPath=".maxPeers",message="maxPeers is for peerPrefix: a peerAddress is of one router"
// +kubebuilder:validation:XValidation:rule="!has(self.peerPrefix) || !has(self.passwordSecretRef)",fieldPath=".passwordSecretRef",message="TCP MD5 needs the router's address before its first packet: give a BGPPeer with peerAddress for each router that has a password"
// +kubebuilder:validation:XValidation:rule="!has(self.peerPrefix) || !has(self.sourceAddress)",fieldPath=".sourceAddress",message="sourceAddress is for calls that nodes make: with peerPrefix they wait for those of routers"
// +kubebuilder:validation:XValidation:rule="!has(self.sourceAddress) || !isIP(self.sourceAddress) || !has(self.peerAddress) || !isIP(self.peerAddress) || ip(self.sourceAddress).family() == ip(self.peerAddress).family()",fieldPath=".sourceAddress",message="sourceAddress must be of the family of peerAddress"
type BGPPeerSpec struct {
	// What people should know of the router. It changes nothing.
	// +optional
	// +kubebuilder:validation:MaxLength=255
	Description string `json:"description,omitempty"`

	// The router's address. Either this is given, or peerInterface or peerPrefix.
	// +optional
	// +kubebuilder:validation:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="isIP(self) && !ip(self).isLoopback() && (ip(self).isGlobalUnicast() || (ip(self).family() == 4 && ip(self).isLinkLocalUnicast()))",message="must be a unicast IP address of the router, such as 10.211.55.1"
	PeerAddress string `json:"peerAddress,omitempty"`

	// The nodes' interface at the other end of whose link the router is (BGP
	// unnumbered). Node and router find each other by router advertisements (RFC
	// 4861), and speak between their link-local addresses, which are the next hops of
	// both families (RFC 8950).
	// +optional
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule="self.matches('^[^/:%\\\\s]+$')",message="must be the name of an interface, such as eth1"
	PeerInterface string `json:"peerInterface,omitempty"`

	// The range that the routers' addresses are in, where they are not known one by
	// one ("dynamic neighbors"). The nodes wait for calls from there, and each router
	// that calls has a session with all that is said here. It must not contain
	// addresses of pods or of nodes. Instead of a password, keep others out of that
	// network: whoever calls from the range is taken for a router.
	// +optional
	// +kubebuilder:validation:MaxLength=43
	// +kubebuilder:validation:XValidation:rule="isCIDR(self) && cidr(self) == cidr(self).masked() && cidr(self).prefixLength() > 0 && !cidr(self).ip().isLoopback()",message="must be a range of routers' addresses without host bits, such as 10.211.60.0/24"
	PeerPrefix string `json:"peerPrefix,omitempty"`

	// How many routers of peerPrefix may have a session with a node at a time: 100
	// when not given.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	MaxPeers *int32 `json:"maxPeers,omitempty"`

	// The TCP port on which the router listens.
	// +optional
	// +kubebuilder:default=179
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	PeerPort int32 `json:"peerPort,omitempty"`

	// The router's AS number (RFC 6793): 1 to 4294967294, but not 23456 (AS_TRANS)
	// or 65535 (reserved).
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4294967294
	// +kubebuilder:validation:XValidation:rule="self != 23456 && self != 65535",message="23456 (AS_TRANS, RFC 6793) and 65535 (RFC 7300) are reserved"
	PeerASN int64 `json:"peerASN"`

	// The AS number by which the router knows the nodes, where that is not the
	// BGPConfig's. It takes that one's place in AS paths that the router gets
	// (RFC 7705, section 3.3). Only for routers of another AS.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4294967294
	// +kubebuilder:validation:XValidation:rule="self != 23456 && self != 65535",message="23456 (AS_TRANS, RFC 6793) and 65535 (RFC 7300) are reserved"
	LocalASN *int64 `json:"localASN,omitempty"`

	// The nodes that hold a session with the router: all when not given.
	// +optional
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`

	// Whether the nodes wait for the router to connect and never do so themselves.
	// +optional
	Passive bool `json:"passive,omitempty"`

	// The nodes' end of the session: an address of the one node that the selector
	// matches, or NodeAddress for each node's own, its InternalIP. When not given, the
	// node's routes to the router decide.
	// +optional
	// +kubebuilder:validation:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="self == 'NodeAddress' || (isIP(self) && !ip(self).isLoopback() && (ip(self).isGlobalUnicast() || (ip(self).family() == 4 && ip(self).isLinkLocalUnicast())))",message="must be a unicast IP address of the node, such as 10.211.55.101, or NodeAddress"
	SourceAddress string `json:"sourceAddress,omitempty"`

	// The TTL of packets to a router of another AS that is not on a link of the
	// node: how many hops away it may be. When not given it must be on a link.
	// +optional
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=255
	EBGPMultihop *int32 `json:"ebgpMultihop,omitempty"`

	// How many hops away the router may be at most, by the TTL of its packets (GTSM,
	// RFC 5082): 1 on a link. Packets from farther away are dropped. The router must
	// send with TTL 255, which it does when it has TTL security, too.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=254
	TTLSecurity *int32 `json:"ttlSecurity,omitempty"`

	// The families of the routes that the session carries: all that the node has an
	// address of when not given.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	Families []AddressFamily `json:"families,omitempty"`

	// The next hop of routes of others that are announced to the router: Auto is the
	// node to a router of another AS and what was learned to one of the nodes' own,
	// Self is the node, Keep is what was learned. The node's own prefixes always have
	// the node.
	// +optional
	// +kubebuilder:default=Auto
	NextHop NextHop `json:"nextHop,omitempty"`

	// Whether the router's AS number is replaced by the nodes' in AS paths that it
	// gets, so that it takes routes of another site with the same number. Only for
	// routers of another AS.
	// +optional
	ASOverride bool `json:"asOverride,omitempty"`

	// How many times the nodes' AS number may be in AS paths of the router, and
	// localASN likewise: with 0, such routes are not taken, as they are loops.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10
	AllowOwnASN int32 `json:"allowOwnASN,omitempty"`

	// What becomes of private AS numbers (RFC 6996) in AS paths that the router gets:
	// they stay, go, or are replaced by the nodes'. Only for routers of another AS.
	// +optional
	// +kubebuilder:default=Keep
	RemovePrivateASN PrivateASN `json:"removePrivateASN,omitempty"`

	// The Secret, in the namespace of the Godwit agents, that holds the TCP MD5
	// password (RFC 2385) of the session. While it is missing or empty there is no
	// session.
	// +optional
	PasswordSecretRef *SecretKeyRef `json:"passwordSecretRef,omitempty"`

	// The BGPFilters by which routes of the router are taken, in order; the first
	// rule that matches a route decides. What no rule matches is not taken. While one
	// does not exist or can't be read, only what those before it accept is taken.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	ImportFilters []string `json:"importFilters,omitempty"`

	// The BGPFilters by which routes are announced to the router, in order; the first
	// rule that matches a route decides. Of what no rule matches, the node's own
	// prefixes are announced and others are not.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	ExportFilters []string `json:"exportFilters,omitempty"`

	// How many routes the router may send before the session is ended, to be tried
	// again after 5 minutes: 10000 when not given.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000000
	MaxPrefixes *int32 `json:"maxPrefixes,omitempty"`

	// At how many percent of maxPrefixes the session's status warns of it.
	// +optional
	// +kubebuilder:default=80
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	MaxPrefixesWarningPercent *int32 `json:"maxPrefixesWarningPercent,omitempty"`

	// The timers of the session.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!has(self.keepaliveSeconds) || self.keepaliveSeconds * 3 <= (has(self.holdSeconds) ? self.holdSeconds : 90)",message="holdSeconds, which is 90 when not given, must be at least three times keepaliveSeconds (RFC 4271, section 10)"
	Timers *BGPTimers `json:"timers,omitempty"`

	// Graceful restart (RFC 4724) of the session.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!has(self.longLivedSeconds) || !has(self.disabled) || !self.disabled",fieldPath=".longLivedSeconds",message="long-lived graceful restart begins where graceful restart ends (RFC 9494): leave disabled out, or longLivedSeconds"
	GracefulRestart *GracefulRestart `json:"gracefulRestart,omitempty"`
}

// SecretKeyRef names one key of a Secret.
type SecretKeyRef struct {
	// The name of the Secret.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// The key in the Secret's data.
	// +optional
	// +kubebuilder:default=password
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key,omitempty"`
}

// BGPPeerStatus is what the controller found out about a peer.
type BGPPeerStatus struct {
	// Ready tells whether each node that the selector matches has the peer in its
	// plan as asked; the reason says why not (NoNodes, FilterNotFound, InvalidFilter,
	// Conflict, Invalid).
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// How many nodes have the peer in their plan.
	// +optional
	// +kubebuilder:default=0
	Nodes int32 `json:"nodes,omitempty"`
}

// BGPPeerList is a list of peers.
// +kubebuilder:object:root=true
type BGPPeerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPPeer `json:"items"`
}
