package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/e2e/pods"
	"github.com/godwit-net/godwit/e2e/traffic"
)

// tally is what a node holds for its pods, in the kernel and on disk.
type tally struct {
	node    string
	Veths   []string
	Routes  []string // to pods
	Records []string
}

func census(t *testing.T, l *lab.Lab, node string) tally {
	t.Helper()
	c := tally{node: node}
	for line := range strings.Lines(run(t, l, node, "ip -br link show type veth")) {
		if name, _, _ := strings.Cut(strings.Fields(line)[0], "@"); name != "eth0" {
			c.Veths = append(c.Veths, name)
		}
	}
	for line := range strings.Lines(run(t, l, node, "ip -4 route show proto 71 scope link")) {
		c.Routes = append(c.Routes, strings.Fields(line)[0])
	}
	records := filepath.Join(l.RunDir(node), "addresses")
	err := filepath.WalkDir(records, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && path != records {
			// What lies deeper remembers which addresses were free for how long.
			return filepath.SkipDir
		}
		if err == nil && !d.IsDir() {
			c.Records = append(c.Records, strings.TrimPrefix(path, records))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(c.Veths)
	slices.Sort(c.Routes)
	return c
}

// same waits until the node holds the same as before. A deleted pod's link may
// go a moment after DEL has answered.
func (c tally) same(t *testing.T, l *lab.Lab) {
	t.Helper()
	eventually(t, 5*time.Second, "node "+c.node+" holds what it held before", func() error {
		now := census(t, l, c.node)
		if diff := cmp.Diff(c, now, cmp.AllowUnexported(tally{})); diff != "" {
			return fmt.Errorf("leaked (+) or lost (-):\n%s", diff)
		}
		return nil
	})
}

const (
	churnPods = 100
	afterKill = 10 // of the pods, whose turn comes when the agent is gone
	churnNode = "n1"
	codeRetry = 11 // CNI: try again later
	// stallLimit bounds the pauses of streams while the agent is away. While a hundred
	// plugins run at once they also wait for a processor, hence burstLimit.
	stallLimit = 500 * time.Millisecond
	burstLimit = time.Second
	// refusalLimit is how soon ADD fails without an agent.
	refusalLimit = 100 * time.Millisecond
)

// testChurn adds and deletes a hundred pods at once, with the agent killed in
// the middle of each, while connections of other pods go on.
func testChurn(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, 2*time.Minute)
	base := census(t, l, churnNode)
	c := &churn{l: l, rt: l.Runtime(churnNode), base: len(base.Records)}
	var err error
	if c.list, err = c.rt.ConfList(); err != nil {
		t.Fatal(err)
	}
	for i := range churnPods {
		name := fmt.Sprintf("%s-churn%d", churnNode, i)
		c.pods = append(c.pods, pods.New(name, "default", l.Top.Namespace(name)))
		if err := namespace.Add(ctx, c.pods[i].Netns); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = namespace.Delete(c.pods[i].Netns) })
	}

	c.startStreams(ctx, t)

	c.killedDuring(ctx, t, "ADD", c.add, func(records int) bool { return records >= c.base+churnPods/3 })
	c.quiet(ctx, t)
	c.refusedWhileAway(ctx, t)
	started := c.restart(ctx, t)
	// A runtime gives up a failed attempt before it makes another.
	c.again(ctx, t, "DEL of what failed", c.del)
	c.again(ctx, t, "ADD of what failed", c.add)
	c.checkAddresses(t)
	full := census(t, l, churnNode)
	for what, n := range map[string][2]int{
		"veths": {len(full.Veths), len(base.Veths)}, "routes": {len(full.Routes), len(base.Routes)},
		"records": {len(full.Records), len(base.Records)},
	} {
		if n[0] != n[1]+churnPods {
			t.Errorf("%d %s with %d pods more than the %d before", n[0], what, churnPods, n[1])
		}
	}

	c.settled(ctx, t, started)
	c.killedDuring(ctx, t, "DEL", c.del, func(records int) bool { return records <= c.base+churnPods*2/3 })
	c.quiet(ctx, t)
	_ = c.restart(ctx, t)
	c.again(ctx, t, "DEL of what failed", c.del)
	base.same(t, l)

	c.all(ctx, t, "second ADD", c.add)
	c.checkAddresses(t)
	c.all(ctx, t, "second DEL", c.del)
	base.same(t, l)
	c.stopStreams(t)
}

