package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/e2e/pods"
	"github.com/godwit-net/godwit/internal/netnstest"
)

const (
	soakPods    = 300 // unless GODWIT_SOAK_PODS says otherwise
	soakWorkers = 3   // of each node
	soakSlots   = 12  // of each worker: pods that there may be at once
	// soakSpared is the node whose agent is never killed, so that its memory tells.
	soakSpared = "n3"
	// soakGrowth bounds how much more memory that agent may have at the end than in the
	// middle. A runtime that got busier holds some more for a while.
	soakGrowth = 24 << 20
)

// TestSoak adds and deletes many pods of three pools on three nodes, at random,
// while agents are killed, and looks for addresses that leak or that two pods
// have. `make soak` does so with 10,000 of them.
func TestSoak(t *testing.T) {
	netnstest.RequireRoot(t)
	total := soakPods
	if n, err := strconv.Atoi(os.Getenv("GODWIT_SOAK_PODS")); err == nil {
		total = n
	}
	ctx := deadline(t, 3*time.Minute+time.Duration(total)*100*time.Millisecond)
	l := bringUp(ctx, t, lab.Options{})
	s := &soak{t: t, l: l, total: int64(total), held: map[netip.Addr]string{}, lists: map[string]*libcni.NetworkConfigList{}}
	s.makePools(ctx)
	var before []tally
	for _, n := range l.Top.Nodes {
		before = append(before, census(t, l, n.Name))
		list, err := l.Runtime(n.Name).ConfList()
		if err != nil {
			t.Fatal(err)
		}
		s.lists[n.Name] = list
	}
	s.memory("at the start")
	begin := time.Now()
	slots := s.run(ctx)
	t.Logf("%d pods added and %d deleted in %v, agents killed %d times, %d calls tried again",
		s.added.Load(), s.deleted.Load(), time.Since(begin).Round(time.Second), s.kills, s.retried.Load())
	end := s.memory("at the end")
	if s.kills == 0 || s.retried.Load() == 0 {
		t.Error("no agent was killed, or none while it worked: the soak shows little")
	}
	if end > s.middle+soakGrowth {
		t.Errorf("the agent of %s has %d MiB at the end and had %d in the middle", soakSpared, end>>20, s.middle>>20)
	}

	var left []pods.Pod
	for _, slot := range slots {
		if slot.attached {
			left = append(left, slot.pod)
		}
	}
	agrees(ctx, t, l, 60*time.Second, left...)
	for _, slot := range slots {
		s.del(ctx, slot)
	}
	agrees(ctx, t, l, 60*time.Second)
	for _, c := range before {
		c.same(t, l)
	}
}

// soak is the state of a soak.
type soak struct {
	t     *testing.T
	l     *lab.Lab
	lists map[string]*libcni.NetworkConfigList // by node
	total int64                                // of pods

	started, added, deleted, retried atomic.Int64

	mu     sync.Mutex
	held   map[netip.Addr]string // who has an address
	kills  int
	middle int64 // bytes of the spared agent
}

// slot is a network namespace that has a pod or none. Each pod is a container of
// its own.
type slot struct {
	node, netns, kubeNamespace string
	pod                        pods.Pod
	attached                   bool
}

// soakNamespaces are the namespaces of the pods, each with a pool: the lab's, one
// of small blocks that come and go, and one of blocks of one address.
func soakNamespaces() map[string]int32 {
	return map[string]int32{"default": 26, "few": 29, "single": 32}
}

func (s *soak) makePools(ctx context.Context) {
	s.t.Helper()
	api, err := s.l.API()
	if err != nil {
		s.t.Fatal(err)
	}
	third := 26
	for _, name := range []string{"few", "single"} {
		size := soakNamespaces()[name]
		labels := map[string]string{"pool": name}
		mustDo(s.t,
			api.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}),
			api.Create(ctx, &v1alpha1.IPPool{
				ObjectMeta: metav1.ObjectMeta{Name: name},
				Spec: v1alpha1.IPPoolSpec{
					CIDR: fmt.Sprintf("172.%d.0.0/22", third), BlockSize: &size, NamespaceSelector: &metav1.LabelSelector{MatchLabels: labels},
				},
			}))
		third++
	}
	eventually(s.t, 30*time.Second, "every node knows the pools", func() error {
		return eachNetwork(ctx, s.l, func(nn *v1alpha1.NodeNetwork) error {
			if len(nn.Spec.Pools) != 3 || nn.Status.ObservedGeneration != nn.Generation {
				return fmt.Errorf("%s knows %d pools", nn.Name, len(nn.Spec.Pools))
			}
			return nil
		})
	})
}

