package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/ipam"
	"github.com/godwit-net/godwit/routes"
)

func testMeasurement(now time.Time) measurement {
	block := func(pool string, allocated int) ipam.BlockUsage {
		return ipam.BlockUsage{Block: ipam.Block{Pool: pool}, Allocated: allocated, Capacity: 64}
	}
	return measurement{
		version: "v1", ready: true, problems: 2,
		sessions: []bgp.Session{
			{
				Name: "tor1", Kind: bgp.PeerExternal, Address: netip.MustParseAddr("10.0.0.1"), State: bgp.StateEstablished,
				Since: now.Add(-time.Minute), Received: 7, Accepted: 5, Advertised: 2, Flaps: 3, Warning: "7 of 8",
			},
			{
				Name: "n2", Address: netip.MustParseAddr("fd00::2"), State: bgp.StateActive, Since: now.Add(-time.Hour),
				PeerRestarting: true, RefusedCount: 10000,
			},
			{Name: "n3", Address: netip.MustParseAddr("10.0.0.3"), State: bgp.StateIdle},
		},
		routes: routes.Status{
			Desired:   map[routes.Class]int{routes.ClassPod: 3, routes.ClassLearned: 6},
			Installed: map[routes.Class]int{routes.ClassPod: 3, routes.ClassLearned: 5},
			Failed:    []routes.Failure{{Err: errors.New("no such device")}},
			Pending:   1, NextHops: 4,
		},
		blocks: []ipam.BlockUsage{block("default", 10), block("default", 20), block("small", 1)},
	}
}

// goldenMetrics is the measurement above as Prometheus has it, less help and types.
const goldenMetrics = `
godwit_addresses_allocated{pool="default"} 30
godwit_addresses_allocated{pool="small"} 1
godwit_addresses_capacity{pool="default"} 128
godwit_addresses_capacity{pool="small"} 64
godwit_bgp_session_flaps_total{address="10.0.0.1",kind="external",peer="tor1"} 3
godwit_bgp_session_flaps_total{address="10.0.0.3",kind="node",peer="n3"} 0
godwit_bgp_session_flaps_total{address="fd00::2",kind="node",peer="n2"} 0
godwit_bgp_session_peer_restarting{address="10.0.0.1",kind="external",peer="tor1"} 0
godwit_bgp_session_peer_restarting{address="10.0.0.3",kind="node",peer="n3"} 0
godwit_bgp_session_peer_restarting{address="fd00::2",kind="node",peer="n2"} 1
godwit_bgp_session_prefixes_accepted{address="10.0.0.1",kind="external",peer="tor1"} 5
godwit_bgp_session_prefixes_accepted{address="10.0.0.3",kind="node",peer="n3"} 0
godwit_bgp_session_prefixes_accepted{address="fd00::2",kind="node",peer="n2"} 0
godwit_bgp_session_prefixes_advertised{address="10.0.0.1",kind="external",peer="tor1"} 2
godwit_bgp_session_prefixes_advertised{address="10.0.0.3",kind="node",peer="n3"} 0
godwit_bgp_session_prefixes_advertised{address="fd00::2",kind="node",peer="n2"} 0
godwit_bgp_session_prefixes_received{address="10.0.0.1",kind="external",peer="tor1"} 7
godwit_bgp_session_prefixes_received{address="10.0.0.3",kind="node",peer="n3"} 0
godwit_bgp_session_prefixes_received{address="fd00::2",kind="node",peer="n2"} 0
godwit_bgp_session_refused_origins{address="10.0.0.1",kind="external",peer="tor1"} 0
godwit_bgp_session_refused_origins{address="10.0.0.3",kind="node",peer="n3"} 0
godwit_bgp_session_refused_origins{address="fd00::2",kind="node",peer="n2"} 10000
godwit_bgp_session_since_timestamp_seconds{address="10.0.0.1",kind="external",peer="tor1"} 1.69999994e+09
godwit_bgp_session_since_timestamp_seconds{address="10.0.0.3",kind="node",peer="n3"} 0
godwit_bgp_session_since_timestamp_seconds{address="fd00::2",kind="node",peer="n2"} 1.6999964e+09
godwit_bgp_session_state{address="10.0.0.1",kind="external",peer="tor1"} 6
godwit_bgp_session_state{address="10.0.0.3",kind="node",peer="n3"} 1
godwit_bgp_session_state{address="fd00::2",kind="node",peer="n2"} 3
godwit_bgp_session_up{address="10.0.0.1",kind="external",peer="tor1"} 1
godwit_bgp_session_up{address="10.0.0.3",kind="node",peer="n3"} 0
godwit_bgp_session_up{address="fd00::2",kind="node",peer="n2"} 0
godwit_bgp_session_uptime_seconds{address="10.0.0.1",kind="external",peer="tor1"} 60
godwit_bgp_session_uptime_seconds{address="10.0.0.3",kind="node",peer="n3"} 0
godwit_bgp_session_uptime_seconds{address="fd00::2",kind="node",peer="n2"} 0
godwit_bgp_session_warning{address="10.0.0.1",kind="external",peer="tor1"} 1
godwit_bgp_session_warning{address="10.0.0.3",kind="node",peer="n3"} 0
godwit_bgp_session_warning{address="fd00::2",kind="node",peer="n2"} 0
godwit_blocks{pool="default"} 2
godwit_blocks{pool="small"} 1
godwit_build_info{goversion="GOVERSION",version="v1"} 1
godwit_nexthop_objects 4
godwit_plan_problems 2
godwit_ready 1
godwit_routes_desired{class="block"} 0
godwit_routes_desired{class="learned"} 6
godwit_routes_desired{class="pod"} 3
godwit_routes_desired{class="remote"} 0
godwit_routes_failed 1
godwit_routes_installed{class="block"} 0
godwit_routes_installed{class="learned"} 5
godwit_routes_installed{class="pod"} 3
godwit_routes_installed{class="remote"} 0
godwit_routes_pending 1
`