// startStreams opens connections of pods that stay.
func (c *churn) startStreams(ctx context.Context, t *testing.T) {
	t.Helper()
	var specs []traffic.Spec
	for _, s := range []struct {
		from, to string
		addr     netip.Addr
	}{
		{"n1-p3", "n2-p4", pod(t, c.l, "n2-p4").Address},
		{"n3-p1", "n1-p2", pod(t, c.l, "n1-p2").Address},
		{"n1-p1", "n1-p2", pod(t, c.l, "n1-p2").Address},
		{"n1-p1", "host1", hostOf(t, c.l, "host1").Address.First()},
		{"host2", "n1-p3", pod(t, c.l, "n1-p3").Address},
	} {
		specs = append(specs, traffic.Spec{
			Name: s.from + " to " + s.to, From: c.l.Top.Namespace(s.from), To: c.l.Top.Namespace(s.to), Addr: s.addr,
		})
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if c.streams, err = traffic.Spawn(ctx, self, specs); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.stopStreams(t) })
}

// stopStreams ends the streams, and looks whether everything came through.
func (c *churn) stopStreams(t *testing.T) {
	t.Helper()
	if c.streams == nil {
		return
	}
	outcomes, err := c.streams.Stop()
	c.streams = nil
	if err != nil {
		t.Error(err)
	}
	for _, o := range outcomes {
		if o.Error != "" || o.Longest > burstLimit {
			t.Errorf("%s: %d numbers sent, %d received, longest stall %v, error %q", o.Name, o.Sent, o.Received, o.Longest, o.Error)
			continue
		}
		t.Logf("%s: all %d numbers came through, longest stall %v", o.Name, o.Sent, o.Longest)
	}
}

// mark returns the longest stall of any stream since the last mark.
func (c *churn) mark(t *testing.T) time.Duration {
	t.Helper()
	longest, err := c.streams.Mark()
	if err != nil {
		t.Fatal(err)
	}
	return longest
}

// quiet looks at the streams while there is no agent and nothing else goes on.
func (c *churn) quiet(ctx context.Context, t *testing.T) {
	t.Helper()
	const watch = 2 * time.Second
	c.mark(t)
	select {
	case <-ctx.Done():
		t.Fatal(ctx.Err())
	case <-time.After(watch):
	}
	stall := c.mark(t)
	if stall > stallLimit {
		t.Errorf("streams stalled for %v while the agent was away, limit %v", stall, stallLimit)
	}
	t.Logf("streams stall for at most %v while the agent is away", stall)
}

// churn is a hundred pods.
type churn struct {
	l      *lab.Lab
	rt     *pods.Runtime
	list   *libcni.NetworkConfigList
	pods   []pods.Pod
	failed []int // of the last round

	base    int // records of other pods
	streams *traffic.Streams
}

func (c *churn) add(ctx context.Context, p *pods.Pod) error {
	_, err := c.rt.Add(ctx, p, c.list, nil)
	return err
}

func (c *churn) del(ctx context.Context, p *pods.Pod) error {
	return c.rt.Detach(ctx, p, c.list, nil)
}

