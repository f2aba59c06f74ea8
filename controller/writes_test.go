package controller

import (
	"context"
	"errors"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

func planOf(uid string, generation int64, sessions int) v1alpha1.NodeNetwork {
	return v1alpha1.NodeNetwork{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: types.UID(uid), Generation: generation},
		Spec:       v1alpha1.NodeNetworkSpec{Sessions: make([]v1alpha1.PlannedSession, sessions)},
	}
}

// A plan is made from what was written, whether the cache has it or not; a
// NodeNetwork of the same name that somebody else made is as it is.
func TestWritesAreOverTheCache(t *testing.T) {
	spec := planOf("", 0, 7).Spec
	for _, tt := range []struct {
		name       string
		sent       sent
		have       v1alpha1.NodeNetwork
		generation int64
		sessions   int
		flying     bool
	}{
		{"never written", sent{uid: "u2"}, planOf("u1", 2, 1), 2, 1, false},
		{"as written", sent{uid: "u1", generation: 3, spec: &spec}, planOf("u1", 3, 7), 3, 7, false},
		{"changed since", sent{uid: "u1", generation: 3, spec: &spec}, planOf("u1", 4, 1), 4, 1, false},
		{"older", sent{uid: "u1", generation: 3, spec: &spec}, planOf("u1", 2, 1), 3, 7, false},
		{"made anew", sent{uid: "u1", generation: 3, spec: &spec}, planOf("u2", 1, 1), 1, 1, false},
		{"being written", sent{uid: "u1", generation: 3, spec: &spec, flying: true}, planOf("u1", 3, 1), 4, 7, true},
		{"being written, and there", sent{uid: "u1", generation: 3, spec: &spec, flying: true}, planOf("u1", 4, 7), 4, 7, true},
		{"being created, and there", sent{spec: &spec, flying: true}, planOf("u1", 1, 7), 1, 7, false},
	} {
		w := newWrites(time.Now)
		w.sent["n1"] = tt.sent
		in := []v1alpha1.NodeNetwork{tt.have}
		out, flying := w.over(in)
		if got := out[0]; got.Generation != tt.generation || len(got.Spec.Sessions) != tt.sessions || flying != tt.flying {
			t.Errorf("%s: generation %d with %d sessions, flying %t; want %d with %d, %t",
				tt.name, got.Generation, len(got.Spec.Sessions), flying, tt.generation, tt.sessions, tt.flying)
		}
		if in[0].Generation != tt.have.Generation || len(in[0].Spec.Sessions) != len(tt.have.Spec.Sessions) {
			t.Errorf("%s: what was given is changed", tt.name)
		}
	}
}

// What was created is there before the cache has it, though not for ever.
func TestCreatedIsThere(t *testing.T) {
	now := time.Unix(1700000000, 0)
	w := newWrites(func() time.Time { return now })
	spec := planOf("", 0, 7).Spec
	if !w.start(t.Context(), nil, "n1", nil, &spec, func() (types.UID, int64, error) { return "u1", 1, nil }) {
		t.Fatal("the write is not started")
	}
	if on, err := w.wait(t.Context(), nil); on || err != nil {
		t.Fatal(on, err)
	}
	out, flying := w.over(nil)
	if len(out) != 1 || flying || out[0].UID != "u1" || out[0].Generation != 1 || len(out[0].Spec.Sessions) != 7 {
		t.Errorf("there is %v", out)
	}
	if out, _ := w.over([]v1alpha1.NodeNetwork{planOf("u1", 1, 7)}); len(out) != 1 {
		t.Errorf("when the cache has it, there is %v", out)
	}
	now = now.Add(lagLimit)
	if out, _ := w.over(nil); len(out) != 0 {
		t.Errorf("after %v there is %v", lagLimit, out)
	}
}

// What somebody else created is not created again and again until the cache has it.
func TestExistingIsLeftForAWhile(t *testing.T) {
	now := time.Unix(1700000000, 0)
	w := newWrites(func() time.Time { return now })
	spec := planOf("", 0, 7).Spec
	if !w.start(t.Context(), nil, "n1", nil, &spec, func() (types.UID, int64, error) { return "", 0, nil }) {
		t.Fatal("the write is not started")
	}
	if on, err := w.wait(t.Context(), nil); on || err != nil {
		t.Fatal(on, err)
	}
	if out, _ := w.over(nil); !w.busy("n1") || len(out) != 0 {
		t.Errorf("busy %t, there is %v", w.busy("n1"), out)
	}
	if now = now.Add(existsRetry); w.busy("n1") {
		t.Errorf("after %v it is still busy", existsRetry)
	}
}

// A plan with many sessions is written less often than one with few, and what is
// put off is not for longer than that.
func TestEarly(t *testing.T) {
	now := time.Unix(1700000000, 0)
	w := newWrites(func() time.Time { return now })
	w.sent["n1"] = sent{uid: "u1", generation: 3, at: now.Add(-100 * time.Millisecond)}
	plan := func(uid string, sessions int) *v1alpha1.NodeNetwork {
		nn := planOf(uid, 3, sessions)
		return &nn
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
		if got := max(w.early(tt.have, &spec), 0); got != tt.want {
			t.Errorf("%s: waits %v, want %v", tt.name, got, tt.want)
		}
	}
}

// A write that takes long is waited for up to the limit, and keeps no other from
// being made; what becomes of it is told later.
func TestSlowWritesHoldUpNoOthers(t *testing.T) {
	w := newWrites(time.Now)
	never := make(chan struct{})
	reached := make(chan struct{})
	close(reached)
	answer := make(chan error)
	old := planOf("u1", 3, 1)
	if !w.start(t.Context(), never, "n1", &old, &old.Spec, func() (types.UID, int64, error) { return "", 0, <-answer }) {
		t.Fatal("the first write is not started")
	}
	if !w.busy("n1") || w.busy("n2") {
		t.Errorf("busy: n1 %t, n2 %t", w.busy("n1"), w.busy("n2"))
	}
	if on, err := w.wait(t.Context(), reached); !on || err != nil {
		t.Errorf("with a write that goes on: %t, %v", on, err)
	}
	written := func() (types.UID, int64, error) { return "u2", 1, nil }
	if !w.start(t.Context(), never, "n2", nil, &old.Spec, written) {
		t.Error("the second is not started")
	}
	if w.start(t.Context(), reached, "n3", nil, &old.Spec, written) {
		t.Error("one is started after the limit")
	}
	failure := errors.New("no")
	answer <- failure
	if on, err := w.wait(t.Context(), never); on || !errors.Is(err, failure) {
		t.Errorf("at the end: %t, %v", on, err)
	}
	if on, err := w.wait(t.Context(), never); on || err != nil {
		t.Errorf("after it: %t, %v", on, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, known := w.sent["n1"]; known || w.sent["n2"].generation != 1 {
		t.Errorf("what is known of the writes: %v", w.sent)
	}
}

// There are never more writes at once than there is room for.
func TestWritesAreBounded(t *testing.T) {
	w := newWrites(time.Now)
	answer := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	spec := planOf("", 0, 1).Spec
	slow := func() (types.UID, int64, error) { <-answer; return "u", 1, nil }
	for i := range writers {
		if !w.start(ctx, nil, string(rune('a'+i)), nil, &spec, slow) {
			t.Fatalf("write %d is not started", i)
		}
	}
	cancel()
	if w.start(ctx, nil, "one more", nil, &spec, slow) {
		t.Errorf("%d writes are started", writers+1)
	}
	close(answer)
	if on, err := w.wait(t.Context(), nil); on || err != nil {
		t.Errorf("at the end: %t, %v", on, err)
	}
}
