package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-net/godwit/e2e/vm/wire"
)

// session is a port of the machine, taken for one command.
type session struct {
	net.Conn
	lock *os.File
	wire *wire.Conn
}

func (s *session) close() {
	_ = s.Close()
	_ = s.lock.Close()
}

const (
	// firstPatience is how long the guest's greeting is waited for before the port
	// is let go and taken again; it doubles each time.
	firstPatience = 2 * time.Second
	// portPause is how long a port is left alone, for the guest to see that the
	// host is gone.
	portPause = 300 * time.Millisecond
)

// openSession takes a port that nobody uses and waits for the guest's greeting
// on it, until the context ends or the machine does.
func (m *Machine) openSession(ctx context.Context) (*session, error) {
	i, lock, err := m.takePort(ctx)
	if err != nil {
		return nil, err
	}
	for patience := firstPatience; ; patience *= 2 {
		s, err := m.greet(ctx, i, patience)
		if err == nil {
			s.lock = lock
			return s, nil
		}
		if !m.IsUp() {
			err = errors.New("it has ended")
		} else {
			err = pause(ctx, portPause)
		}
		if err != nil {
			_ = lock.Close()
			return nil, err
		}
	}
}

// takePort returns a port that is the caller's until the lock is closed.
func (m *Machine) takePort(ctx context.Context) (int, *os.File, error) {
	for {
		for i := range sessionPorts {
			f, err := os.OpenFile(m.sessionSocket(i)+".lock", os.O_CREATE|os.O_RDWR, 0o600)
			if err != nil {
				return 0, nil, err
			}
			if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
				return i, f, nil
			}
			_ = f.Close()
		}
		if err := pause(ctx, portPause); err != nil {
			return 0, nil, fmt.Errorf("all %d ports are in use: %w", sessionPorts, err)
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// greet connects to a port and asks for the guest's greeting.
func (m *Machine) greet(ctx context.Context, port int, patience time.Duration) (*session, error) {
	conn, err := dial(ctx, m.sessionSocket(port))
	if err != nil {
		return nil, err
	}
	s := &session{Conn: conn, wire: wire.NewConn(conn)}
	hurry := context.AfterFunc(ctx, func() { _ = conn.Close() })
	err = s.askGreeting(time.Now().Add(patience))
	if !hurry() {
		err = errors.Join(err, context.Cause(ctx))
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return s, nil
}

func (s *session) askGreeting(deadline time.Time) error {
	if err := s.SetReadDeadline(deadline); err != nil {
		return err
	}
	if err := s.wire.Write(wire.Greet, nil); err != nil {
		return err
	}
	kind, payload, err := s.wire.Read()
	if err != nil {
		return err
	}
	var g wire.Greeting
	if kind != wire.Hello || json.Unmarshal(payload, &g) != nil || g.Protocol != wire.Protocol {
		return fmt.Errorf("a frame %q %q for a greeting", kind, payload)
	}
	return nil
}
