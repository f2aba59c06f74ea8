package plan

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// OutOfService tells whether a node is dead by what a person and Kubernetes say of
// it: it has the taint node.kubernetes.io/out-of-service, by which Kubernetes deletes
// its pods so that others take their place, and its kubelet is not heard of.
func OutOfService(n *corev1.Node) bool {
	return unready(n) && slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

// askForClaims has nodes asked whether they still hear of the claimed addresses of
// nodes that are out of service, as they are about the blocks of nodes that departed:
// when nobody does, the controller frees them for the pods that take the place.
func (p *Plan) askForClaims(nodes []corev1.Node, blocks []v1alpha1.IPBlock) {
	dead := make(map[string]bool)
	for i := range nodes {
		if OutOfService(&nodes[i]) {
			dead[nodes[i].Name] = true
		}
	}
	for i := range blocks {
		if spec := &blocks[i].Spec; spec.Pod != nil && dead[spec.NodeName] {
			p.asked = append(p.asked, spec.CIDR)
		}
	}
	slices.Sort(p.asked)
	p.asked = slices.Compact(p.asked)
}
