package topology

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/e2e/namespace"
)

func TestReferenceIsConsistent(t *testing.T) {
	top := Reference("godwit-x-")
	fabric := top.ControlPlane.Masked()
	seen := map[netip.Addr]string{}
	take := func(who string, a netip.Prefix, in netip.Prefix) {
		if other, dup := seen[a.Addr()]; dup {
			t.Errorf("%s and %s share %s", who, other, a)
		}
		seen[a.Addr()] = who
		if !in.Contains(a.Addr()) {
			t.Errorf("%s: %s is not in %s", who, a, in)
		}
		if got := top.NameOf(a.Addr()); got != who {
			t.Errorf("NameOf(%s) = %q, want %q", a.Addr(), got, who)
		}
	}
	take(Fabric, top.ControlPlane, fabric)
	take(Gateway, top.GatewayAddr, fabric)
	for i, n := range top.Nodes {
		take(n.Name, n.Address, fabric)
		if !top.Pool.Contains(n.Block.Addr()) {
			t.Errorf("block %s is not in the pool", n.Block)
		}
		for _, m := range top.Nodes[:i] {
			if m.Block.Overlaps(n.Block) {
				t.Errorf("%s and %s share a block", m.Name, n.Name)
			}
		}
	}
	for _, r := range top.ToRs {
		take(r.Name, r.Address, fabric)
		take(r.Name, r.Hosts, top.HostRange)
		take(r.Name, r.Shared, top.HostRange)
	}
	for _, h := range top.Hosts {
		take(h.Name, h.Address, top.HostRange)
	}
}

// TestBuildWires builds the network twice over and lets every machine of the
// fabric reach every other, and hosts their routers.
func TestBuildWires(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root, and CI must run it as root")
		}
		t.Skip("needs root: it makes network namespaces")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	top := Reference("godwit-topo-")
	// Another lab's, whose prefix starts with this one's.
	other := Reference("godwit-topo-x-").Namespace("n1")
	if err := namespace.Add(ctx, other); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = namespace.Delete(other) }()
	for range 2 {
		if err := top.Build(ctx); err != nil {
			_ = top.Destroy()
			t.Fatal(err)
		}
		var reach [][2]string
		for _, n := range top.Nodes {
			for _, other := range top.Nodes {
				reach = append(reach, [2]string{n.Name, other.Address.Addr().String()})
			}
			for _, r := range top.ToRs {
				reach = append(reach, [2]string{n.Name, r.Address.Addr().String()})
			}
			reach = append(reach,
				[2]string{n.Name, top.ControlPlane.Addr().String()},
				[2]string{n.Name, top.InternetAddr.Addr().String()})
		}
		for _, r := range top.ToRs {
			reach = append(reach, [2]string{Host3, r.Shared.Addr().String()})
		}
		reach = append(reach,
			[2]string{"host1", top.ToRs[0].Hosts.Addr().String()},
			[2]string{"host2", top.ToRs[1].Hosts.Addr().String()})
		for _, r := range reach {
			if _, err := namespace.Run(ctx, top.Namespace(r[0]), "ping", "-c1", "-W2", "-n", r[1]); err != nil {
				t.Errorf("%s does not reach %s: %v", r[0], r[1], err)
			}
		}
		if err := top.Destroy(); err != nil {
			t.Fatal(err)
		}
		left, err := namespace.List(top.Prefix)
		if err != nil || !slices.Equal(left, []string{other}) {
			t.Fatalf("after Destroy: %v, %v; want the other lab's %s alone", left, err, other)
		}
	}
	out, err := namespace.Run(ctx, "", "ip", "-br", "link")
	if err != nil || strings.Contains(out, "n1") {
		t.Errorf("links in the caller's namespace: %s, %v", out, err)
	}
}