// round does one thing with pods, all at once, and returns the errors.
func (c *churn) round(ctx context.Context, which []int, do func(context.Context, *pods.Pod) error) map[int]error {
	var mu sync.Mutex
	errs := map[int]error{}
	var wg sync.WaitGroup
	for _, i := range which {
		wg.Go(func() {
			err := do(ctx, &c.pods[i])
			if err != nil {
				mu.Lock()
				errs[i] = err
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return errs
}

func (c *churn) every() []int {
	all := make([]int, len(c.pods))
	for i := range all {
		all[i] = i
	}
	return all
}

// killedDuring kills the agent when its records say that a third is done, in the
// middle of the rest. The last ones begin when it is gone, so that something fails
// however late the kill comes. What fails must say that it may be tried again.
func (c *churn) killedDuring(ctx context.Context, t *testing.T, what string, do func(context.Context, *pods.Pod) error, now func(records int) bool) {
	t.Helper()
	records := func() int {
		files, _ := filepath.Glob(filepath.Join(c.l.RunDir(churnNode), "addresses", "[0-9]*"))
		return len(files)
	}
	all := c.every()
	killed, last := make(chan error, 1), make(chan map[int]error, 1)
	go func() {
		for !now(records()) && ctx.Err() == nil {
			time.Sleep(100 * time.Microsecond)
		}
		killed <- c.l.Group.Kill(ctx, lab.AgentProcess(churnNode))
		last <- c.round(ctx, all[churnPods-afterKill:], do)
	}()
	begin := time.Now()
	errs := c.round(ctx, all[:churnPods-afterKill], do)
	if err := <-killed; err != nil {
		t.Fatal(err)
	}
	maps.Copy(errs, <-last)
	c.failed = nil
	for i, err := range errs {
		c.failed = append(c.failed, i)
		if code := pods.ErrorCode(err); code != codeRetry {
			t.Errorf("%s of %s failed with code %d (%v), want %d", what, c.pods[i].Name, code, err, codeRetry)
		}
	}
	t.Logf("%s of %d pods with the agent killed: %d failed, %v in all, streams stall for %v", what, churnPods, len(errs), time.Since(begin), c.mark(t))
	if len(errs) < afterKill {
		t.Fatalf("%s: %d failed, though the agent was gone when %d began", what, len(errs), afterKill)
	}
}

// refusedWhileAway: ADD fails at once and says what to do.
func (c *churn) refusedWhileAway(ctx context.Context, t *testing.T) {
	t.Helper()
	config := withRuntimeFields(t, c.list)
	fastest := time.Hour
	// The quickest of a few: the machine may be busy with something else.
	for range 5 {
		begin := time.Now()
		out, err := plugin(ctx, t, c.l, "ADD", config, namespace.Path(c.pods[0].Netns), pods.Interface)
		fastest = min(fastest, time.Since(begin))
		if err == nil || !strings.Contains(out, fmt.Sprintf(`"code":%d`, codeRetry)) || !strings.Contains(out, "godwit-agent") {
			t.Fatalf("ADD without the agent printed %s (%v), want code %d and what to look at", out, err, codeRetry)
		}
	}
	if fastest > refusalLimit {
		t.Errorf("ADD without the agent takes %v to fail, limit %v", fastest, refusalLimit)
	}
	t.Logf("ADD without the agent fails after %v", fastest)
}

// restart starts the agent that was killed, and returns when.
func (c *churn) restart(ctx context.Context, t *testing.T) time.Time {
	t.Helper()
	begin := time.Now()
	if err := c.l.StartAgent(ctx, churnNode); err != nil {
		t.Fatal(err)
	}
	if err := c.l.WaitAgentReady(ctx, churnNode); err != nil {
		t.Fatal(err)
	}
	t.Logf("agent ready again after %v, streams stall for %v", time.Since(begin), c.mark(t))
	return begin
}

// settled waits until all peers have the node's routes from the agent's new life.
// A router that loses the session once more before that has kept the routes for
// one restart already, and drops them.
func (c *churn) settled(ctx context.Context, t *testing.T, started time.Time) {
	t.Helper()
	if err := c.l.WaitRestarted(ctx, churnNode, started); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "all peers have the node's blocks", func() error {
		nn := &v1alpha1.NodeNetwork{}
		if err := get(ctx, c.l, churnNode, nn); err != nil {
			return err
		}
		for _, s := range nn.Status.Sessions {
			if int(s.Advertised) != len(nn.Status.Blocks) {
				return fmt.Errorf("%s was sent %d of %d blocks", s.Name, s.Advertised, len(nn.Status.Blocks))
			}
		}
		return nil
	})
	t.Logf("the restart is over %v after it began", time.Since(started))
}

func (c *churn) again(ctx context.Context, t *testing.T, what string, do func(context.Context, *pods.Pod) error) {
	t.Helper()
	for i, err := range c.round(ctx, c.failed, do) {
		t.Fatalf("%s: %s: %v", what, c.pods[i].Name, err)
	}
}

func (c *churn) all(ctx context.Context, t *testing.T, what string, do func(context.Context, *pods.Pod) error) {
	t.Helper()
	begin := time.Now()
	for i, err := range c.round(ctx, c.every(), do) {
		t.Fatalf("%s: %s: %v", what, c.pods[i].Name, err)
	}
	t.Logf("%s of %d pods: %v, streams stall for %v", what, churnPods, time.Since(begin), c.mark(t))
}

// checkAddresses: nobody has an address twice.
func (c *churn) checkAddresses(t *testing.T) {
	t.Helper()
	owner := map[netip.Addr]string{}
	for _, p := range append(c.l.Pods(), c.pods...) {
		if other, dup := owner[p.Address]; dup {
			t.Errorf("%s and %s both have %s", p.Name, other, p.Address)
		}
		owner[p.Address] = p.Name
		if !c.l.Top.Pool.V4.Contains(p.Address) {
			t.Errorf("%s has %s, which is not of the pool", p.Name, p.Address)
		}
	}
}
