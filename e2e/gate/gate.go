// Package gate is a way to the lab's API server that can be shut and made slow,
// and that counts who asks what. Programs that are to be cut off are sent through
// it; everybody else reaches the server as before, so a test can go on changing
// what those behind the gate don't see.
//
// Invariants:
//   - A shut gate lets nothing through: connections end by a reset, and new ones are
//     refused. They are counted all the same.
//   - What the server says through a slow gate is heard that much later, in order:
//     handshakes, answers and the events of watches.
package gate

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"

	"github.com/godwit-net/godwit/e2e/controlplane"
)

// Gate is a gate. Its methods may be called concurrently.
type Gate struct {
	address netip.AddrPort
	netns   string
	server  *http.Server
	way     *listener
	latency atomic.Int64
	done    sync.WaitGroup

	mu     sync.Mutex
	shut   bool
	conns  map[*conn]bool
	counts map[netip.Addr]Count
}

// Count is what came from one address.
type Count struct {
	Connections int // that were tried, also while the gate was shut
	Requests    int // that got through
	Refused     int // answers that the token is not good (any more)
	Expired     int // answers that what is watched from is too long ago (410 Gone)
}

// Open opens a gate at a port of the control plane's own address.
func Open(cp *controlplane.ControlPlane, port uint16) (*Gate, error) {
	g := &Gate{address: netip.AddrPortFrom(cp.Address, port), netns: cp.Netns, conns: map[*conn]bool{}, counts: map[netip.Addr]Count{}}
	cfg, err := cp.Config("gate")
	if err != nil {
		return nil, err
	}
	cfg.CertData, cfg.KeyData = nil, nil // callers show who they are
	way, err := rest.TransportFor(cfg)
	if err != nil {
		return nil, err
	}
	to, err := url.Parse(cp.URL())
	if err != nil {
		return nil, err
	}
	cert, err := cp.ServerCertificate()
	if err != nil {
		return nil, err
	}
	g.way = &listener{gate: g, opened: make(chan struct{})}
	if err := errors.Join(watchTries(g.netns, port), g.way.open()); err != nil {
		return nil, fmt.Errorf("gate: %w", err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport:      way,
		FlushInterval:  -1, // watches
		ModifyResponse: g.look,
		ErrorLog:       log.New(io.Discard, "", 0),
		// To the caller it is as if the server's own connection had broken.
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	g.server = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			g.count(r.RemoteAddr, func(c *Count) { c.Requests++ })
			proxy.ServeHTTP(w, r)
		}),
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: time.Minute,
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	g.done.Go(func() { _ = g.server.ServeTLS(g.way, "", "") })
	return g, nil
}

// URL is where the gate is.
func (g *Gate) URL() string { return "https://" + g.address.String() }

// Shut ends all connections through the gate, and lets nobody through.
func (g *Gate) Shut() {
	g.way.shut()
	g.mu.Lock()
	g.shut = true
	var all []*conn
	for c := range g.conns {
		all = append(all, c)
	}
	g.mu.Unlock()
	for _, c := range all {
		c.reset()
	}
}

// Unshut lets everybody through again.
func (g *Gate) Unshut() error {
	g.mu.Lock()
	g.shut = false
	g.mu.Unlock()
	return g.way.open()
}

// Silence makes everything that some addresses, and no others, send through the gate
// vanish without a word, and what they are sent.
func (g *Gate) Silence(addrs ...netip.Addr) error { return setSilent(g.netns, addrs) }

// admit tells whether a new connection gets through.
func (g *Gate) admit(c *conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.shut {
		g.conns[c] = true
	}
	return !g.shut
}

// Delay makes everything that the server says be heard that much later.
func (g *Gate) Delay(d time.Duration) { g.latency.Store(int64(d)) }

// Counts returns what came, by the callers' addresses.
func (g *Gate) Counts() (map[netip.Addr]Count, error) {
	tried, err := tries(g.netns)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	out := maps.Clone(g.counts)
	for a, n := range tried {
		c := out[a]
		c.Connections = n
		out[a] = c
	}
	return out, nil
}

// Reset forgets what came so far.
func (g *Gate) Reset() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.counts)
	return forgetTries(g.netns)
}

// Close ends the gate with all connections.
func (g *Gate) Close() error {
	err := errors.Join(g.server.Close(), g.way.Close())
	g.Shut()
	g.done.Wait()
	return errors.Join(err, endTries(g.netns))
}

func (g *Gate) count(remote string, note func(*Count)) {
	from, err := netip.ParseAddrPort(remote)
	if err != nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.counts[from.Addr().Unmap()]
	note(&c)
	g.counts[from.Addr().Unmap()] = c
}

// look counts answers that matter.
func (g *Gate) look(r *http.Response) error {
	remote := r.Request.RemoteAddr
	switch r.StatusCode {
	case http.StatusUnauthorized:
		g.count(remote, func(c *Count) { c.Refused++ })
	case http.StatusGone:
		g.count(remote, func(c *Count) { c.Expired++ })
	case http.StatusOK:
		if r.Request.URL.Query().Get("watch") != "" {
			r.Body = &events{ReadCloser: r.Body, expired: func() { g.count(remote, func(c *Count) { c.Expired++ }) }}
		}
	}
	return nil
}

// events are those of a watch, which may say that it began too long ago.
type events struct {
	io.ReadCloser
	expired func()
}

func (e *events) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	// The words are the same in JSON and in protobuf.
	if bytes.Contains(p[:n], []byte("too old resource version")) {
		e.expired()
	}
	return n, err
}

// errShut is what writes to a connection that has ended get.
var errShut = errors.New("the gate is shut")
