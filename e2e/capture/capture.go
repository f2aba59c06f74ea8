// Package capture records the IP packets that pass an interface in a network
// namespace, both ways, and takes them apart down to what tunnels carry.
//
// Invariants:
//   - What passed between Start and Stop is in the answer, or Stop says that
//     something is missing.
//   - A packet that can't be read is never a panic.
package capture

import (
	"errors"
	"fmt"
	"net"
	"sync"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/godwit-net/godwit/e2e/namespace"
)

const (
	// snapLen is as much of a packet as its headers take, those of a tunnel included.
	snapLen = 256
	// buffer holds what comes while the reader waits for a processor.
	buffer = 16 << 20
	// most bounds how many packets are kept.
	most = 100_000
	// pollMillis is how soon a capture notices that it is to end.
	pollMillis = 20
)

// Config says what to record.
type Config struct {
	Netns     string
	Interface string
	VXLANPort uint16 // 0: 4789 (RFC 7348, section 8)
	// Fragments records parts of packets alone.
	Fragments bool
}

// Capture is a recording that goes on.
type Capture struct {
	fd   int
	port uint16
	stop chan struct{}
	wg   sync.WaitGroup

	// For the reader alone until it has ended.
	packets []Packet
	err     error
}

// Start begins to record.
func Start(c Config) (*Capture, error) {
	fd := -1
	err := namespace.Do(c.Netns, func() error {
		link, err := net.InterfaceByName(c.Interface)
		if err != nil {
			return fmt.Errorf("interface %s: %w", c.Interface, err)
		}
		fd, err = listen(link.Index, c.Fragments)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("capture in %s: %w", c.Netns, err)
	}
	r := &Capture{fd: fd, port: c.VXLANPort, stop: make(chan struct{})}
	if r.port == 0 {
		r.port = 4789
	}
	r.wg.Go(r.read)
	return r, nil
}

// listen opens a packet socket (packet(7)) that hands out packets from their IP
// header on, whatever the link's own header is. It hears of nothing before it
// is bound, by when it has its filter.
func listen(link int, fragments bool) (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("packet socket: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer),
		attachFilter(fd, fragments),
	)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: link})
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("packet socket: %w", err)
	}
	return fd, nil
}

func networkOrder(v uint16) uint16 { return v<<8 | v>>8 }

// attachFilter lets through only fragments: in IPv4 what has an offset or more
// to follow, in IPv6 what has a fragment header first.
func attachFilter(fd int, fragments bool) error {
	if !fragments {
		return nil
	}
	raw, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 6, SkipTrue: 3},
		bpf.LoadAbsolute{Off: 6, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x3fff, SkipTrue: 3},
		bpf.RetConstant{Val: 0},
		bpf.LoadAbsolute{Off: 6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: fragment, SkipTrue: 1},
		bpf.RetConstant{Val: snapLen},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return err
	}
	program := make([]unix.SockFilter, len(raw))
	for i, in := range raw {
		program[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{
		Len: uint16(len(program)), Filter: &program[0],
	})
}

// read takes packets until it is told to stop and there are no more.
func (c *Capture) read() {
	var buf [snapLen]byte
	for {
		stopping := false
		select {
		case <-c.stop:
			stopping = true
		default:
		}
		n, from, err := unix.Recvfrom(c.fd, buf[:], 0)
		switch {
		case err == nil:
			c.take(buf[:n], from)
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN) && stopping:
			return
		case errors.Is(err, unix.EAGAIN):
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}, pollMillis); err != nil && !errors.Is(err, unix.EINTR) {
				c.err = err
				return
			}
		default:
			c.err = err // the interface has gone, say
			return
		}
	}
}

func (c *Capture) take(raw []byte, from unix.Sockaddr) {
	link, ok := from.(*unix.SockaddrLinklayer)
	if !ok {
		return
	}
	switch networkOrder(link.Protocol) {
	case etherIPv4, etherIPv6:
	default:
		return
	}
	if len(c.packets) >= most {
		c.err = fmt.Errorf("more than %d packets", most)
		return
	}
	p, err := decode(raw, c.port)
	if err != nil {
		c.err = fmt.Errorf("packet %x: %w", raw, err)
		return
	}
	c.packets = append(c.packets, p)
}

// Stop ends the recording and returns what passed.
func (c *Capture) Stop() ([]Packet, error) {
	close(c.stop)
	c.wg.Wait()
	defer func() { _ = unix.Close(c.fd) }()
	if c.err != nil {
		return c.packets, c.err
	}
	stats, err := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return c.packets, err
	}
	if stats.Drops > 0 {
		return c.packets, fmt.Errorf("%d packets came too fast to be recorded", stats.Drops)
	}
	return c.packets, nil
}

// During records while something is done.
func During(c Config, do func() error) ([]Packet, error) {
	r, err := Start(c)
	if err != nil {
		return nil, err
	}
	doErr := do()
	packets, err := r.Stop()
	return packets, errors.Join(doErr, err)
}
