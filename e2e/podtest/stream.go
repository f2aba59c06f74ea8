package podtest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// streamPace is the time between two messages of a stream.
const streamPace = 10 * time.Millisecond

// Stream sends 100 numbered messages a second to an echo server by one TCP
// connection until ctx ends. A connection that breaks is an error, and so is an
// echo that is not what was sent.
func Stream(ctx context.Context, address string) (Flow, error) {
	f := Flow{To: address}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return f, err
	}
	defer func() { _ = conn.Close() }()
	type outcome struct {
		count int
		pause time.Duration
		err   error
	}
	got := make(chan outcome, 1)
	go func() {
		var o outcome
		o.count, o.pause, o.err = checkStream(conn)
		got <- o
	}()
	tick := time.NewTicker(streamPace)
	defer tick.Stop()
	start := time.Now()
	for ctx.Err() == nil {
		if _, err := conn.Write(binary.BigEndian.AppendUint64(nil, uint64(f.Sent))); err != nil { // #nosec G115 -- a count
			return f, fmt.Errorf("after %s: %w", time.Since(start), err)
		}
		f.Sent++
		<-tick.C
	}
	f.Lasted = time.Since(start)
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return f, err
	}
	_ = conn.SetReadDeadline(time.Now().Add(settle))
	o := <-got
	f.Received, f.Pause = o.count, o.pause
	return f, o.err
}

// checkStream reads numbered messages to the end of a stream, and counts them.
func checkStream(r io.Reader) (count int, pause time.Duration, err error) {
	last := time.Now()
	for b := make([]byte, 8); ; count++ {
		if _, err := io.ReadFull(r, b); err != nil {
			if errors.Is(err, io.EOF) {
				return count, pause, nil
			}
			return count, pause, err
		}
		if n := binary.BigEndian.Uint64(b); n != uint64(count) { // #nosec G115 -- a count
			return count, pause, fmt.Errorf("message %d came in the place of %d", n, count)
		}
		pause, last = max(pause, time.Since(last)), time.Now()
	}
}
