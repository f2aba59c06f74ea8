package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/internal/apitest"
	"github.com/godwit-net/godwit/ipam"
	"github.com/godwit-net/godwit/ipam/ipamtest"
	"github.com/godwit-net/godwit/routes"
)

// TestAgainstAPIServer holds what an agent does at the API against a real server.
func TestAgainstAPIServer(t *testing.T) {
	t.Parallel()
	cfg := apitest.Start(t)
	c := apitest.Client(t, cfg)
	t.Run("block store", func(t *testing.T) {
		ipamtest.TestStore(t, func(t testing.TB) ipam.BlockStore {
			clearBlocks(t, c)
			return BlockStore{Client: c}
		})
	})
	t.Run("fifty claimers", func(t *testing.T) { clearBlocks(t, c); testFiftyClaimers(t, c) })
	t.Run("restored claims", func(t *testing.T) { clearBlocks(t, c); testRestoredClaims(t, c) })
	t.Run("claims", func(t *testing.T) { clearBlocks(t, c); testClaims(t, cfg, c) })
	t.Run("namespaces that choose pools", func(t *testing.T) { clearBlocks(t, c); testNamespacesChoose(t, cfg, c) })
	t.Run("slow API", func(t *testing.T) { testSlowAPI(t, cfg, c) })
	t.Run("plan after an outage", func(t *testing.T) { testPlanAfterOutage(t, cfg, c) })
	t.Run("watch one", func(t *testing.T) { testWatchOne(t, c) })
	t.Run("passwords", func(t *testing.T) { testPasswords(t, c) })
	t.Run("status", func(t *testing.T) { testStatusWriter(t, c) })
	t.Run("events", func(t *testing.T) { testEvents(t, cfg, c) })
}

func clearBlocks(t testing.TB, c client.Client) {
	t.Helper()
	if err := c.DeleteAllOf(t.Context(), &v1alpha1.IPBlock{}); err != nil {
		t.Fatal(err)
	}
}

// countingStore counts the attempts that lost a race.
type countingStore struct {
	ipam.BlockStore
	mu   sync.Mutex
	lost int
}

func (s *countingStore) Create(ctx context.Context, b ipam.Block) error {
	err := s.BlockStore.Create(ctx, b)
	if errors.Is(err, ipam.ErrBlockExists) {
		s.mu.Lock()
		s.lost++
		s.mu.Unlock()
	}
	return err
}

// testFiftyClaimers has 50 nodes claim at once from a pool of 64 blocks, and
// then more than there are.
func testFiftyClaimers(t *testing.T, c client.Client) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	pool := ipam.Pool{Name: "small", CIDR: netip.MustParsePrefix("172.25.0.0/20"), BlockLen: 26, Allocate: true}
	store := &countingStore{BlockStore: BlockStore{Client: c}}
	claim := func(from, to int) (map[string]ipam.Block, []error) {
		var (
			mu     sync.Mutex
			wg     sync.WaitGroup
			got    = map[string]ipam.Block{}
			errs   []error
			starts = make(chan struct{})
		)
		for i := from; i < to; i++ {
			node := fmt.Sprintf("node-%d", i)
			wg.Go(func() {
				<-starts
				b, err := ipam.Claim(ctx, store, pool, node, nil)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					errs = append(errs, err)
					return
				}
				got[node] = b
			})
		}
		close(starts)
		wg.Wait()
		return got, errs
	}

	got, errs := claim(0, 50)
	if len(errs) > 0 {
		t.Fatalf("of 50 claimers over 64 blocks %d failed: %v", len(errs), errs[0])
	}
	more, errs := claim(50, 70)
	if len(more) != 14 || len(errs) != 6 {
		t.Errorf("of 20 more claimers over 14 blocks %d got one and %d none", len(more), len(errs))
	}
	for _, err := range errs {
		var full *ipam.ExhaustedError
		if !errors.As(err, &full) || !strings.Contains(err.Error(), "[small]") {
			t.Errorf("error %v, want one that says that the pool small is exhausted", err)
		}
	}
	if store.lost == 0 {
		t.Error("no claimer ever lost a race: the test shows nothing")
	}

	all, err := store.List(ctx, "small")
	if err != nil {
		t.Fatal(err)
	}
	owners := map[netip.Prefix]string{}
	for _, b := range all {
		owners[b.CIDR] = b.Node
	}
	if len(all) != 64 || len(owners) != 64 {
		t.Errorf("%d blocks, %d of them distinct; want 64", len(all), len(owners))
	}
	for _, claimed := range []map[string]ipam.Block{got, more} {
		for node, b := range claimed {
			if owners[b.CIDR] != node {
				t.Errorf("%s was told that it has %s, which the API says is %s's", node, b.CIDR, owners[b.CIDR])
			}
		}
	}
	t.Logf("50 claimers over 64 blocks: %d attempts lost a race and went on", store.lost)
}

