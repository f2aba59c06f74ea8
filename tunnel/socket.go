package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// batchRequests and batchBytes bound what goes in one send, so that the answers
	// fit into the receive buffer even when every message fails, and that others
	// get at the kernel's lock in between.
	batchRequests = 512
	batchBytes    = 64 << 10

	requestBuffer = 4 << 20
	monitorBuffer = 8 << 20
	answerTimeout = 30 // seconds; the kernel answers within the send
)

// errInterrupted says that what a list is of changed while it was sent.
var errInterrupted = errors.New("the list changed while the kernel sent it")

// openSocket opens a netlink route socket in the network namespace of the
// calling thread.
func openSocket(flags, receiveBuffer int) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|flags, unix.NETLINK_ROUTE)
	if err != nil {
		return -1, os.NewSyscallError("netlink socket", err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return -1, os.NewSyscallError("netlink bind", err)
	}
	// What an old kernel lacks of these makes errors less telling and dumps longer,
	// no more.
	for _, o := range []int{unix.NETLINK_EXT_ACK, unix.NETLINK_CAP_ACK, unix.NETLINK_GET_STRICT_CHK} {
		_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, o, 1)
	}
	for _, o := range []struct{ force, polite, size int }{
		{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, receiveBuffer},
		{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, 4 * batchBytes},
	} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o.force, o.size) != nil {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, o.polite, o.size); err != nil {
				return -1, os.NewSyscallError("netlink socket buffer", err)
			}
		}
	}
	return fd, nil
}

// receive reads a datagram from the kernel into buf.
func receive(fd int, buf []byte, flags int) (int, error) {
	for {
		n, _, recvFlags, from, err := unix.Recvmsg(fd, buf, nil, flags)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, os.NewSyscallError("netlink receive", err)
		}
		if nl, ok := from.(*unix.SockaddrNetlink); !ok || nl.Pid != 0 {
			continue // not from the kernel
		}
		if recvFlags&unix.MSG_TRUNC != 0 {
			return 0, fmt.Errorf("netlink receive: %w: longer than %d bytes", errMalformed, len(buf))
		}
		return n, nil
	}
}

// conn is a socket for requests, used by one goroutine at a time.
type conn struct {
	fd  int
	seq uint32
	buf []byte
}

func dial() (*conn, error) {
	fd, err := openSocket(0, requestBuffer)
	if err != nil {
		return nil, err
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: answerTimeout}); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("netlink timeout", err)
	}
	return &conn{fd: fd, buf: make([]byte, 256<<10)}, nil
}

func (c *conn) close() error { return os.NewSyscallError("close netlink socket", unix.Close(c.fd)) }

// do sends the requests of a batch. Each is tried, whatever came of those before
// it. It returns the refusals, or what kept it from knowing.
func (c *conn) do(m *batch) (refused []error) {
	for first := 0; first < len(m.reqs); {
		next := first + 1
		for next < len(m.reqs) && next-first < batchRequests && m.reqs[next].at-m.reqs[first].at < batchBytes {
			next++
		}
		r, err := c.send(m, first, next)
		refused = append(refused, r...)
		if err != nil {
			return append(refused, err)
		}
		first = next
	}
	return refused
}

// send sends the requests from first up to next. Only the last asks for an
// answer: the kernel works on messages in order and answers those that fail
// unasked, so that silence before the last answer means success.
func (c *conn) send(m *batch, first, next int) (refused []error, err error) {
	end := len(m.b)
	if next < len(m.reqs) {
		end = m.reqs[next].at
	}
	base := c.seq + 1
	for _, r := range m.reqs[first:next] {
		c.seq++
		binary.NativeEndian.PutUint32(m.b[r.at+8:], c.seq)
	}
	flags := m.b[m.reqs[next-1].at+6:]
	binary.NativeEndian.PutUint16(flags, binary.NativeEndian.Uint16(flags)|unix.NLM_F_ACK)
	if err := unix.Sendto(c.fd, m.b[m.reqs[first].at:end], 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, os.NewSyscallError("netlink send", err)
	}
	last := uint32(next - first - 1)
	for done := false; !done; {
		n, err := receive(c.fd, c.buf, 0)
		if err != nil {
			return refused, err
		}
		err = eachMessage(c.buf[:n], func(h header, payload []byte) error {
			i := h.seq - base
			if h.typ != unix.NLMSG_ERROR || i > last {
				return nil // a late answer to something given up
			}
			done = done || i == last
			if errno, text := answer(h, payload); errno != 0 {
				r := m.reqs[first+int(i)]
				refused = append(refused, &refusal{step: r.step, of: r.of, errno: errno, text: text})
			}
			return nil
		})
		if err != nil {
			return refused, err
		}
	}
	return refused, nil
}

