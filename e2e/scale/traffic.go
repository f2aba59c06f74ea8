package scale

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"sync/atomic"

	"k8s.io/client-go/rest"
)

// Traffic is what a client has exchanged with the API server.
type Traffic struct {
	Requests int64 `json:"requests"` // without watches
	Watches  int64 `json:"watches"`  // requests to watch
	Events   int64 `json:"events"`   // that watches brought, without bookmarks
	Marks    int64 `json:"bookmarks"`
	Sent     int64 `json:"bytesSent"`     // on the connection, TLS included
	Received int64 `json:"bytesReceived"` // likewise
}

func (t Traffic) minus(o Traffic) Traffic {
	return Traffic{
		Requests: t.Requests - o.Requests, Watches: t.Watches - o.Watches, Events: t.Events - o.Events,
		Marks: t.Marks - o.Marks, Sent: t.Sent - o.Sent, Received: t.Received - o.Received,
	}
}

func (t Traffic) plus(o Traffic) Traffic {
	return t.minus(Traffic{}.minus(o))
}

// meter counts the traffic of one client.
type meter struct {
	requests, watches, events, marks, sent, received atomic.Int64
}

func (m *meter) read() Traffic {
	return Traffic{
		Requests: m.requests.Load(), Watches: m.watches.Load(), Events: m.events.Load(),
		Marks: m.marks.Load(), Sent: m.sent.Load(), Received: m.received.Load(),
	}
}

// measured returns a configuration like c whose clients share a connection of
// their own, on which m counts.
func measured(c *rest.Config, m *meter) *rest.Config {
	c = rest.CopyConfig(c)
	dial := c.Dial
	// With a dialer of its own, no connection is shared with other configurations.
	c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &meteredConn{Conn: conn, meter: m}, nil
	}
	c.Wrap(func(next http.RoundTripper) http.RoundTripper { return &meteredTransport{next: next, meter: m} })
	return c
}

type meteredConn struct {
	net.Conn
	meter *meter
}

func (c *meteredConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.meter.received.Add(int64(n))
	return n, err
}

func (c *meteredConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.meter.sent.Add(int64(n))
	return n, err
}

type meteredTransport struct {
	next  http.RoundTripper
	meter *meter
}

func (t *meteredTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if !isWatch(r) {
		t.meter.requests.Add(1)
		return t.next.RoundTrip(r)
	}
	t.meter.watches.Add(1)
	res, err := t.next.RoundTrip(r)
	if err == nil {
		res.Body = &meteredWatch{ReadCloser: res.Body, meter: t.meter}
	}
	return res, err
}

func isWatch(r *http.Request) bool {
	w := r.URL.Query().Get("watch")
	return w == "true" || w == "1"
}

// meteredWatch counts the events in the answer to a watch: JSON objects, one a
// line, that begin with their type.
type meteredWatch struct {
	io.ReadCloser
	meter *meter
	line  []byte // the beginning of the present line
}

var bookmark = []byte(`{"type":"BOOKMARK"`) //nolint:gochecknoglobals // a constant in all but form

func (w *meteredWatch) Read(b []byte) (int, error) {
	n, err := w.ReadCloser.Read(b)
	for rest := b[:n]; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte("\n"))
		if room := len(bookmark) - len(w.line); room > 0 {
			w.line = append(w.line, line[:min(room, len(line))]...)
		}
		if !ended {
			break
		}
		switch {
		case bytes.Equal(w.line, bookmark):
			w.meter.marks.Add(1)
		case len(w.line) > 0:
			w.meter.events.Add(1)
		}
		w.line, rest = w.line[:0], after
	}
	return n, err
}
