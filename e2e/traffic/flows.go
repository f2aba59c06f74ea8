package traffic

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-net/godwit/e2e/namespace"
)

// Flows are datagrams from many ports of one machine to one port of another, at
// a steady pace. Of each flow it is known when its last datagram came, and from
// which neighbour of the receiver: that is the way it took.
type Flows struct {
	clients []net.Conn
	server  net.PacketConn // takes what comes, so that nobody is told that the port is closed
	fd      int            // a packet socket (packet(7)) that sees what comes
	port    uint16
	stop    chan struct{}
	wg      sync.WaitGroup

	mu    sync.Mutex
	flows []flow
	sent  uint64
	got   uint64
	err   error
}

// flow is what is known of one of them.
type flow struct {
	last    time.Time // when something came, or when Reset was called
	way     Way
	fresh   bool          // something came since the last Reset
	longest time.Duration // without an arrival since the last Reset
}

// Way is the link-layer address of the neighbour that a flow came from.
type Way string

// FlowsSpec says what flows to start.
type FlowsSpec struct {
	From, To string     // network namespaces
	Addr     netip.Addr // IPv4, of the receiver
	Link     string     // by which the receiver gets them
	Count    int
	// Rate is how many datagrams each flow sends in a second.
	Rate int
}

// StartFlows starts flows.
func StartFlows(ctx context.Context, s FlowsSpec) (*Flows, error) {
	f := &Flows{fd: -1, stop: make(chan struct{}), flows: make([]flow, s.Count)}
	err := namespace.Do(s.To, func() (err error) {
		if f.server, err = (&net.ListenConfig{}).ListenPacket(ctx, "udp4", ":0"); err != nil {
			return err
		}
		f.port = uint16(f.server.LocalAddr().(*net.UDPAddr).Port) // #nosec G115 -- a port
		link, err := net.InterfaceByName(s.Link)
		if err != nil {
			return err
		}
		f.fd, err = packetSocket(link.Index)
		return err
	})
	err = errors.Join(err, namespace.Do(s.From, func() error {
		for range s.Count {
			c, err := (&net.Dialer{}).DialContext(ctx, "udp4", netip.AddrPortFrom(s.Addr, f.port).String())
			if err != nil {
				return err
			}
			f.clients = append(f.clients, c)
		}
		return nil
	}))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("flows to %s: %w", s.Addr, err), f.close())
	}
	f.wg.Go(f.receive)
	f.wg.Go(func() { f.send(time.Second / time.Duration(s.Rate)) })
	return f, nil
}

// packetSocket opens a socket that gets the IPv4 packets that come by a link,
// from their IP header on. Reads give up after settle.
func packetSocket(link int) (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("packet socket: %w", err)
	}
	tv := unix.NsecToTimeval(settle.Nanoseconds())
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP)), Ifindex: link}),
	)
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("packet socket: %w", err)
	}
	return fd, nil
}

// flowMark begins each payload, so that others' datagrams are none of ours.
const flowMark = 0x676f6477

func (f *Flows) send(pace time.Duration) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-f.stop:
			return
		case <-tick.C:
		}
		for i, c := range f.clients {
			b := binary.BigEndian.AppendUint32(nil, flowMark)
			b = binary.BigEndian.AppendUint32(b, uint32(i)) // #nosec G115 -- a count
			// What the kernel refuses is as good as lost.
			_, _ = c.Write(b)
		}
		f.mu.Lock()
		f.sent += uint64(len(f.clients))
		f.mu.Unlock()
	}
}

func (f *Flows) receive() {
	buf := make([]byte, 128)
	for {
		n, from, err := unix.Recvfrom(f.fd, buf, 0)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENETDOWN): // told once; it goes on when the link is up
			continue
		case errors.Is(err, unix.EAGAIN):
			select {
			case <-f.stop:
				return
			default:
				continue
			}
		case err != nil:
			f.mu.Lock()
			f.err = err
			f.mu.Unlock()
			return
		}
		if l, ok := from.(*unix.SockaddrLinklayer); ok && l.Pkttype == unix.PACKET_HOST {
			f.take(buf[:n], Way(net.HardwareAddr(l.Addr[:l.Halen]).String()))
		}
	}
}

// take notes a packet, if it is one of ours: IPv4, UDP to our port, mark and
// number of the flow.
func (f *Flows) take(p []byte, way Way) {
	if len(p) < 20 || p[9] != unix.IPPROTO_UDP {
		return
	}
	udp := p[min(len(p), int(p[0]&0xf)*4):]
	if len(udp) < 16 || binary.BigEndian.Uint16(udp[2:]) != f.port || binary.BigEndian.Uint32(udp[8:]) != flowMark {
		return
	}
	i := int(binary.BigEndian.Uint32(udp[12:]))
	f.mu.Lock()
	defer f.mu.Unlock()
	if i >= len(f.flows) {
		return
	}
	now, one := time.Now(), &f.flows[i]
	if !one.last.IsZero() {
		one.longest = max(one.longest, now.Sub(one.last))
	}
	one.last, one.way, one.fresh = now, way, true
	f.got++
}

// Reset forgets the ways, and the pauses until now.
func (f *Flows) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	for i := range f.flows {
		f.flows[i].last, f.flows[i].fresh, f.flows[i].longest = now, false, 0
	}
}

// Ways returns the way of each flow, or an error while one has not come since
// the last Reset.
func (f *Flows) Ways() ([]Way, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ways, missing := make([]Way, len(f.flows)), 0
	for i, one := range f.flows {
		if !one.fresh {
			missing++
		}
		ways[i] = one.way
	}
	if missing > 0 {
		return nil, fmt.Errorf("%d of %d flows do not come", missing, len(f.flows))
	}
	return ways, f.err
}

// Longest returns for how long, at most, a flow has not come since the last
// Reset, those that still don't included.
func (f *Flows) Longest() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	now, longest := time.Now(), time.Duration(0)
	for _, one := range f.flows {
		longest = max(longest, one.longest)
		if !one.last.IsZero() {
			longest = max(longest, now.Sub(one.last))
		}
	}
	return longest
}

// Count returns how many datagrams were sent and came until now. Some are on
// their way.
func (f *Flows) Count() (sent, received uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sent, f.got
}

// Stop ends the flows and tells how many datagrams were sent, and how many came.
func (f *Flows) Stop() (sent, received uint64, err error) {
	close(f.stop)
	f.wg.Wait()
	return f.sent, f.got, errors.Join(f.err, f.close())
}

func (f *Flows) close() error {
	var errs []error
	for _, c := range f.clients {
		errs = append(errs, c.Close())
	}
	if f.server != nil {
		errs = append(errs, f.server.Close())
	}
	if f.fd >= 0 {
		errs = append(errs, unix.Close(f.fd))
	}
	return errors.Join(errs...)
}
