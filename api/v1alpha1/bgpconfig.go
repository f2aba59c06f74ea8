package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BGPConfigName is the name of the one BGPConfig that is used.
const BGPConfigName = "default"

// DefaultASN is the AS number of the nodes where no BGPConfig says otherwise,
// the first of the 16-bit private range (RFC 6996, section 5).
const DefaultASN = 64512

// Topology says which BGP sessions the nodes have with each other.
// +kubebuilder:validation:Enum=Mesh;RouteReflectors;Auto;None
type Topology string

// The topologies.
const (
	// TopologyMesh gives each node a session with every other node.
	TopologyMesh Topology = "Mesh"
	// TopologyRouteReflectors gives each node sessions with some of the nodes that
	// routeReflectors selects, which pass on what they learn (RFC 4456).
	TopologyRouteReflectors Topology = "RouteReflectors"
	// TopologyAuto is Mesh in a small cluster, and in a large one RouteReflectors with
	// nodes that the controller chooses.
	TopologyAuto Topology = "Auto"
	// TopologyNone gives the nodes no sessions with each other: they learn of each
	// other's blocks from the API. Sessions with BGPPeers stay.
	TopologyNone Topology = "None"
)

// BGPConfig holds the settings of the nodes' BGP speakers. The one named
// "default" is used; without it the defaults below are.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=godwit
// +kubebuilder:printcolumn:name="ASN",type=integer,JSONPath=`.spec.asNumber`
// +kubebuilder:printcolumn:name="Topology",type=string,JSONPath=`.spec.topology`
// +kubebuilder:printcolumn:name="Port",type=integer,JSONPath=`.spec.listenPort`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'default'",message="there is one BGPConfig and its name is default"
type BGPConfig struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// The settings.
	// +required
	Spec BGPConfigSpec `json:"spec"`
}

// BGPConfigSpec holds the settings of the nodes' BGP speakers.
//
// +kubebuilder:validation:XValidation:rule="!has(self.topology) || self.topology != 'RouteReflectors' || (has(self.routeReflectors) && has(self.routeReflectors.nodeSelector))",fieldPath=".routeReflectors",message="topology RouteReflectors needs routeReflectors.nodeSelector: the nodes that are to be the reflectors; with Auto the controller chooses them"
type BGPConfigSpec struct {
	// The AS number of the nodes (RFC 6793): 1 to 4294967294, but not 23456
	// (AS_TRANS) or 65535 (reserved).
	// +optional
	// +kubebuilder:default=64512
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4294967294
	// +kubebuilder:validation:XValidation:rule="self != 23456 && self != 65535",message="23456 (AS_TRANS, RFC 6793) and 65535 (RFC 7300) are reserved"
	ASNumber int64 `json:"asNumber,omitempty"`

	// Which sessions the nodes have with each other: Mesh gives each node one with
	// every other. RouteReflectors gives each node sessions with a few of the nodes
	// that routeReflectors.nodeSelector matches, which pass on what they learn (RFC
	// 4456). Auto is Mesh up to routeReflectors.meshLimit nodes, and beyond it
	// RouteReflectors with nodes that the controller chooses, spread over zones and
	// racks. With None they have none and learn of each other's blocks from
	// the API, for networks where BGP between nodes is not allowed. It can be
	// changed at any time: the old ways go when the new ones are there.
	// +optional
	// +kubebuilder:default=Mesh
	Topology Topology `json:"topology,omitempty"`

	// The route reflectors of the topologies RouteReflectors and Auto.
	// +optional
	RouteReflectors *RouteReflectors `json:"routeReflectors,omitempty"`

	// The TCP port on which the nodes' speakers listen and reach each other.
	// +optional
	// +kubebuilder:default=179
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	ListenPort int32 `json:"listenPort,omitempty"`

	// The timers of sessions between nodes.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!has(self.keepaliveSeconds) || self.keepaliveSeconds * 3 <= (has(self.holdSeconds) ? self.holdSeconds : 90)",message="holdSeconds, which is 90 when not given, must be at least three times keepaliveSeconds (RFC 4271, section 10)"
	Timers *BGPTimers `json:"timers,omitempty"`

	// Graceful restart (RFC 4724) of sessions between nodes.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!has(self.longLivedSeconds) || !has(self.disabled) || !self.disabled",fieldPath=".longLivedSeconds",message="long-lived graceful restart begins where graceful restart ends (RFC 9494): leave disabled out, or longLivedSeconds"
	GracefulRestart *GracefulRestart `json:"gracefulRestart,omitempty"`

	// Names for communities, which BGPFilters and IPPools may use in place of the
	// numbers.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=256
	Communities []BGPCommunity `json:"communities,omitempty"`
}