// answer reads an NLMSG_ERROR or NLMSG_DONE message; 0 means success.
func answer(h header, payload []byte) (errno unix.Errno, text string) {
	n := -int32(u32(payload))
	if n <= 0 {
		return 0, ""
	}
	skip := 4 + sizeofHeader
	if h.flags&unix.NLM_F_CAPPED == 0 && len(payload) >= skip {
		skip = 4 + align(int(u32(payload[4:])))
	}
	if h.typ != unix.NLMSG_ERROR || h.flags&unix.NLM_F_ACK_TLVS == 0 || skip > len(payload) || skip < 4 {
		return unix.Errno(n), ""
	}
	eachAttr(payload[skip:], func(typ uint16, v []byte) {
		if typ == unix.NLMSGERR_ATTR_MSG {
			text = unix.ByteSliceToString(v)
		}
	})
	return unix.Errno(n), text
}

// dump asks for a list and returns its messages; it asks again when the list
// changed while it was told.
func (c *conn) dump(what step, typ uint16, fixed []byte, attrs func(*batch)) ([][]byte, error) {
	for attempt := 0; ; attempt++ {
		list, err := c.dumpOnce(what, typ, fixed, attrs)
		if errors.Is(err, errInterrupted) && attempt < 9 {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		return list, nil
	}
}

func (c *conn) dumpOnce(what step, typ uint16, fixed []byte, attrs func(*batch)) (list [][]byte, err error) {
	var m batch
	m.begin(what, nil, typ, unix.NLM_F_DUMP, fixed)
	if attrs != nil {
		attrs(&m)
	}
	m.end()
	c.seq++
	seq := c.seq
	binary.NativeEndian.PutUint32(m.b[8:], seq)
	if err := unix.Sendto(c.fd, m.b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, os.NewSyscallError("netlink send", err)
	}
	interrupted := false
	for done := false; !done; {
		n, err := receive(c.fd, c.buf, 0)
		if err != nil {
			return nil, err
		}
		datagram := append([]byte(nil), c.buf[:n]...)
		err = eachMessage(datagram, func(h header, payload []byte) error {
			if h.seq != seq {
				return nil
			}
			interrupted = interrupted || h.flags&unix.NLM_F_DUMP_INTR != 0
			switch h.typ {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				done = true
				if errno, _ := answer(h, payload); errno != 0 {
					return errno
				}
			default:
				list = append(list, payload)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if interrupted {
		return nil, errInterrupted
	}
	return list, nil
}

// monitor is a socket for notifications.
type monitor struct {
	f    *os.File
	raw  syscall.RawConn
	buf  []byte
	lost atomic.Bool // wait met an overflow
}

func openMonitor() (*monitor, error) {
	fd, err := openSocket(unix.SOCK_NONBLOCK, monitorBuffer)
	if err != nil {
		return nil, err
	}
	for _, group := range []int{
		unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF,
	} {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group); err != nil {
			_ = unix.Close(fd)
			return nil, fmt.Errorf("subscribe to netlink group %d: %w", group, err)
		}
	}
	f := os.NewFile(uintptr(fd), "netlink")
	raw, err := f.SyscallConn()
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("netlink monitor: %w", err)
	}
	return &monitor{f: f, raw: raw, buf: make([]byte, 64<<10)}, nil
}

// interrupt ends all waits, by a deadline that has passed.
func (m *monitor) interrupt() { _ = m.f.SetReadDeadline(time.Unix(1, 0)) }

// wait returns when there is something to read, or with an error when the
// monitor is closed or interrupted.
func (m *monitor) wait() error {
	var first [1]byte
	err := m.raw.Read(func(fd uintptr) bool {
		_, _, err := unix.Recvfrom(int(fd), first[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if errors.Is(err, unix.ENOBUFS) {
			m.lost.Store(true)
		}
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
	if err != nil {
		return fmt.Errorf("wait for netlink notifications: %w", err)
	}
	return nil
}

// drain hands everything that waits to be read to f. It tells whether
// notifications were lost.
func (m *monitor) drain(f func(h header, payload []byte)) (lost bool, err error) {
	lost = m.lost.Swap(false)
	ctl := m.raw.Control(func(fd uintptr) {
		for {
			var n int
			n, err = receive(int(fd), m.buf, unix.MSG_DONTWAIT)
			switch {
			case errors.Is(err, unix.EAGAIN):
				err = nil
				return
			case errors.Is(err, unix.ENOBUFS), errors.Is(err, errMalformed):
				lost = true
				continue
			case err != nil:
				return
			}
			malformed := eachMessage(m.buf[:n], func(h header, payload []byte) error {
				f(h, payload)
				return nil
			})
			lost = lost || malformed != nil
		}
	})
	return lost, errors.Join(err, ctl)
}

func (m *monitor) close() error { return m.f.Close() }
