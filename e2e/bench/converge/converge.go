// Package converge measures how long a router takes from a BGP session coming
// up to the last route in its kernel: Godwit, BIRD and FRR, one after the other,
// each in a fresh network namespace, with the same sender and the same observer.
//
//	sender's namespace          router's namespace
//	┌──────────────────┐ veth ┌──────────────────────────────────┐
//	│ 10.0.0.2  sender ├──────┤ 10.0.0.1/8  router ──▶ kernel    │
//	└──────────────────┘      │             observer ◀── netlink │
//	                          └──────────────────────────────────┘
//
// Invariants:
//   - The time begins when the sender, whose session is established, sends its
//     first UPDATE, and ends when the observer has seen the last prefix in the
//     kernel. Both clocks are this process's.
//   - A run counts only if the kernel then holds every prefix over exactly the
//     next hop that was announced, and nothing else of the table.
//   - The contenders take turns, so that a machine that slows down slows all.
//   - Nothing is left behind.
package converge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/godwit-net/godwit/bgp/bgptest/sender"
	"github.com/godwit-net/godwit/e2e/namespace"
)

// Options say what to measure.
type Options struct {
	Agent    string        // the godwit-agent program
	Runs     int           // of each contender and case
	Cases    []Case        // none: Cases()
	Only     []string      // names of contenders; none: all
	Settle   time.Duration // between a router's start and its session; zero: 2 s
	Progress io.Writer     // gets a line for each run; nil: nobody
}

// Case is a table to send, and what Godwit is to achieve with it.
type Case struct {
	Prefixes, Hops int
	// OfFRR and OfBIRD are the largest parts that Godwit's median time may be of
	// theirs; zero: no matter. BIRD's is that of its better mode, as some of its runs
	// stall for seconds.
	OfFRR, OfBIRD float64
}

// Cases are the tables that are measured by default.
func Cases() []Case {
	return []Case{
		{Prefixes: 5000, Hops: 2500, OfFRR: 0.35, OfBIRD: 1},
		{Prefixes: 20000, Hops: 10000, OfFRR: 0.25, OfBIRD: 0.25},
	}
}

const (
	asn = 64512
	// patience bounds a run; BIRD's longest were seen at a tenth of it.
	patience      = time.Minute
	defaultSettle = 2 * time.Second
)

// Run measures all cases.
func Run(ctx context.Context, o Options) (*Report, error) {
	if o.Settle == 0 {
		o.Settle = defaultSettle
	}
	if len(o.Cases) == 0 {
		o.Cases = Cases()
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	if err := sweep(); err != nil {
		return nil, err
	}
	all, err := contenders(ctx, o)
	if err != nil {
		return nil, err
	}
	report := &Report{}
	for _, c := range o.Cases {
		results := make([]Result, len(all))
		for i, who := range all {
			results[i] = Result{Name: who.name, Version: who.version}
		}
		table := sender.Table(c.Prefixes, c.Hops)
		for round := range o.Runs {
			for i, who := range all {
				took, err := once(ctx, who, c, table, o.Settle)
				if err != nil {
					return nil, fmt.Errorf("%s with %d prefixes, run %d: %w", who.name, c.Prefixes, round+1, err)
				}
				_, _ = fmt.Fprintf(o.Progress, "    run %d of %d: %-6s %6d prefixes over %5d next hops  %8.3f s\n",
					round+1, o.Runs, who.name, c.Prefixes, c.Hops, took.Seconds())
				results[i].Times = append(results[i].Times, took)
			}
		}
		report.Cases = append(report.Cases, CaseReport{Case: c, Results: results})
	}
	return report, nil
}

// once is one run of one contender, from nothing to nothing.
func once(ctx context.Context, who contender, c Case, table []byte, settle time.Duration) (_ time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	st, err := newStage(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, st.remove()) }()
	dir := filepath.Join(st.dir, who.name)
	if err := os.Mkdir(dir, 0o755); err != nil { // #nosec G301 -- FRR runs as its own user
		return 0, err
	}
	r, err := who.start(ctx, st.router, dir)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, r.log())
		}
		err = errors.Join(err, r.stop())
	}()
	watch, err := newObserver(st.router, c)
	if err != nil {
		return 0, err
	}
	defer watch.close()
	if err := sleep(ctx, settle); err != nil {
		return 0, err
	}
	return measure(ctx, st, watch, c, table)
}

func measure(ctx context.Context, st *stage, watch *observer, c Case, table []byte) (time.Duration, error) {
	session, err := connect(ctx, st)
	if err != nil {
		return 0, err
	}
	defer session.Close()
	begin := time.Now()
	sent := make(chan error, 1)
	go func() { sent <- session.Send(table) }()
	end, err := watch.wait(ctx)
	if err != nil {
		return 0, fmt.Errorf("%w, after %v", err, time.Since(begin).Round(time.Millisecond))
	}
	if err := <-sent; err != nil {
		return 0, fmt.Errorf("send the table: %w", err)
	}
	return end.Sub(begin), check(st.router, c)
}

// connect brings up the session. A router that is not ready yet refuses or
// hangs up, and is asked again.
func connect(ctx context.Context, st *stage) (*sender.Session, error) {
	o := sender.Options{Local: senderAddress(), ASN: asn, RouterID: senderAddress(), RestartTime: 2 * time.Minute}
	for {
		var session *sender.Session
		err := namespace.Do(st.sender, func() (err error) {
			session, err = sender.Dial(ctx, netip.AddrPortFrom(routerAddress(), 179), o)
			return err
		})
		if err == nil {
			return session, nil
		}
		if sleep(ctx, 50*time.Millisecond) != nil {
			return nil, fmt.Errorf("bring up the session: %w", err)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func routerAddress() netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, 1}) }

func senderAddress() netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, 2}) }
