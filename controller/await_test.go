package controller

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"
)

// TestAwait: a controller whose API server is away, starting, or does not take its
// token any more waits, and says to probes that it lives. It goes on when the
// server answers, whether or not it may ask for what it asks.
func TestAwait(t *testing.T) {
	var status atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			t.Errorf("it asks for %s", r.URL.Path)
		}
		if status.Load() == 0 { // away
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(int(status.Load()))
	}))
	t.Cleanup(server.Close)
	for _, tt := range []struct{ bad, good int32 }{
		{0, http.StatusOK},
		{http.StatusInternalServerError, http.StatusForbidden},
		{http.StatusUnauthorized, http.StatusOK},
	} {
		health := freeAddress(t)
		status.Store(tt.bad)
		done := make(chan error, 1)
		go func() {
			done <- Await(t.Context(), &rest.Config{Host: server.URL}, health, slog.New(slog.DiscardHandler))
		}()
		probe(t, health, "/healthz", http.StatusOK)
		probe(t, health, "/readyz", http.StatusServiceUnavailable)
		select {
		case err := <-done:
			t.Fatalf("with %d it went on: %v", tt.bad, err)
		default:
		}
		status.Store(tt.good)
		begin := time.Now()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("it went on %v after the server's return", took)
		}
		// The address is free for the manager.
		l, err := net.Listen("tcp", health)
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
	}
}

func TestAwaitEnds(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begin := time.Now()
	err := Await(ctx, &rest.Config{Host: "http://" + freeAddress(t)}, "0", slog.New(slog.DiscardHandler))
	if err != nil || time.Since(begin) > 4*time.Second {
		t.Errorf("it ended with %v after %v", err, time.Since(begin))
	}
}

// freeAddress is where nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// probe waits for an answer and looks at it.
func probe(t *testing.T, address, path string, want int) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		res, err := http.Get("http://" + address + path)
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode != want {
				t.Fatalf("%s answers %s, want %d", path, res.Status, want)
			}
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}
