package e2e

import (
	"testing"
	"time"

	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/traffic"
)

// spreadFlows is how many flows are spread.
const spreadFlows = 400

// testSpread spreads flows over four, three, two routers and one, and counts
// whom the loss of a router moves.
func testSpread(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, time.Minute)
	flows := startFlows(ctx, t, l, spreadFlows, 10)
	names := map[traffic.Way]string{}
	for _, r := range l.Top.ToRs {
		names[wayOver(t, l, r.Name)] = r.Name
	}
	spread := func(routers int) []string {
		t.Helper()
		flows.Reset()
		all := waysOfAll(t, flows)
		over, count := make([]string, len(all)), map[string]int{}
		for i, w := range all {
			over[i] = names[w]
			count[over[i]]++
		}
		t.Logf("%d flows over %d routers: %v", len(all), routers, count)
		if len(count) != routers {
			t.Errorf("the flows go over %d routers, want %d", len(count), routers)
		}
		for name, n := range count {
			// An even share has a deviation of less than 10 flows.
			if least := spreadFlows / routers / 2; n < least {
				t.Errorf("%d flows go over %s, want at least %d", n, name, least)
			}
		}
		return over
	}
	before := spread(len(l.Top.ToRs))
	for left := len(l.Top.ToRs) - 1; left > 0; left-- {
		lost := l.Top.ToRs[left].Name
		if err := l.Routers[left].Sessions(ctx, false); err != nil {
			t.Fatal(err)
		}
		eventually(t, 5*time.Second, "the other ways stay", ways(l, "n1", left))
		waitLeft(t, l, flows, lost)
		after := spread(left)
		of, moved, stayed := 0, 0, 0
		for i := range before {
			switch before[i] {
			case lost:
				of++
			case after[i]:
				stayed++
			default:
				moved++
			}
		}
		t.Logf("%s lost: its %d flows moved, and %d of the %d others did (%d%%)", lost, of, moved, moved+stayed, 100*moved/(moved+stayed))
		before = after
	}
	setUpRouters(ctx, t, l)
	begin := time.Now()
	for i := 1; i < len(l.Routers); i++ {
		if err := l.Routers[i].Sessions(ctx, true); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 20*time.Second, "all ways are back", ways(l, "n1", len(l.Top.ToRs)))
	t.Logf("all ways are back after %v", time.Since(begin).Round(time.Millisecond))
	if err := l.WaitEstablished(ctx); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitConverged(ctx); err != nil {
		t.Fatal(err)
	}
	spread(len(l.Top.ToRs))
	stopFlows(t, flows, burstLimit)
}
