package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/namespace"
)

func shellCommand(open opener) *cobra.Command {
	return &cobra.Command{
		Use:   "shell MACHINE [-- COMMAND …]",
		Short: "Open a shell, or run a command, on a node, a router, a host, the fabric or in a pod",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			l, err := open()
			if err != nil {
				return err
			}
			return shell(l, args[0], args[1:])
		},
	}
}

// shell becomes the shell or command; it returns only if that fails.
func shell(l *lab.Lab, machine string, argv []string) error {
	ns := l.Top.Namespace(machine)
	if !namespace.Exists(ns) {
		return fmt.Errorf("the lab has no %s; it has %s", machine, strings.Join(machines(l), ", "))
	}
	if len(argv) == 0 {
		rc, err := writeShellRC(l, machine)
		if err != nil {
			return err
		}
		argv = []string{"bash", "--rcfile", rc, "-i"}
	}
	var dirs []string
	for _, d := range l.Bin {
		abs, err := filepath.Abs(d)
		if err != nil {
			return err
		}
		dirs = append(dirs, abs)
	}
	path := strings.Join(append(dirs, os.Getenv("PATH"), "/usr/sbin", "/sbin"), ":")
	if err := errors.Join(os.Setenv("PATH", path), os.Setenv("KUBECONFIG", l.Kubeconfig())); err != nil {
		return err
	}
	program, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	return namespace.Do(ns, func() error {
		return syscall.Exec(program, argv, os.Environ()) // #nosec G204 -- what the person asked for
	})
}

// machines lists what one can open a shell on.
func machines(l *lab.Lab) []string {
	names, err := l.Top.Namespaces()
	if err != nil || len(names) == 0 {
		return []string{"nothing: no lab is up, run `make lab`"}
	}
	for i := range names {
		names[i] = strings.TrimPrefix(names[i], l.Prefix)
	}
	return names
}

// writeShellRC makes the prompt say where one is, and birdc and vtysh find
// their routers.
func writeShellRC(l *lab.Lab, machine string) (string, error) {
	file := filepath.Join(l.Dir, "shellrc-"+machine)
	text := fmt.Sprintf(`[ -r ~/.bashrc ] && . ~/.bashrc
PS1='[godwit %s] \w \$ '
birdc() { command birdc -s %s "$@"; }
vtysh() { command vtysh --vty_socket %s "$@"; }
`, machine, filepath.Join(l.Dir, machine, "bird.ctl"), filepath.Join(l.Dir, machine))
	return file, os.WriteFile(file, []byte(text), 0o600)
}
