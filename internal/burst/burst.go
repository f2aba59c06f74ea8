// Package burst lets the garbage collector rest while a BGP table comes in: on a
// node with two processors it takes a third of the time until the last route is
// in the kernel, to free next to nothing, as most of what a table allocates
// stays.
//
// Invariants:
//   - Outside of bursts the collector is as the operator set it (GOGC).
//   - In a burst the heap grows by headroom, or as the operator allows if that is
//     more, before the collector runs.
package burst

import (
	"net/netip"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"

	"github.com/godwit-net/godwit/bgp"
)

const (
	// many routes within quiet of each other are a burst.
	many  = 16
	quiet = time.Second
	// headroom is what 20,000 routes over 10,000 next hops take, in bytes.
	headroom = 96 << 20
)

// Sink hands on what is learned, and notices bursts.
type Sink struct {
	bgp.Sink

	gc collector

	mu     sync.Mutex
	count  int // since it was quiet
	inside bool
	before int // GOGC outside of the burst
	over   *time.Timer
}

// collector is what a Sink needs of the garbage collector.
type collector interface {
	// SetPercent sets GOGC and returns what it was; negative: off.
	SetPercent(percent int) int
	// Live is how many bytes the last collection left; 0 before the first.
	Live() uint64
	// Next calls f once, after the next collection.
	Next(f func())
}

// Watch returns a Sink before next.
func Watch(next bgp.Sink) *Sink { return watch(next, goCollector{}) }

func watch(next bgp.Sink, gc collector) *Sink {
	s := &Sink{Sink: next, gc: gc}
	s.over = time.AfterFunc(quiet, s.end)
	return s
}

// Learned implements bgp.Sink.
func (s *Sink) Learned(changed []bgp.Route, gone []netip.Prefix) {
	s.note(len(changed))
	s.Sink.Learned(changed, gone)
}

func (s *Sink) note(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count += n
	s.over.Reset(quiet)
	if s.inside || s.count < many {
		return
	}
	s.inside = true
	s.before = s.gc.SetPercent(-1)
	s.adapt()
}

// adapt sets GOGC so that it comes to headroom. It does so anew after each
// collection in the burst, because GOGC is relative to what is alive. The lock
// is held.
func (s *Sink) adapt() {
	if s.before < 0 {
		return
	}
	percent := headroom * 100 / max(s.gc.Live(), 1<<20)
	s.gc.SetPercent(max(int(percent), s.before))
	s.gc.Next(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.inside {
			s.adapt()
		}
	})
}

func (s *Sink) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count = 0
	if s.inside {
		s.inside = false
		s.gc.SetPercent(s.before)
	}
}

// goCollector is Go's own.
type goCollector struct{}

func (goCollector) SetPercent(percent int) int { return debug.SetGCPercent(percent) }

func (goCollector) Live() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return sample[0].Value.Uint64()
}

func (goCollector) Next(f func()) {
	// What nobody refers to is cleaned up by the next collection.
	sentinel := new([16]byte)
	runtime.AddCleanup(sentinel, func(f func()) { f() }, f)
}
