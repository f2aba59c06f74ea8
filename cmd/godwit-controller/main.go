// Godwit-controller plans the network of each node of a cluster and frees what
// deleted nodes leave behind.
package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager/signals"

	"github.com/godwit-net/godwit/controller"
	"github.com/godwit-net/godwit/internal/untiring"
	"github.com/godwit-net/godwit/internal/version"
)

func main() {
	if err := command().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var o controller.Options
	var kubeconfig, level string
	cmd := &cobra.Command{
		Use:   controller.Name,
		Short: "Plan the BGP network of a cluster's nodes",
		Long: `Godwit-controller reads Nodes, Namespaces, ServiceCIDRs, BGPConfig, NetworkConfig,
BGPPeers, BGPFilters, IPPools, IPClaims and IPBlocks, writes the plan of each node
(its NodeNetwork) and the status of pools, peers and claims, and frees the blocks of
nodes that were deleted. Of several replicas one works; the others wait for its lease.`,
		Version:       version.Version,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(*cobra.Command, []string) error {
			return run(kubeconfig, level, o)
		},
	}
	cmd.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&kubeconfig, "kubeconfig", "", "`file` that says how to reach the API server (default: $KUBECONFIG, ~/.kube/config, or else the service account of the pod)")
	f.StringVar(&o.Namespace, "namespace", "godwit-system", "`namespace` of the lease of the leader election")
	f.BoolVar(&o.LeaderElect, "leader-elect", true, "wait for the lease; without it only one controller may run")
	f.DurationVar(&o.BlockReleaseDelay, "block-release-delay", controller.DefaultBlockReleaseDelay, "how long a node must be gone, and its blocks be announced by nobody, before they are freed")
	f.StringVar(&o.MetricsAddress, "metrics-address", "0", "`address:port` on which metrics are served; 0: nowhere")
	f.StringVar(&o.HealthAddress, "health-address", "0", "`address:port` on which /healthz and /readyz are served; 0: nowhere")
	f.StringVar(&level, "log-level", "info", "`level` of what is logged: debug, info, warn or error")
	return cmd
}

func run(kubeconfig, level string, o controller.Options) error {
	var lv slog.Level
	if err := lv.UnmarshalText([]byte(level)); err != nil {
		return fmt.Errorf("--log-level %q: use debug, info, warn or error", level)
	}
	if o.BlockReleaseDelay <= 0 {
		return errors.New("--block-release-delay must be above 0")
	}
	o.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: lv}))
	klog.SetLogger(logr.FromSlogHandler(o.Log.Handler()))
	ctrllog.SetLogger(logr.FromSlogHandler(o.Log.Handler()))

	cfg, err := restConfig(kubeconfig)
	if err != nil {
		return err
	}
	ctx := signals.SetupSignalHandler()
	if err := controller.Await(ctx, cfg, o.HealthAddress, o.Log); err != nil || ctx.Err() != nil {
		return err
	}
	mgr, err := controller.New(cfg, o)
	if err != nil {
		return err
	}
	o.Log.Info("godwit-controller starts", "version", version.Version, "apiServer", cfg.Host)
	return mgr.Start(ctx)
}

func restConfig(kubeconfig string) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("find out how to reach the API server: %s (give --kubeconfig)", strings.TrimSpace(err.Error()))
	}
	return untiring.Config(cfg), nil
}
