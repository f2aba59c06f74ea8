package traffic

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/internal/netnstest"
)

// TestDatagramsAndBulk counts datagrams with and without a loss, and sends bulk,
// in both families.
func TestDatagramsAndBulk(t *testing.T) {
	ctx, a, b := pair(t)
	for _, addr := range []string{"192.0.2.2", "fd00:192::2"} {
		to := netip.MustParseAddr(addr)
		d, err := StartDatagrams(ctx, "test", a, b, to, 1000)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond) // what is counted
		c, err := d.Stop()
		if err != nil || c.Sent < 200 || c.Received != c.Sent || len(c.Lost) > 0 || c.Refused > 0 {
			t.Errorf("%s: Stop = %+v, %v; want at least 200 and all of them", addr, c, err)
		}
		const size = 32 << 20
		if took, err := Bulk(ctx, a, b, to, size); err != nil {
			t.Errorf("Bulk = %v, %v", took, err)
		}
	}
	d, err := StartDatagrams(ctx, "lost", a, b, netip.MustParseAddr("192.0.2.2"), 1000)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := namespace.Run(ctx, "", "ip", "-n", b, "link", "set", "eth0", "down"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond) // the loss itself
	if c, err := d.Stop(); err != nil || len(c.Lost)+c.Refused == 0 {
		t.Errorf("over a link that is down: %+v, %v; want losses", c, err)
	}
}

// pair makes two namespaces with a cable between them: 192.0.2.1 and .2.
func pair(t *testing.T) (ctx context.Context, a, b string) {
	t.Helper()
	netnstest.RequireRoot(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	a, b = "godwit-traffic-a", "godwit-traffic-b"
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
	for ns, n := range map[string]string{a: "1", b: "2"} {
		ip("-n " + ns + " addr add 192.0.2." + n + "/24 dev eth0")
		ip("-n " + ns + " addr add fd00:192::" + n + "/64 dev eth0 nodad")
		ip("-n " + ns + " link set eth0 up")
	}
	return ctx, a, b
}

// TestStreamNoticesStalls takes the link of a stream away for a while: nothing
// is lost, and the stall is told.
func TestStreamNoticesStalls(t *testing.T) {
	ctx, a, b := pair(t)
	ip := func(command string) {
		t.Helper()
		if _, err := namespace.Run(ctx, "", strings.Fields("ip "+command)...); err != nil {
			t.Fatal(err)
		}
	}
	to := netip.MustParseAddr("192.0.2.2")
	if got, err := Source(ctx, a, b, to); err != nil || got.String() != "192.0.2.1" {
		t.Errorf("Source = %v, %v; want 192.0.2.1", got, err)
	}
	second := netip.MustParseAddr("192.0.2.3")
	ip("-n " + a + " addr add 192.0.2.3/24 dev eth0")
	if got, err := SourceAs(ctx, a, second, b, to); err != nil || got != second {
		t.Errorf("SourceAs = %v, %v; want %v", got, err, second)
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

// TestFlows: of each flow it is known from whom it came, and for how long it did
// not.
func TestFlows(t *testing.T) {
	ctx, a, b := pair(t)
	const count = 20
	f, err := StartFlows(ctx, FlowsSpec{From: a, To: b, Addr: netip.MustParseAddr("192.0.2.2"), Link: "eth0", Count: count, Rate: 100})
	if err != nil {
		t.Fatal(err)
	}
	link, err := namespace.Run(ctx, a, "ip", "-br", "link", "show", "dev", "eth0")
	if err != nil {
		t.Fatal(err)
	}
	mac := strings.Fields(link)[2]
	wait := func() {
		t.Helper()
		f.Reset()
		for {
			ways, err := f.Ways()
			if err == nil {
				for _, w := range ways {
					if len(ways) != count || string(w) != mac {
						t.Fatalf("the ways are %v, want %d times %s", ways, count, mac)
					}
				}
				return
			}
			if ctx.Err() != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
	}
	wait()
	f.Reset()
	const away = 300 * time.Millisecond
	for _, state := range []string{"down", "up"} {
		if _, err := namespace.Run(ctx, "", "ip", "-n", b, "link", "set", "eth0", state); err != nil {
			t.Fatal(err)
		}
		if state == "down" {
			time.Sleep(away) // the pause itself
			if _, err := f.Ways(); err == nil {
				t.Error("flows come over a link that is down")
			}
		}
	}
	if got := f.Longest(); got < away {
		t.Errorf("the longest pause is %v, want at least %v", got, away)
	}
	wait()
	if sent, got, err := f.Stop(); err != nil || got == 0 || got >= sent {
		t.Errorf("Stop = %d, %d, %v; want losses, and not all", sent, got, err)
	}
}
