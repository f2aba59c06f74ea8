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

// receiveBuffer holds what comes while the receiver waits for a processor.
const receiveBuffer = 4 << 20

// settle is for how long datagrams may be on their way.
const settle = 300 * time.Millisecond

// Datagrams are numbers that one end sends in UDP at a steady pace, and the
// other counts. Nothing is sent twice, so that each loss shows.
type Datagrams struct {
	Name   string
	client net.Conn
	server *net.UDPConn
	pace   time.Duration
	stop   chan struct{}
	wg     sync.WaitGroup

	// For their goroutines alone until these have ended.
	sent    uint64
	refused int
	seen    map[uint64]bool
	last    time.Time
	longest time.Duration
	sendErr error
}

// Count is what became of datagrams.
type Count struct {
	Sent, Received uint64
	// Refused is how many the sender's own kernel did not take, for want of a route
	// say. They are not among those sent.
	Refused int
	Lost    []uint64 // the numbers of those that did not arrive
	// Longest is the longest time between two arrivals.
	Longest time.Duration
}

// StartDatagrams sends datagrams from one namespace to an address in another,
// so many in a second.
func StartDatagrams(ctx context.Context, name, from, to string, addr netip.Addr, perSecond int) (*Datagrams, error) {
	d := &Datagrams{
		Name: name, pace: time.Second / time.Duration(perSecond), stop: make(chan struct{}), seen: map[uint64]bool{},
	}
	err := namespace.Do(to, func() (err error) {
		d.server, err = net.ListenUDP("udp", nil)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("datagrams %s: %w", name, err)
	}
	port := uint16(d.server.LocalAddr().(*net.UDPAddr).Port) // #nosec G115 -- a port
	err = errors.Join(forceReceiveBuffer(d.server), namespace.Do(from, func() (err error) {
		d.client, err = (&net.Dialer{}).DialContext(ctx, "udp", netip.AddrPortFrom(addr, port).String())
		return err
	}))
	if err != nil {
		_ = d.server.Close()
		return nil, fmt.Errorf("datagrams %s: %w", name, err)
	}
	d.wg.Go(d.receive)
	d.wg.Go(d.send)
	return d, nil
}

// forceReceiveBuffer makes room for what comes, beyond what the machine lets
// everyone have (net.core.rmem_max), which is some hundred datagrams.
func forceReceiveBuffer(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) // #nosec G115 -- a descriptor
	})
	return errors.Join(err, set)
}

// send keeps to the pace over all: what a late tick missed is made up for.
func (d *Datagrams) send() {
	begin := time.Now()
	tick := time.NewTicker(d.pace)
	defer tick.Stop()
	for {
		select {
		case <-d.stop:
			d.sendErr = errors.Join(d.client.Close(), d.server.SetReadDeadline(time.Now().Add(settle)))
			return
		case <-tick.C:
		}
		for due := uint64(time.Since(begin) / d.pace); d.sent < due; {
			if _, err := d.client.Write(binary.BigEndian.AppendUint64(nil, d.sent)); err != nil {
				d.refused++
				break
			}
			d.sent++
		}
	}
}

func (d *Datagrams) receive() {
	var buf [64]byte
	for {
		n, err := d.server.Read(buf[:])
		if err != nil {
			return // the deadline, once all was sent
		}
		now := time.Now()
		if !d.last.IsZero() {
			d.longest = max(d.longest, now.Sub(d.last))
		}
		d.last = now
		if n == 8 {
			d.seen[binary.BigEndian.Uint64(buf[:])] = true
		}
	}
}

// Stop ends the datagrams and tells what became of them.
func (d *Datagrams) Stop() (Count, error) {
	close(d.stop)
	d.wg.Wait()
	c := Count{Sent: d.sent, Received: uint64(len(d.seen)), Refused: d.refused, Longest: d.longest}
	for i := range d.sent {
		if !d.seen[i] {
			c.Lost = append(c.Lost, i)
		}
	}
	return c, errors.Join(d.sendErr, d.server.Close())
}
