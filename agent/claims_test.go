package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/cni"
	"github.com/godwit-net/godwit/internal/apitest"
	"github.com/godwit-net/godwit/ipam"
)

func TestReadClaims(t *testing.T) {
	for text, want := range map[string]string{
		"172.26.0.10":                        "[172.26.0.10] false",
		"172-26-0-10":                        "[172.26.0.10] false",
		`["fd00-26--10", "172.26.0.10"]`:     "[fd00:26::10 172.26.0.10] false",
		"by-pod":                             "[] true",
		"web":                                `"web" is neither the name of an IPClaim nor an address, nor "by-pod"`,
		"172.26.0.10,172.26.0.11":            `"172.26.0.10,172.26.0.11" has two addresses of one family: a pod has one of each`,
		"":                                   `"" has an empty entry: give a JSON list, or entries separated by commas`,
		"fe80::1%eth0":                       `"fe80::1%eth0" is neither the name of an IPClaim nor an address, nor "by-pod"`,
		`["172.26.0.10", "172.26.0.10/32" ]`: `"172.26.0.10/32" is neither the name of an IPClaim nor an address, nor "by-pod"`,
	} {
		claims, byPod, err := readClaims(text)
		got := fmt.Sprint(claims, byPod)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
	both := map[string]string{v1alpha1.ClaimAnnotation: "10.0.0.1", v1alpha1.AddressAnnotation: "10.0.0.2"}
	if _, err := readWishes(both); err == nil || !strings.Contains(err.Error(), "both annotations") {
		t.Errorf("a pod with both annotations: %v", err)
	}
}

func TestHolders(t *testing.T) {
	for _, p := range []*v1alpha1.PodReference{nil, {Namespace: "a", Name: "b"}, {Namespace: "a", Name: "b", UID: "c-d"}} {
		got := parseHolder(holderOf(p))
		if (got == nil) != (p == nil) || got != nil && *got != *p {
			t.Errorf("%v comes back as %v", p, got)
		}
	}
}

// requests counts those to the API.
type requests struct {
	next http.RoundTripper
	mu   sync.Mutex
	all  []string
}

func (r *requests) RoundTrip(req *http.Request) (*http.Response, error) {
	r.mu.Lock()
	r.all = append(r.all, req.Method+" "+strings.TrimPrefix(req.URL.Path, "/apis/godwit.dev/v1alpha1/"))
	r.mu.Unlock()
	return r.next.RoundTrip(req)
}

// take returns the requests since it was last called.
func (r *requests) take() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := strings.Join(r.all, ", ")
	r.all = nil
	return out
}

// made counts the requests since then that begin with a text.
func (r *requests) made(text string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, one := range r.all {
		if strings.HasPrefix(one, text) {
			n++
		}
	}
	return n
}

// claimNode is the part of an agent that a pod with a claim meets.
type claimNode struct {
	t *testing.T
	*Agent
	way      *slowness
	requests *requests
}

