package routewatch

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/internal/netnstest"
)

// look stands among commands for waiting until the watch has asked once more:
// what no notification tells, it sees only when it asks meanwhile.
const look = "look"

// lookOnce waits until the watch has begun to ask, and has done so, since now.
func lookOnce(ctx context.Context, t *testing.T, w *Watch) {
	t.Helper()
	asked := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.asked
	}
	for before := asked(); asked() < before+2; { // the first may have begun earlier
		select {
		case <-ctx.Done():
			t.Fatal("the watch asks no more")
		case <-time.After(pause):
		}
	}
}

// TestWatch replaces routes, which is nothing, and takes them away in several
// manners, which the watch must notice.
func TestWatch(t *testing.T) {
	netnstest.RequireRoot(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	const ns = "godwit-routewatch"
	ip := func(commands ...string) {
		t.Helper()
		for _, c := range commands {
			if _, err := namespace.Run(ctx, "", strings.Fields("ip -n "+ns+" "+c)...); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := namespace.Add(ctx, ns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = namespace.Delete(ns) })
	ip("link add up0 type bridge", "link set up0 up",
		"addr add 192.0.2.1/24 dev up0", "addr add fd00:192::1/64 dev up0 nodad",
		"nexthop add id 7 via 192.0.2.9 dev up0", "nexthop add id 8 via 192.0.2.9 dev up0",
		"route add default via 192.0.2.254", "route add 172.25.0.192/26 via 192.0.2.2", "route add 172.25.1.0/26 nhid 7",
		"route add fd00:25::c0/122 via fd00:192::2")
	for _, tt := range []struct {
		name string
		dst  string
		do   []string
		want string
	}{
		{"replaced", "172.25.0.192/26", []string{"route replace 172.25.0.192/26 via 192.0.2.3", "route replace 172.25.0.192/26 via 192.0.2.2"}, ""},
		{"replaced in IPv6", "fd00:25::c0/122", []string{"route replace fd00:25::c0/122 via fd00:192::3", "route replace fd00:25::c0/122 via fd00:192::2"}, ""},
		{"another deleted", "172.25.0.192/26", []string{"route add 172.25.9.0/26 via 192.0.2.3", "route del 172.25.9.0/26"}, ""},
		{"deleted and added", "172.25.0.192/26", []string{"route del 172.25.0.192/26", "route add 172.25.0.192/26 via 192.0.2.2"}, "deleted"},
		{"deleted and added in IPv6", "fd00:25::c0/122", []string{"route del fd00:25::c0/122", "route add fd00:25::c0/122 via fd00:192::2"}, "deleted"},
		{"its nexthop deleted", "172.25.1.0/26", []string{"nexthop del id 7", look, "route add 172.25.1.0/26 nhid 8"}, "no route"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, err := Start(ns, []netip.Prefix{netip.MustParsePrefix(tt.dst)})
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range tt.do {
				if c == look {
					lookOnce(ctx, t, w)
					continue
				}
				ip(c)
			}
			missing, asked, err := w.Stop()
			said := strings.Join(missing, "; ")
			if err != nil || asked == 0 || (said == "") != (tt.want == "") || !strings.Contains(said, tt.want) {
				t.Errorf("after %d questions: %q, %v; want one with %q", asked, said, err, tt.want)
			}
		})
	}
	if _, err := Start(ns, []netip.Prefix{netip.MustParsePrefix("172.25.77.0/26")}); err == nil {
		t.Error("a watch of a route that is not there began")
	}
}
