package traffic

import (
	"context"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/e2e/namespace"
)

// TestStreamNoticesStalls takes the link of a stream away for a while: nothing
// is lost, and the stall is told.
func TestStreamNoticesStalls(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root, and CI must run it as root")
		}
		t.Skip("needs root: it makes network namespaces")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	const a, b = "godwit-traffic-a", "godwit-traffic-b"
	ip := func(command string) {
		t.Helper()
		if _, err := namespace.Run(ctx, "", strings.Fields("ip "+command)...); err != nil {
			t.Fatal(err)
		}
	}
	for _, ns := range []string{a, b} {
		if err := namespace.Add(ctx, ns); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = namespace.Delete(ns) })
	}
	ip("-n " + a + " link add eth0 type veth peer name eth0 netns " + b)
	for ns, addr := range map[string]string{a: "192.0.2.1/24", b: "192.0.2.2/24"} {
		ip("-n " + ns + " addr add " + addr + " dev eth0")
		ip("-n " + ns + " link set eth0 up")
	}
	to := netip.MustParseAddr("192.0.2.2")
	if got, err := Source(ctx, a, b, to); err != nil || got.String() != "192.0.2.1" {
		t.Errorf("Source = %v, %v; want 192.0.2.1", got, err)
	}
	s, err := Start(ctx, "test", a, b, to)
	if err != nil {
		t.Fatal(err)
	}
	const away = 300 * time.Millisecond
	ip("-n " + b + " link set eth0 down")
	time.Sleep(away) // the stall itself
	ip("-n " + b + " link set eth0 up")
	r, err := s.Stop()
	if err != nil || r.Longest < away || r.Sent < 20 {
		t.Errorf("Stop = %+v, %v; want a stall of at least %v and nothing lost", r, err, away)
	}

	lost, err := Start(ctx, "lost", a, b, to)
	if err != nil {
		t.Fatal(err)
	}
	_ = lost.server.SetReadDeadline(time.Now())
	time.Sleep(5 * interval)
	if r, err := lost.Stop(); err == nil {
		t.Errorf("a stream whose receiver stopped reading ended well: %+v", r)
	}
}
