package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BGPFilter is an ordered list of rules about routes, which BGPPeers name.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=godwit
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BGPFilter struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// The rules.
	// +required
	Spec BGPFilterSpec `json:"spec"`
}

// BGPFilterSpec holds the rules of a filter.
type BGPFilterSpec struct {
	// Rules are validated here and not in their type, which is part of a node's
	// plan, too: there the API server would count the cost of validation for each
	// session. Regular expressions are read by the controller.

	// The rules in order: the first that matches a route decides.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=128
	// +kubebuilder:validation:items:XValidation:rule="!has(self.cidr) || (isCIDR(self.cidr) && cidr(self.cidr) == cidr(self.cidr).masked())",fieldPath=".cidr",message="must be a network in CIDR form with no host bits set, such as 192.168.0.0/16"
	// +kubebuilder:validation:items:XValidation:rule="!has(self.minLength) || !has(self.maxLength) || self.minLength <= self.maxLength",message="minLength must not be above maxLength"
	// +kubebuilder:validation:items:XValidation:rule="has(self.cidr) || (!has(self.minLength) && !has(self.maxLength))",message="minLength and maxLength need cidr: give 0.0.0.0/0 for any IPv4 prefix, ::/0 for any IPv6 prefix"
	// +kubebuilder:validation:items:XValidation:rule="!has(self.cidr) || !isCIDR(self.cidr) || !has(self.minLength) || self.minLength >= cidr(self.cidr).prefixLength()",message="minLength must not be below the prefix length of cidr"
	// +kubebuilder:validation:items:XValidation:rule="!has(self.cidr) || !isCIDR(self.cidr) || !has(self.maxLength) || (self.maxLength >= cidr(self.cidr).prefixLength() && self.maxLength <= (cidr(self.cidr).ip().family() == 4 ? 32 : 128))",message="maxLength must be between the prefix length of cidr and 32 (IPv4) or 128 (IPv6)"
	// +kubebuilder:validation:items:XValidation:rule="!has(self.minLength) || has(self.maxLength)",message="minLength needs maxLength: without it a rule matches cidr itself only"
	// +kubebuilder:validation:items:XValidation:rule="!has(self.peerType) || !has(self.source) || self.source == 'Learned'",fieldPath=".peerType",message="peerType says of whom a route was learned: source must be Learned or left out"
	// +kubebuilder:validation:items:XValidation:rule="!has(self.set) || self.action == 'Accept'",fieldPath=".set",message="set changes routes that are accepted: action must be Accept"
	// +kubebuilder:validation:items:XValidation:rule="!has(self.communities) || self.communities.all(c, c.matches('^([a-zA-Z][a-zA-Z0-9._-]*|[0-9]{1,5}:[0-9]{1,5}|[0-9]{1,10}:[0-9]{1,10}:[0-9]{1,10})$') && (c.matches('^[a-zA-Z]') || c.split(':').all(n, int(n) <= (c.split(':').size() == 2 ? 65535 : 4294967295))))",fieldPath=".communities",message="must be names of communities, such as no-export, standard ones of two numbers up to 65535, such as 64512:100, or large ones of three up to 4294967295, such as 64512:1:2"
	// +kubebuilder:validation:items:XValidation:rule="!has(self.set) || !has(self.set.addCommunities) || self.set.addCommunities.all(c, c.matches('^([a-zA-Z][a-zA-Z0-9._-]*|[0-9]{1,5}:[0-9]{1,5}|[0-9]{1,10}:[0-9]{1,10}:[0-9]{1,10})$') && (c.matches('^[a-zA-Z]') || c.split(':').all(n, int(n) <= (c.split(':').size() == 2 ? 65535 : 4294967295))))",fieldPath=".set.addCommunities",message="must be names of communities, such as no-export, standard ones of two numbers up to 65535, such as 64512:100, or large ones of three up to 4294967295, such as 64512:1:2"
	// +kubebuilder:validation:items:XValidation:rule="!has(self.set) || !has(self.set.removeCommunities) || self.set.removeCommunities.all(c, c.matches('^([a-zA-Z][a-zA-Z0-9._-]*|[0-9]{1,5}:[0-9]{1,5}|[0-9]{1,10}:[0-9]{1,10}:[0-9]{1,10})$') && (c.matches('^[a-zA-Z]') || c.split(':').all(n, int(n) <= (c.split(':').size() == 2 ? 65535 : 4294967295))))",fieldPath=".set.removeCommunities",message="must be names of communities, such as no-export, standard ones of two numbers up to 65535, such as 64512:100, or large ones of three up to 4294967295, such as 64512:1:2"
	Rules []BGPFilterRule `json:"rules,omitempty"`
}