func newClaimNode(t *testing.T, cfg *rest.Config, name string) *claimNode {
	t.Helper()
	n := &claimNode{t: t, way: &slowness{}, requests: &requests{}}
	cfg = rest.CopyConfig(cfg)
	cfg.Wrap(func(rt http.RoundTripper) http.RoundTripper {
		n.way.next = rt
		n.requests.next = n.way
		return n.requests
	})
	c := apitest.Client(t, cfg)
	dir, quiet := t.TempDir(), slog.New(slog.DiscardHandler)
	addresses, err := ipam.Open(ipam.Options{Node: name, Store: BlockStore{Client: c}, Dir: filepath.Join(dir, "addresses"), Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	n.Agent = &Agent{o: Options{Client: c}, addresses: addresses, confirmed: closed(), namespaces: newNamespaces(c, filepath.Join(dir, "namespaces.json"), quiet)}
	n.state.desired.pools = []ipam.Pool{
		{Name: "pods", CIDR: netip.MustParsePrefix("172.25.0.0/20"), BlockLen: 26, Allocate: true},
		{Name: "fixed", CIDR: netip.MustParsePrefix("172.26.0.0/24"), BlockLen: 32, Allocate: true, Claims: true},
		{Name: "fixed6", CIDR: netip.MustParsePrefix("fd00:26::/64"), BlockLen: 128, Allocate: true, Claims: true},
	}
	n.state.desired.choices = []poolChoice{{name: "pods"}}
	addresses.SetPools(n.state.desired.pools)
	ctx, stop := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { _ = addresses.Run(ctx) })
	t.Cleanup(func() { stop(); done.Wait() })
	until(t, name+" has a block for pods", func() bool { return len(addresses.Blocks()) == 1 })
	n.requests.take()
	return n
}

func (n *claimNode) add(container, pod, annotation string) (string, error) {
	p := cni.Pod{Namespace: "default", Name: pod, UID: "uid-" + pod}
	if annotation != "" {
		p.Annotations = map[string]string{v1alpha1.ClaimAnnotation: annotation}
	}
	records, err := allocator{n.Agent}.Allocate(n.t.Context(), ipam.Owner{ContainerID: container, Interface: "eth0"}, p)
	var out []string
	for _, r := range records {
		out = append(out, r.Address.String())
	}
	return strings.Join(out, " "), err
}

func (n *claimNode) del(container string) {
	n.t.Helper()
	if err := (allocator{n.Agent}).Release(n.t.Context(), ipam.Owner{ContainerID: container, Interface: "eth0"}); err != nil {
		n.t.Error(err)
	}
}

// testClaims: pods ask for claims on two nodes, at a real API server.
func testClaims(t *testing.T, cfg *rest.Config, c client.Client) {
	for _, s := range []v1alpha1.IPClaimSpec{
		{Address: "172.26.0.10", Namespace: "default"},
		{Address: "172.26.0.11", Namespace: "default", PodName: "web-0"},
		{Address: "fd00:26::11", Namespace: "default", PodName: "web-0"},
		{Address: "172.26.0.12", Namespace: "other"},
	} {
		claim := &v1alpha1.IPClaim{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.IPClaimName(netip.MustParseAddr(s.Address))}, Spec: s}
		if err := c.Create(t.Context(), claim); err != nil {
			t.Fatal(err)
		}
	}
	n1, n2 := newClaimNode(t, cfg, "n1"), newClaimNode(t, cfg, "n2")
	gets := func(what string, n *claimNode, container, pod, annotation, want, requests string) {
		t.Helper()
		began := time.Now()
		got, err := n.add(container, pod, annotation)
		took := time.Since(began)
		if err != nil || got != want {
			t.Fatalf("%s: %q, %v, want %q", what, got, err, want)
		}
		if made := n.requests.take(); made != requests {
			t.Errorf("%s: requests %q, want %q", what, made, requests)
		}
		t.Logf("%s: %v", what, took.Round(10*time.Microsecond))
	}
	fails := func(what string, n *claimNode, pod, annotation, want string) {
		t.Helper()
		if got, err := n.add("failing", pod, annotation); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q, %v, want the error %q", what, got, err, want)
		}
	}
	pool := n1.addresses.Blocks()[0].CIDR.Addr().String()
	gets("a pod without the annotation", n1, "a", "plain", "", pool, "")
	gets("a pod that names its claim", n1, "b", "db-x7", "172.26.0.10", "172.26.0.10", "GET ipclaims/172-26-0-10, POST ipblocks")
	gets("a pod of a StatefulSet", n1, "c", "web-0", "by-pod", "172.26.0.11 fd00:26::11", "GET ipclaims, POST ipblocks, POST ipblocks")
	var held v1alpha1.IPBlock
	if err := c.Get(t.Context(), client.ObjectKey{Name: "172-26-0-10-32"}, &held); err != nil {
		t.Fatal(err)
	}
	if s := held.Spec; s.NodeName != "n1" || s.Pool != "fixed" || s.Pod == nil || *s.Pod != (v1alpha1.PodReference{Namespace: "default", Name: "db-x7", UID: "uid-db-x7"}) {
		t.Errorf("the block of the claim: %+v of %+v", s, s.Pod)
	}

	fails("an address that a live pod has", n2, "db-x8", "172.26.0.10", "is held by node n1 for pod default/db-x7")
	fails("an address that a live pod of the node has", n1, "db-x8", "172.26.0.10", "pod default/db-x7 (b/eth0) has it, on this node")
	fails("another namespace's", n2, "db", "172.26.0.12", "IPClaim 172-26-0-12 is for pods of namespace other")
	fails("another pod's", n2, "web-1", "172.26.0.11", "IPClaim 172-26-0-11 is for pod default/web-0")
	fails("nobody's", n2, "web-1", "172.26.0.13", "there is no IPClaim 172-26-0-13")
	fails("of no pool", n2, "web-1", "172.27.0.1", "no IP pool with allocation Claims")
	fails("none by the pod's name", n2, "web-1", "by-pod", "no IPClaim names pod default/web-1")

	n2.state.lacking = map[string]error{"fixed": errors.New("there is no tunnel")}
	fails("of a pool without its tunnel", n2, "db-x8", "172.26.0.10", "IP pool fixed gives out no addresses on this node: there is no tunnel")
	n2.state.lacking = nil

	// It moves: the old pod goes while the new one waits, whose first try has failed
	// when it asks again.
	n2.requests.take()
	added := make(chan error, 1)
	go func() {
		got, err := n2.add("b2", "db-x8", "172.26.0.10")
		if err == nil && got != "172.26.0.10" {
			err = fmt.Errorf("it got %q", got)
		}
		added <- err
	}()
	until(t, "the new pod asks again", func() bool { return n2.requests.made("GET ipblocks/172-26-0-10-32") > 1 })
	began := time.Now()
	n1.del("b")
	if err := <-added; err != nil {
		t.Fatalf("after the old pod went: %v", err)
	}
	t.Logf("moved %v after the old pod's end", time.Since(began).Round(time.Millisecond))

	// Without the API a pod's next container on the node has the address again; new
	// ones are refused, and can try again.
	n1.way.leave()
	n1.requests.take()
	n1.del("c")
	web := holderOf(&v1alpha1.PodReference{Namespace: "default", Name: "web-0", UID: "uid-web-0"})
	until(t, "giving both addresses back has failed", func() bool {
		return n1.requests.made("GET ipblocks/172-26-0-11-32") > 0 && n1.requests.made("GET ipblocks/fd00-26--11-128") > 0 &&
			len(n1.addresses.HeldFor(web)) == 2
	})
	got, err := n1.add("c2", "web-0", "by-pod")
	if err != nil || got != "172.26.0.11 fd00:26::11" {
		t.Errorf("a new container of a pod while the API is away: %q, %v", got, err)
	}
	n1.requests.take()
	if _, err := n1.add("d", "db-x9", "172.26.0.10"); err == nil || !strings.Contains(err.Error(), "connection refused") || errors.As(err, new(*ipam.ExhaustedError)) {
		t.Errorf("a new pod while the API is away: %v", err)
	}
	n1.way.away.Store(false)
	n1.del("c2")
	n2.del("b2")
	until(t, "nothing is left", func() bool {
		var blocks v1alpha1.IPBlockList
		if err := c.List(t.Context(), &blocks); err != nil {
			t.Fatal(err)
		}
		return len(blocks.Items) == 2 // of pods
	})
}

