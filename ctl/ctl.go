// Package ctl is godwitctl, which is also kubectl's plugin "godwit": it shows a
// person what the network is doing. It reads the API only, writes nothing, and
// takes kubectl's flags for how to reach the API server.
//
// Invariants:
//   - What -o json prints is an interface: names of fields stay.
//   - Output to anything but a terminal bears no colours.
package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/internal/version"
)

// defaultTimeout bounds a request where --request-timeout does not.
const defaultTimeout = 15 * time.Second

// errNotWell ends the program with a status of its own: everything that there is
// to say has been printed.
var errNotWell = errors.New("something is not well")

// Env is what the commands meet outside of the API. The zero value of a field
// is not usable unless it says so.
type Env struct {
	Out, Err io.Writer
	// Program is the name by which the program was called: kubectl-godwit makes its
	// help speak of "kubectl godwit".
	Program string
	// Color tells whether Out is a terminal that shows colours.
	Color bool
	// Now is the time that ages are counted from.
	Now func() time.Time
	// Reader reads the API; nil: as the flags say.
	Reader client.Reader
}

// Run runs the command that args name and returns the program's exit status: 0,
// 1 for an error, or 2 when something is not well: status says so with
// --exit-code, ipam check always.
func Run(ctx context.Context, env Env, args []string) int {
	cmd := newCommand(env) //nolint:contextcheck // cobra hands ctx to the commands
	cmd.SetArgs(args)
	cmd.SetOut(env.Out)
	cmd.SetErr(env.Err)
	err := cmd.ExecuteContext(ctx)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errNotWell):
		return 2
	}
	_, _ = fmt.Fprintln(env.Err, "error:", err)
	return 1
}

func newCommand(env Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "godwitctl",
		Short: "See what Godwit's network is doing",
		Long: `godwitctl shows what Godwit's network is doing: its nodes, BGP sessions, blocks,
pools and tunnels. It reads the cluster's API and changes nothing.`,
		Example: `  godwitctl status                 everything on one screen
  godwitctl status -o json | jq '.sessions[] | select(.state != "Established")'
  godwitctl status --exit-code     exit with 2 when something is not well
  godwitctl ipam check             name what does not agree about blocks and addresses`,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	if strings.HasPrefix(filepath.Base(env.Program), "kubectl-") {
		cmd.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl godwit"}
	}
	access := newAccess(cmd.PersistentFlags())
	cmd.CompletionOptions.HiddenDefaultCmd = true
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w (see %s --help)", err, c.CommandPath())
	})
	cmd.AddCommand(statusCommand(env, access), ipamCommand(env, access), versionCommand(env))
	return cmd
}

func versionCommand(env Env) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of godwitctl",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(env.Out, "godwitctl", version.Version)
			return err
		},
	}
}

// access is how to reach the API server, as kubectl's flags, $KUBECONFIG and
// ~/.kube/config say.
type access struct {
	rules     *clientcmd.ClientConfigLoadingRules
	overrides clientcmd.ConfigOverrides
}

func newAccess(flags *pflag.FlagSet) *access {
	a := &access{rules: clientcmd.NewDefaultClientConfigLoadingRules()}
	flags.StringVar(&a.rules.ExplicitPath, "kubeconfig", "", "`file` that says how to reach the API server")
	names := clientcmd.RecommendedConfigOverrideFlags("")
	names.ContextOverrideFlags.Namespace = clientcmd.FlagInfo{} // nothing that is shown has one
	clientcmd.BindOverrideFlags(&a.overrides, flags, names)
	return a
}

// reader returns what reads the API: that of env, or a client as the flags say.
func (a *access) reader(env Env) (client.Reader, error) {
	if env.Reader != nil {
		return env.Reader, nil
	}
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(a.rules, &a.overrides).ClientConfig()
	if clientcmd.IsEmptyConfig(err) {
		return nil, errors.New("no cluster is configured: give --kubeconfig, or set $KUBECONFIG")
	}
	if err != nil {
		return nil, fmt.Errorf("find out how to reach the API server: %w", err)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	cfg.WarningHandlerWithContext = rest.NoWarnings{}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, fmt.Errorf("register the API's kinds: %w", err)
	}
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("reach the API server at %s: %w", cfg.Host, err)
	}
	return c, nil
}
