package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/e2e/pods"
)

// A claimed address is away for about half a second while its pod moves. On a busy
// machine one of several moves may take much longer, but not all of them.
const (
	moveLimit = 5 * time.Second
	moveGoal  = time.Second
)

// testClaims moves a pod with a claimed address between nodes, under traffic. Two
// pods that want the same one at once don't get it both, and in the end nothing of
// it is left anywhere.
func testClaims(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, 3*time.Minute)
	base := map[string]tally{}
	for _, n := range l.Top.Nodes {
		base[n.Name] = census(t, l, n.Name)
	}
	c := newClaimants(ctx, t, l, "172.26.0.10", "172.26.0.11")
	addr := netip.MustParseAddr("172.26.0.10")
	watcher := watchAddress(t, l, "n3-p1", addr)
	defer watcher.stop()

	first := c.must("n1", "db", "172.26.0.10")
	watcher.at(first)
	c.routed(addr, "n1")
	shortest := moveLimit
	for i := range 4 {
		from, to := []string{"n1", "n2"}[i%2], []string{"n2", "n1"}[i%2]
		begin := time.Now()
		c.del(from, "db")
		gone := time.Since(begin)
		p := c.must(to, "db", "172.26.0.10")
		added := time.Since(begin)
		reached := watcher.at(p)
		t.Logf("moved from %s to %s: DEL answered after %v, ADD after %v, the address reached on %s %v after the begin of DEL",
			from, to, gone.Round(time.Millisecond), added.Round(time.Millisecond), to, reached.Sub(begin).Round(time.Millisecond))
		if limit := l.Patience.Times(moveLimit); reached.Sub(begin) > limit {
			t.Errorf("the address was away for %v, longer than %v", reached.Sub(begin), limit)
		}
		shortest = min(shortest, reached.Sub(begin))
		c.routed(addr, to)
	}
	if limit := l.Patience.Times(moveGoal); shortest > limit {
		t.Errorf("at each move the address was away for %v or longer, want less than %v", shortest, limit)
	}
	c.is("172-26-0-10", "True Held: node n1 has the address for pod default/n1-db")

	// Refused while the pod is alive; served when it goes meanwhile.
	if _, err := c.add("n2", "db", "172.26.0.10"); pods.ErrorCode(err) != codeRetry || !strings.Contains(err.Error(), "held by node n1 for pod default/n1-db") {
		t.Errorf("a second pod wants an address that is held: %v", err)
	}
	const stays = 500 * time.Millisecond
	begin := time.Now()
	done := make(chan error, 1)
	go func() {
		<-time.After(stays)
		done <- c.remove("n1", "db")
	}()
	second := c.must("n2", "db", "172.26.0.10")
	took := time.Since(begin)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if took < stays {
		t.Errorf("a pod has got the address after %v, and the old one had it for %v", took, stays)
	}
	t.Logf("a pod that came before the old one went was attached after %v, of which the old one was there for %v", took.Round(time.Millisecond), stays)
	watcher.at(second)

	c.together("172.26.0.11")

	// The agent restarts: the pod keeps its address, and nobody notices.
	since := watcher.count()
	if err := l.Group.Kill(ctx, lab.AgentProcess("n2")); err != nil {
		t.Fatal(err)
	}
	if err := l.StartAgent(ctx, "n2"); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitAgentReady(ctx, "n2"); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitEstablished(ctx); err != nil {
		t.Fatal(err)
	}
	c.routed(addr, "n2")
	if sent, lost := watcher.since(since); lost > 0 || sent == 0 {
		t.Errorf("of %d datagrams %d were lost while the agent of n2 restarted", sent, lost)
	}
	t.Logf("ipam check agrees after %v", agrees(ctx, t, l, 40*time.Second, second).Round(time.Millisecond))

	// A claim in use stays until the pod goes.
	if err := c.api.Delete(ctx, claimOf(addr, "default")); err != nil {
		t.Fatal(err)
	}
	c.is("172-26-0-10", "True Held: node n2 has the address for pod default/n2-db")
	c.del("n2", "db")
	c.end()
	for _, b := range base {
		b.same(t, l)
	}
	agrees(ctx, t, l, 40*time.Second)
}

// claimants attach pods that ask for claims.
type claimants struct {
	t   *testing.T
	ctx context.Context
	l   *lab.Lab
	api client.Client
}

const claimPool = "fixed"

// newClaimants makes a pool and claims of it.
func newClaimants(ctx context.Context, t *testing.T, l *lab.Lab, claims ...string) *claimants {
	t.Helper()
	api, err := l.API()
	if err != nil {
		t.Fatal(err)
	}
	c := &claimants{t, ctx, l, api}
	pool := &v1alpha1.IPPool{
		ObjectMeta: metav1.ObjectMeta{Name: claimPool},
		Spec:       v1alpha1.IPPoolSpec{CIDR: lab.ClaimRange().String(), Allocation: v1alpha1.AllocationClaims},
	}
	if err := api.Create(ctx, pool); err != nil {
		t.Fatal(err)
	}
	for _, s := range claims {
		if err := api.Create(ctx, claimOf(netip.MustParseAddr(s), "default")); err != nil {
			t.Fatal(err)
		}
	}
	knowPool(ctx, t, l, claimPool, 20*time.Second)
	return c
}

