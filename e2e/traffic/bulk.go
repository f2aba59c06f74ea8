package traffic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"
)

// bulkChunk is how much is written at once.
const bulkChunk = 256 << 10

// Bulk sends so many bytes over one TCP connection, as fast as it goes, and
// returns how long that took until the other end had all of them.
func Bulk(ctx context.Context, from, to string, addr netip.Addr, size int64) (time.Duration, error) {
	l, err := Listen(to, 0)
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	c, err := Dial(ctx, from, netip.AddrPortFrom(addr, portOf(l)))
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	s, err := l.Accept()
	if err != nil {
		return 0, err
	}
	defer func() { _ = s.Close() }()
	defer context.AfterFunc(ctx, func() { _ = errors.Join(c.Close(), s.Close()) })()

	begin := time.Now()
	sent := make(chan error, 1)
	go func() {
		_, err := io.CopyBuffer(onlyWriter{c}, io.LimitReader(zeros{}, size), make([]byte, bulkChunk))
		sent <- errors.Join(err, c.Close())
	}()
	got, err := io.CopyBuffer(onlyWriter{io.Discard}, s, make([]byte, bulkChunk))
	took := time.Since(begin)
	if err := errors.Join(err, <-sent, ctx.Err()); err != nil {
		return took, fmt.Errorf("bulk to %s: %d of %d bytes came: %w", addr, got, size, err)
	}
	if got != size {
		return took, fmt.Errorf("bulk to %s: %d of %d bytes came", addr, got, size)
	}
	return took, nil
}

// onlyWriter hides the shortcuts of a writer, which would choose chunks of
// their own.
type onlyWriter struct{ io.Writer }

// zeros is an endless source.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
