package podtest

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// pace is the time between two datagrams.
	pace = time.Millisecond
	// settle is how long the last echoes may take.
	settle = 2 * time.Second
	// mostGaps is how many gaps are told of.
	mostGaps = 5
)

// Datagrams sends 1000 numbered datagrams a second to an echo server until ctx
// ends.
func Datagrams(ctx context.Context, address string) (Flow, error) {
	f := Flow{To: address}
	conn, err := new(net.Dialer).DialContext(ctx, "udp", address)
	if err != nil {
		return f, err
	}
	defer func() { _ = conn.Close() }()
	enlarge(conn)
	got := make(chan echoes, 1)
	go func() { got <- receive(conn) }()
	tick := time.NewTicker(pace)
	defer tick.Stop()
	start := time.Now()
	// A late tick is made up for, so that the rate holds on a busy machine.
	for ctx.Err() == nil {
		for due := int(time.Since(start) / pace); f.Sent < due; f.Sent++ {
			b := binary.BigEndian.AppendUint64(nil, uint64(f.Sent)) // #nosec G115 -- a count
			if _, err := conn.Write(b); err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
				return f, err
			}
		}
		<-tick.C
	}
	f.Lasted = time.Since(start)
	_ = conn.SetReadDeadline(time.Now().Add(settle))
	e := <-got
	f.Received, f.Pause, f.Gaps = e.count, e.pause, e.gaps(f.Sent)
	return f, nil
}

// enlarge lets a socket hold what comes while its program waits for a processor,
// for seconds. A pod without CAP_NET_ADMIN has to do with what each may have.
func enlarge(socket any) {
	const size = 32 << 20 // 40 000 small datagrams
	conn, ok := socket.(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size) })
	}
}

// echoes are the datagrams that came back.
type echoes struct {
	seen  []bool // by number
	count int
	pause time.Duration
}

// receive takes echoes until reading fails for good.
func receive(conn net.Conn) (e echoes) {
	last := time.Now()
	for b := make([]byte, 64); ; {
		n, err := conn.Read(b)
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			continue
		case err != nil:
			return e
		case n == 8:
			e.note(binary.BigEndian.Uint64(b))
			e.pause, last = max(e.pause, time.Since(last)), time.Now()
		}
	}
}

// note counts a datagram when it comes the first time.
func (e *echoes) note(number uint64) {
	const most = 1 << 24 // five hours of them
	if number >= most {
		return
	}
	for uint64(len(e.seen)) <= number {
		e.seen = append(e.seen, false)
	}
	if !e.seen[number] {
		e.seen[number] = true
		e.count++
	}
}

// gaps are the first runs of datagrams that did not come back, of so many.
func (e *echoes) gaps(sent int) []Gap {
	var list []Gap
	inside := false
	for i := range sent {
		if i < len(e.seen) && e.seen[i] {
			inside = false
			continue
		}
		if !inside {
			if len(list) == mostGaps {
				break
			}
			list = append(list, Gap{After: time.Duration(i) * pace})
			inside = true
		}
		list[len(list)-1].Count++
	}
	return list
}
