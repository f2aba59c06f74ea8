package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"

	"golang.org/x/sys/unix"
)

// order is the byte order of netlink headers and integers: the machine's own.
var order = binary.NativeEndian //nolint:gochecknoglobals // a constant in all but form

// batch is a row of rtnetlink requests that the kernel is given in one send. It
// works them off one after the other, each under the RTNL lock for itself, and
// goes on after one that failed.
type batch struct {
	buf   []byte
	start int      // of the message under construction
	what  []string // for each message, what it does, for error messages
}

// begin starts a message whose fixed part after the netlink header is fixed.
func (b *batch) begin(what string, typ uint16, flags int, fixed []byte) {
	b.start = len(b.buf)
	b.what = append(b.what, what)
	var h [unix.NLMSG_HDRLEN]byte
	order.PutUint16(h[4:], typ)
	order.PutUint16(h[6:], uint16(flags|unix.NLM_F_REQUEST))
	order.PutUint32(h[8:], uint32(len(b.what))) // sequence number: the message's place, from 1
	b.buf = append(b.buf, h[:]...)
	b.buf = append(b.buf, fixed...)
}

// end completes the message under construction.
func (b *batch) end() {
	order.PutUint32(b.buf[b.start:], uint32(len(b.buf)-b.start))
	b.pad()
}

func (b *batch) pad() {
	for len(b.buf)%unix.NLMSG_ALIGNTO != 0 {
		b.buf = append(b.buf, 0)
	}
}

func (b *batch) attr(typ uint16, data []byte) {
	b.buf = order.AppendUint16(b.buf, uint16(unix.SizeofRtAttr+len(data)))
	b.buf = order.AppendUint16(b.buf, typ)
	b.buf = append(b.buf, data...)
	b.pad()
}

func (b *batch) attr32(typ uint16, v uint32) { b.attr(typ, order.AppendUint32(nil, v)) }

func (b *batch) attr8(typ uint16, v uint8) { b.attr(typ, []byte{v}) }

func (b *batch) linkName(name string) { b.attr(unix.IFLA_IFNAME, append([]byte(name), 0)) }

func (b *batch) attrAddr(typ uint16, a netip.Addr) { b.attr(typ, a.AsSlice()) }

// nest wraps the attributes that f adds.
func (b *batch) nest(typ uint16, f func()) {
	at := len(b.buf)
	b.buf = append(b.buf, 0, 0, 0, 0)
	f()
	order.PutUint16(b.buf[at:], uint16(len(b.buf)-at))
	order.PutUint16(b.buf[at+2:], typ)
}

// link starts a message about a link; index 0 leaves it to IFLA_IFNAME.
func (b *batch) link(what string, typ uint16, flags, index int, up bool) {
	b.begin(what, typ, flags, ifinfo(index, up))
}

func ifinfo(index int, up bool) []byte {
	var m [unix.SizeofIfInfomsg]byte
	order.PutUint32(m[4:], uint32(index))
	if up {
		order.PutUint32(m[8:], unix.IFF_UP)
		order.PutUint32(m[12:], unix.IFF_UP)
	}
	return m[:]
}

// reply is a message of the kernel that answers a request of a batch.
type reply struct {
	seq  uint32
	typ  uint16
	data []byte // after the netlink header
}

// conn is a blocking netlink socket in one network namespace, used by one
// goroutine at a time.
type conn struct {
	fd  int
	buf []byte
	// dirty says that answers may wait in the socket that nobody asks for any more.
	dirty bool
}

var (
	errTruncated = errors.New("the kernel's answer is truncated")
	// errInterrupted says that what a list is of changed while it was sent.
	errInterrupted = errors.New("the list changed while the kernel sent it")
)

// dial opens a socket in the network namespace of the calling thread.
func dial(protocol int) (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	// Short acknowledgements with the kernel's own words; strict checking makes dumps
	// heed their filters. All three are older than any kernel that Godwit runs on.
	for _, opt := range []int{unix.NETLINK_EXT_ACK, unix.NETLINK_CAP_ACK, unix.NETLINK_GET_STRICT_CHK} {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, opt, 1); err != nil {
			_ = unix.Close(fd)
			return nil, fmt.Errorf("set netlink socket option %d: %w", opt, err)
		}
	}
	// The kernel answers within the send; the limit is for a kernel that does not.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("set a netlink socket's timeout: %w", err)
	}
	return &conn{fd: fd, buf: make([]byte, 1<<16)}, nil
}

