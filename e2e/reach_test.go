package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/traffic"
)

func testMatrix(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, time.Minute)
	if err := l.CheckEstablished(ctx); err != nil {
		t.Error(err)
	}
	m := l.PingMatrix(ctx)
	t.Logf("\n%s", m)
	if err := m.Err(); err != nil {
		t.Error(err)
	}
	// 3 pods × 2 others, and 3 pods × 3 hosts both ways.
	if tried, _ := m.Count(); tried != 3*2+3*3*2 {
		t.Errorf("%d pairs tried, want 24", tried)
	}
}

// testReport checks that what the lab prints is there and true.
func testReport(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, time.Minute)
	var out strings.Builder
	if err := l.Report(ctx, lab.NewProgress(&out)); err != nil {
		t.Errorf("report: %v", err)
	}
	t.Logf("\n%s", out.String())
	for _, want := range []string{
		"24 of 24 pings answered", "Established", "172.25.0.128/26", "172.25.0.192/26", "172.25.1.0/26", "arrived",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q", want)
		}
	}
	from := pod(t, l, "n1-p3")
	hops, err := l.Trace(ctx, lab.Endpoint{Name: from.Name, Address: from.Address}, pod(t, l, "n2-p4").Address)
	var names []string
	for _, h := range hops {
		names = append(names, h.Name)
	}
	if got, want := strings.Join(names, " "), "n1-p3 n1 n2 n2-p4"; err != nil || got != want {
		t.Errorf("trace goes over %q (%v), want %q", got, err, want)
	}
}

// testECMP: both routers announce the shared network, which makes a two-way
// route; when one goes, the other way stays.
func testECMP(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, time.Minute)
	const command = "ip -4 route show 192.168.200.0/24"
	ways := func(want ...string) func() error {
		return func() error {
			for _, n := range l.Top.Nodes {
				out := run(t, l, n.Name, command)
				if got := strings.Count(out, "via "); got != len(want) {
					return fmt.Errorf("%s has %d ways, want %d:\n%s", n.Name, got, len(want), out)
				}
				for _, w := range want {
					if !strings.Contains(out, "via "+w+" ") {
						return fmt.Errorf("%s has no way over %s:\n%s", n.Name, w, out)
					}
				}
			}
			return nil
		}
	}
	tor1, tor2 := l.Top.ToRs[0].Address.First().String(), l.Top.ToRs[1].Address.First().String()
	eventually(t, 10*time.Second, "two ways", ways(tor1, tor2))
	t.Cleanup(func() {
		for _, r := range l.Routers {
			if err := r.Sessions(context.WithoutCancel(ctx), true); err != nil {
				t.Error(err)
			}
		}
	})
	for i, left := range []string{tor2, tor1} {
		if err := l.Routers[i].Sessions(ctx, false); err != nil {
			t.Fatal(err)
		}
		took := eventually(t, 5*time.Second, "one way", ways(left))
		t.Logf("%s shut down: its ways are gone after %v", l.Top.ToRs[i].Name, took)
		if err := l.Routers[i].Sessions(ctx, true); err != nil {
			t.Fatal(err)
		}
		took = eventually(t, 40*time.Second, "two ways again", ways(tor1, tor2))
		t.Logf("%s back: its ways are back after %v", l.Top.ToRs[i].Name, took)
	}
	if err := l.WaitEstablished(ctx); err != nil {
		t.Error(err)
	}
	if err := l.WaitConverged(ctx); err != nil {
		t.Error(err)
	}
}

// testMasquerade observes, at the other end of a connection, who it comes from.
func testMasquerade(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, time.Minute)
	p1, p2, p3 := pod(t, l, "n1-p3"), pod(t, l, "n2-p4"), pod(t, l, "n1-p1")
	n1, n2 := nodeOf(t, l, "n1").Address.First(), nodeOf(t, l, "n2").Address.First()
	host1 := hostOf(t, l, "host1").Address.First()
	for _, tt := range []struct {
		name     string
		from, to string
		addr     netip.Addr
		want     netip.Addr
	}{
		{"pod to internet", "n1-p3", "internet", l.Top.InternetAddr.First(), n1},
		{"pod of another node to internet", "n2-p4", "internet", l.Top.InternetAddr.First(), n2},
		{"pod to host behind a router", "n1-p3", "host1", host1, n1},
		{"pod to pod of another node", "n1-p3", "n2-p4", p2.Address, p1.Address},
		{"pod to pod of its node", "n1-p3", "n1-p1", p3.Address, p1.Address},
		{"pod to another node", "n1-p3", "n2", n2, p1.Address},
		{"pod to its own node", "n1-p3", "n1", n1, p1.Address},
		{"host behind a router to pod", "host1", "n1-p3", p1.Address, host1},
		{"node to pod of another node", "n1", "n2-p4", p2.Address, n1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := traffic.Source(ctx, l.Top.Namespace(tt.from), l.Top.Namespace(tt.to), tt.addr)
			if err != nil || got != tt.want {
				t.Errorf("the other end sees %v (%v), want %v", got, err, tt.want)
			}
		})
	}
}