// run adds and deletes pods until there were as many as asked for, and kills
// agents meanwhile. It returns the slots as they are then.
func (s *soak) run(ctx context.Context) []*slot {
	s.t.Helper()
	var slots []*slot
	var workers, killer sync.WaitGroup
	killing, stop := context.WithCancel(ctx)
	killer.Go(func() { s.kill(killing) })
	for _, n := range s.l.Top.Nodes {
		for w := range soakWorkers {
			var own []*slot
			for i := range soakSlots {
				kind := []string{"default", "few", "single"}[i%3]
				netns := s.l.Top.Namespace(fmt.Sprintf("%s-k%d-%d", n.Name, w, i))
				if err := namespace.Add(ctx, netns); err != nil {
					s.t.Fatal(err)
				}
				s.t.Cleanup(func() { _ = namespace.Delete(netns) })
				own = append(own, &slot{node: n.Name, netns: netns, kubeNamespace: kind})
			}
			slots = append(slots, own...)
			workers.Go(func() { s.work(ctx, own) })
		}
	}
	workers.Wait()
	stop()
	killer.Wait()
	if s.t.Failed() {
		s.t.FailNow()
	}
	return slots
}

func (s *soak) work(ctx context.Context, own []*slot) {
	for ctx.Err() == nil && !s.t.Failed() {
		p := own[rand.N(len(own))]
		if p.attached {
			s.del(ctx, p)
			continue
		}
		n := s.started.Add(1)
		if n > s.total {
			return
		}
		if n == s.total/2 {
			middle := s.memory("in the middle")
			s.mu.Lock()
			s.middle = middle
			s.mu.Unlock()
		}
		s.add(ctx, p, n)
	}
}

// add attaches a new pod, as often as it takes: a runtime deletes what failed and
// makes another attempt.
func (s *soak) add(ctx context.Context, p *slot, n int64) {
	rt := s.l.Runtime(p.node)
	p.pod = pods.New(fmt.Sprintf("%s-soak%d", p.node, n), p.kubeNamespace, p.netns)
	sum := sha256.Sum256([]byte(p.pod.Name))
	p.pod.ContainerID = hex.EncodeToString(sum[:])
	s.again(ctx, "ADD of "+p.pod.Name, func() error {
		_, err := rt.Add(ctx, &p.pod, s.lists[p.node], nil)
		if err != nil {
			_ = rt.Detach(ctx, &p.pod, s.lists[p.node], nil)
		}
		return err
	})
	if s.t.Failed() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range p.pod.Addresses {
		if other, twice := s.held[a]; twice {
			s.t.Errorf("%s and %s both have %s", p.pod.Name, other, a)
		}
		s.held[a] = p.pod.Name
	}
	p.attached = true
	s.added.Add(1)
}

func (s *soak) del(ctx context.Context, p *slot) {
	if !p.attached {
		return
	}
	s.mu.Lock()
	for _, a := range p.pod.Addresses {
		delete(s.held, a)
	}
	s.mu.Unlock()
	s.again(ctx, "DEL of "+p.pod.Name, func() error { return s.l.Runtime(p.node).Detach(ctx, &p.pod, s.lists[p.node], nil) })
	p.attached = false
	s.deleted.Add(1)
}

// again repeats a call of the runtime until it succeeds; an agent may be away.
func (s *soak) again(ctx context.Context, what string, do func() error) {
	until := time.Now().Add(s.l.Patience.Times(time.Minute))
	for {
		err := do()
		if err == nil {
			return
		}
		if ctx.Err() != nil || time.Now().After(until) {
			s.t.Errorf("%s: %v", what, err)
			return
		}
		s.retried.Add(1)
		time.Sleep(20 * time.Millisecond)
	}
}

// kill kills the agent of a node now and then, and starts it again.
func (s *soak) kill(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(500*time.Millisecond + rand.N(2*time.Second)):
		}
		node := s.l.Top.Nodes[rand.N(len(s.l.Top.Nodes))].Name
		if node == soakSpared {
			continue
		}
		lasting := context.WithoutCancel(ctx)
		err := s.l.Group.Kill(lasting, lab.AgentProcess(node))
		if err == nil {
			err = s.l.StartAgent(lasting, node)
		}
		if err != nil {
			s.t.Errorf("restart the agent of %s: %v", node, err)
			return
		}
		s.kills++
	}
}

// memory tells how much memory the agents have, and returns that of the spared
// one, in bytes.
func (s *soak) memory(when string) int64 {
	var words []string
	var spared int64
	for _, n := range s.l.Top.Nodes {
		rss := int64(0)
		if r, err := s.l.Group.Get(lab.AgentProcess(n.Name)); err == nil {
			raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", r.PID))
			if f := strings.Fields(string(raw)); len(f) > 1 {
				pages, _ := strconv.ParseInt(f[1], 10, 64)
				rss = pages * int64(os.Getpagesize())
			}
		}
		words = append(words, fmt.Sprintf("%s %d MiB", n.Name, rss>>20))
		if n.Name == soakSpared {
			spared = rss
		}
	}
	s.t.Logf("memory of the agents %s, after %d pods: %s", when, s.added.Load(), strings.Join(words, ", "))
	return spared
}
