package patience

import (
	"testing"
	"time"
)

func TestFromEnvironment(t *testing.T) {
	for text, want := range map[string]struct {
		f  Factor
		ok bool
	}{
		"": {1, true}, "5": {5, true}, "1.5": {1.5, true},
		"0": {1, false}, "-3": {1, false}, "much": {1, false}, "NaN": {1, false}, "1e9": {1, false},
	} {
		t.Setenv(Variable, text)
		f, err := FromEnvironment()
		if f != want.f || (err == nil) != want.ok {
			t.Errorf("FromEnvironment of %q = %v, %v; want %v, ok %t", text, f, err, want.f, want.ok)
		}
	}
}

func TestTimes(t *testing.T) {
	for f, want := range map[Factor]time.Duration{0: time.Second, 1: time.Second, 5: 5 * time.Second, 2.5: 2500 * time.Millisecond} {
		if got := f.Times(time.Second); got != want {
			t.Errorf("%v times a second is %v, want %v", f, got, want)
		}
	}
}
