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
	// session.

	// The rules in order: the first that matches a route decides.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=128
	// +kubebuilder:validation:items:XValidation:rule="isCIDR(self.cidr) && cidr(self.cidr) == cidr(self.cidr).masked()",fieldPath=".cidr",message="must be a network in CIDR form with no host bits set, such as 192.168.0.0/16"
	// +kubebuilder:validation:items:XValidation:rule="!has(self.minLength) || !has(self.maxLength) || self.minLength <= self.maxLength",message="minLength must not be above maxLength"
	// +kubebuilder:validation:items:XValidation:rule="!isCIDR(self.cidr) || !has(self.minLength) || self.minLength >= cidr(self.cidr).prefixLength()",message="minLength must not be below the prefix length of cidr"
	// +kubebuilder:validation:items:XValidation:rule="!isCIDR(self.cidr) || !has(self.maxLength) || (self.maxLength >= cidr(self.cidr).prefixLength() && self.maxLength <= (cidr(self.cidr).ip().family() == 4 ? 32 : 128))",message="maxLength must be between the prefix length of cidr and 32 (IPv4) or 128 (IPv6)"
	// +kubebuilder:validation:items:XValidation:rule="!has(self.minLength) || has(self.maxLength)",message="minLength needs maxLength: without it a rule matches cidr itself only"
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

// BGPFilterRule matches routes by prefix and says what becomes of them.
type BGPFilterRule struct {
	// The range in which a route's prefix must lie, such as 192.168.0.0/16;
	// 0.0.0.0/0 for any IPv4 prefix.
	// +required
	// +kubebuilder:validation:MaxLength=43
	CIDR string `json:"cidr"`
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
	// What becomes of a route that matches.
	// +required
	Action FilterAction `json:"action"`
}

// BGPFilterList is a list of filters.
// +kubebuilder:object:root=true
type BGPFilterList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPFilter `json:"items"`
}
