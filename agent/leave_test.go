package agent

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/cni/wire"
	"github.com/godwit-net/godwit/internal/netnstest"
	"github.com/godwit-net/godwit/nat"
	"github.com/godwit-net/godwit/tunnel"
)

// TestLeave holds that of all that an agent makes on a node nothing is left, and
// that what is others' stays.
func TestLeave(t *testing.T) {
	node, other := netnstest.New(t), netnstest.New(t)
	root := t.TempDir()
	o := Options{
		RunDir: filepath.Join(root, "run/godwit"), StateDir: filepath.Join(root, "lib/godwit"), CNIBin: filepath.Join(root, "bin"),
		CNIConfig: filepath.Join(root, "net.d/10-godwit.conflist"), Log: slog.New(slog.DiscardHandler),
	}
	for _, f := range []string{
		o.CNIConfig, filepath.Join(root, "net.d/20-other.conflist"), filepath.Join(o.RunDir, "addresses/172.25.0.1"),
		filepath.Join(o.StateDir, checkpointName), filepath.Join(o.CNIBin, ownPlugin), filepath.Join(o.CNIBin, "portmap"), filepath.Join(o.CNIBin, "loopback"),
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(f), 0o755), os.WriteFile(f, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := (&pluginFolder{stateDir: o.StateDir}).note("loopback"); err != nil {
		t.Fatal(err)
	}
	node.Run("ip", "link", "add", "gwa", "type", "veth", "peer", "name", "gwb")
	node.Run("ip", "link", "set", "gwb", "up")
	node.Run("ip", "addr", "add", "10.0.0.1/24", "dev", "gwa")
	node.Run("ip", "link", "set", "gwa", "up")
	before := settled(t, node, "gwa@gwb", "gwb@gwa")
	node.Run("ip", "route", "add", "172.25.1.0/26", "via", "10.0.0.2", "proto", "71")
	node.Run("ip", "route", "add", "blackhole", "172.25.0.0/26", "proto", "71")
	node.Run("ip", "nexthop", "add", "id", "7100", "via", "10.0.0.3", "dev", "gwa", "proto", "71")
	node.Run("ip", "route", "add", "172.25.2.0/26", "nhid", "7100", "proto", "71")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	node.Do(func() { attachAndFilter(ctx, t, other.Path()) })
	if state(node) == before {
		t.Fatal("nothing of Godwit is there: the test shows nothing")
	}

	for range 2 { // it is idempotent
		var err error
		node.Do(func() { err = Leave(ctx, o) })
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := state(node); got != before {
		t.Errorf("of the node is left:\n%s\nwant:\n%s", got, before)
	}
	var left []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			left = append(left, strings.TrimPrefix(path, root))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(left, " "), "/bin/portmap /net.d/20-other.conflist"; got != want {
		t.Errorf("the files %s are left, want %s", got, want)
	}
	for _, dir := range []string{o.RunDir, o.StateDir} {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left (%v)", dir, err)
		}
	}
}

// attachAndFilter makes what only Godwit's packages make: the link of a pod, the
// masquerade and a tunnel.
func attachAndFilter(ctx context.Context, t *testing.T, pod string) {
	log := slog.New(slog.DiscardHandler)
	w, err := wire.New(wire.Options{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ns, err := w.OpenNamespace(pod)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Attach(ctx, ns, wire.Spec{Identity: wire.Identity{
		ContainerID: "c1", Interface: "eth0", Network: "godwit", Addresses: []netip.Addr{netip.MustParseAddr("172.25.0.1")},
	}})
	masquerade, nerr := nat.Open()
	tunnels, terr := tunnel.Open(tunnel.Options{Log: log})
	if err := errors.Join(err, nerr, terr); err != nil {
		t.Fatal(err)
	}
	_, terr = tunnels.Set(ctx, tunnel.Config{Devices: []tunnel.Device{{
		Kind: tunnel.VXLAN, Local: netip.MustParseAddr("10.0.0.1"), MTU: 1450, Addresses: []netip.Addr{netip.MustParseAddr("172.25.0.2")},
	}}})
	err = errors.Join(
		masquerade.Set(ctx, nat.Rules{Masquerade: []netip.Prefix{netip.MustParsePrefix("172.25.0.0/16")}}),
		terr, masquerade.Close(), tunnels.Close(), ns.Close(), w.Close(),
	)
	if err != nil {
		t.Fatal(err)
	}
}

// settled returns the state in which links are up: the kernel says so a moment after
// they are set up.
func settled(t *testing.T, n *netnstest.NS, links ...string) string {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		s := state(n)
		down := slices.DeleteFunc(slices.Clone(links), func(l string) bool {
			return slices.ContainsFunc(strings.Split(s, "\n"), func(line string) bool {
				f := strings.Fields(line)
				return len(f) > 1 && f[0] == l && f[1] == "UP"
			})
		})
		if len(down) == 0 {
			return s
		}
		if time.Now().After(end) {
			t.Fatalf("%v are not up:\n%s", down, s)
		}
	}
}

// state is all of a namespace that Godwit may change.
func state(n *netnstest.NS) string {
	var b strings.Builder
	for _, argv := range [][]string{
		{"ip", "-br", "link"}, {"ip", "route"}, {"ip", "-6", "route", "show", "proto", "71"}, {"ip", "nexthop"}, {"nft", "list", "tables"},
	} {
		b.WriteString(strings.Join(argv, " ") + ":\n" + n.Run(argv[0], argv[1:]...) + "\n")
	}
	return b.String()
}
