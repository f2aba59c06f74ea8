package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/godwit-net/godwit/e2e/vm/wire"
)

// port is a way to the host, on which one command runs at a time.
type port struct {
	file   *os.File
	conn   *wire.Conn
	frames chan frame
}

// frame is one that came, or the error that broke the stream.
type frame struct {
	kind    wire.Kind
	payload []byte
	err     error
}

func newPort(f *os.File) *port {
	return &port{file: f, conn: wire.NewConn(f), frames: make(chan frame)}
}

// serve runs commands until the context ends.
func (p *port) serve(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.read(ctx) })
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case f := <-p.frames:
				if f.err != nil {
					continue // read waits for the next host
				}
				if err := p.answer(f); err != nil {
					return err
				}
			}
		}
	})
	return g.Wait()
}

// read passes on frames for ever, from one host after the other.
func (p *port) read(ctx context.Context) error {
	for {
		var f frame
		f.kind, f.payload, f.err = p.conn.Read()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case p.frames <- f:
		}
		if f.err == nil {
			continue
		}
		if !errors.Is(f.err, io.EOF) { // out of step, and so until this host goes
			if err := waitForHost(p.file, false); err != nil {
				return err
			}
		}
		if err := waitForHost(p.file, true); err != nil {
			return err
		}
	}
}

// answer does what a frame between sessions asks for.
func (p *port) answer(f frame) error {
	if err := p.file.SetWriteDeadline(time.Time{}); err != nil {
		return err
	}
	// What can't be written is no matter here: the host hung up, and read tells.
	switch f.kind {
	case wire.Greet:
		_ = p.conn.WriteJSON(wire.Hello, wire.Greeting{Protocol: wire.Protocol})
	case wire.Start:
		_ = p.conn.WriteJSON(wire.Exit, p.run(f.payload))
	}
	return nil
}

// Exit codes as a shell has them.
const (
	exitNotRunnable = 126
	exitNotFound    = 127
	exitSignalBase  = 128
)

func failure(code int, err error) wire.Outcome { return wire.Outcome{Code: code, Error: err.Error()} }

// run runs the command of a Start frame to its end, or until the host hangs up.
// All that it started has ended when it returns, but for what the command left
// behind.
func (p *port) run(start []byte) wire.Outcome {
	var cmd wire.Command
	if err := json.Unmarshal(start, &cmd); err != nil {
		return failure(exitNotRunnable, fmt.Errorf("command: %w", err))
	}
	if len(cmd.Argv) == 0 {
		return failure(exitNotRunnable, errors.New("no command"))
	}
	if len(cmd.Env) == 0 {
		cmd.Env = defaultEnv()
	}
	path, err := lookPath(cmd)
	if err != nil {
		return failure(exitNotFound, err)
	}
	x := exec.Command(path, cmd.Argv[1:]...) // #nosec G204 -- what it is for
	x.Args[0] = cmd.Argv[0]
	x.Env, x.Dir = cmd.Env, cmd.Dir
	var st *streams
	if cmd.Terminal != nil {
		st, err = startOnTerminal(x, p.conn, *cmd.Terminal)
	} else {
		st, err = startOnPipes(x, p.conn)
	}
	if err != nil {
		return failure(exitNotRunnable, err)
	}
	return p.accompany(x, st)
}

// accompany passes everything between the host and a running command.
func (p *port) accompany(x *exec.Cmd, st *streams) wire.Outcome {
	ended := make(chan error, 1)
	var helpers sync.WaitGroup
	helpers.Go(func() { ended <- st.wait() })
	helpers.Go(func() { st.feed(p.conn) })
	// Not done below: a host that doesn't read makes a write wait, but must be
	// listened to.
	stop := make(chan struct{})
	helpers.Go(func() { p.showLife(stop) })
	gone := false
	for {
		select {
		case err := <-ended:
			close(st.input)
			close(stop)
			helpers.Wait()
			return outcome(x, err)
		case f := <-p.frames:
			err := f.err
			if err == nil {
				err = st.obey(f.kind, f.payload, x.Process.Pid)
			}
			if err != nil && !gone {
				gone = true
				p.hangUp(x.Process.Pid)
			}
		}
	}
}

// showLife tells the host every now and then that the machine lives.
func (p *port) showLife(stop <-chan struct{}) {
	t := time.NewTicker(wire.AliveInterval)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
			_ = p.conn.Write(wire.Alive, nil)
		}
	}
}

// hangUp ends a command whose host is gone, with its process group. Whatever
// is still written to the host fails: else that would wait for the next one.
func (p *port) hangUp(pid int) {
	_ = unix.Kill(-pid, unix.SIGKILL)
	_ = p.file.SetWriteDeadline(time.Unix(1, 0))
}

func outcome(x *exec.Cmd, err error) wire.Outcome {
	if x.ProcessState == nil {
		return failure(exitNotRunnable, err)
	}
	if st, ok := x.ProcessState.Sys().(syscall.WaitStatus); ok && st.Signaled() {
		return wire.Outcome{Code: exitSignalBase + int(st.Signal())}
	}
	return wire.Outcome{Code: x.ProcessState.ExitCode()}
}
