package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupName is the API group of every kind in this package.
const GroupName = "godwit.dev"

// NodeLabel is the label of an IPBlock that bears the name of the node which
// owns it, so that a node can list its own blocks.
const NodeLabel = GroupName + "/node"

// DrainKey is the key of a Node's label or taint that has its routes drained: the
// node asks others to prefer other ways, and then withdraws its blocks as they get
// empty. A label with the value "false" does not.
const DrainKey = GroupName + "/drain"

// GroupVersion returns the group and version of the kinds in this package.
func GroupVersion() schema.GroupVersion {
	return schema.GroupVersion{Group: GroupName, Version: "v1alpha1"}
}

// AddToScheme registers the kinds of this package with a scheme.
func AddToScheme(s *runtime.Scheme) error {
	gv := GroupVersion()
	s.AddKnownTypes(gv,
		&IPPool{}, &IPPoolList{},
		&IPBlock{}, &IPBlockList{},
		&IPClaim{}, &IPClaimList{},
		&BGPConfig{}, &BGPConfigList{},
		&NetworkConfig{}, &NetworkConfigList{},
		&BGPPeer{}, &BGPPeerList{},
		&BGPFilter{}, &BGPFilterList{},
		&NodeNetwork{}, &NodeNetworkList{},
	)
	metav1.AddToGroupVersion(s, gv)
	return nil
}

// Annotations of a pod, which the container runtime hands on when the pod is
// attached. Each is a JSON list of strings, or the same separated by commas.
const (
	// PoolsAnnotation names the IPPools that the pod is to have its addresses of, in
	// order of preference. They must give out addresses on the pod's node and to its
	// namespace. On a Namespace it is for all of its pods that have none of their own.
	PoolsAnnotation = GroupName + "/ippools"
	// AddressAnnotation is the address that the pod is to have, at most one of each
	// family, out of the blocks of its node.
	AddressAnnotation = GroupName + "/ip"
	// ClaimAnnotation names the IPClaims whose addresses the pod is to have, at most
	// one of each family, by their names or addresses; or is ClaimByPod.
	ClaimAnnotation = GroupName + "/claim"
)

// ClaimByPod is the value of ClaimAnnotation for the claims that name the pod in
// their spec: it is the same for all pods of a StatefulSet.
const ClaimByPod = "by-pod"
