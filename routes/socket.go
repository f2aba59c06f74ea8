package routes

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// socket is a netlink route socket.
type socket struct {
	fd   int
	port uint32 // the sender's address in what this socket sends
	seq  uint32
	buf  []byte
}

func openSocket(receiveBuffer int) (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("netlink socket", err)
	}
	s := &socket{fd: fd, buf: make([]byte, 256<<10)}
	if err := s.set(receiveBuffer); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return s, nil
}

func (s *socket) set(receiveBuffer int) error {
	if err := unix.Bind(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("netlink bind", err)
	}
	name, err := unix.Getsockname(s.fd)
	if err != nil {
		return os.NewSyscallError("netlink getsockname", err)
	}
	if nl, ok := name.(*unix.SockaddrNetlink); ok {
		s.port = nl.Pid
	}
	// What an old kernel lacks of these makes errors less telling and dumps longer,
	// no more.
	_ = unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	_ = unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	for _, o := range []struct{ force, polite, size int }{
		{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, receiveBuffer},
		{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, 4 * batchBytes},
	} {
		if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, o.force, o.size) != nil {
			if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, o.polite, o.size); err != nil {
				return os.NewSyscallError("netlink socket buffer", err)
			}
		}
	}
	return nil
}

func (s *socket) join(group int) error {
	err := unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group)
	if err != nil {
		return fmt.Errorf("subscribe to netlink group %d: %w", group, err)
	}
	return nil
}

// ignoreSender drops the notifications of changes that the socket with that
// port asked for: messages whose nlmsg_pid, the word at 12, is the port. A
// filter's loads are big-endian.
func (s *socket) ignoreSender(port uint32) error {
	raw := binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, port))
	prog := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 12},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 0, Jf: 1, K: raw},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
	}
	err := unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]})
	return os.NewSyscallError("netlink filter", err)
}

func (s *socket) receiveTimeout(d time.Duration) error {
	tv := unix.NsecToTimeval(d.Nanoseconds())
	return os.NewSyscallError("netlink timeout", unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
}

func (s *socket) nextSeq() uint32 {
	s.seq++
	return s.seq
}

func (s *socket) send(b []byte) error {
	for {
		err := unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("netlink send", err)
		}
	}
}

// receive returns the next datagram from the kernel, valid until the next call.
func (s *socket) receive(flags int) ([]byte, error) {
	for {
		n, _, recvFlags, from, err := unix.Recvmsg(s.fd, s.buf, nil, flags)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, os.NewSyscallError("netlink receive", err)
		}
		if nl, ok := from.(*unix.SockaddrNetlink); !ok || nl.Pid != 0 {
			continue // not from the kernel
		}
		if recvFlags&unix.MSG_TRUNC != 0 {
			return nil, fmt.Errorf("netlink receive: %w: longer than %d bytes", errMalformed, len(s.buf))
		}
		return s.buf[:n], nil
	}
}

// kernelError is the kernel's refusal, in its own words where it has any.
type kernelError struct {
	errno unix.Errno
	text  string
}

func (e *kernelError) Error() string {
	if e.text == "" {
		return e.errno.Error()
	}
	return fmt.Sprintf("%s (%s)", e.text, e.errno)
}

func (e *kernelError) Unwrap() error { return e.errno }

// answer reads an NLMSG_ERROR or NLMSG_DONE message; nil means success.
func answer(h header, payload []byte) error {
	n, err := u32(payload)
	if err != nil {
		if h.typ == unix.NLMSG_DONE {
			return nil // older kernels end a dump without a word
		}
		return err
	}
	if n == 0 {
		return nil
	}
	e := &kernelError{errno: unix.Errno(-int32(n))}
	if h.typ != unix.NLMSG_ERROR || h.flags&unix.NLM_F_ACK_TLVS == 0 {
		return e
	}
	rest := payload[4:]
	if len(rest) < sizeofHeader {
		return e
	}
	skip := sizeofHeader
	if h.flags&unix.NLM_F_CAPPED == 0 {
		skip = align(int(binary.NativeEndian.Uint32(rest)))
	}
	if skip < sizeofHeader || skip > len(rest) {
		return e
	}
	_ = eachAttr(rest[skip:], func(typ uint16, v []byte) error {
		if typ == unix.NLMSGERR_ATTR_MSG {
			e.text = unix.ByteSliceToString(v)
		}
		return nil
	})
	return e
}
