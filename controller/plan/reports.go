package plan

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// report is what is known of a node beside its plan so far.
type report struct {
	status *v1alpha1.NodeNetworkStatus // never nil
	// heard tells whether the node's agent has carried out any plan yet.
	heard bool
	// counts tells whether the others wait for the node: it was heard of, is ready
	// as its kubelet says, and is there to stay.
	counts bool
	// fresh tells whether the status is about the plan so far, and not an older one.
	fresh bool
	// ready tells whether the node is ready as far as is said, and is there to stay.
	ready bool
	// leaving tells whether the node is being deleted.
	leaving bool
}

// hear works out what is known of a node. nn is nil when it has no plan so far.
func hear(obj *corev1.Node, nn *v1alpha1.NodeNetwork) report {
	r := report{status: &v1alpha1.NodeNetworkStatus{}, leaving: obj.DeletionTimestamp != nil}
	if nn == nil {
		r.ready = !r.leaving && !unready(obj)
		return r
	}
	r.status = &nn.Status
	r.leaving = r.leaving || nn.DeletionTimestamp != nil
	r.heard = nn.Status.ObservedGeneration != 0
	r.fresh = nn.Status.ObservedGeneration == nn.Generation
	r.ready = !r.leaving && !unready(obj)
	r.counts = r.heard && r.ready
	return r
}

// unready tells whether the node's Ready condition is there and not True.
func unready(obj *corev1.Node) bool {
	return slices.ContainsFunc(obj.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue
	})
}

// tunnelFailure returns the condition by which the node says that it can't have
// a tunnel, or nil.
func (r *report) tunnelFailure() *metav1.Condition {
	c := apimeta.FindStatusCondition(r.status.Conditions, v1alpha1.ConditionTunnelsReady)
	if c == nil || c.Status != metav1.ConditionFalse {
		return nil
	}
	return c
}

// carries tells whether the node reports that a tunnel's interface carries packets.
func (r *report) carries(device string) bool {
	return slices.ContainsFunc(r.status.Tunnels, func(t v1alpha1.TunnelStatus) bool { return t.Interface == device })
}

// meshed tells whether the plan so far has a session with another node that is
// not one of route reflection.
func (n *node) meshed() bool {
	return n.before != nil && slices.ContainsFunc(n.before.Sessions, func(s v1alpha1.PlannedSession) bool {
		return s.Kind == v1alpha1.SessionNode && s.Reflection == ""
	})
}

// reflecting tells whether the plan so far makes the node a route reflector.
func (n *node) reflecting() bool { return n.before != nil && n.before.Reflector }

// partBefore returns the part of another node in the plan so far.
func (n *node) partBefore(other string) v1alpha1.Reflection {
	if n.before != nil {
		for i := range n.before.Sessions {
			if s := &n.before.Sessions[i]; s.Kind == v1alpha1.SessionNode && s.Name == other {
				return s.Reflection
			}
		}
	}
	return ""
}

// serversBefore returns the names of the node's reflectors in the plan so far.
func (n *node) serversBefore() map[string]bool {
	servers := make(map[string]bool)
	if n.before == nil {
		return servers
	}
	for i := range n.before.Sessions {
		if s := &n.before.Sessions[i]; s.Kind == v1alpha1.SessionNode && s.Reflection == v1alpha1.ReflectionServer {
			servers[s.Name] = true
		}
	}
	return servers
}

// fromAPI tells whether the plan so far has the blocks of other nodes routed as
// the API tells.
func (n *node) fromAPI() bool { return n.before != nil && n.before.BlocksFromAPI }

// lack is something that a node has yet to report.
type lack struct {
	text   string
	failed bool // the node says that it can't
}

// lacks joins what is lacking for a message: first what failed, which a person
// has to mend, then the first few of the rest, and how many more.
func lacks(list []lack) string {
	slices.SortStableFunc(list, func(a, b lack) int { return boolCompare(b.failed, a.failed) })
	texts := make([]string, 0, maxNamed)
	for _, l := range list[:min(len(list), maxNamed)] {
		texts = append(texts, l.text)
	}
	joined := strings.Join(texts, "; ")
	if more := len(list) - len(texts); more > 0 {
		joined += fmt.Sprintf("; and %d more", more)
	}
	return joined
}
