package burst

import (
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-net/godwit/bgp"
)

// fakeCollector writes down what it is set to.
type fakeCollector struct {
	now  int
	set  []int
	live uint64
	next []func()
}

func (c *fakeCollector) SetPercent(p int) int {
	before := c.now
	c.now = p
	c.set = append(c.set, p)
	return before
}

func (c *fakeCollector) Live() uint64 { return c.live }

func (c *fakeCollector) Next(f func()) { c.next = append(c.next, f) }

// collect is a collection that leaves so much.
func (c *fakeCollector) collect(live uint64) {
	c.live = live
	next := c.next
	c.next = nil
	for _, f := range next {
		f()
	}
}

type counter int

func (c *counter) Learned(changed []bgp.Route, gone []netip.Prefix) {
	*c += counter(len(changed) + len(gone))
}
func (c *counter) InSync() {}

func TestTheCollectorRestsInBursts(t *testing.T) {
	const mb = 1 << 20
	for _, tc := range []struct {
		name    string
		gogc    int
		batches int           // of 10 routes
		apart   time.Duration // of each other
		want    []int
	}{
		{name: "few", gogc: 100, batches: 1, apart: time.Millisecond},
		// A live heap of 10 MB may grow by 96 MB; one of 60 MB, after a collection, too;
		// one of 200 MB as ever.
		{name: "many", gogc: 100, batches: 40, apart: time.Millisecond, want: []int{-1, 960, 160, 100, 100}},
		{name: "many but slowly", gogc: 100, batches: 40, apart: 2 * time.Second},
		{name: "a collector that is off", gogc: -1, batches: 40, apart: time.Millisecond, want: []int{-1, -1}},
		{name: "a lazy collector", gogc: 500, batches: 40, apart: time.Millisecond, want: []int{-1, 960, 500, 500, 500}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gc := &fakeCollector{now: tc.gogc, live: 10 * mb}
				var n counter
				s := watch(&n, gc)
				for i := range tc.batches {
					s.Learned(make([]bgp.Route, 10), nil)
					switch i {
					case 10:
						gc.collect(60 * mb)
					case 20:
						gc.collect(200 * mb)
					}
					time.Sleep(tc.apart)
				}
				if int(n) != 10*tc.batches {
					t.Errorf("%d routes were handed on", n)
				}
				time.Sleep(2 * quiet)
				synctest.Wait()
				gc.collect(10 * mb) // after the burst it is nobody's business
				if !slices.Equal(gc.set, tc.want) || gc.now != tc.gogc {
					t.Errorf("set to %v, is %d; want %v, %d", gc.set, gc.now, tc.want, tc.gogc)
				}
			})
		})
	}
}

// TestGoCollector has the real one tell of its collections.
func TestGoCollector(t *testing.T) {
	var gc goCollector
	for range 2 {
		told := make(chan struct{})
		gc.Next(func() { close(told) })
		runtime.GC()
		select {
		case <-told:
		case <-time.After(10 * time.Second):
			t.Fatal("a collection was not told of")
		}
		if gc.Live() == 0 {
			t.Error("nothing is alive")
		}
	}
	before := gc.SetPercent(123)
	if got := gc.SetPercent(before); got != 123 {
		t.Errorf("GOGC was %d, not 123", got)
	}
}
