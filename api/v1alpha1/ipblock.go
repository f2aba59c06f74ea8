package v1alpha1

import (
	"net/netip"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// IPBlock is a node's claim to a block of a pool. Its name is made from its
// CIDR, so creating it is the claim: the API server lets one node win.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=godwit
// +kubebuilder:selectablefield:JSONPath=`.spec.pool`
// +kubebuilder:selectablefield:JSONPath=`.spec.nodeName`
// +kubebuilder:printcolumn:name="CIDR",type=string,JSONPath=`.spec.cidr`
// +kubebuilder:printcolumn:name="Pool",type=string,JSONPath=`.spec.pool`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.spec.nodeName`
// +kubebuilder:printcolumn:name="Pod",type=string,JSONPath=`.spec.pod.name`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name == self.spec.cidr.replace('.', '-').replace(':', '-').replace('/', '-')",message="the name must be the cidr with '-' for '.', ':' and '/', such as 172-25-0-128-26"
type IPBlock struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// What is claimed, and by whom.
	// +required
	Spec IPBlockSpec `json:"spec"`
}

// IPBlockSpec says what is claimed and by whom. It never changes: a block that
// gets another owner is deleted and claimed anew.
//
// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a block's spec is immutable: delete the block to free it"
type IPBlockSpec struct {
	// The block, such as 172.25.0.128/26.
	// +required
	// +kubebuilder:validation:MaxLength=43
	// +kubebuilder:validation:XValidation:rule="isCIDR(self) && cidr(self) == cidr(self).masked() && ip.isCanonical(self.split('/')[0])",message="must be a network in CIDR form with no host bits set and in its one canonical spelling, such as 172.25.0.128/26 or fd00:25::40/122"
	CIDR string `json:"cidr"`
	// The pool that the block is part of.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Pool string `json:"pool"`
	// The node that owns the block, and finds it by the label godwit.dev/node, which
	// bears the same name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	NodeName string `json:"nodeName"`
	// The pod that the node has the block for, of a pool with allocation Claims.
	// +optional
	Pod *PodReference `json:"pod,omitempty"`
}

// PodReference tells one life of a pod from all others.
type PodReference struct {
	// The pod's namespace.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`
	// The pod's name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// The pod's UID, where the container runtime told it.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	UID string `json:"uid,omitempty"`
}

// String names the pod for people, such as "pod default/web-0"; nil is "no pod".
func (p *PodReference) String() string {
	if p == nil {
		return "no pod"
	}
	return "pod " + p.Namespace + "/" + p.Name
}

// IPBlockName returns the name of the IPBlock of a block.
func IPBlockName(cidr netip.Prefix) string { return nameFrom(cidr.String()) }

// nameFrom makes the name of an object from the address or prefix that it is about.
func nameFrom(address string) string {
	return strings.NewReplacer(".", "-", ":", "-", "/", "-").Replace(address)
}

// IPBlockList is a list of blocks.
// +kubebuilder:object:root=true
type IPBlockList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPBlock `json:"items"`
}
