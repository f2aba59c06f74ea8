package v1alpha1

import (
	"net/netip"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// IPClaim sets one address of a pool with allocation Claims aside for the pods of
// a namespace, or for one of them. Its name is made from the address, so creating
// it is the claim. A pod that asks for it by an annotation has the address on
// whichever node it runs; the claim stays when the pod goes.
//
// Which node has the address now is said by an IPBlock of that one address, which
// the node makes when the pod comes and deletes when it goes.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=godwit
// +kubebuilder:selectablefield:JSONPath=`.spec.namespace`
// +kubebuilder:selectablefield:JSONPath=`.spec.podName`
// +kubebuilder:printcolumn:name="Address",type=string,JSONPath=`.spec.address`
// +kubebuilder:printcolumn:name="Namespace",type=string,JSONPath=`.spec.namespace`
// +kubebuilder:printcolumn:name="For",type=string,JSONPath=`.spec.podName`
// +kubebuilder:printcolumn:name="Pod",type=string,JSONPath=`.status.podName`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.status.nodeName`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name == self.spec.address.replace('.', '-').replace(':', '-')",message="the name must be the address with '-' for '.' and ':', such as 172-26-0-10"
type IPClaim struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// What is claimed, and for whom.
	// +required
	Spec IPClaimSpec `json:"spec"`
	// Who has the address, as the controller found out.
	// +optional
	Status IPClaimStatus `json:"status,omitempty"`
}

// IPClaimSpec says what is claimed and for whom. It never changes: an address that
// is to be somebody else's is claimed anew.
//
// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a claim's spec is immutable: delete the claim and make another"
type IPClaimSpec struct {
	// The address, such as 172.26.0.10 or fd00:26::10, out of an IPPool with
	// allocation Claims.
	// +required
	// +kubebuilder:validation:MaxLength=39
	// +kubebuilder:validation:XValidation:rule="isIP(self) && ip.isCanonical(self)",message="must be an address in its one canonical spelling, such as 172.26.0.10 or fd00:26::10"
	// +kubebuilder:validation:XValidation:rule="!isIP(self) || ip(self).isGlobalUnicast()",message="must be a unicast address, not a loopback, link-local or multicast one"
	Address string `json:"address"`
	// The namespace whose pods may have the address.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`
	// The name of the only pod of the namespace that may have the address, such as
	// web-0 of a StatefulSet: any pod when not given.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	PodName string `json:"podName,omitempty"`
}

// IsFor tells whether a pod, which may be nil, may have the address.
func (s *IPClaimSpec) IsFor(p *PodReference) bool {
	return p != nil && p.Namespace == s.Namespace && (s.PodName == "" || s.PodName == p.Name)
}

// ClaimFinalizer keeps an IPClaim that is deleted for as long as a pod has the
// address.
const ClaimFinalizer = GroupName + "/held"

// IPClaimStatus is who has an address.
type IPClaimStatus struct {
	// Ready tells whether pods can have the address: it is free (Free), or some pod
	// has it (Held). When they can't the reason says why: no pool with allocation
	// Claims has the address (NoPool), the pool reserves it (Reserved), or gives out
	// no new addresses (Disabled, Deleting), or a node says that it has the address
	// for a pod that the claim is not for (WrongPod).
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// The node that has the address.
	// +optional
	NodeName string `json:"nodeName,omitempty"`
	// The pod that has it.
	// +optional
	PodName string `json:"podName,omitempty"`
	// Since when the node has it.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`
}

// IPClaimName returns the name of the IPClaim of an address.
func IPClaimName(a netip.Addr) string { return nameFrom(a.String()) }

// IPClaimList is a list of claims.
// +kubebuilder:object:root=true
type IPClaimList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPClaim `json:"items"`
}
