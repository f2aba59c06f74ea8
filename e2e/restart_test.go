package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/router"
	"github.com/godwit-net/godwit/internal/netnstest"
)

const (
	restartNode = "n1"
	// restartSeconds is for how long peers keep the routes of an agent that restarts:
	// Godwit's default.
	restartSeconds = 120
	upgraded       = "v0.0.0-upgraded"
)

// TestRestarts restarts an agent in every way, twice each within the time for
// which peers keep its routes, and then drains a node, in one lab under traffic.
// Nothing may be lost.
func TestRestarts(t *testing.T) {
	netnstest.RequireRoot(t)
	ctx := deadline(t, 5*time.Minute)
	newer := buildAgent(ctx, t, upgraded)
	l := bringUp(ctx, t, lab.Options{})
	for _, tt := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"Restarts", func(t *testing.T) { testRestarts(t, l, newer) }},
		{"Drain", func(t *testing.T) { testDrain(t, l) }},
	} {
		if !t.Run(tt.name, tt.run) && ctx.Err() != nil {
			t.Fatal("out of time")
		}
	}
}

func testRestarts(t *testing.T, l *lab.Lab, newer string) {
	ctx := deadline(t, 3*time.Minute)
	v := startVolley(t, l, volleyAround(t, l, restartNode))
	v.watchAround(t, restartNode)
	own := l.Bin
	t.Cleanup(func() { l.Bin = own })
	for _, tt := range []struct {
		how string
		end func(context.Context, string) error
		bin []string // where the next agent is looked for, at the first time and the second
	}{
		{"SIGTERM", l.Group.Stop, nil},
		{"SIGKILL", l.Group.Kill, nil},
		{"upgrade", l.Group.Stop, []string{newer, own[0]}},
	} {
		first := time.Now()
		for i := range 2 {
			l.Bin = own
			if tt.bin != nil {
				l.Bin = append([]string{tt.bin[i]}, own...)
			}
			r := restart{t: t, l: l, how: fmt.Sprintf("%s %d", tt.how, i+1), end: tt.end}
			r.do(ctx)
			if tt.bin != nil {
				checkVersion(ctx, t, l, tt.bin[i] == newer)
			}
		}
		if took := time.Since(first); took > restartSeconds*time.Second {
			t.Errorf("two restarts by %s took %v: the second was not within the %d s for which peers keep routes", tt.how, took, restartSeconds)
		}
	}
	v.stop().lossless(t)
}

// restart is one restart of the agent of restartNode.
type restart struct {
	t   *testing.T
	l   *lab.Lab
	how string
	end func(ctx context.Context, process string) error
}

// do ends the agent, waits until its routers say that they keep its routes, and
// starts it again.
func (r restart) do(ctx context.Context) {
	t := r.t
	t.Helper()
	before := r.states(ctx)
	begin := time.Now()
	if err := r.end(ctx, lab.AgentProcess(restartNode)); err != nil {
		t.Fatal(err)
	}
	ended := time.Since(begin)
	for i, rt := range r.l.Routers {
		eventually(t, 10*time.Second, "router "+r.l.Top.ToRs[i].Name+" keeps the routes of the agent that is away", func() error {
			s, err := rt.Neighbor(ctx, neighbor(r.l, restartNode))
			if err == nil && (s.Established || !s.Keeps) {
				err = errors.New(s.View)
			}
			return err
		})
	}
	started := time.Now()
	if err := r.l.StartAgent(ctx, restartNode); err != nil {
		t.Fatal(err)
	}
	for i, rt := range r.l.Routers {
		eventually(t, 30*time.Second, "router "+r.l.Top.ToRs[i].Name+" has a session with the agent that says it has restarted", func() error {
			s, err := rt.Neighbor(ctx, neighbor(r.l, restartNode))
			if err == nil && (!s.Established || s.Keeps || !s.Restarted || s.Session == before[i].Session) {
				err = errors.New(s.View)
			}
			return err
		})
	}
	sessions := time.Since(started)
	if err := r.l.WaitRestarted(ctx, restartNode, started); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: ended within %v; routers have their sessions %v after the start, all report so after %v",
		r.how, ended.Round(time.Millisecond), sessions.Round(time.Millisecond), time.Since(started).Round(time.Millisecond))
}

