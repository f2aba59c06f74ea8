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
			n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, LastHeartbeatTime: metav1.Now()}}
		}, false},
		{"annotation", func(n *corev1.Node) { n.Annotations = map[string]string{"a": "b"} }, false},
		{"label", func(n *corev1.Node) { n.Labels = map[string]string{"rack": "b"} }, true},
		{"labels gone", func(n *corev1.Node) { n.Labels = nil }, true},
		{"address", func(n *corev1.Node) { n.Status.Addresses[0].Address = "10.0.0.2" }, true},
		{"addresses gone", func(n *corev1.Node) { n.Status.Addresses = nil }, true},
		{"another node of that name", func(n *corev1.Node) { n.UID = "2" }, true},
	}
	for _, tt := range tests {
		before := node("n1", "10.0.0.1", map[string]string{"rack": "a"})
		after := before.DeepCopy()
		tt.change(after)
		if got := nodeChanged().Update(event.UpdateEvent{ObjectOld: before, ObjectNew: after}); got != tt.want {
			t.Errorf("%s: a reason for a new plan: %t, want %t", tt.name, got, tt.want)
		}
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
		slim.Labels["rack"] != "a" || len(slim.Status.Addresses) != 1 {
		t.Errorf("lost something: %+v", slim)
	}
	if obj, err := slimNode("something else"); obj != "something else" || err != nil {
		t.Errorf("slimNode changed something that is no Node: %v, %v", obj, err)
	}
}