// FilterAction says what becomes of a route that a rule matches.
// +kubebuilder:validation:Enum=Accept;Reject
type FilterAction string

// The actions of a rule.
const (
	FilterAccept FilterAction = "Accept"
	FilterReject FilterAction = "Reject"
)

// RouteSource tells a node's own routes from others'.
// +kubebuilder:validation:Enum=Own;Learned
type RouteSource string

// The sources of a route.
const (
	// SourceOwn is what the node announces of itself: its blocks.
	SourceOwn RouteSource = "Own"
	// SourceLearned is what other nodes or routers told.
	SourceLearned RouteSource = "Learned"
)

// BGPFilterRule matches routes and says what becomes of them. A route must meet
// all conditions that are given; a rule without any matches every route.
type BGPFilterRule struct {
	// The range in which a route's prefix must lie, such as 192.168.0.0/16, with the
	// lengths below. Without it any prefix of any family matches.
	// +optional
	// +kubebuilder:validation:MaxLength=43
	CIDR string `json:"cidr,omitempty"`
	// The shortest prefix length that matches: that of cidr when not given.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=128
	MinLength *int32 `json:"minLength,omitempty"`
	// The longest prefix length that matches: that of cidr when not given, so that
	// a rule with neither matches exactly cidr.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=128
	MaxLength *int32 `json:"maxLength,omitempty"`
	// Where the route comes from: Own is the node itself, Learned everybody else.
	// Only in export filters.
	// +optional
	Source RouteSource `json:"source,omitempty"`
	// Of whom the route was learned: Node is another node, External a router. Only in
	// export filters.
	// +optional
	PeerType SessionKind `json:"peerType,omitempty"`
	// Communities, all of which the route has: standard ones (RFC 1997) such as
	// 64512:100, large ones (RFC 8092) such as 64512:1:2, or names: those of the
	// BGPConfig, and graceful-shutdown, accept-own, llgr-stale, no-llgr, blackhole,
	// no-export, no-advertise, no-export-subconfed, no-peer.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=32
	Communities []string `json:"communities,omitempty"`
	// A regular expression (RE2) that matches at least one of the route's
	// communities, written in decimal: ^64512:1..$ matches 64512:100 to 64512:199.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	CommunityRegex string `json:"communityRegex,omitempty"`
	// A regular expression (RE2) that matches the route's AS path, its numbers in
	// decimal with a space between. As with routers, _ stands for a space, the
	// beginning or the end: _65010$ matches what AS 65010 announces.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	ASPathRegex string `json:"asPathRegex,omitempty"`
	// What becomes of a route that matches.
	// +required
	Action FilterAction `json:"action"`
	// What is changed of a route that is accepted.
	// +optional
	Set *RouteAttributes `json:"set,omitempty"`
}

// RouteAttributes are changes to the attributes of a route.
// +kubebuilder:validation:MinProperties=1
type RouteAttributes struct {
	// The local preference: the higher, the better; 1 is the lowest that a rule can
	// give. It is not sent to routers of another AS.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4294967295
	LocalPref *int64 `json:"localPref,omitempty"`
	// The multi-exit discriminator: the lower, the better, among ways to one AS.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	MED *int64 `json:"med,omitempty"`
	// Communities that the route gets, written as in the rule's communities.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=32
	AddCommunities []string `json:"addCommunities,omitempty"`
	// Communities that the route loses, written as in the rule's communities.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=32
	RemoveCommunities []string `json:"removeCommunities,omitempty"`
	// How many times the nodes' AS number is put before the AS path, which makes the
	// way look longer. Not in export filters for routers of the nodes' own AS, which
	// would take it for a loop.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10
	Prepend int32 `json:"prepend,omitempty"`
}

// BGPFilterList is a list of filters.
// +kubebuilder:object:root=true
type BGPFilterList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPFilter `json:"items"`
}