// RouteReflectors says which nodes are route reflectors, and for how many each is.
type RouteReflectors struct {
	// The nodes that are reflectors, or with Auto those that may be: all when not
	// given.
	// +optional
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`
	// How many reflectors each node has sessions with, as far as there are as many: 3
	// when not given.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=8
	Redundancy *int32 `json:"redundancy,omitempty"`
	// Up to how many nodes Auto is a mesh: 100 when not given.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	MeshLimit *int32 `json:"meshLimit,omitempty"`
}

// BGPCommunity gives a name to a community.
type BGPCommunity struct {
	// The name: it begins with a letter, and is not one that every router knows,
	// such as no-export.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-zA-Z][a-zA-Z0-9._-]*$')",message="must begin with a letter and go on with letters, digits, '.', '_' and '-', such as backbone"
	// +kubebuilder:validation:XValidation:rule="!(self in ['graceful-shutdown', 'accept-own', 'llgr-stale', 'no-llgr', 'blackhole', 'no-export', 'no-advertise', 'no-export-subconfed', 'no-peer'])",message="is the name of a well-known community already: choose another one"
	Name string `json:"name"`
	// The community in decimal: a standard one (RFC 1997) such as 64512:100, or a
	// large one (RFC 8092) such as 64512:1:2.
	// +required
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}:[0-9]{1,5}|[0-9]{1,10}:[0-9]{1,10}:[0-9]{1,10})$') && self.split(':').all(n, int(n) <= (self.split(':').size() == 2 ? 65535 : 4294967295))",message="must be a standard community of two numbers up to 65535, such as 64512:100, or a large one of three up to 4294967295, such as 64512:1:2"
	Value string `json:"value"`
}

// BGPTimers are the timers of a session (RFC 4271, section 10).
type BGPTimers struct {
	// Seconds without a message after which the session is given up: 90 when not
	// given.
	// +optional
	// +kubebuilder:validation:Minimum=3
	// +kubebuilder:validation:Maximum=65535
	HoldSeconds *int32 `json:"holdSeconds,omitempty"`
	// Seconds between keepalive messages: a third of the hold time when not given.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=21845
	KeepaliveSeconds *int32 `json:"keepaliveSeconds,omitempty"`
	// Seconds between attempts to connect, up to a quarter less, lest all nodes call
	// at once: 3 when not given.
	// +optional
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=65535
	ConnectRetrySeconds *int32 `json:"connectRetrySeconds,omitempty"`
}

// GracefulRestart holds the settings of RFC 4724 for a session.
type GracefulRestart struct {
	// Whether graceful restart is off. With it off, a restart of the agent takes
	// the node's routes away from the peer until the session is back.
	// +optional
	Disabled bool `json:"disabled,omitempty"`
	// Seconds for which the peer is asked to keep our routes while we restart: 120
	// when not given.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4095
	RestartSeconds *int32 `json:"restartSeconds,omitempty"`
	// Seconds for which, after that, each side keeps the other's routes as a last
	// resort (long-lived graceful restart, RFC 9494): none when not given.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=16777215
	LongLivedSeconds *int32 `json:"longLivedSeconds,omitempty"`
}

// BGPConfigList is a list of configurations.
// +kubebuilder:object:root=true
type BGPConfigList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPConfig `json:"items"`
}
