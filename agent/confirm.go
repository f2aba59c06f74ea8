package agent

import (
	"context"
	"fmt"
	"time"
)

const (
	// confirmWait is how long pods wait, once after the agent's start, for the API
	// server to say whose the node's blocks are. Where it answers that is milliseconds.
	confirmWait = 2 * time.Second
	// confirmRetry is how soon it is asked again when it can't be reached: then twice
	// as late each time, as the agent has but so many requests a second.
	confirmRetry = 100 * time.Millisecond
)

// confirmBlocks asks the API server whose the blocks are that the agent starts with,
// and lets pods have addresses of them then. Blocks of the checkpoint may be another
// node's by now: a node that is off for long is taken for gone. Where the API server
// is away pods must start all the same, so that it has confirmWait; ipam goes on
// asking, and gives out no more of a block that turns out to be another node's.
func (a *Agent) confirmBlocks(ctx context.Context) {
	defer close(a.confirmed)
	ctx, cancel := context.WithTimeout(ctx, confirmWait)
	defer cancel()
	for wait := confirmRetry; ; wait *= 2 {
		err := a.addresses.Confirm(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			a.log.Warn("the API server does not say whose the node's blocks are; pods get addresses of them as before", "error", err)
			return
		case <-time.After(wait):
		}
	}
}

// awaitConfirmed waits until pods may have addresses of the node's blocks.
func (a *Agent) awaitConfirmed(ctx context.Context) error {
	select {
	case <-a.confirmed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the API server to say whose the node's blocks are: %w", ctx.Err())
	}
}
