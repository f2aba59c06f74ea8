package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-net/godwit/e2e/vm/wire"
)

// defaultEnv is the environment of a command for which the host names none.
func defaultEnv() []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "USER=root", "LOGNAME=root", "LANG=C.UTF-8",
	}
}

// lookPath finds a program by the PATH of the command's own environment.
func lookPath(cmd wire.Command) (string, error) {
	name := cmd.Argv[0]
	if strings.Contains(name, "/") {
		return name, nil
	}
	path := ""
	for _, e := range cmd.Env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			path = v
		}
	}
	for _, dir := range filepath.SplitList(path) {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s is not found in PATH=%s", name, path)
}

// outputGrace is how long output is waited for after a command ended: a
// program that it left behind may hold the pipe for ever.
const outputGrace = 500 * time.Millisecond

// streams are the input and output of a running command.
type streams struct {
	input    chan []byte // from the host; an empty one ends the command's input
	stdin    io.Writer
	endInput func()
	terminal *os.File     // the near side of the command's terminal, if it has one
	wait     func() error // for the command's end and the end of its output
}

func startOnPipes(p *exec.Cmd, c *wire.Conn) (*streams, error) {
	stdin, err := p.StdinPipe()
	if err != nil {
		return nil, err
	}
	p.Stdout, p.Stderr = c.Writer(wire.Stdout), c.Writer(wire.Stderr)
	p.WaitDelay = outputGrace
	p.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := p.Start(); err != nil {
		return nil, err
	}
	return &streams{
		input: make(chan []byte, 1), stdin: stdin,
		endInput: func() { _ = stdin.Close() },
		wait:     p.Wait,
	}, nil
}

func startOnTerminal(p *exec.Cmd, c *wire.Conn, size wire.Size) (*streams, error) {
	near, far, err := openTerminal(size)
	if err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	p.Stdin, p.Stdout, p.Stderr = far, far, far
	p.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = p.Start()
	_ = far.Close() // the command has it
	if err != nil {
		_ = near.Close()
		return nil, err
	}
	var output sync.WaitGroup
	// Ends when the last program closed the terminal, or when it is taken away.
	output.Go(func() { _, _ = io.Copy(c.Writer(wire.Stdout), near) })
	return &streams{
		input: make(chan []byte, 1), stdin: near, terminal: near,
		endInput: func() { _, _ = near.Write([]byte{4}) }, // ^D
		wait: func() error {
			err := p.Wait()
			_ = near.SetReadDeadline(time.Now().Add(outputGrace))
			output.Wait()
			return errors.Join(err, near.Close())
		},
	}, nil
}

// feed hands the host's input to the command, one piece at a time, and asks
// for the next.
func (s *streams) feed(c *wire.Conn) {
	for piece := range s.input {
		if len(piece) == 0 {
			s.endInput()
			continue
		}
		// That a command takes no more input is no reason to end it.
		_, _ = s.stdin.Write(piece)
		_ = c.Write(wire.Taken, nil) // the attendant sees that the host is gone
	}
}

// obey does what a frame says.
func (s *streams) obey(kind wire.Kind, payload []byte, pid int) error {
	switch kind {
	case wire.Input:
		select {
		case s.input <- payload:
			return nil
		default:
			return errors.New("input before the last was taken")
		}
	case wire.Signal:
		var n wire.SignalNumber
		if err := json.Unmarshal(payload, &n); err != nil {
			return err
		}
		_ = unix.Kill(-pid, syscall.Signal(n.Number)) // it may have ended just now
		return nil
	case wire.Resize:
		var size wire.Size
		if err := json.Unmarshal(payload, &size); err != nil {
			return err
		}
		if s.terminal == nil {
			return nil
		}
		return setSize(s.terminal, size)
	default:
		return fmt.Errorf("unexpected frame %q", kind)
	}
}
