package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/godwit-net/godwit/e2e/patience"
	"github.com/godwit-net/godwit/e2e/vm"
)

// run runs a command in a machine as if it were run here: in this folder, with
// this environment. Its exit code other than 0 is an error.
func run(ctx context.Context, m *vm.Machine, argv []string, wantsTerminal bool) error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	cmd := vm.Command{Argv: argv, Env: environment(), Dir: dir, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	if wantsTerminal {
		if restore, ok := onTerminal(&cmd); ok {
			defer restore()
		}
	}
	code, err := m.Run(ctx, cmd)
	if err != nil {
		return err
	}
	if code != 0 {
		return exitCode(code)
	}
	return nil
}

// emulatedPatience is by how much an emulated machine's deadlines are stretched
// unless the environment says so: each program takes many times as long to start.
const emulatedPatience = "5"

// environment is this process's, with what tells a command where it runs.
func environment() []string {
	env := append(os.Environ(), vm.Variable+"=1")
	if os.Getenv(patience.Variable) == "" {
		env = append(env, patience.Variable+"="+emulatedPatience)
	}
	return env
}

// onTerminal makes a command use this process's terminal, if there is one,
// until it is restored.
func onTerminal(cmd *vm.Command) (restore func(), ok bool) {
	in := int(os.Stdin.Fd())
	size, err := unix.IoctlGetWinsize(in, unix.TIOCGWINSZ)
	if err != nil {
		return nil, false
	}
	old, err := unix.IoctlGetTermios(in, unix.TCGETS)
	if err != nil {
		return nil, false
	}
	raw := *old // as cfmakeraw(3): what is typed is the guest's terminal's to interpret
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	if err := unix.IoctlSetTermios(in, unix.TCSETS, &raw); err != nil {
		return nil, false
	}
	cmd.Terminal = &vm.Size{Rows: size.Row, Columns: size.Col}
	resized, done := make(chan vm.Size), make(chan struct{})
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, syscall.SIGWINCH)
	go func() {
		for {
			select {
			case <-done:
				return
			case <-changes:
			}
			if size, err := unix.IoctlGetWinsize(in, unix.TIOCGWINSZ); err == nil {
				select {
				case resized <- vm.Size{Rows: size.Row, Columns: size.Col}:
				case <-done:
				}
			}
		}
	}()
	cmd.Resized = resized
	return func() {
		signal.Stop(changes)
		close(done)
		_ = unix.IoctlSetTermios(in, unix.TCSETS, old)
	}, true
}

// stepWidth is the column at which the outcome of a step stands.
const stepWidth = 66

// step does one thing and tells of it, beside the command's own output.
func step(what string, do func() error) error {
	_, _ = fmt.Fprintf(os.Stderr, "  %s %s ", what, strings.Repeat("·", max(1, stepWidth-utf8.RuneCountInString(what))))
	begin := time.Now()
	err := do()
	mark := "✓"
	if err != nil {
		mark = "✗"
	}
	_, _ = fmt.Fprintf(os.Stderr, "%5.1fs %s\n", time.Since(begin).Seconds(), mark)
	return err
}

func copyFile(to, from string) error {
	raw, err := os.ReadFile(from) // #nosec G304 -- the machine's console
	if err != nil {
		return err
	}
	return os.WriteFile(to, raw, 0o600) // #nosec G306 G703 -- where the caller says
}
