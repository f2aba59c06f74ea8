// Package traffic sends TCP and UDP between network namespaces and tells what
// came through: streams that notice each stall, datagrams that are counted, bulk,
// and who a connection seems to come from.
package traffic

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/godwit-net/godwit/e2e/namespace"
)

// dialTimeout is ample in a lab whose round trips take microseconds, and leaves
// room for one lost SYN.
const dialTimeout = 4 * time.Second

// Listen listens for TCP of both families in a namespace; port 0 takes a free
// one.
func Listen(netns string, port uint16) (l net.Listener, err error) {
	err = namespace.Do(netns, func() error {
		l, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	})
	return l, err
}

// Dial connects from inside a namespace.
func Dial(ctx context.Context, netns string, to netip.AddrPort) (net.Conn, error) {
	return dialAs(ctx, netns, netip.Addr{}, to)
}

// dialAs connects from an address of a namespace; the zero one leaves the choice
// to the kernel.
func dialAs(ctx context.Context, netns string, own netip.Addr, to netip.AddrPort) (c net.Conn, err error) {
	d := net.Dialer{Timeout: dialTimeout}
	if own.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(own, 0))
	}
	err = namespace.Do(netns, func() error {
		c, err = d.DialContext(ctx, "tcp", to.String())
		return err
	})
	return c, err
}

// Source connects from one namespace to an address in another and returns
// the address that the other end sees.
func Source(ctx context.Context, from, to string, addr netip.Addr) (netip.Addr, error) {
	return SourceAs(ctx, from, netip.Addr{}, to, addr)
}

// SourceAs is Source for a program that binds to one of its machine's addresses
// before it connects.
func SourceAs(ctx context.Context, from string, own netip.Addr, to string, addr netip.Addr) (netip.Addr, error) {
	l, err := Listen(to, 0)
	if err != nil {
		return netip.Addr{}, err
	}
	defer func() { _ = l.Close() }()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	c, err := dialAs(ctx, from, own, netip.AddrPortFrom(addr, portOf(l)))
	if err != nil {
		return netip.Addr{}, err
	}
	defer func() { _ = c.Close() }()
	s, err := l.Accept()
	if err != nil {
		return netip.Addr{}, err
	}
	defer func() { _ = s.Close() }()
	seen, err := netip.ParseAddrPort(s.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}, err
	}
	return seen.Addr().Unmap(), nil
}

func portOf(l net.Listener) uint16 { return uint16(l.Addr().(*net.TCPAddr).Port) } // #nosec G115 -- a port

// interval is the time between two numbers of a stream.
const interval = 10 * time.Millisecond

// Stream is an established TCP connection over which one end sends the
// numbers 0, 1, 2 … at a steady pace, and the other notes when each arrives.
type Stream struct {
	Name   string
	client net.Conn
	server net.Conn
	stop   chan struct{}
	wg     sync.WaitGroup

	mu      sync.Mutex
	sent    uint64
	got     uint64
	last    time.Time
	longest time.Duration // over all
	marked  time.Duration // since the mark
	err     error
}

// Result is what became of a stream.
type Result struct {
	Sent, Received uint64
	Longest        time.Duration // the longest time between two arrivals
}

// Start opens a stream from one namespace to an address in another.
func Start(ctx context.Context, name, from, to string, addr netip.Addr) (*Stream, error) {
	l, err := Listen(to, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = l.Close() }()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	c, err := Dial(ctx, from, netip.AddrPortFrom(addr, portOf(l)))
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", name, err)
	}
	srv, err := l.Accept()
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("stream %s: %w", name, err)
	}
	s := &Stream{Name: name, client: c, server: srv, stop: make(chan struct{}), last: time.Now()}
	s.wg.Go(s.send)
	s.wg.Go(s.receive)
	return s, nil
}

func (s *Stream) send() {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var buf [8]byte
	for {
		select {
		case <-s.stop:
			s.fail(s.client.Close())
			return
		case <-tick.C:
		}
		binary.BigEndian.PutUint64(buf[:], s.sent)
		if _, err := s.client.Write(buf[:]); err != nil {
			s.fail(fmt.Errorf("send: %w", err))
			<-s.stop
			_ = s.client.Close()
			return
		}
		s.mu.Lock()
		s.sent++
		s.mu.Unlock()
	}
}

func (s *Stream) receive() {
	var buf [8]byte
	for {
		if _, err := io.ReadFull(s.server, buf[:]); err != nil {
			if !errors.Is(err, io.EOF) {
				s.fail(fmt.Errorf("receive: %w", err))
			}
			s.fail(s.server.Close())
			return
		}
		n := binary.BigEndian.Uint64(buf[:])
		s.mu.Lock()
		if n != s.got {
			s.err = errors.Join(s.err, fmt.Errorf("number %d came instead of %d", n, s.got))
		}
		s.got++
		now := time.Now()
		s.marked = max(s.marked, now.Sub(s.last))
		s.longest = max(s.longest, s.marked)
		s.last = now
		s.mu.Unlock()
	}
}

// Mark returns the longest time without an arrival since the last mark, the
// present one included, and sets a new mark.
func (s *Stream) Mark() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	longest := max(s.marked, now.Sub(s.last))
	s.longest = max(s.longest, longest)
	s.marked, s.last = 0, now
	return longest
}

func (s *Stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = errors.Join(s.err, err)
}

// Stop ends the stream in order and tells what became of it. Numbers that
// were sent and did not arrive are an error.
func (s *Stream) Stop() (Result, error) {
	close(s.stop)
	// What is on its way has this long; a blackhole must not hang the test.
	_ = s.server.SetReadDeadline(time.Now().Add(10 * time.Second))
	s.wg.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	r := Result{Sent: s.sent, Received: s.got, Longest: s.longest}
	if s.err == nil && s.sent != s.got {
		s.err = fmt.Errorf("%d numbers sent, %d received", s.sent, s.got)
	}
	if s.err != nil {
		return r, fmt.Errorf("stream %s: %w", s.Name, s.err)
	}
	return r, nil
}