func (r restart) states(ctx context.Context) []router.State {
	r.t.Helper()
	var all []router.State
	for _, rt := range r.l.Routers {
		s, err := rt.Neighbor(ctx, neighbor(r.l, restartNode))
		if err != nil || !s.Established {
			r.t.Fatalf("a router has no session with %s to begin with: %v: %s", restartNode, err, s.View)
		}
		all = append(all, s)
	}
	return all
}

// neighbor is a node as the routers know it.
func neighbor(l *lab.Lab, node string) router.Neighbor {
	n, _ := l.Top.Node(node)
	return router.Neighbor{Name: n.Name, Address: n.Address.First()}
}

// TestRestartWithoutGracefulRestart shows that the traffic of TestRestarts sees
// losses: without graceful restart peers drop the routes of an agent that is away.
func TestRestartWithoutGracefulRestart(t *testing.T) {
	netnstest.RequireRoot(t)
	ctx := deadline(t, 3*time.Minute)
	l := bringUp(ctx, t, lab.Options{NoGracefulRestart: true})
	flows := volleyAround(t, l, restartNode)
	v := startVolley(t, l, flows)
	if err := l.Group.Stop(ctx, lab.AgentProcess(restartNode)); err != nil {
		t.Fatal(err)
	}
	n, _ := l.Top.Node(restartNode)
	for _, name := range []string{"tor1", "tor2", "n2"} {
		eventually(t, 20*time.Second, name+" drops the routes of the agent that is away", contains(l, name, "ip route", n.Block.V4.String(), false))
	}
	for _, rt := range l.Routers {
		s, err := rt.Neighbor(ctx, neighbor(l, restartNode))
		if err != nil || s.Keeps || s.Established {
			t.Errorf("a router that is not to keep routes: %v: %s", err, s.View)
		}
	}
	started := time.Now()
	if err := l.StartAgent(ctx, restartNode); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitRestarted(ctx, restartNode, started); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitConverged(ctx); err != nil {
		t.Fatal(err)
	}
	for i, o := range v.stop() {
		if flows[i].towards && o.missed() == 0 {
			t.Errorf("%s: nothing was lost of %d: this traffic would not see a loss", o.name, o.Sent)
		}
	}
}

// buildAgent builds the agent with another version, and returns the folder.
func buildAgent(ctx context.Context, t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", filepath.Join(dir, "godwit-agent"),
		"-ldflags", "-s -w -X github.com/godwit-net/godwit/internal/version.Version="+version, "./cmd/godwit-agent") // #nosec G204 -- a constant
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as the Makefile has it: only linking is left to do
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the newer agent: %v\n%s", err, out)
	}
	return dir
}

func checkVersion(ctx context.Context, t *testing.T, l *lab.Lab, newer bool) {
	t.Helper()
	eventually(t, 10*time.Second, "the node reports its agent's version", func() error {
		nn := &v1alpha1.NodeNetwork{}
		if err := get(ctx, l, restartNode, nn); err != nil {
			return err
		}
		if (nn.Status.AgentVersion == upgraded) != newer {
			return fmt.Errorf("version %s, want the upgraded one: %t", nn.Status.AgentVersion, newer)
		}
		return nil
	})
}

// volleyAround are flows between a pod of a node and pods of the others and hosts
// behind each router, both ways.
func volleyAround(t *testing.T, l *lab.Lab, node string) []volleyFlow {
	t.Helper()
	p := pod(t, l, node+"-p1")
	var flows []volleyFlow
	both := func(name, netns string, addr netip.Addr) {
		flows = append(flows,
			volleyFlow{name: name + " to " + p.Name, from: netns, to: p.Netns, addr: p.Address, towards: true},
			volleyFlow{name: p.Name + " to " + name, from: p.Netns, to: netns, addr: addr})
	}
	for _, n := range l.Top.Nodes {
		if n.Name != node {
			other := pod(t, l, n.Name+"-p1")
			both(other.Name, other.Netns, other.Address)
		}
	}
	for _, h := range []string{"host1", "host2"} {
		both(h, l.Top.Namespace(h), hostOf(t, l, h).Address.First())
	}
	return flows
}
