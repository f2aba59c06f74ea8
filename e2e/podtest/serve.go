// Package podtest is what runs in the pods of the tests' cluster: a server, and
// clients whose reports tests read. Clients ask once: what the network loses is
// not made good by another try.
package podtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// The ports of the server.
const (
	HTTPPort = 8080 // the pod's name
	EchoPort = 7007 // TCP and UDP: what was sent
	DNSPort  = 5353 // UDP: the pod's name as TXT record of every name
)

// Serve serves until ctx ends.
func Serve(ctx context.Context) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	var lc net.ListenConfig
	streams, err := lc.Listen(ctx, "tcp", fmt.Sprint(":", EchoPort))
	if err != nil {
		return err
	}
	datagrams, err := lc.ListenPacket(ctx, "udp", fmt.Sprint(":", EchoPort))
	if err != nil {
		return err
	}
	queries, err := lc.ListenPacket(ctx, "udp", fmt.Sprint(":", DNSPort))
	if err != nil {
		return err
	}
	enlarge(datagrams)
	go echoStreams(streams)
	go reply(datagrams, func(b []byte) []byte { return b })
	go reply(queries, func(b []byte) []byte { return answer(b, name) })
	server := &http.Server{
		Addr: fmt.Sprint(":", HTTPPort), ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, name) }),
	}
	context.AfterFunc(ctx, func() { _, _, _, _ = server.Close(), streams.Close(), datagrams.Close(), queries.Close() })
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// echoStreams echoes streams until the listener is closed.
func echoStreams(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			_, _ = io.Copy(conn, conn)
			_ = conn.Close()
		}()
	}
}

// reply answers datagrams until the socket is closed; those for which f has
// nothing stay without.
func reply(conn net.PacketConn, f func([]byte) []byte) {
	for b := make([]byte, 2048); ; {
		n, from, err := conn.ReadFrom(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		if out := f(b[:n]); out != nil {
			_, _ = conn.WriteTo(out, from)
		}
	}
}
