package agent

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	metricsRetry   = 10 * time.Second // between attempts to listen
	metricsScrapes = 3                // at once
)

// serveMetrics serves /metrics at an address, host:port, until ctx ends. Without
// metrics the node goes on: what keeps the server from listening is logged, and
// tried again.
func serveMetrics(ctx context.Context, address string, r *prometheus.Registry, log *slog.Logger) {
	for told := ""; ; {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		if err == nil {
			log.Info("serving metrics", "address", listener.Addr())
			err = serveMetricsOn(ctx, listener, r)
		}
		if ctx.Err() != nil {
			return
		}
		if text(err) != told {
			told = text(err)
			log.Warn("can't serve metrics (is --metrics-address an address of this node, and free?); trying on", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(metricsRetry):
		}
	}
}

// serveMetricsOn serves until ctx ends.
func serveMetricsOn(ctx context.Context, listener net.Listener, r *prometheus.Registry) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{
		ErrorHandling:       promhttp.ContinueOnError, // the rest is still worth something
		MaxRequestsInFlight: metricsScrapes,
	}))
	return serveHTTP(ctx, listener, mux)
}
