package gate

import (
	"context"
	"net"
	"sync"

	"github.com/godwit-net/godwit/e2e/namespace"
)

// listener takes connections for a gate, and refuses them while it is shut.
type listener struct {
	gate *Gate

	mu     sync.Mutex
	inner  net.Listener  // nil while the gate is shut
	opened chan struct{} // closed when the gate is no more shut, or closed for good
	ended  bool
}

// open listens again.
func (l *listener) open() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inner != nil || l.ended {
		return nil
	}
	err := namespace.Do(l.gate.netns, func() (err error) {
		l.inner, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", l.gate.address.String())
		return err
	})
	if err == nil {
		close(l.opened)
	}
	return err
}

// shut ends listening: whoever connects is refused.
func (l *listener) shut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inner != nil {
		_ = l.inner.Close()
		l.inner, l.opened = nil, make(chan struct{})
	}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		l.mu.Lock()
		inner, opened, ended := l.inner, l.opened, l.ended
		l.mu.Unlock()
		if ended {
			return nil, net.ErrClosed
		}
		if inner == nil {
			<-opened
			continue
		}
		raw, err := inner.Accept()
		if err != nil {
			continue // it was shut, or closed
		}
		c := newConn(raw, l.gate)
		if l.gate.admit(c) {
			return c, nil
		}
		c.reset()
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return nil
	}
	l.ended = true
	if l.inner == nil {
		close(l.opened)
		return nil
	}
	return l.inner.Close()
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.gate.address) }
