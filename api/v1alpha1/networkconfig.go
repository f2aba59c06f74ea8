package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NetworkConfigName is the name of the one NetworkConfig that is used.
const NetworkConfigName = "default"

// What is used where no NetworkConfig says otherwise.
const (
	// DefaultVXLANPort is the port that IANA assigned to VXLAN (RFC 7348, section 8).
	DefaultVXLANPort = 4789
	// DefaultVXLANVNI is the VXLAN network identifier.
	DefaultVXLANVNI = 4096
)

// NetworkConfig holds the settings of what lies between the pods: tunnels and
// MTU. The one named "default" is used; without it the defaults below are.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=godwit
// +kubebuilder:printcolumn:name="MTU",type=integer,JSONPath=`.spec.mtu`
// +kubebuilder:printcolumn:name="VXLAN port",type=integer,JSONPath=`.spec.vxlan.port`
// +kubebuilder:printcolumn:name="VNI",type=integer,JSONPath=`.spec.vxlan.vni`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'default'",message="there is one NetworkConfig and its name is default"
type NetworkConfig struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// The settings.
	// +required
	Spec NetworkConfigSpec `json:"spec"`
}

// NetworkConfigSpec holds the settings of what lies between the pods.
type NetworkConfigSpec struct {
	// The MTU of the network between the nodes, in bytes; what tunnels add is taken
	// off for the pods. When not given, that of the interface that has the node's
	// address.
	// +optional
	// +kubebuilder:validation:Minimum=576
	// +kubebuilder:validation:Maximum=65535
	MTU *int32 `json:"mtu,omitempty"`

	// The settings of VXLAN tunnels.
	// +optional
	VXLAN *VXLANConfig `json:"vxlan,omitempty"`

	// For the CrossSubnet encapsulations, ranges inside which nodes reach each other
	// directly, though the prefixes of their addresses do not show it: where nodes
	// have a /32 (or /128) on their interface, say.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=43
	// +kubebuilder:validation:items:XValidation:rule="isCIDR(self) && cidr(self) == cidr(self).masked()",message="must be a network in CIDR form with no host bits set, such as 10.211.55.0/24"
	Subnets []string `json:"subnets,omitempty"`
}

// VXLANConfig holds the settings of VXLAN tunnels. A change breaks the
// tunnels until every node has taken it.
type VXLANConfig struct {
	// The UDP port of the tunnels: 4789 when not given.
	// +optional
	// +kubebuilder:default=4789
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port,omitempty"`
	// The VXLAN network identifier (RFC 7348, section 4): 4096 when not given.
	// +optional
	// +kubebuilder:default=4096
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=16777215
	VNI int32 `json:"vni,omitempty"`
}

// NetworkConfigList is a list of configurations.
// +kubebuilder:object:root=true
type NetworkConfigList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NetworkConfig `json:"items"`
}
