package controller

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// No plan is made from older plans than were written; a NodeNetwork of the same
// name that somebody else made is no older one.
func TestBehind(t *testing.T) {
	r := newPlanner(nil, nil)
	r.written["n1"] = version{uid: "u1", generation: 3}
	tests := []struct {
		name string
		have v1alpha1.NodeNetwork
		want bool
	}{
		{"as written", v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "u1", Generation: 3}}, false},
		{"changed since", v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "u1", Generation: 4}}, false},
		{"older", v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "u1", Generation: 2}}, true},
		{"made anew", v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "u2", Generation: 1}}, false},
		{"never written", v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: "n2", UID: "u3", Generation: 1}}, false},
	}
	for _, tt := range tests {
		if got := r.behind([]v1alpha1.NodeNetwork{tt.have}); got != tt.want {
			t.Errorf("%s: the cache is behind: %t, want %t", tt.name, got, tt.want)
		}
	}
}

// A plan with many sessions is written less often than one with few, and what is
// put off is not for longer than that.
func TestEarly(t *testing.T) {
	now := time.Unix(1700000000, 0)
	r := newPlanner(nil, nil)
	r.now = func() time.Time { return now }
	r.written["n1"] = version{uid: "u1", generation: 3, at: now.Add(-100 * time.Millisecond)}
	plan := func(uid string, sessions int) *v1alpha1.NodeNetwork {
		return &v1alpha1.NodeNetwork{
			ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: types.UID(uid)},
			Spec:       v1alpha1.NodeNetworkSpec{Sessions: make([]v1alpha1.PlannedSession, sessions)},
		}
	}
	for _, tt := range []struct {
		name     string
		have     *v1alpha1.NodeNetwork
		sessions int
		want     time.Duration
	}{
		{"new", nil, 500, 0},
		{"made anew", plan("u2", 500), 500, 0},
		{"small", plan("u1", 3), 4, 0},
		{"large", plan("u1", 500), 501, 4910 * time.Millisecond},
		{"large until now", plan("u1", 500), 3, 4900 * time.Millisecond},
	} {
		spec := plan("", tt.sessions).Spec
		if got := max(r.early(tt.have, &spec), 0); got != tt.want {
			t.Errorf("%s: waits %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestSetConditions(t *testing.T) {
	var have []metav1.Condition
	ready := metav1.Condition{Type: "Ready", Status: metav1.ConditionTrue, Reason: "Ready"}
	applied := metav1.Condition{Type: "EncapsulationApplied", Status: metav1.ConditionTrue, Reason: "Applied"}
	steps := []struct {
		name       string
		wanted     []metav1.Condition
		generation int64
		changed    bool
	}{
		{"two new ones", []metav1.Condition{ready, applied}, 1, true},
		{"the same", []metav1.Condition{ready, applied}, 1, false},
		{"of another generation", []metav1.Condition{ready, applied}, 2, true},
		{"one less", []metav1.Condition{ready}, 2, true},
		{"still", []metav1.Condition{ready}, 2, false},
	}
	for _, s := range steps {
		if got := setConditions(&have, s.wanted, s.generation); got != s.changed || len(have) != len(s.wanted) {
			t.Errorf("%s: changed %t to %v, want %t and %d conditions", s.name, got, have, s.changed, len(s.wanted))
		}
	}
}
