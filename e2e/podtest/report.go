package podtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Report is what became of what a pod sent to some addresses.
type Report struct {
	Flows []Flow `json:"flows"`
	// Overflows counts the datagrams that arrived in the pod meanwhile and that its
	// programs were too slow to take: the network has not lost them.
	Overflows int `json:"overflows"`
}

// Flow is what became of what was sent to an address.
type Flow struct {
	To       string        `json:"to"`
	Sent     int           `json:"sent"`
	Received int           `json:"received"` // as an echo; of each that was sent, one counts
	Lasted   time.Duration `json:"lasted"`
	Pause    time.Duration `json:"pause"` // the longest without an echo
	// Gaps are what came not back; the first few of them.
	Gaps []Gap `json:"gaps,omitempty"`
}

// Gap is a run of datagrams that did not come back.
type Gap struct {
	After time.Duration `json:"after"` // since the first was sent, by the pace
	Count int           `json:"count"`
}

// Send sends by one of the ways below to each address, host:port, until ctx ends,
// and reports.
func Send(ctx context.Context, addresses []string, way func(context.Context, string) (Flow, error)) (*Report, error) {
	before, err := overflows()
	if err != nil {
		return nil, err
	}
	r := &Report{Flows: make([]Flow, len(addresses))}
	errs := make([]error, len(addresses))
	var wg sync.WaitGroup
	for i, a := range addresses {
		wg.Go(func() {
			if r.Flows[i], errs[i] = way(ctx, a); errs[i] != nil {
				errs[i] = fmt.Errorf("to %s: %w", a, errs[i])
			}
		})
	}
	wg.Wait()
	after, err := overflows()
	r.Overflows = after - before
	return r, errors.Join(append(errs, err)...)
}

// overflows reads how many datagrams found the buffer of their socket full, of
// the pod as a whole.
func overflows() (int, error) {
	raw, err := os.ReadFile("/proc/net/snmp")
	if err != nil {
		return 0, err
	}
	var names []string
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "Udp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		if i := slices.Index(names, "RcvbufErrors"); i > 0 && i < len(fields) {
			return strconv.Atoi(fields[i])
		}
	}
	return 0, errors.New("/proc/net/snmp does not tell of RcvbufErrors")
}
