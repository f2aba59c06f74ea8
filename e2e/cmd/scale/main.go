// Command scale measures Godwit's control plane with many nodes on one machine.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/scale"
	"github.com/godwit-net/godwit/e2e/scale/table"
)

// reflectors is how many each node has.
const reflectors = 3

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := newCommand().ExecuteContext(ctx)
	stop()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "\nscale:", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	o := scale.Options{Setup: scale.Setup{Progress: os.Stderr}}
	var topology, out string
	var routes, tableClients int
	c := &cobra.Command{
		Use:           "scale",
		Short:         "Measure the control plane with many simulated nodes",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error {
			o.Topology = v1alpha1.Topology(topology)
			return measure(c.Context(), o, routes, tableClients, out)
		},
	}
	f := c.Flags()
	f.StringVar(&o.Bin, "bin", os.Getenv("GODWIT_BIN"), "the folder with Godwit's programs (default: $GODWIT_BIN)")
	f.StringVar(&o.KubeBin, "kube-bin", os.Getenv("GODWIT_KUBE_BIN"), "the folder with etcd and kube-apiserver (default: $GODWIT_KUBE_BIN)")
	f.StringVar(&o.ConfigDir, "config", "../config", "the project's `folder` of manifests")
	f.IntVar(&o.Nodes, "nodes", 100, "how many nodes there are; 0: no cluster is measured")
	f.IntVar(&o.Agents, "agents", 0, "how many of them have an agent; 0: all")
	f.IntVar(&o.Pools, "pools", 1, "how many blocks each node has, each of another pool")
	f.StringVar(&topology, "topology", string(v1alpha1.TopologyAuto), "Auto, RouteReflectors or Mesh")
	f.IntVar(&o.Reflectors, "reflectors", 3, "with RouteReflectors: how many reflectors there are")
	f.IntVar(&o.MeshLimit, "mesh-limit", 20, "up to how many nodes Auto is a mesh")
	f.DurationVar(&o.Over, "over", time.Minute, "the time over which they join")
	f.DurationVar(&o.Rest, "rest", 2*time.Minute, "how long the cluster at rest is measured")
	f.BoolVar(&o.Align, "align", false, "start all agents anew before that, so that their watches are of the same age in every run")
	f.IntVar(&o.Joins, "joins", 5, "how many nodes then join one by one; 0: no events are measured")
	f.BoolVar(&o.Restart, "restart", true, "start all agents and the controller at once at the end")
	f.DurationVar(&o.Patience, "patience", 10*time.Minute, "how long to wait for a state")
	f.IntVar(&routes, "routes", 10000, "the table that a reflector and a client are given at the end; 0: none")
	f.IntVar(&tableClients, "clients", 100, "how many clients that reflector has")
	f.StringVar(&out, "json", "", "a `file` for the report as JSON")
	return c
}

func measure(ctx context.Context, o scale.Options, routes, tableClients int, out string) error {
	// What clients have to say of single requests: what matters is in the report.
	ctrllog.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
	r, err := &scale.Report{}, error(nil)
	if o.Nodes > 0 {
		r, err = scale.Run(ctx, o)
	}
	if r == nil {
		return err
	}
	if err == nil && routes > 0 {
		r.Tables, err = table.Run(ctx, table.Options{
			Agent: filepath.Join(o.Bin, "godwit-agent"), Routes: routes, Clients: tableClients, Reflectors: reflectors,
			Patience: o.Patience, Progress: o.Progress,
		})
	}
	if werr := r.Write(os.Stdout); werr != nil && err == nil {
		err = werr
	}
	if out != "" {
		raw, jerr := json.MarshalIndent(r, "", "  ")
		if jerr == nil {
			jerr = os.WriteFile(out, append(raw, '\n'), 0o644) // #nosec G306 -- a report
		}
		if err == nil {
			err = jerr
		}
	}
	return err
}
