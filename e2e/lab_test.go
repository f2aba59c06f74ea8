package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/patience"
	"github.com/godwit-net/godwit/e2e/pods"
	"github.com/godwit-net/godwit/e2e/topology"
	"github.com/godwit-net/godwit/e2e/traffic"
	"github.com/godwit-net/godwit/internal/netnstest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestMain also is the process with the streams that tests look at.
func TestMain(m *testing.M) {
	if streams := os.Getenv(traffic.Variable); streams != "" {
		if err := traffic.Serve(streams, os.Stdin, os.Stdout); err != nil {
			_, _ = fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestLab brings a lab up once, runs every test on it in order, and takes it
// down. Each test leaves the lab as it found it, but for blocks that nodes
// claimed; so the tests that compare whole tables come first.
func TestLab(t *testing.T) {
	netnstest.RequireRoot(t)
	ctx := deadline(t, 10*time.Minute)
	l := bringUp(ctx, t, lab.Options{})
	for _, tt := range []struct {
		name string
		run  func(*testing.T, *lab.Lab)
	}{
		{"Goldens", testGoldens},
		{"EverybodyReachesEverybody", testMatrix},
		{"Report", testReport},
		{"EqualCostRoutes", testECMP},
		{"Masquerade", testMasquerade},
		{"RoutesHeal", testRoutesHeal},
		{"ForeignRoutesStay", testForeignRoutesStay},
		{"LinkFlap", testLinkFlap},
		{"PluginChain", testPluginChain},
		{"BadRequests", testBadRequests},
		{"Claims", testClaims},
		{"NamespacePools", testNamespacePools},
		{"BadSettings", testBadSettings},
		{"Leftovers", testLeftovers},
		{"DeletedNode", testDeletedNode},
		{"DepartedNode", testDepartedNode},
		{"PoolMigration", testPoolMigration},
		{"Churn", testChurn},
		{"APIServerAway", testAPIServerAway},
	} {
		if !t.Run(tt.name, func(t *testing.T) { tt.run(t, l) }) && ctx.Err() != nil {
			t.Fatal("out of time")
		}
	}
}

// bringUp brings a lab up for the length of a test, and looks whether it leaves
// the machine as it was.
func bringUp(ctx context.Context, t *testing.T, o lab.Options) *lab.Lab {
	t.Helper()
	// Runs beside each other need names of their own.
	name := "godwit-e2e"
	if own := os.Getenv("GODWIT_E2E_NAME"); own != "" {
		name = own
	}
	cfg := config(t, name+"-", "/run/"+name)
	cfg.Options = &o
	l := open(t, cfg)
	// A run that was killed may have left something.
	if _, err := l.Down(ctx); err != nil {
		t.Fatal(err)
	}
	before := takeSnapshot(ctx, t, cfg)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.Patience.Times(time.Minute))
		defer cancel()
		if t.Failed() {
			dump(t, l)
		}
		guests, err := l.Down(ctx)
		if err != nil || len(guests) > 0 {
			t.Errorf("lab down: %v; still in its namespaces: %v", err, guests)
		}
		before.compare(t, takeSnapshot(ctx, t, cfg))
	})
	var out strings.Builder
	if err := l.Up(ctx, lab.NewProgress(&out)); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	t.Logf("lab up (%s):\n%s", l.Options, out.String())
	return l
}

// config is a lab's with the programs from where `make test-e2e` puts them.
func config(t *testing.T, prefix, dir string) lab.Config {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	env := func(name, otherwise string) string {
		if v := os.Getenv(name); v != "" {
			return v
		}
		return filepath.Join(root, otherwise)
	}
	return lab.Config{
		Prefix: prefix, Dir: dir, ConfigDir: filepath.Join(root, "config"),
		Bin:      []string{env("GODWIT_BIN", "bin"), env("GODWIT_KUBE_BIN", ".cache/bin")},
		Patience: patient(t),
	}
}

// patient is by how much this run's deadlines are stretched.
func patient(t *testing.T) patience.Factor {
	t.Helper()
	f, err := patience.FromEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func open(t *testing.T, c lab.Config) *lab.Lab {
	t.Helper()
	l, err := lab.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// deadline is a context that ends with the test, or after a while.
func deadline(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patient(t).Times(d))
	t.Cleanup(cancel)
	return ctx
}

// eventually repeats a question until it is answered without an error, and
// returns how long that took.
func eventually(t *testing.T, limit time.Duration, what string, ask func() error) time.Duration {
	t.Helper()
	limit = patient(t).Times(limit)
	begin := time.Now()
	for {
		err := ask()
		took := time.Since(begin)
		if err == nil {
			return took
		}
		if took > limit {
			t.Fatalf("%s: not within %v: %v", what, limit, err)
		}
		time.Sleep(time.Millisecond)
	}
}

// always repeats a question for a while; each answer must be good.
func always(t *testing.T, d time.Duration, what string, ask func() error) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err := ask(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// run runs a command line in the namespace of a machine or pod.
func run(t *testing.T, l *lab.Lab, machine, command string) string {
	t.Helper()
	out, err := l.RunIn(deadline(t, 20*time.Second), machine, strings.Fields(command)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// contains asks whether a command's output has, or lacks, a text.
func contains(l *lab.Lab, machine, command, text string, want bool) func() error {
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		out, err := l.RunIn(ctx, machine, strings.Fields(command)...)
		if err == nil && strings.Contains(out, text) != want {
			err = fmt.Errorf("%s: %s: has %q: %t, want %t:\n%s", machine, command, text, !want, want, out)
		}
		return err
	}
}

// addPod attaches a pod for the length of the test.
func addPod(t *testing.T, l *lab.Lab, node, name string) pods.Pod {
	t.Helper()
	ctx := deadline(t, 30*time.Second)
	p, err := l.AddPod(ctx, node, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.DelPod(context.WithoutCancel(ctx), node, name); err != nil {
			t.Error(err)
		}
	})
	return p
}

func pod(t *testing.T, l *lab.Lab, name string) pods.Pod {
	t.Helper()
	p, err := l.Pod(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func nodeOf(t *testing.T, l *lab.Lab, name string) topology.Node {
	t.Helper()
	for _, n := range l.Top.Nodes {
		if n.Name == name {
			return n
		}
	}
	t.Fatalf("no node %s", name)
	return topology.Node{}
}

func hostOf(t *testing.T, l *lab.Lab, name string) topology.Host {
	t.Helper()
	for _, h := range l.Top.Hosts {
		if h.Name == name {
			return h
		}
	}
	t.Fatalf("no host %s", name)
	return topology.Host{}
}

// dump shows the ends of all logs, and keeps them where CI can find them.
func dump(t *testing.T, l *lab.Lab) {
	t.Helper()
	keep := os.Getenv("GODWIT_E2E_LOGS")
	for _, f := range l.Logs() {
		raw, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		if keep != "" {
			if err := errors.Join(os.MkdirAll(keep, 0o755), os.WriteFile(filepath.Join(keep, filepath.Base(f)), raw, 0o644)); err != nil {
				t.Log(err)
			}
		}
		if strings.Contains(f, "kube-apiserver") || strings.Contains(f, "etcd") {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
		t.Logf("== the end of %s\n%s", f, strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
}
