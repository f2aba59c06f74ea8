// Command lab builds a Godwit cluster on this machine, out of network
// namespaces, to be looked at and played with.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/patience"
)

func main() {
	// The API's client has nothing to tell, but complains after half a minute
	// when nobody said so.
	ctrllog.SetLogger(logr.Discard())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := newCommand().ExecuteContext(ctx)
	stop()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "\nlab:", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	var c lab.Config
	open := func() (*lab.Lab, error) { return lab.Open(c) }
	cmd := &cobra.Command{
		Use:           "lab",
		Short:         "A Godwit cluster on this machine: 3 nodes, 2 top-of-rack routers, pods",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	f := cmd.PersistentFlags()
	f.StringVar(&c.Prefix, "prefix", "godwit-", "what the names of the lab's network namespaces start with")
	f.StringVar(&c.Dir, "dir", "/run/godwit-lab", "the folder for all files of the lab")
	var kube []string
	f.StringSliceVar(&c.Bin, "bin", []string{"bin"}, "folders with Godwit's programs")
	f.StringSliceVar(&kube, "kube-bin", []string{".cache/bin"}, "folders with Kubernetes' programs and CNI plugins")
	f.StringVar(&c.ConfigDir, "config", "config", "the project's config folder")
	var factor float64
	f.Float64Var(&factor, "patience", 0, "stretch the lab's deadlines by this factor (default $"+patience.Variable+", or 1)")
	cmd.PersistentPreRunE = func(*cobra.Command, []string) (err error) {
		c.Bin = append(c.Bin, kube...)
		if c.Patience = patience.Factor(factor); factor == 0 {
			c.Patience, err = patience.FromEnvironment()
		}
		return err
	}
	cmd.AddCommand(upCommand(&c, open), downCommand(open), statusCommand(open), shellCommand(open), proxyCommand())
	return cmd
}

type opener func() (*lab.Lab, error)

func upCommand(c *lab.Config, open opener) *cobra.Command {
	var o optionFlags
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Build the lab, show it, and leave it running; one that is up is taken down first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			options, err := o.options()
			if err != nil {
				return err
			}
			if c.Proxy, err = os.Executable(); err != nil {
				return err
			}
			c.Options = &options
			l, err := open()
			if err != nil {
				return err
			}
			return up(cmd.Context(), l, lab.NewProgress(cmd.OutOrStdout()))
		},
	}
	o.add(cmd)
	return cmd
}

func up(ctx context.Context, l *lab.Lab, p *lab.Progress) error {
	release, err := l.Lock()
	if err != nil {
		return err
	}
	defer release()
	p.Heading("Godwit lab")
	if l.IsUp() {
		if err := p.Step("a lab is here already: take it down first", func() error { return down(ctx, l) }); err != nil {
			return err
		}
	}
	err = l.Up(ctx, p)
	if err == nil {
		err = l.Report(ctx, p)
	}
	if ctx.Err() != nil {
		// Interrupted: leave nothing. The context for that must not be the ended one.
		_ = p.Step("interrupted: take down what is there", func() error { return down(context.WithoutCancel(ctx), l) })
		return ctx.Err()
	}
	if err != nil {
		if !l.IsUp() {
			return err
		}
		return fmt.Errorf("%w\n\nwhat is up stays up, for you to look at: logs are %s; `make lab-down` removes it all",
			err, strings.Join(l.Logs(), " "))
	}
	l.Hints(p)
	return nil
}

func downCommand(open opener) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "End the lab and leave nothing behind",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := open()
			if err != nil {
				return err
			}
			release, err := l.Lock()
			if err != nil {
				return err
			}
			defer release()
			p := lab.NewProgress(cmd.OutOrStdout())
			if !l.IsUp() {
				p.Heading("No lab is up.")
			}
			return p.Step("take the lab down", func() error { return down(cmd.Context(), l) })
		},
	}
}

func down(ctx context.Context, l *lab.Lab) error {
	guests, err := l.Down(ctx)
	for _, g := range guests {
		_, _ = fmt.Fprintf(os.Stderr, "\n  note: %s is not the lab's; its network goes when it ends\n", g)
	}
	return err
}

func statusCommand(open opener) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the lab that is up",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := open()
			if err != nil {
				return err
			}
			if !l.IsUp() {
				return fmt.Errorf("no lab is up: run `make lab`")
			}
			return l.Report(cmd.Context(), lab.NewProgress(cmd.OutOrStdout()))
		},
	}
}
