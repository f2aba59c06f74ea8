package router

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/e2e/process"
)

// TestRoutersSpeakWithEachOther runs BIRD and FRR with the lab's
// configurations and a password, each as the other's only node.
func TestRoutersSpeakWithEachOther(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root, and CI must run it as root")
		}
		t.Skip("needs root: it makes network namespaces")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	// Not under t.TempDir, whose parents FRR's own user can't enter.
	dir, err := os.MkdirTemp("/run", "godwit-router-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	g := process.Open(dir)

	const ns1, ns2 = "godwit-router-1", "godwit-router-2"
	for _, ns := range []string{ns1, ns2} {
		if err := namespace.Add(ctx, ns); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = namespace.Delete(ns) })
	}
	for _, c := range []string{
		"ip -n " + ns1 + " link add fabric type veth peer name fabric netns " + ns2,
		"ip -n " + ns1 + " addr add 10.211.55.1/24 dev fabric",
		"ip -n " + ns2 + " addr add 10.211.55.2/24 dev fabric",
		"ip -n " + ns1 + " link set fabric up",
		"ip -n " + ns2 + " link set fabric up",
		"ip -n " + ns1 + " link add hosts type bridge",
		"ip -n " + ns2 + " link add hosts type bridge",
		"ip -n " + ns1 + " addr add 172.25.1.1/24 dev hosts",
		"ip -n " + ns2 + " addr add 172.25.2.1/24 dev hosts",
		"ip -n " + ns1 + " link set hosts up",
		"ip -n " + ns2 + " link set hosts up",
	} {
		if _, err := namespace.Run(ctx, "", strings.Fields(c)...); err != nil {
			t.Fatal(err)
		}
	}
	a1, a2 := netip.MustParseAddr("10.211.55.1"), netip.MustParseAddr("10.211.55.2")
	pool := netip.MustParsePrefix("172.25.0.0/16")
	r1 := NewBIRD(Config{
		Name: "r1", Netns: ns1, Dir: filepath.Join(dir, "r1"), Address: a1, ASN: 65001, PeerASN: 65002,
		Peers: []Neighbor{{"r2", a2}}, Password: "s3cret", Pool: pool,
		Announce: []netip.Prefix{netip.MustParsePrefix("172.25.1.0/24")}, AnnounceLinks: []string{"hosts"},
	}, g)
	r2 := NewFRR(Config{
		Name: "r2", Netns: ns2, Dir: filepath.Join(dir, "r2"), Address: a2, ASN: 65002, PeerASN: 65001,
		Peers: []Neighbor{{"r1", a1}}, Password: "s3cret", Pool: pool,
		Announce: []netip.Prefix{netip.MustParsePrefix("172.25.2.0/24")}, AnnounceLinks: []string{"hosts"},
	}, g)
	for _, r := range []Router{r1, r2} {
		t.Cleanup(func() {
			if err := r.Stop(context.WithoutCancel(ctx)); err != nil {
				t.Error(err)
			}
		})
		if err := r.Start(ctx); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s runs", r.Program(ctx))
	}
	expect := func(r Router, prefix string) {
		t.Helper()
		err := waitFor(ctx, "route", func() error {
			_, view, err := r.Blocks(ctx)
			if err == nil && !strings.Contains(view, prefix) {
				err = context.DeadlineExceeded
			}
			return err
		})
		if err != nil {
			_, view, _ := r.Blocks(ctx)
			t.Errorf("no %s in:\n%s\n%v", prefix, view, err)
		}
	}
	expect(r1, "172.25.2.0/24")
	expect(r2, "172.25.1.0/24")
}
