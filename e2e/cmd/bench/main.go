// Command bench measures Godwit beside what people use today, all of it in one
// run on one machine, and fails when Godwit misses a target.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/godwit-net/godwit/e2e/bench/attach"
	"github.com/godwit-net/godwit/e2e/bench/converge"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := newCommand().ExecuteContext(ctx)
	stop()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "\nbench:", err)
		os.Exit(1)
	}
}

var errMissed = errors.New("Godwit missed a target") //nolint:staticcheck // a name

type options struct {
	bin, kubeBin   string
	suites         []string
	pods           int
	runs           int
	only           []string
	settle         time.Duration
	prefixes, hops int
}

func newCommand() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:           "bench",
		Short:         "Measure Godwit beside the reference CNI plugins, BIRD and FRR",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(c *cobra.Command, _ []string) error { return run(c.Context(), o) },
	}
	f := c.Flags()
	f.StringVar(&o.bin, "bin", os.Getenv("GODWIT_BIN"), "the folder with Godwit's programs (default: $GODWIT_BIN)")
	f.StringVar(&o.kubeBin, "kube-bin", os.Getenv("GODWIT_KUBE_BIN"), "the folder with the reference CNI plugins (default: $GODWIT_KUBE_BIN)")
	f.StringSliceVar(&o.suites, "suite", []string{"attach", "converge"}, "what to measure")
	f.IntVar(&o.pods, "pods", 100, "pods that each CNI plugin attaches and detaches")
	f.IntVar(&o.runs, "runs", 7, "runs of each router with each table")
	f.StringSliceVar(&o.only, "only", nil, "routers to measure (Godwit, BIRD, FRR); all by default")
	f.DurationVar(&o.settle, "settle", 2*time.Second, "rest between a router's start and its session")
	f.IntVar(&o.prefixes, "prefixes", 0, "prefixes of the table; 0: the tables that the targets are for")
	f.IntVar(&o.hops, "hops", 0, "next hops of the table")
	return c
}

func run(ctx context.Context, o options) error {
	met := true
	for _, suite := range o.suites {
		var r interface {
			Write(io.Writer) error
			Met() bool
		}
		var err error
		switch suite {
		case "attach":
			r, err = runAttach(ctx, o)
		case "converge":
			r, err = runConverge(ctx, o)
		default:
			return fmt.Errorf("there is no suite %q: there are attach and converge", suite)
		}
		if err != nil {
			return err
		}
		if err := r.Write(os.Stdout); err != nil {
			return err
		}
		_, _ = fmt.Println()
		met = met && r.Met()
	}
	if !met {
		return errMissed
	}
	return nil
}

func runAttach(ctx context.Context, o options) (*attach.Report, error) {
	return attach.Run(ctx, attach.Options{
		Agent: filepath.Join(o.bin, "godwit-agent"), Plugin: filepath.Join(o.bin, "godwit-cni"), Reference: o.kubeBin,
		Runs: o.pods, Progress: os.Stderr,
	})
}

func runConverge(ctx context.Context, o options) (*converge.Report, error) {
	co := converge.Options{
		Agent: filepath.Join(o.bin, "godwit-agent"), Runs: o.runs, Only: o.only, Settle: o.settle, Progress: os.Stderr,
	}
	if o.prefixes > 0 {
		co.Cases = []converge.Case{{Prefixes: o.prefixes, Hops: max(o.hops, 1)}}
	}
	return converge.Run(ctx, co)
}