func claimOf(addr netip.Addr, kubeNamespace string) *v1alpha1.IPClaim {
	return &v1alpha1.IPClaim{
		ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.IPClaimName(addr)},
		Spec:       v1alpha1.IPClaimSpec{Address: addr.String(), Namespace: kubeNamespace},
	}
}

// add attaches a pod of a node that asks for a claim.
func (c *claimants) add(node, name, claim string) (pods.Pod, error) {
	full := node + "-" + name
	p := pods.New(full, "default", c.l.Top.Namespace(full))
	rt := c.l.Runtime(node)
	list, err := rt.ConfList()
	if err != nil {
		return p, err
	}
	_, err = rt.Add(c.ctx, &p, list, map[string]any{
		"io.kubernetes.cri.pod-annotations": map[string]string{v1alpha1.ClaimAnnotation: claim},
	})
	if err != nil {
		err = errors.Join(err, rt.Del(c.ctx, &p, list, nil))
	}
	return p, err
}

func (c *claimants) must(node, name, claim string) pods.Pod {
	c.t.Helper()
	p, err := c.add(node, name, claim)
	if err != nil {
		c.t.Fatal(err)
	}
	if p.Address.String() != claim {
		c.t.Fatalf("the pod has %s, want %s", p.Address, claim)
	}
	return p
}

func (c *claimants) remove(node, name string) error {
	full := node + "-" + name
	p := pods.New(full, "default", c.l.Top.Namespace(full))
	rt := c.l.Runtime(node)
	list, err := rt.ConfList()
	if err != nil {
		return err
	}
	return rt.Del(c.ctx, &p, list, nil)
}

func (c *claimants) del(node, name string) {
	c.t.Helper()
	if err := c.remove(node, name); err != nil {
		c.t.Fatal(err)
	}
}

// routed waits until all others have the route to an address by way of a node.
func (c *claimants) routed(addr netip.Addr, node string) {
	c.t.Helper()
	own := nodeOf(c.t, c.l, node).Address.V4.Addr().String()
	subnets := c.subnets()
	for m, subnet := range subnets {
		if m == node {
			continue
		}
		eventually(c.t, 10*time.Second, m+" has the route to "+addr.String()+" by "+node, func() error {
			out, err := c.l.RunIn(c.ctx, m, "ip", "route", "get", addr.String())
			if err != nil {
				return err
			}
			// Between subnets a router is the next hop.
			if !strings.Contains(out, own) && subnet == subnets[node] {
				return fmt.Errorf("it is %s", strings.TrimSpace(out))
			}
			table, err := c.l.RunIn(c.ctx, m, "ip", "route", "show", "root", addr.String())
			if err == nil && strings.TrimSpace(table) == "" {
				err = errors.New("there is none to that address alone")
			}
			return err
		})
	}
}

// subnets are those of the machines that learn routes: nodes and routers.
func (c *claimants) subnets() map[string]int {
	list := map[string]int{}
	for _, n := range c.l.Top.Nodes {
		list[n.Name] = n.Subnet
	}
	for _, r := range c.l.Top.ToRs {
		list[r.Name] = 0
	}
	return list
}

// together has two nodes attach pods that want the same address, at once.
func (c *claimants) together(address string) {
	c.t.Helper()
	nodes := []string{"n1", "n3"}
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() { _, errs[i] = c.add(n, "race", address) })
	}
	wg.Wait()
	won, lost := 0, 1
	if errs[0] != nil {
		won, lost = 1, 0
	}
	if errs[won] != nil || pods.ErrorCode(errs[lost]) != codeRetry || !strings.Contains(errs[lost].Error(), "held by node "+nodes[won]) {
		c.t.Fatalf("two pods want %s at once: %v and %v, want that one has it, and the other may try again", address, errs[0], errs[1])
	}
	c.del(nodes[won], "race")
	c.must(nodes[lost], "race", address)
	c.del(nodes[lost], "race")
}

// is waits until the condition of a claim is as given.
func (c *claimants) is(name, want string) {
	c.t.Helper()
	eventually(c.t, 10*time.Second, name+" is "+want, func() error {
		var claim v1alpha1.IPClaim
		if err := c.api.Get(c.ctx, client.ObjectKey{Name: name}, &claim); err != nil {
			return err
		}
		cond := apimeta.FindStatusCondition(claim.Status.Conditions, v1alpha1.ConditionReady)
		if cond == nil {
			return errors.New("it has no condition")
		}
		if got := fmt.Sprintf("%s %s: %s", cond.Status, cond.Reason, cond.Message); got != want {
			return errors.New("it is " + got)
		}
		return nil
	})
}