// exposition returns what a scrape of r returns of Godwit, less help and types.
func exposition(t *testing.T, body string) string {
	t.Helper()
	lines := []string{""}
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "godwit_") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return strings.Join(append(lines, ""), "\n")
}

func TestMetricsAreAsPrometheusWantsThem(t *testing.T) {
	now := time.Unix(1700000000, 0)
	problems, err := testutil.CollectAndLint(newCollector(func(context.Context) measurement { return testMeasurement(now) }, func() time.Time { return now }))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// What is gone is gone from the metrics, and sessions that can't be read leave
// the rest as it is.
func TestMetricsFollowTheNode(t *testing.T) {
	now := time.Unix(1700000000, 0)
	m := testMeasurement(now)
	c := newCollector(func(context.Context) measurement { return m }, func() time.Time { return now })
	if n := testutil.CollectAndCount(c, "godwit_bgp_session_up"); n != 3 {
		t.Errorf("%d sessions, want 3", n)
	}
	m.sessions = m.sessions[:1]
	if n := testutil.CollectAndCount(c, "godwit_bgp_session_up"); n != 1 {
		t.Errorf("%d sessions, want 1", n)
	}
	m.sessions, m.sessionsErr = nil, errors.New("the speaker is stopped")
	r := prometheus.NewRegistry()
	r.MustRegister(c)
	families, err := r.Gather()
	if err == nil || !strings.Contains(err.Error(), "the speaker is stopped") || len(families) < 5 {
		t.Errorf("%d families, error %v", len(families), err)
	}
}

func TestServeMetrics(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1700000000, 0)
	r := newRegistry(newCollector(func(context.Context) measurement { return testMeasurement(now) }, func() time.Time { return now }))
	done := make(chan error, 1)
	go func() { done <- serveMetricsOn(ctx, listener, r) }()
	get := func(path string) (int, string) {
		t.Helper()
		client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Get("http://" + listener.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	code, body := get("/metrics")
	want := strings.ReplaceAll(goldenMetrics, "GOVERSION", runtime.Version())
	if got := exposition(t, body); code != http.StatusOK || got != want {
		t.Errorf("status %d, metrics:%s\nwant:%s", code, got, want)
	}
	if !strings.Contains(body, "go_goroutines") || !strings.Contains(body, "process_open_fds") {
		t.Error("nothing of the process is among the metrics")
	}
	if code, _ := get("/debug/pprof/"); code != http.StatusNotFound {
		t.Errorf("status %d of another path, want 404", code)
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the server does not end")
	}
}

// An address that is in use is no reason for an agent to end.
func TestServeMetricsWhereItCannotListen(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	var log strings.Builder
	lines := writerFunc(func(p []byte) (int, error) {
		defer cancel() // once it has said so
		return log.Write(p)
	})
	serveMetrics(ctx, listener.Addr().String(), prometheus.NewRegistry(), slog.New(slog.NewTextHandler(lines, nil)))
	if !strings.Contains(log.String(), "can't serve metrics") || !strings.Contains(log.String(), "address already in use") {
		t.Errorf("log: %s", log.String())
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
