package controller

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/yaml"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

func TestMain(m *testing.M) {
	discard := logr.FromSlogHandler(slog.DiscardHandler)
	ctrllog.SetLogger(discard)
	klog.SetLogger(discard)
	goleak.VerifyTestMain(m,
		// Idle connections to the API server, which client-go keeps for later.
		goleak.IgnoreTopFunction("internal/poll.runtime_pollWait"),
		goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreTopFunction("net/http.(*persistConn).readLoop"),
	)
}

// instance is a running controller.
type instance struct {
	log    *buffer
	mu     sync.Mutex
	writes []string // "METHOD path" of each request that is to change something
	stop   func()   // ends it and waits for the end
}

// start runs a controller as the ServiceAccount of config/rbac, so that each test
// shows that its rights suffice. It ends with the test at the latest.
func start(t *testing.T, cfg *rest.Config, o Options) *instance {
	t.Helper()
	c := &instance{log: &buffer{}}
	cfg = rest.CopyConfig(cfg)
	cfg.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:godwit-system:godwit-controller",
		Groups:   []string{"system:serviceaccounts", "system:authenticated"},
	}
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper { return &recording{next, c} })
	o.Namespace = "godwit-system"
	o.Log = slog.New(slog.NewTextHandler(c.log, nil))
	mgr, err := New(cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	c.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the controller ended with: %v", err)
		}
		if log := c.log.String(); strings.Contains(log, "forbidden") {
			t.Errorf("the controller lacks a right:\n%s", log)
		}
	})
	t.Cleanup(func() {
		c.stop()
		if t.Failed() {
			t.Logf("log of the controller:\n%s", c.log)
		}
	})
	return c
}

// recording notes the requests that change something: all but reads, and but
// those about leases and events.
type recording struct {
	next http.RoundTripper
	c    *instance
}

func (r *recording) RoundTrip(req *http.Request) (*http.Response, error) {
	path := req.URL.Path
	if req.Method != http.MethodGet && !strings.Contains(path, "/leases") && !strings.Contains(path, "/events") {
		r.c.mu.Lock()
		r.c.writes = append(r.c.writes, req.Method+" "+path)
		r.c.mu.Unlock()
	}
	return r.next.RoundTrip(req)
}

// written returns the writes so far.
func (c *instance) written() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.writes)
}

// buffer is a log that may be written and read at once.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// eventually waits until check has no complaint.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// api is what a person does to the cluster.
type api struct {
	t *testing.T
	client.Client
}

func (a api) create(objs ...client.Object) {
	a.t.Helper()
	for _, o := range objs {
		if err := a.Create(a.t.Context(), o); err != nil {
			a.t.Fatal(err)
		}
	}
}

// change gets an object, lets f change it and writes it back.
func change[T client.Object](a api, obj T, f func(T)) {
	a.t.Helper()
	eventually(a.t, "change "+obj.GetName(), func() error {
		if err := a.Get(a.t.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
			return err
		}
		f(obj)
		return a.Update(a.t.Context(), obj)
	})
}

func (a api) remove(o client.Object) {
	a.t.Helper()
	if err := a.Delete(a.t.Context(), o); err != nil {
		a.t.Fatal(err)
	}
}

// plan returns the plan of a node.
func (a api) plan(name string) (v1alpha1.NodeNetworkSpec, error) {
	var nn v1alpha1.NodeNetwork
	err := a.Get(a.t.Context(), client.ObjectKey{Name: name}, &nn)
	return nn.Spec, err
}

// hasSessions waits until a node's plan has exactly the sessions named.
func (a api) hasSessions(node string, want ...string) {
	a.t.Helper()
	eventually(a.t, "sessions of "+node, func() error {
		spec, err := a.plan(node)
		if err != nil {
			return err
		}
		var got []string
		for _, s := range spec.Sessions {
			got = append(got, s.Name)
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("have %q, want %q", got, want)
		}
		return nil
	})
}

// hasReady waits until an object's Ready condition is "Status Reason: message".
func (a api) hasReady(obj client.Object, conditions func() []metav1.Condition, want string) {
	a.t.Helper()
	a.hasCondition(obj, v1alpha1.ConditionReady, conditions, want)
}

