// Package v1alpha1 holds the types of the godwit.dev API group: what a person
// configures (IPPool, BGPConfig, BGPPeer, BGPFilter), what nodes claim
// (IPBlock), and what the controller plans for each node and the node's agent
// reports back (NodeNetwork). All kinds are cluster-scoped.
//
// The package holds types, their validation markers and small helpers that
// derive a value from one object. It imports nothing of Godwit.
//
// +kubebuilder:object:generate=true
// +groupName=godwit.dev
package v1alpha1
