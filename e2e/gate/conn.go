package gate

import (
	"net"
	"sync"
	"time"
)

// conn is a connection whose written bytes leave it later, by as much as the gate
// is slow.
type conn struct {
	net.Conn
	gate *Gate

	mu     sync.Mutex
	queue  []chunk
	more   chan struct{} // holds at most one
	closed bool          // nothing more comes; what is queued is still sent
	gone   chan struct{} // closed when the connection was reset
	once   sync.Once
}

type chunk struct {
	due  time.Time
	data []byte
}

func newConn(raw net.Conn, g *Gate) *conn {
	c := &conn{Conn: raw, gate: g, more: make(chan struct{}, 1), gone: make(chan struct{})}
	g.done.Go(c.send)
	return c
}

// Write implements net.Conn. It does not wait.
func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, errShut
	}
	due := time.Now().Add(time.Duration(c.gate.latency.Load()))
	c.queue = append(c.queue, chunk{due, append([]byte(nil), p...)})
	c.wake()
	return len(p), nil
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.wake()
	return nil
}

// SetWriteDeadline implements net.Conn: writes don't wait.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

func (c *conn) wake() {
	select {
	case c.more <- struct{}{}:
	default:
	}
}

// send sends what is queued when it is due, until the connection ends.
func (c *conn) send() {
	defer c.end()
	for {
		c.mu.Lock()
		var next *chunk
		if len(c.queue) > 0 {
			next = &c.queue[0]
			c.queue = c.queue[1:]
		}
		closed := c.closed
		c.mu.Unlock()
		if next == nil {
			if closed {
				return
			}
			select {
			case <-c.more:
				continue
			case <-c.gone:
				return
			}
		}
		select {
		case <-time.After(time.Until(next.due)):
		case <-c.gone:
			return
		}
		if _, err := c.Conn.Write(next.data); err != nil {
			return
		}
	}
}

// reset ends the connection at once, without a farewell.
func (c *conn) reset() {
	if t, ok := c.Conn.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	c.end()
}

func (c *conn) end() {
	c.once.Do(func() { close(c.gone) })
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	_ = c.Conn.Close()
	c.gate.mu.Lock()
	delete(c.gate.conns, c)
	c.gate.mu.Unlock()
}
