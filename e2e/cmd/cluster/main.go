// Command cluster runs a real Kubernetes cluster on this machine, with Godwit
// installed in it as a person would.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/godwit-net/godwit/e2e/cluster"
	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/e2e/patience"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := newCommand().ExecuteContext(ctx)
	stop()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "\ncluster:", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	var c cluster.Config
	cmd := &cobra.Command{
		Use:           "cluster",
		Short:         "A real Kubernetes cluster with Godwit on this machine: 3 nodes",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	f := cmd.PersistentFlags()
	f.StringVar(&c.Prefix, "prefix", "godwitcl-", "what the names of the cluster's network namespaces start with")
	f.StringVar(&c.Dir, "dir", "/var/tmp/godwit-cluster", "the folder for all files of the cluster")
	f.StringSliceVar(&c.Bin, "bin", []string{".cache/bin"}, "folders with the programs of Kubernetes and containerd")
	f.StringSliceVar(&c.Images, "image", nil, "archives of the images that the nodes get")
	open := func() (*cluster.Cluster, error) {
		var err error
		if c.NodeProgram, err = os.Executable(); err != nil {
			return nil, err
		}
		if c.Patience, err = patience.FromEnvironment(); err != nil {
			return nil, err
		}
		return cluster.Open(c)
	}
	cmd.AddCommand(upCommand(open), downCommand(open), rebootCommand(open), kubectlCommand(open), nodeCommand())
	return cmd
}

type opener func() (*cluster.Cluster, error)

func upCommand(open opener) *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Build the cluster, install Godwit, and leave it running; one that is up is taken down first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := open()
			if err != nil {
				return err
			}
			ctx, p := cmd.Context(), lab.NewProgress(cmd.OutOrStdout())
			if err := c.Down(ctx); err != nil {
				return err
			}
			if err := c.Up(ctx, p); err != nil {
				return err
			}
			if config == "" {
				return nil
			}
			if err := p.Step("kubectl apply -k "+filepath.Base(config)+", a pool, and all nodes are ready", func() error { return c.Install(ctx, config) }); err != nil {
				return err
			}
			out, err := c.Kubectl(ctx, "get", "nodes,nodenetworks,ippools", "-o", "wide")
			p.Block(out)
			p.Heading(fmt.Sprintf("up after %.0f s; look around: ip netns exec %s kubectl --kubeconfig %s get pods -A", p.Elapsed().Seconds(), c.Netns("n1"), c.Kubeconfig()))
			return err
		},
	}
	cmd.Flags().StringVar(&config, "install", "config/default", "folder for kubectl apply -k; empty: install nothing")
	return cmd
}

func downCommand(open opener) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Take the cluster down and leave nothing behind",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := open()
			if err != nil {
				return err
			}
			return c.Down(cmd.Context())
		},
	}
}

func rebootCommand(open opener) *cobra.Command {
	return &cobra.Command{
		Use:   "reboot NODE",
		Short: "End a node as a power cut does, and start it again",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := open()
			if err != nil {
				return err
			}
			return c.Reboot(cmd.Context(), args[0])
		},
	}
}

func kubectlCommand(open opener) *cobra.Command {
	return &cobra.Command{
		Use:   "kubectl -- ARGS...",
		Short: "Run kubectl in the cluster",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := open()
			if err != nil {
				return err
			}
			program, err := c.Program("kubectl")
			if err != nil {
				return err
			}
			k := exec.CommandContext(cmd.Context(), program, append([]string{"--kubeconfig=" + c.Kubeconfig()}, args...)...) // #nosec G204 -- the person's own words
			k.Stdin, k.Stdout, k.Stderr = os.Stdin, os.Stdout, os.Stderr
			if err := namespace.Do(c.Netns("n1"), k.Start); err != nil {
				return err
			}
			return k.Wait()
		},
	}
}

func nodeCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "node CONFIG",
		Short:  "Be a node's first process; for the cluster's own use",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE:   func(_ *cobra.Command, args []string) error { return cluster.RunNode(args[0]) },
	}
}
