package controller

import (
	"maps"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/controller/plan"
)

// nodeChanged passes on changes of a Node that matter to a plan, and drops the
// heartbeats of kubelets.
func nodeChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, ok1 := e.ObjectOld.(*corev1.Node)
		after, ok2 := e.ObjectNew.(*corev1.Node)
		return !ok1 || !ok2 || before.UID != after.UID ||
			!before.DeletionTimestamp.Equal(after.DeletionTimestamp) ||
			!maps.Equal(before.Labels, after.Labels) ||
			!reflect.DeepEqual(before.Status.Addresses, after.Status.Addresses) ||
			readiness(before) != readiness(after) ||
			plan.Draining(before) != plan.Draining(after) ||
			plan.OutOfService(before) != plan.OutOfService(after)
	}}
}

// readiness returns the status of the node's Ready condition; empty: it has none.
func readiness(n *corev1.Node) corev1.ConditionStatus {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return ""
}

// reportAwaited passes on reports of agents that a change of an encapsulation or
// of the topology may wait for. While none is on its way, reports make no other
// plan, and a large cluster makes many of them.
func (r *planner) reportAwaited() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		if r.settled.Load() {
			return false
		}
		before, ok1 := e.ObjectOld.(*v1alpha1.NodeNetwork)
		after, ok2 := e.ObjectNew.(*v1alpha1.NodeNetwork)
		return !ok1 || !ok2 || !reflect.DeepEqual(awaited(before), awaited(after))
	}}
}

// awaited returns, of what an agent reports, what plans are made from.
func awaited(nn *v1alpha1.NodeNetwork) v1alpha1.NodeNetworkStatus {
	s := v1alpha1.NodeNetworkStatus{
		ObservedGeneration: nn.Status.ObservedGeneration,
		BlocksFromAPI:      nn.Status.BlocksFromAPI,
	}
	for _, t := range nn.Status.Tunnels {
		s.Tunnels = append(s.Tunnels, v1alpha1.TunnelStatus{Interface: t.Interface})
	}
	if c := apimeta.FindStatusCondition(nn.Status.Conditions, v1alpha1.ConditionTunnelsReady); c != nil {
		s.Conditions = []metav1.Condition{{Status: c.Status, Reason: c.Reason, Message: c.Message}}
	}
	// Sessions and blocks matter to a node that is to leave the routes of the API, or
	// other reflectors.
	if nn.Spec.BlocksFromAPI || slices.ContainsFunc(nn.Spec.Sessions, func(o v1alpha1.PlannedSession) bool { return o.Reflection != "" }) {
		for _, b := range nn.Status.Blocks {
			s.Blocks = append(s.Blocks, v1alpha1.BlockStatus{CIDR: b.CIDR, Pool: b.Pool})
		}
		for _, o := range nn.Status.Sessions {
			if o.Kind == v1alpha1.SessionNode {
				s.Sessions = append(s.Sessions, v1alpha1.SessionStatus{PeerAddress: o.PeerAddress, State: o.State, Accepted: o.Accepted})
			}
		}
	}
	return s
}