// hasCondition waits until a condition of an object is "Status Reason: message".
func (a api) hasCondition(obj client.Object, kind string, conditions func() []metav1.Condition, want string) {
	a.t.Helper()
	eventually(a.t, fmt.Sprintf("condition %s of %T %s", kind, obj, obj.GetName()), func() error {
		if err := a.Get(a.t.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
			return err
		}
		c := apimeta.FindStatusCondition(conditions(), kind)
		if c == nil {
			return errors.New("not there yet")
		}
		if got := fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message); got != want {
			return fmt.Errorf("is %q, want %q", got, want)
		}
		if c.ObservedGeneration != obj.GetGeneration() {
			return fmt.Errorf("is of generation %d, want %d", c.ObservedGeneration, obj.GetGeneration())
		}
		return nil
	})
}

func (a api) poolIs(name, want string) {
	a.t.Helper()
	p := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
	a.hasReady(p, func() []metav1.Condition { return p.Status.Conditions }, want)
}

// encapsulationIs waits until a pool's condition EncapsulationApplied is as given.
func (a api) encapsulationIs(name, want string) {
	a.t.Helper()
	p := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
	a.hasCondition(p, v1alpha1.ConditionEncapsulationApplied, func() []metav1.Condition { return p.Status.Conditions }, want)
}

func (a api) peerIs(name, want string) {
	a.t.Helper()
	p := &v1alpha1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: name}}
	a.hasReady(p, func() []metav1.Condition { return p.Status.Conditions }, want)
}

// clear deletes everything that a test made, and waits until it is gone.
func (a api) clear() {
	a.t.Helper()
	ctx := context.Background()
	// The controller that would let pools and claims go has ended.
	var pools v1alpha1.IPPoolList
	if err := a.List(ctx, &pools); err != nil {
		a.t.Error(err)
	}
	for i := range pools.Items {
		old := pools.Items[i].DeepCopy()
		pools.Items[i].Finalizers = nil
		if err := client.IgnoreNotFound(a.Patch(ctx, &pools.Items[i], client.MergeFrom(old))); err != nil {
			a.t.Error(err)
		}
	}
	var claims v1alpha1.IPClaimList
	if err := a.List(ctx, &claims); err != nil {
		a.t.Error(err)
	}
	for i := range claims.Items {
		old := claims.Items[i].DeepCopy()
		claims.Items[i].Finalizers = nil
		if err := client.IgnoreNotFound(a.Patch(ctx, &claims.Items[i], client.MergeFrom(old))); err != nil {
			a.t.Error(err)
		}
	}
	for _, o := range []client.Object{
		&corev1.Node{}, &v1alpha1.IPClaim{}, &v1alpha1.NodeNetwork{}, &v1alpha1.IPBlock{}, &v1alpha1.IPPool{},
		&v1alpha1.BGPPeer{}, &v1alpha1.BGPFilter{}, &v1alpha1.BGPConfig{}, &v1alpha1.NetworkConfig{},
	} {
		if err := a.DeleteAllOf(ctx, o); err != nil {
			a.t.Error(err)
		}
	}
}

// applyFile creates each object of a file, in a namespace that is there.
func (a api) applyFile(file string) {
	a.t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		a.t.Fatal(err)
	}
	for doc := range bytes.SplitSeq(data, []byte("\n---\n")) {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(doc, &u.Object); err != nil {
			a.t.Fatalf("%s: %v", file, err)
		}
		if err := a.Create(a.t.Context(), u, client.FieldValidation("Strict")); err != nil && !apierrors.IsAlreadyExists(err) {
			a.t.Fatalf("%s: %v", file, err)
		}
	}
}

func node(name, address string, labels map[string]string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}}},
	}
}

func pool(name, cidr string) *v1alpha1.IPPool {
	return &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.IPPoolSpec{CIDR: cidr}}
}

func peer(name, address string, filters ...string) *v1alpha1.BGPPeer {
	return &v1alpha1.BGPPeer{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.BGPPeerSpec{PeerAddress: address, PeerASN: 65001, ImportFilters: filters},
	}
}

func block(cidr, pool, node string) *v1alpha1.IPBlock {
	name := strings.NewReplacer(".", "-", "/", "-").Replace(cidr)
	return &v1alpha1.IPBlock{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1alpha1.NodeLabel: node}},
		Spec:       v1alpha1.IPBlockSpec{CIDR: cidr, Pool: pool, NodeName: node},
	}
}

func network(name string) *v1alpha1.NodeNetwork {
	return &v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// golden compares with testdata/name; GODWIT_UPDATE_GOLDENS=1 writes it anew.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if os.Getenv("GODWIT_UPDATE_GOLDENS") != "" {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("output differs from %s (-want +got):\n%s", file, diff)
	}
}
