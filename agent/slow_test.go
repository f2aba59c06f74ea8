package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/cni"
	"github.com/godwit-net/godwit/internal/apitest"
	"github.com/godwit-net/godwit/ipam"
)

// slowness is a way to the API server that can be made slow, or closed.
type slowness struct {
	next    http.RoundTripper
	latency atomic.Int64 // of each request, as a Duration
	away    atomic.Bool

	mu      sync.Mutex
	watches []io.Closer
}

// leave makes the server go away: requests fail, and watches end.
func (s *slowness) leave() {
	s.away.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.watches {
		_ = w.Close()
	}
	s.watches = nil
}

func (s *slowness) RoundTrip(r *http.Request) (*http.Response, error) {
	select {
	case <-time.After(time.Duration(s.latency.Load())):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if s.away.Load() {
		return nil, errors.New("connection refused")
	}
	resp, err := s.next.RoundTrip(r)
	if err == nil && r.URL.Query().Get("watch") == "true" {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.watches = append(s.watches, resp.Body)
	}
	return resp, err
}

// slowClient returns a client whose way to the server can be made slow.
func slowClient(t *testing.T, cfg *rest.Config) (client.WithWatch, *slowness) {
	t.Helper()
	way := &slowness{}
	cfg = rest.CopyConfig(cfg)
	cfg.Wrap(func(rt http.RoundTripper) http.RoundTripper { way.next = rt; return way })
	return apitest.Client(t, cfg), way
}

// closed is for agents of whose blocks nobody is in doubt.
func closed() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// testPlanAfterOutage: an agent has the newest plan soon after an outage, asks
// whose its blocks are, and writes its status again. The API's state may be
// another: here the node's blocks are gone from it.
func testPlanAfterOutage(t *testing.T, cfg *rest.Config, c client.Client) {
	clearBlocks(t, c)
	flaky, way := slowClient(t, cfg)
	nn := &v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: "outage"}}
	if err := c.Create(t.Context(), nn); err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	n, err := ipam.Open(ipam.Options{Node: "outage", Store: BlockStore{Client: flaky}, Dir: t.TempDir(), Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	n.SetPools([]ipam.Pool{{Name: "p", CIDR: netip.MustParsePrefix("172.25.0.0/20"), BlockLen: 26, Allocate: true}})
	a := &Agent{
		o: Options{Node: "outage", Client: flaky}, log: quiet, addresses: n, absence: &absence{},
		plans: make(chan plan, 1), rewrite: make(chan struct{}, 1),
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { _ = n.Run(ctx) })
	wg.Go(func() { a.watchPlan(ctx) })
	within := func(what string, good func() bool) time.Duration {
		t.Helper()
		begin := time.Now()
		for !good() {
			if time.Since(begin) > 60*time.Second {
				t.Fatalf("%s: not in time", what)
			}
			time.Sleep(5 * time.Millisecond)
		}
		return time.Since(begin)
	}
	port := int32(0)
	planned := func() bool {
		select {
		case p := <-a.plans:
			port = p.spec.ListenPort
		default:
		}
		return port == nn.Spec.ListenPort
	}
	blocks := func() int {
		var all v1alpha1.IPBlockList
		if err := c.List(ctx, &all); err != nil {
			t.Fatal(err)
		}
		return len(all.Items)
	}
	for round := range int32(2) {
		within("a block is claimed", func() bool { return blocks() == 1 })
		for len(a.rewrite) > 0 {
			<-a.rewrite
		}
		nn.Spec.ListenPort = 1000 + round
		if err := c.Update(ctx, nn); err != nil {
			t.Fatal(err)
		}
		within("the plan", planned)
		way.leave()
		nn.Spec.ListenPort += 10
		if err := c.Update(ctx, nn); err != nil {
			t.Fatal(err)
		}
		clearBlocks(t, c)
		time.Sleep(3 * time.Second) // the outage
		if planned() || blocks() != 0 {
			t.Fatal("the agent still reaches the API: the test shows nothing")
		}
		way.away.Store(false)
		plan := within("the plan after the outage", planned)
		again := within("the block after the outage", func() bool { return blocks() == 1 && len(a.rewrite) == 1 })
		t.Logf("after an outage of 3 s: the plan after %v, the block after another %v", plan.Round(time.Millisecond), again.Round(time.Millisecond))
	}
}

// podLimit bounds what a pod waits for on a busy machine where it need not wait
// for the API: it is below the latency of each request.
const (
	apiLatency = 2 * time.Second
	podLimit   = 1500 * time.Millisecond
)

// testSlowAPI: pods come and go while every request to the API takes 2 s, and
// while it comes and goes. None waits for it, also where the pools have namespace
// selectors; blocks are claimed ahead in the background.
func testSlowAPI(t *testing.T, cfg *rest.Config, c client.Client) {
	ctx, cancel := context.WithCancel(t.Context())
	clearBlocks(t, c)
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "slow", Labels: map[string]string{"colour": "red"}}}
	if err := c.Create(ctx, ns); err != nil {
		t.Fatal(err)
	}
	slow, way := slowClient(t, cfg)
	dir := t.TempDir()
	quiet := slog.New(slog.DiscardHandler)
	selector, err := labels.Parse("colour=red")
	if err != nil {
		t.Fatal(err)
	}
	// The parts of an agent that a pod meets.
	node := func() (*Agent, *ipam.Node) {
		n, err := ipam.Open(ipam.Options{Node: "n1", Store: BlockStore{Client: slow}, Dir: filepath.Join(dir, "addresses"), Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		n.SetPools([]ipam.Pool{{Name: "red", CIDR: netip.MustParsePrefix("172.25.0.0/20"), BlockLen: 26, Allocate: true, Restricted: true}})
		a := &Agent{addresses: n, confirmed: closed(), namespaces: newNamespaces(slow, filepath.Join(dir, "namespaces.json"), quiet)}
		a.state.desired.choices = []poolChoice{{name: "red", selector: selector}}
		return a, n
	}
	a, n := node()
	done := make(chan struct{})
	run := func(ctx context.Context) { defer close(done); _ = n.Run(ctx) }
	go run(ctx)
	defer func() { <-done }()
	defer cancel()

	var slowest time.Duration
	timed := func(what string, limit time.Duration, do func() error) {
		t.Helper()
		begin := time.Now()
		err := do()
		took := time.Since(begin)
		slowest = max(slowest, took)
		if err != nil || took > limit {
			t.Fatalf("%s: %v after %v, want success within %v", what, err, took, limit)
		}
	}
	owner := func(i int) ipam.Owner { return ipam.Owner{ContainerID: fmt.Sprint("c", i), Interface: "eth0"} }
	add := func(i int) func() error {
		return func() error {
			_, err := allocator{a}.Allocate(ctx, owner(i), cni.Pod{Namespace: "slow", Name: fmt.Sprint("p", i)})
			return err
		}
	}
	del := func(i int) func() error { return func() error { return allocator{a}.Release(ctx, owner(i)) } }
	stale := func() { // as if the labels had been read long ago
		a.namespaces.mu.Lock()
		defer a.namespaces.mu.Unlock()
		for name, l := range a.namespaces.labels {
			a.namespaces.labels[name] = namespaceLabels{set: l.set, pools: l.pools}
		}
	}
	timed("the first pod, for which a block is claimed", 20*time.Second, add(0))

	way.latency.Store(int64(apiLatency))
	slowest = 0
	for i := 1; i < 60; i++ {
		stale()
		timed("ADD with a slow API", podLimit, add(i))
	}
	// Below the low-water mark a block was asked for, and comes though it is slow. (After
	// the DELs none would be needed any more.)
	for end := time.Now().Add(60 * time.Second); len(n.Blocks()) < 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no block was claimed ahead with a slow API")
		}
	}
	for i := range 30 {
		timed("DEL with a slow API", podLimit, del(i))
	}
	t.Logf("every request takes %v: the slowest of 59 ADDs and 30 DELs took %v", apiLatency, slowest.Round(time.Microsecond))

	way.latency.Store(0)
	slowest = 0
	for i := 60; i < 100; i++ {
		way.away.Store(i%2 == 0)
		stale()
		timed("ADD with an API that comes and goes", podLimit, add(i))
		timed("DEL with an API that comes and goes", podLimit, del(i-30))
	}
	t.Logf("the API comes and goes: the slowest of 40 ADDs and DELs took %v", slowest.Round(time.Microsecond))

	// The agent's next life, without the API: pools with selectors have pods, too.
	way.away.Store(true)
	cancel()
	<-done
	blocks := n.Blocks()
	a, n = node()
	for _, b := range blocks {
		n.SetBlocks([]ipam.Block{b.Block})
	}
	next, stop := context.WithCancel(t.Context())
	ctx, done = next, make(chan struct{})
	go run(ctx)
	defer stop()
	timed("ADD after a restart without the API", podLimit, add(100))
	timed("DEL after a restart without the API", podLimit, del(99))
	if _, err := (allocator{a}).Allocate(ctx, owner(200), cni.Pod{Namespace: "new", Name: "p"}); err == nil {
		t.Error("a pod of a namespace that nobody knows got an address")
	}
	var all v1alpha1.IPBlockList
	if err := c.List(ctx, &all); err != nil || len(all.Items) != len(blocks) {
		t.Errorf("%d blocks in the API, %v; want %d", len(all.Items), err, len(blocks))
	}
}
