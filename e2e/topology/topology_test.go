package topology

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/internal/netnstest"
)

// variants are the options that tests try.
func variants() map[string]Options {
	return map[string]Options{
		"reference":             {},
		"4 routers":             {ToRs: 4},
		"IPv6":                  {Family: IPv6},
		"more nodes":            {Nodes: 6},
		"dual-stack, 2 subnets": {Family: Dual, Subnets: 2, MTU: 1400, StrictReversePath: true},
	}
}

func TestTopologiesAreConsistent(t *testing.T) {
	for name, o := range variants() {
		t.Run(name, func(t *testing.T) { checkConsistent(t, New("godwit-x-", o)) })
	}
}

func checkConsistent(t *testing.T, top Topology) {
	t.Helper()
	families := top.Options.Family.Each()
	seen := map[netip.Addr]string{}
	take := func(who string, a, in Pair) {
		t.Helper()
		if got := len(a.Each()); got != len(families) {
			t.Errorf("%s has %d addresses of %d families: %v", who, got, len(families), a)
		}
		for _, f := range families {
			addr := a.Of(f).Addr()
			if other, dup := seen[addr]; dup {
				t.Errorf("%s and %s share %s", who, other, addr)
			}
			seen[addr] = who
			if !in.Of(f).Masked().Contains(addr) {
				t.Errorf("%s: %s is not in %s", who, addr, in.Of(f))
			}
			if got := top.NameOf(addr); got != who {
				t.Errorf("NameOf(%s) = %q, want %q", addr, got, who)
			}
		}
	}
	take(Fabric, top.ControlPlane, top.Gateways[0])
	for _, g := range top.Gateways {
		take(Gateway, g, g)
	}
	for i, n := range top.Nodes {
		take(n.Name, n.Address, top.Gateways[n.Subnet])
		for _, f := range families {
			if !top.Pool.Of(f).Contains(n.Block.Of(f).Addr()) {
				t.Errorf("block %s is not in the pool", n.Block.Of(f))
			}
			for _, m := range top.Nodes[:i] {
				if m.Block.Of(f).Overlaps(n.Block.Of(f)) {
					t.Errorf("%s and %s share a block", m.Name, n.Name)
				}
			}
		}
	}
	for _, r := range top.ToRs {
		take(r.Name, r.Address, top.Gateways[0])
		take(r.Name, r.Hosts, top.HostRange)
		take(r.Name, r.Shared, top.HostRange)
	}
	for _, h := range top.Hosts {
		take(h.Name, h.Address, top.HostRange)
	}
}

func TestOptionsCheck(t *testing.T) {
	for name, tt := range map[string]struct {
		o    Options
		want string
	}{
		"nothing":      {Options{}, ""},
		"everything":   {Options{Family: Dual, Subnets: 2, MTU: 9000}, ""},
		"family":       {Options{Family: "ipx"}, "family"},
		"subnets":      {Options{Subnets: 3}, "subnets"},
		"routers":      {Options{ToRs: 3}, "routers"},
		"MTU too low":  {Options{MTU: 500}, "MTU"},
		"MTU too high": {Options{MTU: 70000}, "MTU"},
	} {
		t.Run(name, func(t *testing.T) {
			err := tt.o.WithDefaults().Check()
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Check = %v, want one about %q", err, tt.want)
			}
		})
	}
}

// TestBuildWires builds each network, and the reference twice over, and lets
// every machine of the fabric reach every other, and hosts their routers.
func TestBuildWires(t *testing.T) {
	netnstest.RequireRoot(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	// Another lab's, whose prefix starts with this one's.
	other := Reference("godwit-topo-x-").Namespace("n1")
	if err := namespace.Add(ctx, other); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = namespace.Delete(other) }()
	tries := variants()
	tries["reference once more"] = Options{}
	for name, o := range tries {
		t.Run(name, func(t *testing.T) {
			top := New("godwit-topo-", o)
			defer func() { _ = top.Destroy() }()
			if err := top.Build(ctx); err != nil {
				t.Fatal(err)
			}
			checkWires(ctx, t, top)
			// A node that is pulled out and built anew is as before.
			n := top.Nodes[2]
			if err := top.Unplug(n); err != nil {
				t.Fatal(err)
			}
			if err := namespace.Delete(top.Namespace(n.Name)); err != nil {
				t.Fatal(err)
			}
			if err := top.BuildNode(ctx, n); err != nil {
				t.Fatal(err)
			}
			checkWires(ctx, t, top)
			if err := top.Destroy(); err != nil {
				t.Fatal(err)
			}
			left, err := namespace.List(top.Prefix)
			if err != nil || !slices.Equal(left, []string{other}) {
				t.Fatalf("after Destroy: %v, %v; want the other lab's %s alone", left, err, other)
			}
		})
	}
	out, err := namespace.Run(ctx, "", "ip", "-br", "link")
	if err != nil || strings.Contains(out, "n1") {
		t.Errorf("links in the caller's namespace: %s, %v", out, err)
	}
}

func checkWires(ctx context.Context, t *testing.T, top Topology) {
	t.Helper()
	type way struct {
		from string
		to   Pair
	}
	var reach []way
	for _, n := range top.Nodes {
		for _, other := range top.Nodes {
			reach = append(reach, way{n.Name, other.Address})
		}
		if n.Subnet == 0 {
			for _, r := range top.ToRs {
				reach = append(reach, way{n.Name, r.Address})
			}
		}
		reach = append(reach, way{n.Name, top.ControlPlane}, way{n.Name, top.InternetAddr}, way{Internet, n.Address})
	}
	for _, r := range top.ToRs {
		reach = append(reach, way{Host3, r.Shared})
	}
	for _, h := range top.Hosts {
		for _, r := range top.ToRs {
			if slices.Equal(h.Behind, []string{r.Name}) {
				reach = append(reach, way{h.Name, r.Hosts})
			}
		}
	}
	for _, r := range reach {
		for _, a := range r.to.Addrs() {
			// Until an answer, for 10 s: the kernel may take a second to use a new link.
			if _, err := namespace.Run(ctx, top.Namespace(r.from), "ping", "-c1", "-w10", "-i0.2", "-n", a.String()); err != nil {
				t.Errorf("%s does not reach %s: %v", r.from, a, err)
			}
		}
	}
	for _, n := range top.Nodes {
		for file, want := range map[string]string{
			"/sys/class/net/eth0/mtu":               strconv.Itoa(top.Options.MTU),
			"/proc/sys/net/ipv4/conf/all/rp_filter": map[bool]string{true: "1", false: "2"}[top.Options.StrictReversePath],
		} {
			// sysfs shows the network namespace of who mounted it; ip(8) mounts it anew.
			out, err := namespace.Run(ctx, "", "ip", "netns", "exec", top.Namespace(n.Name), "cat", file)
			if err != nil || strings.TrimSpace(out) != want {
				t.Errorf("%s on %s is %q (%v), want %s", file, n.Name, out, err, want)
			}
		}
	}
}
