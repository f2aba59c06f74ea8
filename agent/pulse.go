package agent

import (
	"fmt"
	"sync/atomic"
	"time"
)

// wedgedAfter is how long a round of a loop may take before the loop counts as
// wedged. A pass waits for the kernel and, at most for some seconds, for others.
const wedgedAfter = 90 * time.Second

// pulse tells whether a loop still goes round. It may be used from any
// goroutine; of begin and end one goroutine makes use.
type pulse struct {
	name string
	busy atomic.Pointer[time.Time] // since when a round goes on; nil: the loop waits for something to do
}

func newPulse(name string) *pulse { return &pulse{name: name} }

func (p *pulse) begin() { now := time.Now(); p.busy.Store(&now) }

func (p *pulse) end() { p.busy.Store(nil) }

// check returns an error if a round goes on for too long.
func (p *pulse) check(now time.Time) error {
	if since := p.busy.Load(); since != nil && now.Sub(*since) > wedgedAfter {
		return fmt.Errorf("%s hangs since %s", p.name, since.UTC().Format(time.RFC3339))
	}
	return nil
}
