// Package sender is a BGP speaker for tests and benchmarks with no policy and
// no opinion: it brings up one session, sends the messages it is given as fast
// as the connection takes them, and reports what it gets. It encodes and
// decodes the little of BGP that it needs itself, so that it is independent of
// whatever it tests.
package sender

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Options say who the sender is.
type Options struct {
	// Local is the address to dial from; the zero value leaves it to the kernel.
	Local    netip.Addr
	ASN      uint32
	RouterID netip.Addr
	// Hold is the hold time offered; zero: 90 s.
	Hold time.Duration
	// RestartTime offers graceful restart (RFC 4724); zero: it does not.
	RestartTime time.Duration
	// LongLived offers, beside it, long-lived graceful restart (RFC 9494); zero: it does not.
	LongLived time.Duration
	// NoIPv4 and NoIPv6 leave a family out of those offered (RFC 4760).
	NoIPv4, NoIPv6 bool
	// TwoOctetAS leaves the capability of four-octet AS numbers out (RFC 6793).
	// UPDATEs that come then are not looked into.
	TwoOctetAS bool
	// Password signs the segments of a dialled connection (TCP MD5, RFC 2385).
	Password string
	// Restarting sets the restart state and forwarding state bits.
	Restarting bool
	// OnUpdate takes each received UPDATE, from one goroutine; it may be nil.
	OnUpdate func(Change)
}

func (o *Options) hold() time.Duration {
	if o.Hold == 0 {
		return 90 * time.Second
	}
	return o.Hold
}

// Notification is an error that a NOTIFICATION message from the peer brought.
type Notification struct{ Code, Subcode byte }

func (n *Notification) Error() string {
	return fmt.Sprintf("notification %d/%d", n.Code, n.Subcode)
}

// Session is an established session. Its methods may be called concurrently.
type Session struct {
	conn    net.Conn
	options Options
	write   sync.Mutex
	closing sync.Once
	done    chan struct{}
	err     error // valid after done
}

// Dial opens a connection and brings up the session.
func Dial(ctx context.Context, remote netip.AddrPort, o Options) (*Session, error) {
	var d net.Dialer
	if o.Local.IsValid() {
		d.LocalAddr = &net.TCPAddr{IP: o.Local.AsSlice(), Zone: o.Local.Zone()}
	}
	if o.Password != "" {
		d.Control = func(_, _ string, c syscall.RawConn) error { return sign(c, remote.Addr(), o.Password) }
	}
	conn, err := d.DialContext(ctx, "tcp", remote.String())
	if err != nil {
		return nil, err
	}
	return Start(ctx, conn, o)
}

// sign sets the key for the segments to and from an address.
func sign(c syscall.RawConn, remote netip.Addr, key string) error {
	sig := &unix.TCPMD5Sig{Keylen: uint16(len(key))}
	copy(sig.Key[:], key)
	if remote.Is4() {
		sig.Addr.Family = unix.AF_INET
		copy(sig.Addr.Data[2:], remote.AsSlice()) // after the port
	} else {
		sig.Addr.Family = unix.AF_INET6
		copy(sig.Addr.Data[6:], remote.AsSlice()) // after port and flow
	}
	var err error
	if ctl := c.Control(func(fd uintptr) {
		err = unix.SetsockoptTCPMD5Sig(int(fd), unix.IPPROTO_TCP, unix.TCP_MD5SIG, sig)
	}); ctl != nil {
		return ctl
	}
	return err
}

// Start brings up the session on a connection, dialled or accepted. It closes
// the connection when that fails.
func Start(ctx context.Context, conn net.Conn, o Options) (*Session, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	s := &Session{conn: conn, options: o, done: make(chan struct{})}
	r := bufio.NewReaderSize(conn, 1<<16)
	err := s.handshake(r)
	if err != nil {
		_ = conn.Close()
		return nil, errors.Join(err, ctx.Err())
	}
	go s.receive(r)
	go s.keepalive()
	return s, nil
}

func (s *Session) handshake(r io.Reader) error {
	if err := s.Send(s.options.open()); err != nil {
		return err
	}
	for _, want := range []byte{typeOpen, typeKeepalive} {
		kind, body, err := read(r)
		switch {
		case err != nil:
			return err
		case kind == typeNotification && len(body) >= 2:
			return &Notification{Code: body[0], Subcode: body[1]}
		case kind != want:
			return fmt.Errorf("got message type %d, not %d", kind, want)
		case want == typeOpen:
			if err := s.Send(message(typeKeepalive, nil)); err != nil {
				return err
			}
		}
	}
	return nil
}

func read(r io.Reader) (kind byte, body []byte, err error) {
	var head [headerLength]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := int(binary.BigEndian.Uint16(head[16:]))
	if n < headerLength {
		return 0, nil, fmt.Errorf("message of %d bytes", n)
	}
	body = make([]byte, n-headerLength)
	_, err = io.ReadFull(r, body)
	return head[18], body, err
}

func (s *Session) receive(r io.Reader) {
	defer close(s.done)
	defer s.closing.Do(func() { _ = s.conn.Close() })
	for {
		kind, body, err := read(r)
		if err != nil {
			s.err = err
			return
		}
		switch kind {
		case typeNotification:
			if len(body) >= 2 {
				s.err = &Notification{Code: body[0], Subcode: body[1]}
			}
			return
		case typeUpdate:
			var c Change
			if !s.options.TwoOctetAS {
				if c, err = ParseUpdate(body); err != nil {
					s.err = err
					return
				}
			}
			if s.options.OnUpdate != nil {
				s.options.OnUpdate(c)
			}
		}
	}
}

func (s *Session) keepalive() {
	tick := time.NewTicker(s.options.hold() / 3)
	defer tick.Stop()
	for {
		select {
		case <-s.done:
			return
		case <-tick.C:
			_ = s.Send(message(typeKeepalive, nil))
		}
	}
}

// Send writes encoded messages.
func (s *Session) Send(messages []byte) error {
	s.write.Lock()
	defer s.write.Unlock()
	_, err := s.conn.Write(messages)
	return err
}

// Refresh asks for all routes of a family again (RFC 2918).
func (s *Session) Refresh(v4 bool) error {
	afi := byte(2)
	if v4 {
		afi = 1
	}
	return s.Send(message(typeRefresh, []byte{0, afi, 0, 1}))
}

// Done is closed when the session has ended; Err says why then.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err waits for the session's end and returns its cause: a *Notification, or
// how the connection ended.
func (s *Session) Err() error {
	<-s.done
	return s.err
}

// Close closes the connection without a word, as a process that is killed does.
func (s *Session) Close() {
	s.closing.Do(func() { _ = s.conn.Close() })
	<-s.done
}

// Vanish ends the session as a power cut does: nobody is told, and whatever the peer
// sends is answered by a reset. It needs CAP_NET_ADMIN (TCP_REPAIR, tcp(7)).
func (s *Session) Vanish() error {
	tcp, ok := s.conn.(*net.TCPConn)
	if !ok {
		return errors.New("the session is not on a TCP connection that it dialled")
	}
	c, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	if ctl := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, 1)
	}); ctl != nil || err != nil {
		return errors.Join(ctl, err)
	}
	s.Close()
	return nil
}

// Cease ends the session with a NOTIFICATION (RFC 4486).
func (s *Session) Cease(subcode byte) {
	_ = s.Send(message(typeNotification, []byte{6, subcode}))
	s.Close()
}

// LocalAddr is our address of the session.
func (s *Session) LocalAddr() netip.Addr {
	a, _ := netip.ParseAddrPort(s.conn.LocalAddr().String())
	return a.Addr().Unmap()
}
