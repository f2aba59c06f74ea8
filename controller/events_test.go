package controller

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

func TestNodeChanged(t *testing.T) {
	tests := []struct {
		name   string
		change func(*corev1.Node)
		want   bool
	}{
		{"nothing", func(*corev1.Node) {}, false},
		{"heartbeat", func(n *corev1.Node) {
			n.ResourceVersion = "2"
			n.Status.Conditions = []corev1.NodeCondition{
				{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now()},
				{Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue},
			}
		}, false},
		{"not ready", func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionFalse }, true},
		{"not heard of", func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }, true},
		{"deleted, with a finalizer", func(n *corev1.Node) { n.DeletionTimestamp = new(metav1.Now()) }, true},
		{"annotation", func(n *corev1.Node) { n.Annotations = map[string]string{"a": "b"} }, false},
		{"label", func(n *corev1.Node) { n.Labels = map[string]string{"rack": "b"} }, true},
		{"labels gone", func(n *corev1.Node) { n.Labels = nil }, true},
		{"address", func(n *corev1.Node) { n.Status.Addresses[0].Address = "10.0.0.2" }, true},
		{"addresses gone", func(n *corev1.Node) { n.Status.Addresses = nil }, true},
		{"another node of that name", func(n *corev1.Node) { n.UID = "2" }, true},
	}
	for _, tt := range tests {
		before := node("n1", "10.0.0.1", map[string]string{"rack": "a"})
		before.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		after := before.DeepCopy()
		tt.change(after)
		if got := nodeChanged().Update(event.UpdateEvent{ObjectOld: before, ObjectNew: after}); got != tt.want {
			t.Errorf("%s: a reason for a new plan: %t, want %t", tt.name, got, tt.want)
		}
	}
}

// While a change waits for reports, those that it may wait for lead to a plan;
// otherwise none does.
func TestReportAwaited(t *testing.T) {
	tests := []struct {
		name     string
		sessions bool // they matter
		change   func(*v1alpha1.NodeNetworkStatus)
		want     bool
	}{
		{"nothing", false, func(*v1alpha1.NodeNetworkStatus) {}, false},
		{"figures", true, func(s *v1alpha1.NodeNetworkStatus) {
			s.Summary.Pods, s.MTU, s.Blocks[0].Allocated, s.Sessions[0].Advertised, s.Tunnels[0].Address = 9, 1400, 9, 9, "172.25.0.1"
		}, false},
		{"plan taken", false, func(s *v1alpha1.NodeNetworkStatus) { s.ObservedGeneration++ }, true},
		{"tunnel", false, func(s *v1alpha1.NodeNetworkStatus) {
			s.Tunnels = append(s.Tunnels, v1alpha1.TunnelStatus{Interface: "godwit.vxlan"})
		}, true},
		{"tunnels fail", false, func(s *v1alpha1.NodeNetworkStatus) {
			s.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionTunnelsReady, Status: metav1.ConditionFalse, Reason: "PortInUse"}}
		}, true},
		{"other condition", false, func(s *v1alpha1.NodeNetworkStatus) {
			s.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse}}
		}, false},
		{"blocks from the API", false, func(s *v1alpha1.NodeNetworkStatus) { s.BlocksFromAPI = true }, true},
		{"session, not awaited", false, func(s *v1alpha1.NodeNetworkStatus) { s.Sessions[0].State = "Idle" }, false},
		{"session", true, func(s *v1alpha1.NodeNetworkStatus) { s.Sessions[0].State = "Idle" }, true},
		{"accepted", true, func(s *v1alpha1.NodeNetworkStatus) { s.Sessions[0].Accepted++ }, true},
		{"router's session", true, func(s *v1alpha1.NodeNetworkStatus) { s.Sessions[1].Accepted++ }, false},
		{"block", true, func(s *v1alpha1.NodeNetworkStatus) { s.Blocks = nil }, true},
	}
	for _, tt := range tests {
		for _, way := range []func(*v1alpha1.NodeNetworkSpec){
			func(s *v1alpha1.NodeNetworkSpec) { s.BlocksFromAPI = true },
			func(s *v1alpha1.NodeNetworkSpec) {
				s.Sessions = []v1alpha1.PlannedSession{{Reflection: v1alpha1.ReflectionServer}}
			},
		} {
			testReportAwaited(t, tt.name, tt.sessions, tt.want, way, tt.change)
		}
	}
}

