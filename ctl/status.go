package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// pageSize is how many objects are asked for at once.
const pageSize = 500

type statusOptions struct {
	output   string
	all      bool
	exitCode bool
}

func statusCommand(env Env, access *access) *cobra.Command {
	var o statusOptions
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show nodes, BGP sessions, blocks, pools and tunnels on one screen",
		Long: `Show nodes, BGP sessions, blocks, pools and tunnels on one screen, as the
cluster's API has them: what the nodes' agents report, a moment old. Tables that
would not fit on a screen show what is not in order; --all shows every line.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			show, err := o.printer(env)
			if err != nil {
				return err
			}
			reader, err := access.reader(env)
			if err != nil {
				return err
			}
			objects, err := read(cmd.Context(), reader)
			if err != nil {
				return err
			}
			report := makeReport(objects)
			if err := show(report); err != nil {
				return err
			}
			if o.exitCode && len(report.Problems) > 0 {
				return errNotWell
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.output, "output", "o", "", "`format`: wide, json or yaml")
	f.BoolVar(&o.all, "all", false, "show every line of long tables")
	f.BoolVar(&o.exitCode, "exit-code", false, "exit with 2 when something is not well")
	return cmd
}

// printer returns what prints a report in the format that was asked for.
func (o statusOptions) printer(env Env) (func(Report) error, error) {
	switch o.output {
	case "", "wide":
		s := screen{out: env.Out, color: env.Color, now: env.Now(), all: o.all, wide: o.output == "wide"}
		return s.print, nil
	case "json":
		return func(r Report) error {
			enc := json.NewEncoder(env.Out)
			enc.SetIndent("", "  ")
			enc.SetEscapeHTML(false)
			return enc.Encode(r)
		}, nil
	case "yaml":
		return func(r Report) error {
			data, err := yaml.Marshal(r)
			if err != nil {
				return err
			}
			_, err = env.Out.Write(data)
			return err
		}, nil
	}
	return nil, fmt.Errorf("--output %q: use wide, json or yaml", o.output)
}

// read gets everything that a report is made from. Who may not read Nodes gets a
// report without the nodes that have no plan.
func read(ctx context.Context, c client.Reader) (objects, error) {
	nodes, err := list(ctx, c, func(l *corev1.NodeList) []corev1.Node { return l.Items })
	if err != nil && !apierrors.IsForbidden(err) {
		return objects{}, err
	}
	o := objects{nodes: nodes}
	o.networks, err = list(ctx, c, func(l *v1alpha1.NodeNetworkList) []v1alpha1.NodeNetwork { return l.Items })
	if err != nil {
		return objects{}, err
	}
	o.blocks, err = list(ctx, c, func(l *v1alpha1.IPBlockList) []v1alpha1.IPBlock { return l.Items })
	if err != nil {
		return objects{}, err
	}
	o.pools, err = list(ctx, c, func(l *v1alpha1.IPPoolList) []v1alpha1.IPPool { return l.Items })
	if err != nil {
		return objects{}, err
	}
	o.claims, err = list(ctx, c, func(l *v1alpha1.IPClaimList) []v1alpha1.IPClaim { return l.Items })
	if err != nil {
		return objects{}, err
	}
	o.peers, err = list(ctx, c, func(l *v1alpha1.BGPPeerList) []v1alpha1.BGPPeer { return l.Items })
	return o, err
}

// list gets all objects of a kind, page by page. Each page is decoded into a
// list of its own: what is decoded into a used one is written into what its
// objects, copies of which are kept, point to.
func list[L any, P interface {
	*L
	client.ObjectList
}, T any](ctx context.Context, c client.Reader, items func(P) []T) ([]T, error) {
	var all []T
	for next := ""; ; {
		page := P(new(L))
		if err := c.List(ctx, page, client.Limit(pageSize), client.Continue(next)); err != nil {
			return nil, explain(err)
		}
		all = append(all, items(page)...)
		if next = page.GetContinue(); next == "" {
			return all, nil
		}
	}
}

// explain says what to do about an error of the API.
func explain(err error) error {
	var status apierrors.APIStatus
	switch {
	case apimeta.IsNoMatchError(err):
		return fmt.Errorf("this cluster does not know Godwit's kinds (apply config/crd first): %w", err)
	case errors.As(err, &status):
		return err
	}
	return fmt.Errorf("reach the API server (see --kubeconfig, --context and --server): %w", err)
}
