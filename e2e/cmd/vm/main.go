// Command vm runs commands in a virtual machine whose Linux kernel has what
// this machine's may lack, on this machine's own files.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/godwit-net/godwit/e2e/vm"
	"github.com/godwit-net/godwit/e2e/vm/guest"
	"github.com/godwit-net/godwit/e2e/vm/wire"
)

// exitOwn is the exit code for failures that are not the command's.
const exitOwn = 125

// exitCode is the exit code of a command that ran.
type exitCode int

func (e exitCode) Error() string { return "the command ended with exit code " + strconv.Itoa(int(e)) }

func main() {
	if os.Args[0] == wire.InitProgram {
		if err := guest.Main(); err != nil {
			_, _ = fmt.Fprintln(os.Stderr, "vm guest:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := newCommand().ExecuteContext(ctx)
	stop()
	var code exitCode
	switch {
	case err == nil:
	case errors.As(err, &code):
		os.Exit(int(code))
	default:
		_, _ = fmt.Fprintln(os.Stderr, "vm:", err)
		os.Exit(exitOwn)
	}
}

func newCommand() *cobra.Command {
	c := vm.Config{Step: step}
	cmd := &cobra.Command{
		Use:           "vm",
		Short:         "A virtual machine with a kernel that has it all, on this machine's files",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.PersistentFlags().StringVar(&c.Dir, "dir", "/run/godwit-vm", "the folder for all files of the machine")
	cmd.AddCommand(runCommand(&c), upCommand(&c), execCommand(&c), shellCommand(&c), downCommand(&c), shareCommand())
	return cmd
}

// machineFlags are those of a machine to start.
func machineFlags(cmd *cobra.Command, c *vm.Config) {
	f := cmd.Flags()
	f.StringVar(&c.Kernel, "kernel", ".cache/vm", "the folder with the kernel, as scripts/vm-kernel makes it")
	f.StringSliceVar(&c.Writable, "writable", nil, "folders of this machine in which the command may write")
	f.IntVar(&c.CPUs, "cpus", 0, "virtual processors (default: this machine's, up to 4)")
	f.IntVar(&c.MemoryMB, "memory", 0, "memory in MiB (default 4096)")
	f.StringVar(&c.Accel, "accel", "", "QEMU's accelerator, as kvm (default: emulation, which works everywhere)")
	f.DurationVar(&c.BootTimeout, "boot-timeout", 2*time.Minute, "how long the machine may take to boot")
}

func runCommand(c *vm.Config) *cobra.Command {
	var console string
	cmd := &cobra.Command{
		Use:   "run [flags] -- COMMAND ARGS…",
		Short: "Boot a machine, run a command in it, and leave nothing behind; its exit code is the command's",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, release, err := start(cmd.Context(), c)
			if err != nil {
				return err
			}
			defer release()
			err = run(cmd.Context(), m, args, false)
			if console != "" {
				err = errors.Join(err, copyFile(console, m.Console()))
			}
			return errors.Join(err, m.Stop(context.WithoutCancel(cmd.Context())))
		},
	}
	machineFlags(cmd, c)
	cmd.Flags().StringVar(&console, "console", "", "the file to keep the machine's console log in")
	return cmd
}

func upCommand(c *vm.Config) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "up [flags] [-- COMMAND ARGS…]",
		Short: "Boot a machine, run a command in it, and leave it running; one that is up is ended first",
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			c.Detached = true
			if old := vm.Open(c.Dir); old.Exists() {
				if err := step("a machine is here already: end it first", func() error { return old.Stop(ctx) }); err != nil {
					return err
				}
			}
			m, release, err := start(ctx, c)
			if err != nil {
				return err
			}
			defer release()
			if len(args) == 0 {
				return nil
			}
			err = run(ctx, m, args, false)
			if ctx.Err() != nil {
				return errors.Join(err, m.Stop(context.WithoutCancel(ctx)))
			}
			return err
		},
	}
	machineFlags(cmd, c)
	return cmd
}

// start boots a machine that nobody else touches until it is released.
func start(ctx context.Context, c *vm.Config) (*vm.Machine, func(), error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	c.Program = self
	release, err := vm.Open(c.Dir).Lock()
	if err != nil {
		return nil, nil, err
	}
	m, err := vm.Start(ctx, *c)
	if err != nil {
		release()
		return nil, nil, err
	}
	return m, release, nil
}

func execCommand(c *vm.Config) *cobra.Command {
	return &cobra.Command{
		Use:   "exec -- COMMAND ARGS…",
		Short: "Run a command in the machine that is up",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return run(cmd.Context(), vm.Open(c.Dir), args, false)
		},
	}
}

func shellCommand(c *vm.Config) *cobra.Command {
	return &cobra.Command{
		Use:   "shell [-- COMMAND ARGS…]",
		Short: "Open a shell, or run a command on a terminal, in the machine that is up",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{"bash"}
			}
			return run(cmd.Context(), vm.Open(c.Dir), args, true)
		},
	}
}

func downCommand(c *vm.Config) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "End the machine and leave nothing behind",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m := vm.Open(c.Dir)
			release, err := m.Lock()
			if err != nil {
				return err
			}
			defer release()
			if !m.Exists() {
				_, _ = fmt.Fprintln(os.Stderr, "No virtual machine is up.")
				return nil
			}
			return step("end the virtual machine", func() error { return m.Stop(cmd.Context()) })
		},
	}
}

// shareCommand becomes the server of files of the host.
func shareCommand() *cobra.Command {
	return &cobra.Command{
		Use: vm.ShareArgument + " SOURCE TARGET WRITABLE PROGRAM ARGS…", Hidden: true,
		Args: cobra.MinimumNArgs(4), DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			writable, err := strconv.ParseBool(args[2])
			if err != nil {
				return err
			}
			return vm.Share(args[0], args[1], writable, args[3:])
		},
	}
}
