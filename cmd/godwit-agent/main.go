// godwit-agent is the part of Godwit that runs on every node.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/godwit-net/godwit/agent"
	"github.com/godwit-net/godwit/agent/others"
	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/gobgp"
	"github.com/godwit-net/godwit/cni/wire"
	"github.com/godwit-net/godwit/internal/burst"
	"github.com/godwit-net/godwit/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	if err != nil {
		os.Exit(1)
	}
}

func command() *cobra.Command {
	o := agent.Options{Version: version.Version}
	var kubeconfig, level, console string
	c := &cobra.Command{
		Use:   "godwit-agent",
		Short: "Godwit on a node: BGP speaker, routes, addresses and the CNI service",
		Long: "godwit-agent carries out the node's plan (the NodeNetwork of the node's name): it speaks BGP,\n" +
			"programs routes and masquerade, gives addresses to pods and serves the CNI plugin.\n" +
			"It needs root in the node's network namespace.",
		Version:      version.Version,
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(c *cobra.Command, _ []string) error {
			return run(c.Context(), o, kubeconfig, level, console)
		},
	}
	f := c.PersistentFlags()
	f.StringVar(&o.Node, "node-name", os.Getenv("NODE_NAME"), "name of this node in the Kubernetes API (default: $NODE_NAME)")
	f.StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig file (default: the service account of the pod)")
	f.StringVar(&o.Namespace, "namespace", "godwit-system", "namespace of the Secrets that hold BGP passwords")
	f.StringVar(&o.RunDir, "run-dir", "/run/godwit", "folder on tmpfs for the CNI socket and the address records")
	f.StringVar(&o.StateDir, "state-dir", "/var/lib/godwit", "folder on disk for the checkpoint")
	f.StringVar(&o.CNIConfig, "cni-conf", "/etc/cni/net.d/10-godwit.conflist", "CNI configuration to write once the agent is ready; empty for none")
	f.StringVar(&o.CNIPlugins, "cni-plugins", "", "folder of CNI plugins to install on the node once the agent is ready; empty for none")
	f.StringVar(&o.CNIBin, "cni-bin-dir", "/opt/cni/bin", "folder in which the container runtime looks for CNI plugins")
	f.StringVar(&o.Sysctls, "sysctl-dir", wire.DefaultSysctls, "where the kernel's network settings can be written (in a container: a mount of the node's)")
	f.StringVar(&o.HealthAddress, "health-address", "", "host:port at which probes are answered, such as 127.0.0.1:9472: /livez, whether the agent works, and /readyz, whether it takes pods (default: nowhere)")
	f.StringVar(&o.MetricsAddress, "metrics-address", "", "host:port to serve Prometheus metrics at, without any protection, such as 127.0.0.1:9471 (default: nowhere)")
	f.StringVar(&console, "gobgp-socket", "", "unix socket at which the stock gobgp client may look at the speaker (gobgp --target unix://PATH neighbor), read-only, such as /run/godwit/gobgp/gobgp.sock (default: none)")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	c.AddCommand(uninstallCommand(&o, &level))
	return c
}

func run(ctx context.Context, o agent.Options, kubeconfig, level, console string) error {
	var err error
	if o.Log, err = logger(level); err != nil {
		return err
	}
	if o.Node == "" {
		return fmt.Errorf("the node has no name: give --node-name or set NODE_NAME")
	}
	cfg, err := restConfig(kubeconfig)
	if err != nil {
		return err
	}
	if o.Client, err = agent.NewClient(cfg); err != nil {
		return err
	}
	o.APIServer = addressOf(cfg)
	o.Others = func() ([]others.Find, error) { return others.Look(o.CNIConfig) }
	events, stop, err := agent.NewEventRecorder(cfg, o.Node)
	if err != nil {
		return err
	}
	defer stop()
	o.Events = events
	o.NewSpeaker = func(sink bgp.Sink, restarting bool) (bgp.Speaker, error) {
		return gobgp.New(gobgp.Options{Log: o.Log.With("part", "bgp"), Sink: burst.Watch(sink), Restarting: restarting, Console: console})
	}
	a, err := agent.New(ctx, o)
	if err != nil {
		return agent.Failed(ctx, o, err)
	}
	o.Log.Info("godwit-agent is up", "node", o.Node, "version", o.Version)
	return a.Run(ctx)
}
