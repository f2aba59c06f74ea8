package controller

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"

	"github.com/godwit-net/godwit/controller/plan"
)

// Each problem of a node is an event once, also where a node has several, and
// that the last of them is over is one.
func TestProblemsAreReportedOnce(t *testing.T) {
	recorded := events.NewFakeRecorder(10)
	r := newPlanner(nil, &recorder{recorded})
	in := plan.Input{Nodes: []corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, {ObjectMeta: metav1.ObjectMeta{Name: "n2"}}}}
	v4 := plan.Problem{Node: "n2", Reason: "AddressInUse", Message: "n1 has 10.0.0.1"}
	v6 := plan.Problem{Node: "n2", Reason: "AddressInUse", Message: "n1 has fd00::1"}
	for i, step := range []struct {
		problems []plan.Problem
		want     int
	}{
		{[]plan.Problem{v4, v6}, 2},
		{[]plan.Problem{v4, v6}, 0},
		{[]plan.Problem{v6}, 0},
		{[]plan.Problem{v4, v6}, 1},
		{nil, 1},
		{nil, 0},
	} {
		r.report(&plan.Plan{Problems: step.problems}, in)
		if got := len(recorded.Events); got != step.want {
			t.Errorf("step %d: %d events, want %d", i, got, step.want)
		}
		for len(recorded.Events) > 0 {
			t.Log(<-recorded.Events)
		}
	}
}
