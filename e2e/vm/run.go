package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/godwit-net/godwit/e2e/vm/wire"
)

// Size is that of a terminal.
type Size = wire.Size

// Command is a program to run in a machine, as root.
type Command struct {
	Argv []string
	Env  []string // empty: a plain root's
	Dir  string   // empty: /

	// Stdin may be read further than the command does, and after it ended.
	Stdin          io.Reader
	Stdout, Stderr io.Writer // nil: nowhere

	// Terminal gives the command a terminal of that size, all of whose output
	// goes to Stdout; Resized tells new sizes.
	Terminal *Size
	Resized  <-chan Size
}

const (
	// sessionPatience is how long a machine that is up may take to greet.
	sessionPatience = 30 * time.Second
	// silence is how long a machine may show no life at all.
	silence = time.Minute
	// endGrace is how long a command has to end when its context does.
	endGrace = 15 * time.Second
)

// Run runs a command to its end and returns its exit code: the shell's, 128
// and the signal's number, for one that a signal ended, and 126 or 127 for one
// that could not be run, with the reason on Stderr. When the context ends first,
// the command is sent SIGTERM and given some time; the error is the context's.
// Several may run at a time.
func (m *Machine) Run(ctx context.Context, cmd Command) (int, error) {
	if !m.IsUp() {
		return 0, fmt.Errorf("no virtual machine is up in %s", m.dir)
	}
	opening, cancel := context.WithTimeoutCause(ctx, sessionPatience, errors.New("it does not answer"))
	defer cancel()
	s, err := m.openSession(opening)
	if err != nil {
		return 0, m.explain(fmt.Errorf("reach the virtual machine: %w", err))
	}
	defer s.close()
	if err := s.wire.WriteJSON(wire.Start, wire.Command{Argv: cmd.Argv, Env: cmd.Env, Dir: cmd.Dir, Terminal: cmd.Terminal}); err != nil {
		return 0, err
	}
	done := make(chan struct{})
	defer close(done)
	taken := make(chan struct{}, 1)
	go s.sendInput(cmd.Stdin, taken, done) // may hang in a read of Stdin, so it isn't waited for
	go s.sendEvents(ctx, cmd.Resized, done)
	code, err := s.receive(cmd, taken)
	if ctx.Err() != nil {
		return code, context.Cause(ctx)
	}
	if err != nil {
		return 0, m.explain(fmt.Errorf("the virtual machine is lost: %w", err))
	}
	return code, nil
}

// receive passes on what the guest says until the command has ended.
func (s *session) receive(cmd Command, taken chan<- struct{}) (int, error) {
	out := map[wire.Kind]io.Writer{wire.Stdout: cmd.Stdout, wire.Stderr: cmd.Stderr}
	for {
		if err := s.SetReadDeadline(time.Now().Add(silence)); err != nil {
			return 0, err
		}
		kind, payload, err := s.wire.Read()
		if err != nil {
			return 0, err
		}
		switch kind {
		case wire.Alive:
		case wire.Taken:
			select {
			case taken <- struct{}{}:
			default:
			}
		case wire.Stdout, wire.Stderr:
			if w := out[kind]; w != nil {
				if _, err := w.Write(payload); err != nil {
					return 0, fmt.Errorf("pass on output: %w", err)
				}
			}
		case wire.Exit:
			var o wire.Outcome
			if err := json.Unmarshal(payload, &o); err != nil {
				return 0, fmt.Errorf("outcome: %w", err)
			}
			if o.Error != "" && cmd.Stderr != nil {
				_, _ = fmt.Fprintln(cmd.Stderr, o.Error)
			}
			return o.Code, nil
		default:
			return 0, fmt.Errorf("unexpected frame %q", kind)
		}
	}
}

// sendInput sends the command's input, each piece when the last was taken.
func (s *session) sendInput(stdin io.Reader, taken, done <-chan struct{}) {
	buf := make([]byte, 16<<10)
	for stdin != nil {
		n, err := stdin.Read(buf)
		if n > 0 {
			if s.wire.Write(wire.Input, buf[:n]) != nil {
				return
			}
			select {
			case <-taken:
			case <-done:
				return
			}
		}
		if err != nil {
			break
		}
	}
	_ = s.wire.Write(wire.Input, nil)
}

// sendEvents sends the terminal's new sizes and, when the context ends, the
// word that the command should, too. One that doesn't is hung up on.
func (s *session) sendEvents(ctx context.Context, resized <-chan Size, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case size := <-resized:
			_ = s.wire.WriteJSON(wire.Resize, size)
		case <-ctx.Done():
			_ = s.wire.WriteJSON(wire.Signal, wire.SignalNumber{Number: int(syscall.SIGTERM)})
			select {
			case <-done:
			case <-time.After(endGrace):
				_ = s.Close()
			}
			return
		}
	}
}
