package ctl

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// Defaults of `ipam check`. What nodes report may be 10 s old where only figures
// changed (50 ms for each block where there are over 200: see agent/figures.go), and
// a block that is given back stays in the API for 10 s.
const (
	defaultSettle = 25 * time.Second
	settleStep    = time.Second
)

func ipamCommand(env Env, access *access) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ipam",
		Short: "Look after blocks and addresses",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(checkCommand(env, access))
	return cmd
}

type checkOptions struct {
	output string
	settle time.Duration
}

func checkCommand(env Env, access *access) *cobra.Command {
	var o checkOptions
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Compare blocks, nodes, pods and announcements, and name what does not agree",
		Long: `Compare the blocks in the API, what the nodes' agents hold and find on their
nodes, the addresses of pods, and the blocks that nodes have learned by BGP. Each
difference is a line: the object, what is wrong, and what to do.

Pods and blocks come and go while one looks. When there are differences the
cluster is looked at again for the time of --settle, and those count that never
were away. With more than 200 blocks nodes report later: give it 50 ms for each
block, and 15 s more. The exit status is 0 when all agrees, 2 when something does
not, and 1 when it can't be found out.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.output != "" && o.output != "json" {
				return fmt.Errorf("--output %q: use json", o.output)
			}
			reader, err := access.reader(env)
			if err != nil {
				return err
			}
			found, err := checkUntilSettled(cmd.Context(), reader, o.settle)
			if err != nil {
				return err
			}
			if err := found.print(env, o.output); err != nil {
				return err
			}
			if len(found.Differences) > 0 {
				return errNotWell
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.output, "output", "o", "", "`format`: json")
	f.DurationVar(&o.settle, "settle", defaultSettle, "for how long a difference must stay; 0: look once")
	return cmd
}

// checkUntilSettled looks until all agrees, or some differences were there all
// the time.
func checkUntilSettled(ctx context.Context, reader client.Reader, settle time.Duration) (Agreement, error) {
	until := time.Now().Add(settle)
	found, err := checkOnce(ctx, reader)
	for err == nil && len(found.Differences) > 0 && time.Now().Before(until) {
		select {
		case <-ctx.Done():
			return found, ctx.Err()
		case <-time.After(settleStep):
		}
		before := found.Differences
		if found, err = checkOnce(ctx, reader); err != nil {
			break
		}
		found.Differences = slices.DeleteFunc(found.Differences, func(d Difference) bool {
			return !slices.ContainsFunc(before, d.same)
		})
	}
	return found, err
}

func checkOnce(ctx context.Context, reader client.Reader) (Agreement, error) {
	o, err := readAddressing(ctx, reader)
	if err != nil {
		return Agreement{}, err
	}
	return compare(o), nil
}

// addressing is everything that is compared.
type addressing struct {
	nodes    []corev1.Node
	networks []v1alpha1.NodeNetwork
	blocks   []v1alpha1.IPBlock
	pools    []v1alpha1.IPPool
	claims   []v1alpha1.IPClaim
	pods     []corev1.Pod
}

func readAddressing(ctx context.Context, c client.Reader) (o addressing, err error) {
	if o.pods, err = list(ctx, c, func(l *corev1.PodList) []corev1.Pod { return l.Items }); err != nil {
		return o, err
	}
	if o.nodes, err = list(ctx, c, func(l *corev1.NodeList) []corev1.Node { return l.Items }); err != nil {
		return o, err
	}
	if o.blocks, err = list(ctx, c, func(l *v1alpha1.IPBlockList) []v1alpha1.IPBlock { return l.Items }); err != nil {
		return o, err
	}
	if o.pools, err = list(ctx, c, func(l *v1alpha1.IPPoolList) []v1alpha1.IPPool { return l.Items }); err != nil {
		return o, err
	}
	if o.claims, err = list(ctx, c, func(l *v1alpha1.IPClaimList) []v1alpha1.IPClaim { return l.Items }); err != nil {
		return o, err
	}
	o.networks, err = list(ctx, c, func(l *v1alpha1.NodeNetworkList) []v1alpha1.NodeNetwork { return l.Items })
	return o, err
}

// print prints what was found, one line a difference.
func (a Agreement) print(env Env, format string) error {
	if format == "json" {
		enc := json.NewEncoder(env.Out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(a)
	}
	for _, d := range a.Differences {
		name := cell{d.Kind + " " + d.Name, bold}.render(env.Color)
		if _, err := fmt.Fprintf(env.Out, "%s: %s; %s\n", name, d.Message, d.Action); err != nil {
			return err
		}
	}
	verdict := "all agrees"
	if n := len(a.Differences); n > 0 {
		verdict = fmt.Sprintf("%d differences", n)
	}
	_, err := fmt.Fprintf(env.Out, "%d nodes, %d blocks, %d addresses in use, %d pods with addresses of pools: %s\n",
		a.Nodes, a.Blocks, a.Addresses, a.Pods, verdict)
	return err
}
