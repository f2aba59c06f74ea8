package agent

import (
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
)

// TestFigures plays with a status whose figures change all the time.
func TestFigures(t *testing.T) {
	for _, tt := range []struct {
		name     string
		accepted int     // of a reflector
		random   float64 // where in its share the node's moment is
		changes  time.Duration
		want     []time.Duration // when figures are written, of 5 minutes
	}{
		{"small cluster", 3, 0.9, time.Hour, []time.Duration{0}},
		{
			"small cluster that changes always", 3, 0, time.Second,
			[]time.Duration{0, time.Second, 2 * time.Second, 10 * time.Second, 20 * time.Second},
		},
		{"large cluster, first node", 2000, 0, time.Hour, []time.Duration{0}},
		{"large cluster, last node", 2000, 0.99, time.Hour, []time.Duration{99 * time.Second}},
		{"large cluster that changes always", 2000, 0.5, time.Second, []time.Duration{50 * time.Second, 150 * time.Second, 250 * time.Second}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFigures()
			f.random = func() float64 { return tt.random }
			began := time.Unix(1700000000, 0)
			o := &observation{generation: 7, sessions: []bgp.Session{
				{Kind: bgp.PeerNode, Accepted: tt.accepted},
				{Kind: bgp.PeerExternal, Accepted: 1000000},
			}}
			// The plan is an old one.
			f.plan, f.planned = 7, began.Add(-freshPlan)
			var got []time.Duration
			differs := false
			for at := time.Duration(0); at < 5*time.Minute; at += time.Second {
				if at%tt.changes == 0 {
					differs = true
				}
				if differs && f.ripe(o, began.Add(at)) {
					got, differs = append(got, at), false
					f.settled()
				}
			}
			if len(got) < len(tt.want) {
				t.Fatalf("written at %v, want %v", got, tt.want)
			}
			for i, at := range tt.want {
				if got[i] != at {
					t.Fatalf("written at %v, want %v", got, tt.want)
				}
			}
			if tt.changes == time.Hour && len(got) > 1 {
				t.Errorf("one change was written %d times", len(got))
			}
		})
	}
}

// TestFiguresOfFreshPlan sees that the controller, which may wait for them, gets
// figures soon when it has changed the plan.
func TestFiguresOfFreshPlan(t *testing.T) {
	f := newFigures()
	f.random = func() float64 { return 0.99 }
	began := time.Unix(1700000000, 0)
	o := &observation{generation: 7, sessions: []bgp.Session{{Kind: bgp.PeerNode, Accepted: 10000}}}
	// wait returns how long a change waits that is seen at a time.
	wait := func(at time.Duration) time.Duration {
		for d := time.Duration(0); d < time.Hour; d += time.Second {
			if f.ripe(o, began.Add(at+d)) {
				f.settled()
				return d
			}
		}
		t.Fatal("a change is never written")
		return 0
	}
	if got := wait(0); got > freshShare {
		t.Errorf("the figures of a new plan wait %v", got)
	}
	if got := wait(freshPlan); got < 10*freshShare {
		t.Errorf("the figures of an old plan wait only %v", got)
	}
	o.generation++
	if got := wait(time.Hour); got > freshShare {
		t.Errorf("the figures of a changed plan wait %v", got)
	}
}