func testWatchOne(t *testing.T, c client.WithWatch) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	type event struct {
		port  int32
		found bool
	}
	events := make(chan event, 16)
	wg.Go(func() {
		watchOne(ctx, c, client.ObjectKey{Name: "n1"}, &v1alpha1.NodeNetwork{}, &v1alpha1.NodeNetworkList{}, func(n *v1alpha1.NodeNetwork, found bool) {
			e := event{found: found}
			if found {
				e.port = n.Spec.ListenPort
			}
			events <- e
		})
	})
	expect := func(want event) {
		t.Helper()
		select {
		case got := <-events:
			if got != want {
				t.Fatalf("event %+v, want %+v", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("no event in time; want %+v", want)
		}
	}
	expect(event{})
	network := func(name string, port int32) *v1alpha1.NodeNetwork {
		return &v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.NodeNetworkSpec{ListenPort: port}}
	}
	other, n1 := network("n2", 1), network("n1", 179)
	for _, n := range []*v1alpha1.NodeNetwork{other, n1} {
		if err := c.Create(ctx, n); err != nil {
			t.Fatal(err)
		}
	}
	expect(event{179, true})
	n1.Spec.ListenPort = 180
	if err := c.Update(ctx, n1); err != nil {
		t.Fatal(err)
	}
	expect(event{180, true})
	for _, n := range []*v1alpha1.NodeNetwork{other, n1} {
		if err := c.Delete(ctx, n); err != nil {
			t.Fatal(err)
		}
	}
	expect(event{})
}

func testPasswords(t *testing.T, c client.WithWatch) {
	ctx, cancel := context.WithCancel(t.Context())
	file := filepath.Join(t.TempDir(), "passwords.json")
	p := newPasswords(c, "default", file, slog.New(slog.DiscardHandler))
	// The next agent, before the API has told it anything.
	next := func(password, message string) {
		t.Helper()
		n := newPasswords(c, "default", file, slog.New(slog.DiscardHandler))
		if got, err := n.get(v1alpha1.SecretKeyRef{Name: "tor1", Key: "password"}); got != password || !strings.Contains(text(err), message) {
			t.Errorf("the next agent has password %q, error %v; want %q and %q", got, err, password, message)
		}
	}
	defer p.wait()
	defer cancel()
	ref := v1alpha1.SecretKeyRef{Name: "tor1", Key: "password"}
	expect := func(password, message string) {
		t.Helper()
		deadline := time.After(20 * time.Second)
		for {
			got, err := p.get(ref)
			if got == password && strings.Contains(text(err), message) && (message != "" || err == nil) {
				return
			}
			select {
			case <-p.changed:
			case <-deadline:
				t.Fatalf("password %q, error %v; want %q and %q", got, err, password, message)
			}
		}
	}
	expect("", "has not been read yet")
	p.want(ctx, map[string]bool{"tor1": true})
	expect("", "does not exist")
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "tor1"}, Data: map[string][]byte{"password": nil}}
	if err := c.Create(ctx, s); err != nil {
		t.Fatal(err)
	}
	expect("", `has nothing under the key "password"`)
	for _, word := range []string{"first", "second"} {
		s.Data = map[string][]byte{"password": []byte(word)}
		if err := c.Update(ctx, s); err != nil {
			t.Fatal(err)
		}
		expect(word, "")
		next(word, "")
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file of passwords: %v, %v", info, err)
	}
	if err := c.Delete(ctx, s); err != nil {
		t.Fatal(err)
	}
	expect("", "does not exist")
	next("", "has not been read yet")
	p.want(ctx, nil)
	expect("", "has not been read yet")
}

