package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/topology"
)

const (
	drainNode = "n3"
	// drainLasts is for how long traffic is looked at after a drain's begin: longer
	// than a node waits before it withdraws what it can.
	drainLasts = 7 * time.Second
)

// testDrain drains a node under traffic, its own and that of others, lets its
// pods go, ends its agent, and takes it back. Only the pods' own end may end
// traffic.
func testDrain(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, 2*time.Minute)
	n, _ := l.Top.Node(drainNode)
	d := drainTest{t: t, l: l, node: n}

	// What has nothing to do with the node goes on all the time.
	others := slices.DeleteFunc(volleyAround(t, l, "n1"), func(f volleyFlow) bool { return strings.Contains(f.name, drainNode) })
	rest := startVolley(t, l, others)
	own := startVolley(t, l, volleyAround(t, l, drainNode))
	own.watchAround(t, drainNode)

	begin := time.Now()
	d.drain(ctx, true)
	d.marked(ctx, true)
	t.Logf("routers have the mark of the drain after %v", time.Since(begin).Round(time.Millisecond))
	time.Sleep(time.Until(begin.Add(drainLasts))) // the traffic under observation
	own.stop().lossless(t)

	begin = time.Now()
	d.deletePods(ctx)
	d.routed(false)
	t.Logf("the block is withdrawn everywhere %v after its pods began to go", time.Since(begin).Round(time.Millisecond))
	if err := l.CheckEstablished(ctx); err != nil {
		t.Errorf("a drained node without pods ends sessions: %v", err)
	}

	d.leave(ctx)
	started := time.Now()
	if err := l.StartAgent(ctx, drainNode); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitRestarted(ctx, drainNode, started); err != nil {
		t.Fatal(err)
	}
	d.routed(false)

	// Pods that come all the same are reached, and the drain's end costs them nothing.
	if err := l.AttachPodsOf(ctx, drainNode); err != nil {
		t.Fatal(err)
	}
	d.routed(true)
	d.marked(ctx, true)
	own = startVolley(t, l, volleyAround(t, l, drainNode))
	own.watchAround(t, drainNode)
	d.drain(ctx, false)
	d.marked(ctx, false)
	own.stop().lossless(t)
	rest.stop().lossless(t)
	if err := l.WaitConverged(ctx); err != nil {
		t.Error(err)
	}
}

type drainTest struct {
	t    *testing.T
	l    *lab.Lab
	node topology.Node
}

// drain begins or ends the drain of the node.
func (d drainTest) drain(ctx context.Context, on bool) {
	d.t.Helper()
	if err := d.l.Change(ctx, &corev1.Node{}, d.node.Name, func(o client.Object) {
		labels := o.GetLabels()
		delete(labels, v1alpha1.DrainKey)
		if on {
			labels[v1alpha1.DrainKey] = "true"
		}
		o.SetLabels(labels)
	}); err != nil {
		d.t.Fatal(err)
	}
}

// marked waits until each router shows the node's block with, or without, the
// community GRACEFUL_SHUTDOWN (RFC 8326).
func (d drainTest) marked(ctx context.Context, want bool) {
	d.t.Helper()
	block := d.node.Block.V4.String()
	for i, show := range []struct{ command, mark string }{
		{"show route " + block + " all", "(65535,0)"}, // BIRD
		{"show bgp ipv4 unicast " + block, "graceful-shutdown"},
	} {
		eventually(d.t, 20*time.Second, d.l.Top.ToRs[i].Name+" shows the mark of a drain", func() error {
			out, err := d.l.Routers[i].Show(ctx, show.command)
			if err == nil && (strings.Contains(out, show.mark) != want || !strings.Contains(out, block)) {
				err = fmt.Errorf("want %q: %t: %s", show.mark, want, out)
			}
			return err
		})
	}
}

// routed waits until everyone else has a route to the node's block, or none.
func (d drainTest) routed(want bool) {
	d.t.Helper()
	for _, m := range []string{"n1", "n2", "tor1", "tor2"} {
		eventually(d.t, 20*time.Second, fmt.Sprintf("%s has a route to the node's block: %t", m, want),
			contains(d.l, m, "ip route", d.node.Block.V4.String(), want))
	}
}

func (d drainTest) deletePods(ctx context.Context) {
	d.t.Helper()
	for _, p := range d.l.Pods() {
		if name, ours := strings.CutPrefix(p.Name, topology.PodName(d.node.Name, "")); ours {
			if err := d.l.DelPod(ctx, d.node.Name, name); err != nil {
				d.t.Fatal(err)
			}
		}
	}
}

// leave ends the agent of the drained node: it says so to its peers, and none of
// them waits for it.
func (d drainTest) leave(ctx context.Context) {
	d.t.Helper()
	if err := d.l.Group.Stop(ctx, lab.AgentProcess(d.node.Name)); err != nil {
		d.t.Fatal(err)
	}
	for i, r := range d.l.Routers {
		eventually(d.t, 5*time.Second, d.l.Top.ToRs[i].Name+" was told that the node leaves", func() error {
			s, err := r.Neighbor(ctx, neighbor(d.l, d.node.Name))
			if err == nil && (s.Established || s.Keeps || !strings.Contains(s.View, "Administrative") && !strings.Contains(s.View, "Cease")) {
				err = errors.New(s.View)
			}
			return err
		})
	}
}
