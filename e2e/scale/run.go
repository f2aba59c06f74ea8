package scale

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/scale/usage"
)

// Options say what is measured.
type Options struct {
	Setup

	Nodes int
	// Agents is how many of the nodes have an agent; the others have a Node, a plan
	// and blocks. 0: all.
	Agents int
	// Over is the time over which the nodes join.
	Over time.Duration
	// Rest is for how long the cluster at rest is measured.
	Rest time.Duration
	// Align has all agents start anew before that: their watches, each of which the
	// API server ends after 5 to 10 minutes, are of the same age in clusters that took
	// longer or shorter to grow.
	Align bool
	// Joins is how many nodes then join one by one.
	Joins int
	// Restart has all agents and the controller started at once, at the end.
	Restart bool
	// Patience bounds the wait for a state; 0: 5 minutes.
	Patience time.Duration
}

const (
	// planQuiet is how long no plan must have been written for all to be written.
	planQuiet = 2 * time.Second
	// trafficQuiet is how long no agent must have exchanged anything for an event to
	// be over.
	trafficQuiet = 4 * time.Second
	// registering is how many nodes register at the same time at most.
	registering = 50
)

// Run measures a cluster.
func Run(ctx context.Context, o Options) (_ *Report, err error) {
	if o.Agents <= 0 || o.Agents > o.Nodes {
		o.Agents = o.Nodes
	}
	if o.Patience == 0 {
		o.Patience = 5 * time.Minute
	}
	c, err := NewCluster(ctx, o.Setup)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close(ctx)) }()
	r := newRun(c, o)
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"join", r.join},
		{"rest", r.rest},
		{"joins one by one", r.joins},
		{"events", r.events},
		{"restart", r.restart},
	} {
		if err := step.do(ctx); err != nil {
			return r.report, fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return r.report, nil
}

// run is a run in progress.
type run struct {
	*Cluster
	o      Options
	report *Report
	made   int // nodes so far
}

func newRun(c *Cluster, o Options) *run {
	return &run{Cluster: c, o: o, report: &Report{Nodes: o.Nodes, Agents: o.Agents, Topology: string(o.Topology), Pools: o.Pools}}
}

// join lets nodes join until there are as many as there are to be.
func (r *run) join(ctx context.Context) error {
	r.say("%d nodes join over %v, %d of them with an agent", r.o.Nodes, r.o.Over, r.o.Agents)
	controller, err := usage.OfProcess(r.Group, controllerName)
	if err != nil {
		return err
	}
	began := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(registering)
	for first := r.made; r.made < r.o.Nodes; r.made++ {
		i := r.made
		if !sleepUntil(gctx, began.Add(r.o.Over*time.Duration(i-first)/time.Duration(r.o.Nodes-first))) {
			break
		}
		g.Go(func() error { return r.add(gctx, i, i < r.o.Agents) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	r.say("all have registered after %v", time.Since(began).Round(time.Millisecond))
	if err := r.waitPlanned(ctx); err != nil {
		return err
	}
	s := &r.report.Join
	s.Over = r.o.Over
	s.Settled = time.Since(began)
	r.settleTimes(s)
	all := r.traffic()
	for _, t := range all {
		s.Traffic = s.Traffic.plus(t)
	}
	_, s.Writes, _, _ = r.plans.snapshot()
	if s.Controller, err = r.since(controller); err != nil {
		return err
	}
	s.EventsPerAgentPerJoin = float64(s.Traffic.Events) / float64(r.o.Agents) / float64(r.o.Nodes)
	err = r.objects(ctx)
	if err != nil {
		return err
	}
	r.say("all plans are in place %v after the first join; %d reflectors", s.Settled.Round(time.Millisecond), r.report.Reflectors)
	if err := r.waitQuiet(ctx); err != nil {
		return err
	}
	s.Quiet = time.Since(began)
	return r.objects(ctx)
}

// add lets a node join.
func (r *run) add(ctx context.Context, i int, withAgent bool) error {
	n := r.newNode(i)
	n.joined = time.Now()
	r.mu.Lock()
	r.nodes = append(r.nodes, n)
	r.mu.Unlock()
	o, err := n.register(ctx, i)
	if err != nil {
		return err
	}
	if withAgent {
		if n.token, err = r.token(ctx, "godwit-agent", o); err != nil {
			return err
		}
		return n.start(ctx)
	}
	return r.claimFor(ctx, n, i)
}

// claimFor claims the blocks of a node without an agent: of those from the end of
// each pool the first that no agent has claimed.
func (r *run) claimFor(ctx context.Context, n *node, i int) error {
	for p := range r.Pools {
		k := 16383 - i
		err := r.claim(ctx, n, p, k)
		for ; apierrors.IsAlreadyExists(err) && k >= r.o.Nodes; err = r.claim(ctx, n, p, k) {
			k -= r.o.Nodes
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// claim claims the k-th block of a pool for a node.
func (r *run) claim(ctx context.Context, n *node, pool, k int) error {
	block := blockOf(pool, k)
	err := r.api.Create(ctx, &v1alpha1.IPBlock{
		ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.IPBlockName(block), Labels: map[string]string{v1alpha1.NodeLabel: n.name}},
		Spec:       v1alpha1.IPBlockSpec{CIDR: block.String(), Pool: fmt.Sprintf("pool%d", pool), NodeName: n.name},
	})
	if err != nil {
		return fmt.Errorf("claim block %s: %w", block, err)
	}
	return nil
}

// rest measures the cluster while nothing happens.
func (r *run) rest(ctx context.Context) error {
	if r.o.Align {
		if err := r.align(ctx); err != nil {
			return err
		}
	}
	r.say("at rest for %v", r.o.Rest)
	controller, err := usage.OfProcess(r.Group, controllerName)
	if err != nil {
		return err
	}
	before := r.traffic()
	began := time.Now()
	if !sleepUntil(ctx, began.Add(r.o.Rest)) {
		return ctx.Err()
	}
	after := r.traffic()
	s := &r.report.Rest
	s.Duration = time.Since(began)
	for n, t := range after {
		s.Traffic = s.Traffic.plus(t.minus(before[n]))
	}
	s.Agents = len(after)
	s.Controller, err = r.since(controller)
	return err
}

// align starts all agents anew and waits until they rest.
func (r *run) align(ctx context.Context) error {
	r.say("all agents start anew")
	if err := stopAll(r.nodes); err != nil {
		return err
	}
	if err := r.startAgents(ctx, r.traffic()); err != nil {
		return err
	}
	return r.waitQuiet(ctx)
}

// startAgents starts the agents of those nodes that had one.
func (r *run) startAgents(ctx context.Context, had map[*node]Traffic) error {
	var g errgroup.Group
	g.SetLimit(registering)
	for _, n := range r.nodes {
		if _, has := had[n]; has {
			n.forget()
			g.Go(func() error { return n.start(ctx) })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := r.waitPlanned(ctx); err != nil {
		return err
	}
	return r.waitSessions(ctx)
}

// restart starts all agents and the controller at once, as after a power cut of
// the whole cluster.
func (r *run) restart(ctx context.Context) error {
	if !r.o.Restart {
		return nil
	}
	r.say("all agents and the controller end, and start at once")
	if err := stopAll(r.nodes); err != nil {
		return err
	}
	if err := r.Group.Stop(ctx, controllerName); err != nil {
		return err
	}
	before := r.traffic()
	began := time.Now()
	if err := r.startController(ctx); err != nil {
		return err
	}
	if err := r.startAgents(ctx, before); err != nil {
		return err
	}
	s := &r.report.Restart
	s.Settled = time.Since(began)
	for n, t := range r.traffic() {
		s.Traffic = s.Traffic.plus(t.minus(before[n]))
	}
	var err error
	s.Controller, err = usage.OfProcess(r.Group, controllerName)
	return err
}

// since returns what the controller takes, with the CPU time since before.
func (r *run) since(before usage.Usage) (usage.Usage, error) {
	u, err := usage.OfProcess(r.Group, controllerName)
	u.CPU -= before.CPU
	return u, err
}

func sleepUntil(ctx context.Context, t time.Time) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(time.Until(t)):
		return true
	}
}
