package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// healthy reports what is wrong with the agent itself that a restart may mend.
// The loss of peers or of the API server is not: a restart would only add to it.
func (a *Agent) healthy() error {
	now := time.Now()
	return errors.Join(a.looping.check(now), a.reporting.check(now))
}

// serving reports why the node can't take pods yet, or nil. The state of BGP
// sessions has no part in it: pods of a node without peers still reach each
// other, and its runtime still calls the plugin.
func (a *Agent) serving() error {
	if err := a.ready(); err != nil {
		return err
	}
	if !a.configured.Load() {
		return errors.New("the node's container runtime is not configured yet: see the agent's log")
	}
	return nil
}

// serveHealth answers probes at an address, host:port, until ctx ends: /livez by
// live, /readyz by ready. Without it kubelet would end the agent, so that what
// keeps it from listening is logged and tried again.
func serveHealth(ctx context.Context, address string, live, ready func() error, log *slog.Logger) {
	mux := http.NewServeMux()
	mux.Handle("GET /livez", probe(live))
	mux.Handle("GET /readyz", probe(ready))
	for told := ""; ; {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		if err == nil {
			told = ""
			err = serveHTTP(ctx, listener, mux)
		}
		if ctx.Err() != nil {
			return
		}
		if text(err) != told {
			told = text(err)
			log.Warn("can't answer probes (is --health-address an address of this node, and free?); trying on", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second): // the agent before may be on its way out
		}
	}
}

func probe(check func() error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if err := check(); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = fmt.Fprintln(w, err)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	})
}

// serveHTTP serves until ctx ends.
func serveHTTP(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute}
	closed := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer closed()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP: %w", err)
	}
	return nil
}