func testStatusWriter(t *testing.T, c client.Client) {
	ctx := t.Context()
	if err := c.Create(ctx, &v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}); err != nil {
		t.Fatal(err)
	}
	w := newStatusWriter(c, "n1")
	start := time.Now()
	o := &observation{
		generation: 1, version: "v1",
		blocks: []ipam.BlockUsage{{Block: ipam.Block{CIDR: netip.MustParsePrefix("172.25.0.128/26"), Pool: "default", Node: "n1"}, Allocated: 1, Capacity: 64}},
		sessions: []bgp.Session{
			{Name: "n2", Address: netip.MustParseAddr("10.211.55.116"), ASN: 64512, State: bgp.StateEstablished, Since: start, Received: 1, Accepted: 1, Advertised: 1},
			{Name: "tor1", Kind: bgp.PeerExternal, Address: netip.MustParseAddr("10.211.55.1"), ASN: 65001, State: bgp.StateActive, Message: "connection refused"},
		},
		routes: routes.Status{Failed: []routes.Failure{{Dst: netip.MustParsePrefix("172.25.9.0/26"), Err: errors.New("no such device")}}},
	}
	version := ""
	get := func(write bool) *v1alpha1.NodeNetworkStatus {
		t.Helper()
		var n v1alpha1.NodeNetwork
		if err := c.Get(ctx, client.ObjectKey{Name: "n1"}, &n); err != nil {
			t.Fatal(err)
		}
		if written := n.ResourceVersion != version; written != write {
			t.Errorf("written %v, want %v", written, write)
		}
		version = n.ResourceVersion
		return &n.Status
	}
	step := func(after time.Duration) {
		t.Helper()
		if err := w.write(ctx, o, start.Add(after)); err != nil {
			t.Fatal(err)
		}
	}

	step(0)
	s := get(true)
	if s.Summary != (v1alpha1.NodeSummary{Sessions: "1/2", Blocks: 1, Pods: 1}) {
		t.Errorf("summary %+v", s.Summary)
	}
	conditions := map[string]string{}
	for _, cond := range s.Conditions {
		conditions[cond.Type] = string(cond.Status) + " " + cond.Reason + " " + cond.Message
	}
	for kind, want := range map[string]string{
		v1alpha1.ConditionReady:               "True Serving ",
		v1alpha1.ConditionPlanApplied:         "True Applied ",
		v1alpha1.ConditionSessionsEstablished: "False Down not established: tor1",
		v1alpha1.ConditionSessionsSound:       "True Sound ",
		v1alpha1.ConditionOriginsValid:        "True Valid ",
		v1alpha1.ConditionRoutesInstalled:     "False Failed 1 routes could not be installed; see status.failedRoutes",
	} {
		if conditions[kind] != want {
			t.Errorf("condition %s: %q, want %q", kind, conditions[kind], want)
		}
	}
	step(time.Second) // nothing new
	get(false)
	for i := range countBurst { // a few changes of a figure are written at once
		o.blocks[0].Allocated++
		step(2*time.Second + time.Duration(i)*100*time.Millisecond)
		if s := get(true); s.Blocks[0].Allocated != int32(i+2) {
			t.Errorf("allocated %d, want %d", s.Blocks[0].Allocated, i+2)
		}
	}
	o.blocks[0].Allocated = 40
	step(3 * time.Second) // then they wait
	get(false)
	step(countInterval + 3*time.Second)
	if s := get(true); s.Blocks[0].Allocated != 40 {
		t.Errorf("allocated %d, want 40", s.Blocks[0].Allocated)
	}
	o.sessions[1].State, o.sessions[1].Message = bgp.StateEstablished, ""
	step(countInterval + 4*time.Second) // what matters is written at once
	if s := get(true); s.Summary.Sessions != "2/2" {
		t.Errorf("sessions %s, want 2/2", s.Summary.Sessions)
	}
	o.sessions[0].Flaps, o.sessions[0].LastError = 1, "it closed the session: administrative reset"
	o.sessions[0].Capabilities = []string{"4-octet AS", "IPv4 unicast"}
	o.sessions[0].Refused, o.sessions[0].RefusedCount = []netip.Prefix{netip.MustParsePrefix("172.25.1.0/26")}, 1
	step(countInterval + 5*time.Second)
	got := get(true).Sessions[0]
	if got.Flaps != 1 || got.LastError != o.sessions[0].LastError || !slices.Equal(got.Capabilities, o.sessions[0].Capabilities) ||
		!slices.Equal(got.Refused, []string{"172.25.1.0/26"}) || got.RefusedCount != 1 {
		t.Errorf("session %+v", got)
	}
	o.sessions[0].Refused = []netip.Prefix{netip.MustParsePrefix("172.25.1.0/26"), netip.MustParsePrefix("172.25.2.0/26")}
	o.sessions[0].RefusedCount = 2
	for w.figures.limit.AllowN(start.Add(countInterval+5*time.Second), 1) { // as if figures had been written
	}
	step(countInterval + 5*time.Second) // more of the same is figures
	get(false)
	step(2*countInterval + 6*time.Second)
	if got := get(true).Sessions[0].RefusedCount; got != 2 {
		t.Errorf("%d refused, want 2", got)
	}
	// After a failure the next write does not wait: the server may be back.
	away, cancel := context.WithCancel(ctx)
	cancel()
	o.blocks[0].Allocated = 41
	for after := 2*countInterval + 6*time.Second; w.failed == nil; after += time.Second {
		_ = w.write(away, o, start.Add(after))
	}
	for w.figures.limit.AllowN(start.Add(4*countInterval), 1) { // as if figures had been written
	}
	step(4 * countInterval)
	if got := get(true).Blocks[0].Allocated; got != 41 {
		t.Errorf("allocated %d, want 41", got)
	}
	// The server lost what was written.
	lost := &v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	if err := c.Status().Patch(ctx, lost, client.RawPatch(types.MergePatchType, []byte(`{"status":{"blocks":null}}`))); err != nil {
		t.Fatal(err)
	}
	get(true)
	step(4 * countInterval)
	get(false)
	w.stale = true
	step(4*countInterval + time.Second)
	if got := get(true).Blocks; len(got) != 1 {
		t.Errorf("blocks %v, want those that were lost", got)
	}
	o.sessions, o.routes = nil, routes.Status{}
	step(4*countInterval + 2*time.Second) // what is gone is gone
	if s := get(true); len(s.Sessions) != 0 || len(s.FailedRoutes) != 0 {
		t.Errorf("sessions %v and failed routes %v are left", s.Sessions, s.FailedRoutes)
	}
}