// testNamespacesChoose: pods get addresses of the pools that their namespace names,
// and the API is asked for it only where some namespace does.
func testNamespacesChoose(t *testing.T, cfg *rest.Config, c client.Client) {
	for name, annotations := range map[string]map[string]string{
		"choosy": {v1alpha1.PoolsAnnotation: `["second"]`}, "indifferent": nil,
		"wrong": {v1alpha1.PoolsAnnotation: "nowhere"}, "broken": {v1alpha1.PoolsAnnotation: "[second"},
	} {
		if err := c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations}}); err != nil {
			t.Fatal(err)
		}
	}
	n := newClaimNode(t, cfg, "n1")
	second := ipam.Pool{Name: "second", CIDR: netip.MustParsePrefix("172.27.0.0/20"), BlockLen: 26, Allocate: true}
	n.state.desired.pools = append(n.state.desired.pools, second)
	n.state.desired.choices = append(n.state.desired.choices, poolChoice{name: "second"})
	n.addresses.SetPools(n.state.desired.pools)
	pods := 0
	add := func(namespace, annotation string) string {
		t.Helper()
		pods++
		p := cni.Pod{Namespace: namespace, Name: fmt.Sprint("p", pods), Annotations: map[string]string{}}
		if annotation != "" {
			p.Annotations[v1alpha1.PoolsAnnotation] = annotation
		}
		records, err := allocator{n.Agent}.Allocate(t.Context(), ipam.Owner{ContainerID: p.Name, Interface: "eth0"}, p)
		if err != nil {
			return err.Error()
		}
		return records[0].Pool
	}
	gets := func(what, namespace, annotation, want, requests string) {
		t.Helper()
		if got := add(namespace, annotation); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
		var gets []string
		for _, r := range strings.Split(n.requests.take(), ", ") {
			if strings.Contains(r, "namespaces") { // others are about blocks
				gets = append(gets, r)
			}
		}
		if made := strings.Join(gets, ", "); made != requests {
			t.Errorf("%s: requests %q, want %q", what, made, requests)
		}
	}
	gets("nobody chooses", "choosy", "", "pods", "")
	n.state.desired.namespacesChoose = true
	gets("the first pod", "choosy", "", "second", "GET /api/v1/namespaces/choosy")
	gets("the second pod", "choosy", "", "second", "")
	gets("a pod that chooses itself", "choosy", "pods", "pods", "")
	gets("a namespace that does not choose", "indifferent", "", "pods", "GET /api/v1/namespaces/indifferent")
	gets("its second pod", "indifferent", "", "pods", "")
	gets("a pool that is not there", "wrong", "", "annotation godwit.dev/ippools of namespace wrong names IP pool nowhere, which gives out no addresses on this node "+
		"(see kubectl get ippools; it may not exist, be disabled, or not be for this node)", "GET /api/v1/namespaces/wrong")
	gets("no list", "broken", "", `annotation godwit.dev/ippools of namespace broken: "[second" is no JSON list of strings`, "GET /api/v1/namespaces/broken")

	// Without the API what was read last counts, in the agent's next life, too.
	n.way.leave()
	n.namespaces = newNamespaces(n.o.Client, n.namespaces.file, n.namespaces.log)
	gets("without the API", "choosy", "", "second", "GET /api/v1/namespaces/choosy")
	if got := add("new", ""); !strings.Contains(got, "read the labels and annotations of namespace new") {
		t.Errorf("a namespace that was never read: %s", got)
	}
}