// end removes claims and pool, and waits until nothing of them is left.
func (c *claimants) end() {
	c.t.Helper()
	if err := c.api.DeleteAllOf(c.ctx, &v1alpha1.IPClaim{}); err != nil {
		c.t.Fatal(err)
	}
	if err := c.api.Delete(c.ctx, &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: claimPool}}); err != nil {
		c.t.Fatal(err)
	}
	eventually(c.t, 20*time.Second, "claims, their pool and their blocks are gone", func() error {
		var claims v1alpha1.IPClaimList
		var blocks v1alpha1.IPBlockList
		if err := errors.Join(c.api.List(c.ctx, &claims), c.api.List(c.ctx, &blocks)); err != nil {
			return err
		}
		for i := range blocks.Items {
			if blocks.Items[i].Spec.Pool == claimPool {
				return fmt.Errorf("there is the block %s", blocks.Items[i].Name)
			}
		}
		if n := len(claims.Items); n > 0 {
			return fmt.Errorf("there are %d claims", n)
		}
		if err := c.api.Get(c.ctx, client.ObjectKey{Name: claimPool}, &v1alpha1.IPPool{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the pool is there: %w", err)
		}
		return nil
	})
	for m := range c.subnets() {
		eventually(c.t, 10*time.Second, m+" has no route of the pool", func() error {
			out, err := c.l.RunIn(c.ctx, m, "ip", "route", "show", "root", lab.ClaimRange().String())
			if err == nil && strings.TrimSpace(out) != "" {
				err = errors.New(out)
			}
			return err
		})
	}
}

// addressWatch sends datagrams to an address all the time and sees who takes them.
type addressWatch struct {
	t    *testing.T
	l    *lab.Lab
	conn net.PacketConn
	end  chan struct{}
	wg   sync.WaitGroup
	sent atomic.Uint64

	mu    sync.Mutex
	taken map[uint64]bool
}

const (
	watchPort  = 7000
	watchPause = 5 * time.Millisecond
)

func watchAddress(t *testing.T, l *lab.Lab, from string, to netip.Addr) *addressWatch {
	t.Helper()
	w := &addressWatch{t: t, l: l, end: make(chan struct{}), taken: map[uint64]bool{}}
	var err error
	if w.conn, err = w.listen(l.Top.Namespace(from), 0); err != nil {
		t.Fatal(err)
	}
	w.wg.Go(func() {
		tick := time.NewTicker(watchPause)
		defer tick.Stop()
		for {
			select {
			case <-w.end:
				return
			case <-tick.C:
			}
			data := binary.BigEndian.AppendUint64(nil, w.sent.Add(1))
			// While nobody has the address it can't be sent, and need not.
			_, _ = w.conn.WriteTo(data, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, watchPort)))
		}
	})
	return w
}

func (w *addressWatch) listen(netns string, port int) (c net.PacketConn, err error) {
	err = namespace.Do(netns, func() error {
		c, err = (&net.ListenConfig{}).ListenPacket(context.Background(), "udp4", fmt.Sprintf(":%d", port))
		return err
	})
	return c, err
}

// at waits until the next datagram reaches a pod, and returns when that was.
func (w *addressWatch) at(p pods.Pod) time.Time {
	w.t.Helper()
	c, err := w.listen(p.Netns, watchPort)
	if err != nil {
		w.t.Fatal(err)
	}
	first := make(chan time.Time, 1)
	w.wg.Go(func() {
		defer func() { _ = c.Close() }()
		buf := make([]byte, 16)
		for {
			select {
			case <-w.end:
				return
			default:
			}
			_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			n, _, err := c.ReadFrom(buf)
			if err != nil || n != 8 {
				continue
			}
			select {
			case first <- time.Now():
			default:
			}
			w.mu.Lock()
			w.taken[binary.BigEndian.Uint64(buf)] = true
			w.mu.Unlock()
		}
	})
	select {
	case at := <-first:
		return at
	case <-time.After(w.l.Patience.Times(15 * time.Second)):
		w.t.Fatalf("no datagram reaches %s", p.Name)
		return time.Time{}
	}
}

// count returns how many datagrams were sent so far.
func (w *addressWatch) count() uint64 { return w.sent.Load() }

// since tells how many datagrams were sent since a count until now, and how many of
// them nobody has taken. It waits for those that are on their way.
func (w *addressWatch) since(count uint64) (sent, lost int) {
	until := w.sent.Load()
	missing := func() (n int) {
		w.mu.Lock()
		defer w.mu.Unlock()
		for i := count + 1; i <= until; i++ {
			if !w.taken[i] {
				n++
			}
		}
		return n
	}
	end := time.Now().Add(w.l.Patience.Times(5 * time.Second))
	for lost = missing(); lost > 0 && time.Now().Before(end); lost = missing() {
		<-time.After(watchPause)
	}
	return int(until - count), lost
}

func (w *addressWatch) stop() {
	close(w.end)
	w.wg.Wait()
	_ = w.conn.Close()
}