func testReportAwaited(t *testing.T, name string, sessions, want bool, way func(*v1alpha1.NodeNetworkSpec), change func(*v1alpha1.NodeNetworkStatus)) {
	t.Helper()
	var r planner
	before := network("n1")
	if sessions {
		way(&before.Spec)
	}
	before.Status = v1alpha1.NodeNetworkStatus{
		ObservedGeneration: 1,
		Tunnels:            []v1alpha1.TunnelStatus{{Interface: "godwit.ipip"}},
		Blocks:             []v1alpha1.BlockStatus{{CIDR: "172.25.0.0/26", Pool: "p"}},
		Sessions: []v1alpha1.SessionStatus{
			{Kind: v1alpha1.SessionNode, PeerAddress: "10.0.0.2", State: "Established"},
			{Kind: v1alpha1.SessionExternal, PeerAddress: "10.0.9.1", State: "Established"},
		},
	}
	after := before.DeepCopy()
	change(&after.Status)
	e := event.UpdateEvent{ObjectOld: before, ObjectNew: after}
	if got := r.reportAwaited().Update(e); got != want {
		t.Errorf("%s: a reason for a new plan: %t, want %t", name, got, want)
	}
	r.settled.Store(true)
	if r.reportAwaited().Update(e) {
		t.Errorf("%s: a reason for a new plan although none waits", name)
	}
}

func TestBlocksReported(t *testing.T) {
	before := network("n1")
	before.Status.Blocks = []v1alpha1.BlockStatus{{CIDR: "172.25.0.0/26", Pool: "p", Allocated: 1}}
	other := before.DeepCopy()
	other.Status.Summary.Routes = 9
	if blocksReported().Update(event.UpdateEvent{ObjectOld: before, ObjectNew: other}) {
		t.Error("routes are a reason to count pools, want that they are none")
	}
	other.Status.Blocks[0].Allocated = 2
	if !blocksReported().Update(event.UpdateEvent{ObjectOld: before, ObjectNew: other}) {
		t.Error("a new address is no reason to count pools, want that it is one")
	}
}

// What the cache keeps of a Node is what plans are made from.
func TestSlimNode(t *testing.T) {
	full := node("n1", "10.0.0.1", map[string]string{"rack": "a"})
	full.UID, full.ResourceVersion, full.CreationTimestamp = "u", "7", metav1.Now()
	full.Annotations = map[string]string{"a": "b"}
	full.DeletionTimestamp = new(metav1.Now())
	full.Status.Conditions = []corev1.NodeCondition{
		{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse},
		{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, LastHeartbeatTime: metav1.Now()},
	}
	full.Status.Images = []corev1.ContainerImage{{Names: []string{"large"}}}
	obj, err := slimNode(full)
	if err != nil {
		t.Fatal(err)
	}
	slim := obj.(*corev1.Node)
	if slim.Annotations != nil || slim.Status.Images != nil {
		t.Errorf("kept %v and %v", slim.Annotations, slim.Status.Images)
	}
	if slim.Name != "n1" || slim.UID != "u" || slim.ResourceVersion != "7" || slim.CreationTimestamp != full.CreationTimestamp ||
		slim.Labels["rack"] != "a" || len(slim.Status.Addresses) != 1 || slim.DeletionTimestamp == nil ||
		len(slim.Status.Conditions) != 1 || readiness(slim) != corev1.ConditionUnknown {
		t.Errorf("lost something: %+v", slim)
	}
	if obj, err := slimNode("something else"); obj != "something else" || err != nil {
		t.Errorf("slimNode changed something that is no Node: %v, %v", obj, err)
	}
}
