package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/e2e/controlplane"
	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/pods"
	"github.com/godwit-net/godwit/internal/netnstest"
)

// agreeLimit is how soon after the API's return everything agrees.
const agreeLimit = 10 * time.Second

// TestOutages takes the API away from a lab in several ways. What is compared at
// each end is everything that there is: blocks, nodes, kernels, pods, and what
// nodes have learned.
func TestOutages(t *testing.T) {
	netnstest.RequireRoot(t)
	ctx := deadline(t, 10*time.Minute)
	l := bringUp(ctx, t, lab.Options{})
	for _, tt := range []struct {
		name string
		run  func(*testing.T, *lab.Lab)
	}{
		{"Agreement", testAgreement},
		{"WorkWithoutAPI", testWorkWithoutAPI},
		{"Restored", testRestored},
		{"Gated", testGated}, // the last: the programs know the gate alone after it
	} {
		if !t.Run(tt.name, func(t *testing.T) { tt.run(t, l) }) && ctx.Err() != nil {
			t.Fatal("out of time")
		}
	}
}

// testAgreement: a new lab agrees, and what is changed by hand is named.
func testAgreement(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, 2*time.Minute)
	agrees(ctx, t, l, agreeLimit)

	veth := strings.Fields(run(t, l, "n1", "ip -4 route show "+pod(t, l, "n1-p3").Address.String()))[2]
	for _, tt := range []struct {
		name     string
		do, undo func()
		limit    time.Duration
		want     string
	}{
		{
			"a packet's way is not the pod's link",
			func() {
				run(t, l, "n1", "ip route add 172.25.0.130/32 dev lo table 100")
				run(t, l, "n1", "ip rule add to 172.25.0.130/32 lookup 100")
			},
			func() {
				run(t, l, "n1", "ip rule del to 172.25.0.130/32 lookup 100")
				run(t, l, "n1", "ip route flush table 100")
			},
			40 * time.Second, "Address 172.25.0.130: on node n1: packets to it leave by lo and not by its pod's link " + veth,
		},
		{
			"a pod of which the runtime knows nothing",
			func() {
				api, err := l.API()
				if err == nil {
					err = api.Delete(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "n1-p3"}}, client.GracePeriodSeconds(0))
				}
				if err != nil {
					t.Fatal(err)
				}
			},
			func() {
				if err := l.ReportPods(ctx); err != nil {
					t.Fatal(err)
				}
			},
			10 * time.Second, "Address 172.25.0.130: it is in use on node n1, and no pod has it",
		},
		{
			"a claim that nobody made",
			func() {
				api, err := l.API()
				if err == nil {
					err = api.Create(ctx, lab.Block("n9", netip.MustParsePrefix("172.25.99.0/26")))
				}
				if err != nil {
					t.Fatal(err)
				}
			},
			func() {
				if api, err := l.API(); err != nil || api.Delete(ctx, lab.Block("n9", netip.MustParsePrefix("172.25.99.0/26"))) != nil {
					t.Error("the block of nobody stays")
				}
			},
			10 * time.Second, "IPBlock 172-25-99-0-26: 172.25.99.0/26 is of node n9, which is not there",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.do()
			defer tt.undo()
			took := eventually(t, tt.limit, "the check names it", func() error {
				out, err := l.CheckIPAM(ctx, "--settle=0")
				if err == nil || !strings.Contains(out, tt.want) {
					return fmt.Errorf("in agreement: %t; it says:\n%s", err == nil, out)
				}
				return nil
			})
			t.Logf("named after %v", took.Round(time.Millisecond))
		})
	}
	agrees(ctx, t, l, 40*time.Second)
}

// agrees waits until the check says that all agrees, after the lab's pods have
// been told to the API, and returns how long that took.
func agrees(ctx context.Context, t *testing.T, l *lab.Lab, limit time.Duration, more ...pods.Pod) time.Duration {
	t.Helper()
	begin := time.Now()
	if err := l.ReportPods(ctx, more...); err != nil {
		t.Fatal(err)
	}
	var out string
	eventually(t, limit, "the check says that all agrees", func() (err error) {
		out, err = l.CheckIPAM(ctx, "--settle=0")
		return err
	})
	took := time.Since(begin)
	t.Logf("after %v: %s", took.Round(time.Millisecond), strings.TrimSpace(out))
	return took
}

// herd is pods that are added to and deleted from all nodes, some at once.
type herd struct {
	t *testing.T
	l *lab.Lab

	mu             sync.Mutex
	next           int
	pods           map[string][]string // names by node
	added, deleted int
	slowest        time.Duration
	late           int // pods that took longer than slowLatency to come or go
}

func newHerd(t *testing.T, l *lab.Lab) *herd {
	return &herd{t: t, l: l, pods: map[string][]string{}}
}

const atOnce = 4 // pods that a node works on

