package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/godwit-net/godwit/agent"
)

func uninstallCommand(o *agent.Options, level *string) *cobra.Command {
	return &cobra.Command{
		Use:   "uninstall",
		Short: "Take away all that Godwit has left on this node, and wait for a signal",
		Long: "uninstall takes away the configuration and the plugins of the container runtime, the links of\n" +
			"pods (they lose their network), routes, masquerade, tunnels and Godwit's folders. No agent may run.\n" +
			"It is what config/uninstall runs on every node.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var err error
			if o.Log, err = logger(*level); err != nil {
				return err
			}
			agent.Uninstall(c.Context(), *o)
			return nil
		},
	}
}

func logger(level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level: %w", err)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l})), nil
}
