package controller

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

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