// add adds so many pods to each node.
func (h *herd) add(ctx context.Context, each int) {
	h.t.Helper()
	h.all(ctx, each, func(ctx context.Context, node string) error {
		h.mu.Lock()
		h.next++
		name := fmt.Sprintf("h%d", h.next)
		h.mu.Unlock()
		begin := time.Now()
		if _, err := h.l.AddPod(ctx, node, name); err != nil {
			return err
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.took(time.Since(begin))
		h.pods[node] = append(h.pods[node], name)
		h.added++
		return nil
	})
}

// del deletes so many pods of each node, the oldest first.
func (h *herd) del(ctx context.Context, each int) {
	h.t.Helper()
	h.all(ctx, each, func(ctx context.Context, node string) error {
		h.mu.Lock()
		if len(h.pods[node]) == 0 {
			h.mu.Unlock()
			return nil
		}
		name := h.pods[node][0]
		h.pods[node] = h.pods[node][1:]
		h.mu.Unlock()
		begin := time.Now()
		if err := h.l.DelPod(ctx, node, name); err != nil {
			return err
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.took(time.Since(begin))
		h.deleted++
		return nil
	})
}

// took notes how long a pod took; h.mu is held.
func (h *herd) took(d time.Duration) {
	h.slowest = max(h.slowest, d)
	if d > slowLatency {
		h.late++
	}
}

// all does something so many times on each node.
func (h *herd) all(ctx context.Context, each int, do func(ctx context.Context, node string) error) {
	h.t.Helper()
	var wg sync.WaitGroup
	errs := make(chan error, 1)
	for _, n := range h.l.Top.Nodes {
		left := make(chan struct{}, each)
		for range each {
			left <- struct{}{}
		}
		close(left)
		for range atOnce {
			wg.Go(func() {
				for range left {
					if err := do(ctx, n.Name); err != nil {
						select {
						case errs <- fmt.Errorf("node %s: %w", n.Name, err):
						default:
						}
					}
				}
			})
		}
	}
	wg.Wait()
	select {
	case err := <-errs:
		h.t.Fatal(err)
	default:
	}
}

// talk asks whether the newest pod of each node reaches that of the next, and a
// host behind the routers.
func (h *herd) talk(ctx context.Context) {
	h.t.Helper()
	host := hostOf(h.t, h.l, "host1").Address.First()
	for i, n := range h.l.Top.Nodes {
		from := n.Name + "-" + h.pods[n.Name][len(h.pods[n.Name])-1]
		other := h.l.Top.Nodes[(i+1)%len(h.l.Top.Nodes)].Name
		to := pod(h.t, h.l, other+"-"+h.pods[other][len(h.pods[other])-1])
		for _, addr := range []netip.Addr{to.Address, host} {
			eventually(h.t, 10*time.Second, fmt.Sprintf("%s reaches %s", from, addr), func() error {
				_, err := h.l.Ping(ctx, from, addr)
				return err
			})
		}
	}
}

// testWorkWithoutAPI: with the API server stopped, pods come and go, an agent
// restarts, a link is cut and healed and a router restarts; when the API is back
// all agrees within agreeLimit.
func testWorkWithoutAPI(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, 4*time.Minute)
	stopAPI(ctx, t, l)
	begin := time.Now()
	h := newHerd(t, l)
	h.add(ctx, 40)
	h.talk(ctx)

	if err := l.Group.Kill(ctx, lab.AgentProcess("n1")); err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	if err := l.StartAgent(ctx, "n1"); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitAgentReady(ctx, "n1"); err != nil {
		t.Fatal(err)
	}
	t.Logf("n1's agent takes pods again %v after its start from the checkpoint", time.Since(started).Round(time.Millisecond))
	h.del(ctx, 20)
	h.talk(ctx)

	run(t, l, "n2", "ip link set eth0 down")
	eventually(t, 5*time.Second, "n2's routes are gone", contains(l, "n2", "ip -4 route", nodeOf(t, l, "n1").Block.V4.String(), false))
	run(t, l, "n2", "ip link set eth0 up")
	run(t, l, "n2", "ip route replace default via "+l.Top.Gateways[0].First().String())
	h.add(ctx, 14)
	h.talk(ctx)

	if err := l.Routers[1].Kill(ctx); err != nil {
		t.Fatal(err)
	}
	started = time.Now()
	if err := l.Routers[1].Start(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, 60*time.Second, "tor2's sessions are back", established(ctx, l, 1, len(l.Top.Nodes)))
	t.Logf("%s has its sessions %v after its restart", l.Top.ToRs[1].Name, time.Since(started).Round(time.Millisecond))
	h.add(ctx, 13)
	h.talk(ctx)
	h.del(ctx, 40)
	h.talk(ctx)
	t.Logf("without the API server for %v: %d pods added and %d deleted, the slowest of them in %v",
		time.Since(begin).Round(time.Second), h.added, h.deleted, h.slowest.Round(time.Millisecond))
	if h.added < 200 {
		t.Errorf("only %d pods were added", h.added)
	}

	startAPI(ctx, t, l)
	if took := agrees(ctx, t, l, 3*agreeLimit); took > agreeLimit {
		t.Errorf("all agrees %v after the API's return, want %v", took, agreeLimit)
	}
	h.del(ctx, 7)
	agrees(ctx, t, l, 3*agreeLimit)
	if err := l.WaitEstablished(ctx); err != nil {
		t.Error(err)
	}
}

func stopAPI(ctx context.Context, t *testing.T, l *lab.Lab) {
	t.Helper()
	if err := l.Group.Kill(ctx, controlplane.ServerProcess); err != nil {
		t.Fatal(err)
	}
}

// startAPI starts the API server, and the controller anew: it ends when it can't
// renew its lease, for its pod's kubelet to start it again.
func startAPI(ctx context.Context, t *testing.T, l *lab.Lab) {
	t.Helper()
	if err := l.CP.StartServer(ctx); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Group.Stop(ctx, lab.ControllerProcess), l.StartController(ctx)); err != nil {
		t.Fatal(err)
	}
}