func (c *conn) close() { _ = unix.Close(c.fd) }

// do sends the batch and reads until every message is answered. It returns the
// first failure, with its place in the batch as *requestError; later messages
// were tried all the same. Each answer that is not an acknowledgement goes to
// onReply, whose argument is valid during the call.
func (c *conn) do(b *batch, onReply func(reply) error) error {
	c.dirty = true
	if err := unix.Sendto(c.fd, b.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send to netlink: %w", err)
	}
	var first error
	for left := len(b.what); left > 0; {
		n, err := c.receive()
		if err != nil {
			return err
		}
		for rest := c.buf[:n]; len(rest) >= unix.NLMSG_HDRLEN; {
			size := int(order.Uint32(rest))
			if size < unix.NLMSG_HDRLEN || size > len(rest) {
				return errTruncated
			}
			r := reply{
				seq:  order.Uint32(rest[8:]),
				typ:  order.Uint16(rest[4:]),
				data: rest[unix.NLMSG_HDRLEN:size],
			}
			flags := order.Uint16(rest[6:])
			rest = rest[min(align(size), len(rest)):]
			if r.seq == 0 || int(r.seq) > len(b.what) {
				continue
			}
			done, err := c.handle(b, r, flags, onReply)
			if done {
				left--
			}
			if flags&unix.NLM_F_DUMP_INTR != 0 && err == nil {
				err = errInterrupted
			}
			if err != nil && first == nil {
				first = err
			}
		}
	}
	c.dirty = false
	return first
}

func (c *conn) receive() (int, error) {
	for {
		n, _, err := unix.Recvfrom(c.fd, c.buf, 0)
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, unix.EINTR):
		default:
			return 0, fmt.Errorf("receive from netlink: %w", err)
		}
	}
}

// handle takes one answer; done tells that its request has no more to come.
func (c *conn) handle(b *batch, r reply, flags uint16, onReply func(reply) error) (done bool, err error) {
	switch r.typ {
	case unix.NLMSG_ERROR, unix.NLMSG_DONE:
		if len(r.data) < 4 {
			return true, errTruncated
		}
		errno := -int32(order.Uint32(r.data))
		if errno <= 0 {
			return true, nil
		}
		e := &requestError{seq: r.seq, what: b.what[r.seq-1], errno: unix.Errno(errno)}
		if flags&unix.NLM_F_ACK_TLVS != 0 && len(r.data) > 4+unix.NLMSG_HDRLEN {
			attrs(r.data[4+unix.NLMSG_HDRLEN:], func(typ uint16, v []byte) {
				if typ == unix.NLMSGERR_ATTR_MSG {
					e.msg = cstring(v)
				}
			})
		}
		return true, e
	default:
		if onReply == nil {
			return false, nil
		}
		return false, onReply(r)
	}
}

// requestError is the kernel's refusal of one message.
type requestError struct {
	seq   uint32 // the message's place in its batch, from 1
	what  string
	errno unix.Errno
	msg   string // the kernel's own words, often empty
}

func (e *requestError) Error() string {
	if e.msg != "" {
		return fmt.Sprintf("%s: %v (%s)", e.what, e.errno, e.msg)
	}
	return fmt.Sprintf("%s: %v", e.what, e.errno)
}

func (e *requestError) Unwrap() error { return e.errno }

func align(n int) int { return (n + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }

// attrs calls f for each attribute; flags in the type are taken off.
func attrs(b []byte, f func(typ uint16, value []byte)) {
	for len(b) >= unix.SizeofRtAttr {
		size := int(order.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			return
		}
		f(order.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofRtAttr:size])
		b = b[min(align(size), len(b)):]
	}
}

func cstring(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// conns hands out sockets of the node's namespace, so that an attachment need
// not open one.
type conns struct {
	idle chan *conn
	open func() (*conn, error)
}

func newConns(open func() (*conn, error)) *conns {
	return &conns{idle: make(chan *conn, 2*runtime.GOMAXPROCS(0)), open: open}
}

// with calls f with a socket.
func (p *conns) with(f func(*conn) error) error {
	var c *conn
	select {
	case c = <-p.idle:
	default:
		var err error
		if c, err = p.open(); err != nil {
			return err
		}
	}
	err := f(c)
	if c.dirty {
		c.close()
		return err
	}
	select {
	case p.idle <- c:
	default:
		c.close()
	}
	return err
}

func (p *conns) close() {
	for {
		select {
		case c := <-p.idle:
			c.close()
		default:
			return
		}
	}
}
