package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BGPPeer is a router outside the cluster, such as a top-of-rack switch, with
// which nodes hold a BGP session.
//
// The nodes announce their own blocks to it and nothing else, and take from it
// only what its import filters accept: without a filter, nothing.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=godwit
// +kubebuilder:printcolumn:name="Peer",type=string,JSONPath=`.spec.peerAddress`
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

// BGPPeerSpec says who the router is, which nodes speak with it, and how.
type BGPPeerSpec struct {
	// The router's address.
	// +required
	// +kubebuilder:validation:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="isIP(self) && !ip(self).isLoopback() && (ip(self).isGlobalUnicast() || (ip(self).family() == 4 && ip(self).isLinkLocalUnicast()))",message="must be a unicast IP address of the router, such as 10.211.55.1"
	PeerAddress string `json:"peerAddress"`

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

	// The nodes that hold a session with the router: all when not given.
	// +optional
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`

	// The Secret, in the namespace of the Godwit agents, that holds the TCP MD5
	// password (RFC 2385) of the session. While it is missing or empty there is no
	// session.
	// +optional
	PasswordSecretRef *SecretKeyRef `json:"passwordSecretRef,omitempty"`

	// The BGPFilters by which routes of the router are taken, in order; the first
	// rule that matches a route decides. What no rule matches is not taken.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	ImportFilters []string `json:"importFilters,omitempty"`

	// How many routes the router may send before the session is ended: 10000 when
	// not given.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000000
	MaxPrefixes *int32 `json:"maxPrefixes,omitempty"`

	// The timers of the session.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!has(self.keepaliveSeconds) || !has(self.holdSeconds) || self.keepaliveSeconds * 3 <= self.holdSeconds",message="holdSeconds must be at least three times keepaliveSeconds (RFC 4271, section 10)"
	Timers *BGPTimers `json:"timers,omitempty"`

	// Graceful restart (RFC 4724) of the session.
	// +optional
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
	// plan as asked; the reason says why not (NoNodes, FilterNotFound, Conflict,
	// Invalid).
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
