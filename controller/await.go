package controller

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"k8s.io/client-go/rest"
)

const (
	awaitInterval = time.Second // about how often a controller asks whether the API server is there
	awaitTimeout  = 5 * time.Second
)

// Await waits until the API server answers, or ctx ends, which is no error. A
// controller that ended because it could not renew its lease so is at work again
// within seconds after an outage: were it to end again and again, Kubernetes would
// wait longer each time, up to 5 minutes, and then start it that much after the API
// server.
//
// Meanwhile the process says at health, unless that is "0" or empty, that it lives
// and is not ready.
func Await(ctx context.Context, cfg *rest.Config, health string, log *slog.Logger) error {
	c, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return fmt.Errorf("API server: %w", err)
	}
	defer c.CloseIdleConnections()
	server, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		return fmt.Errorf("API server: %w", err)
	}
	url := server.JoinPath("readyz").String()
	problem := answers(ctx, c, url)
	if problem == nil {
		return nil
	}
	log.Warn("waiting for the API server", "apiServer", cfg.Host, "error", problem)
	if health != "" && health != "0" {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", health)
		if err != nil {
			return fmt.Errorf("serve /healthz: %w", err)
		}
		s := &http.Server{Handler: waiting(), ReadHeaderTimeout: awaitTimeout}
		go func() { _ = s.Serve(l) }()
		defer func() { _ = s.Close() }()
	}
	for problem != nil {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(awaitInterval/2 + rand.N(awaitInterval)): // #nosec G404 -- a spread
		}
		problem = answers(ctx, c, url)
	}
	log.Info("the API server answers")
	return nil
}

// answers tells what keeps the API server from answering; nil: nothing does.
func answers(ctx context.Context, c *http.Client, url string) error {
	ctx, cancel := context.WithTimeout(ctx, awaitTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 1<<16))
	_ = res.Body.Close()
	// Whoever may not ask this, as some clusters have it, was answered all the same; a
	// token that is too old is to be replaced by a newer one.
	if res.StatusCode >= http.StatusInternalServerError || res.StatusCode == http.StatusUnauthorized || res.StatusCode == http.StatusTooManyRequests {
		return errors.New(res.Status)
	}
	return nil
}

// waiting answers probes of a controller that waits.
func waiting() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	m.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "waiting for the API server", http.StatusServiceUnavailable)
	})
	return m
}
