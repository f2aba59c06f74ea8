package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// TestHealthy holds that a loop that hangs makes the agent unhealthy, and one
// that waits or works does not.
func TestHealthy(t *testing.T) {
	a := &Agent{looping: newPulse("the loop"), reporting: newPulse("the reporter")}
	healthy := func(want string) {
		t.Helper()
		if err := a.healthy(); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("healthy: %v, want %q", err, want)
		}
	}
	healthy("") // both wait
	a.looping.begin()
	healthy("")
	long := time.Now().Add(-wedgedAfter - time.Second)
	a.looping.busy.Store(&long)
	healthy("the loop hangs since")
	a.looping.end()
	healthy("")
	a.reporting.busy.Store(&long)
	healthy("the reporter hangs since")
}

// TestServing holds what an agent must have before its node takes pods.
func TestServing(t *testing.T) {
	a := &Agent{}
	serving := func(want string) {
		t.Helper()
		if err := a.serving(); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("serving: %v, want %q", err, want)
		}
	}
	serving("has no plan yet")
	a.state.plan = &plan{spec: v1alpha1.NodeNetworkSpec{}}
	serving("are not known yet")
	a.state.blocksKnown = true
	serving("not configured yet")
	a.configured.Store(true)
	a.state.unfit = errors.New("the folder can't be used")
	serving("the folder can't be used")
	a.state.unfit = nil
	serving("")
}

// TestServeHealth asks as kubelet does, also while the address is taken at first.
func TestServeHealth(t *testing.T) {
	var config net.ListenConfig
	taken, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := taken.Addr().String()
	var bad atomic.Bool
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		serveHealth(ctx, address, func() error { return nil }, func() error {
			if bad.Load() {
				return errors.New("no plan")
			}
			return nil
		}, slog.New(slog.DiscardHandler))
	}()
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	ask := func(path string) (int, string) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; {
			res, err := http.Get("http://" + address + path)
			if err == nil {
				body, _ := io.ReadAll(res.Body)
				_ = res.Body.Close()
				return res.StatusCode, strings.TrimSpace(string(body))
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	if code, body := ask("/livez"); code != http.StatusOK || body != "ok" {
		t.Errorf("/livez: %d %q", code, body)
	}
	if code, _ := ask("/readyz"); code != http.StatusOK {
		t.Errorf("/readyz: %d", code)
	}
	bad.Store(true)
	if code, body := ask("/readyz"); code != http.StatusServiceUnavailable || body != "no plan" {
		t.Errorf("/readyz of an agent that is not ready: %d %q", code, body)
	}
	cancel()
	<-done
}
