package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/godwit-net/godwit/agent"
	"github.com/godwit-net/godwit/agent/agenttest"
	"github.com/godwit-net/godwit/agent/others"
	cniapi "github.com/godwit-net/godwit/api/cni"
	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/bgptest"
	"github.com/godwit-net/godwit/cni"
	"github.com/godwit-net/godwit/cni/wire"
	"github.com/godwit-net/godwit/internal/apitest"
	"github.com/godwit-net/godwit/routes"
	"github.com/godwit-net/godwit/tunnel"
)

// TestMistakes gives agents what a person got wrong. Each must say so in the first
// lines of its log, in the node's status and in an event, and leave nothing behind
// that is half set up; and go on by itself when it is put right.
func TestMistakes(t *testing.T) {
	t.Parallel()
	cfg := apitest.StartBare(t)
	t.Run("missing CRDs", func(t *testing.T) { testMissingCRDs(t, cfg) }) // installs them
	t.Run("a pool of the node's network", func(t *testing.T) { testForeignPool(t, cfg) })
	t.Run("an unusable CNI folder", func(t *testing.T) { testUnusableFolder(t, cfg) })
	t.Run("an unusable node and the next agent", func(t *testing.T) { testUnfitAgain(t, cfg) })
	t.Run("a tunnel that the kernel does not have", func(t *testing.T) { testNoTunnel(t, cfg) })
	t.Run("another network's leftovers", func(t *testing.T) { testLeftovers(t, cfg) })
	t.Run("a plan that is deleted", func(t *testing.T) { testDeletedPlan(t, cfg) })
	t.Run("a start that fails", func(t *testing.T) { testFailedStart(t, cfg) })
}

// bench is an agent on a node in memory, against a real API server.
type bench struct {
	*testing.T
	name   string
	api    client.WithWatch
	kernel *agent.Kernel
	dir    string
	o      agent.Options
	log    lines

	restarting bool // as the newest agent has told its speaker
}

// lines are what an agent has logged.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(l.text.String(), "\n")
}

// forget forgets what was logged.
func (l *lines) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Reset()
}

func newKernel() *agent.Kernel {
	k := agenttest.NewKernel(netip.MustParsePrefix(ownAddress))
	k.Wirer = containers{k.Wirer}
	return k
}

// containers attaches containers to a node in memory, by its one link.
type containers struct{ cni.Wirer }

func (containers) OpenNamespace(string) (*wire.Namespace, error) { return &wire.Namespace{}, nil }

func (containers) Attach(_ context.Context, _ *wire.Namespace, s wire.Spec) (wire.Link, error) {
	return wire.Link{Identity: s.Identity, HostEnd: agenttest.Link, HostMAC: wire.HostMAC(), PodMAC: wire.HostMAC()}, nil
}

const ownAddress = "10.211.55.101/24"

// newBench makes one that is not started yet.
func newBench(t *testing.T, cfg *rest.Config, name string) *bench {
	api, err := agent.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	events, stop, err := agent.NewEventRecorder(cfg, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	dir := t.TempDir()
	plugins := filepath.Join(dir, "image")
	program := filepath.Join(plugins, "godwit-cni")
	if err := errors.Join(os.Mkdir(plugins, 0o755), os.WriteFile(program, []byte("#!/bin/sh"), 0o755)); err != nil { // #nosec G306 -- a program
		t.Fatal(err)
	}
	b := &bench{T: t, name: name, api: api, dir: dir, kernel: newKernel()}
	b.o = agent.Options{
		Node: name, Namespace: "godwit-system", RunDir: filepath.Join(dir, "run"), StateDir: filepath.Join(dir, "state"),
		CNIConfig: filepath.Join(dir, "net.d", "10-godwit.conflist"), CNIPlugins: plugins, CNIBin: filepath.Join(dir, "bin"),
		Version: "test", Client: api, Events: events, Kernel: b.kernel,
		NewSpeaker: func(sink bgp.Sink, restarting bool) (bgp.Speaker, error) {
			b.restarting = restarting
			return bgptest.New(bgptest.Options{Sink: sink, Local: netip.MustParsePrefix(ownAddress).Addr()}), nil
		},
		Log: slog.New(slog.NewTextHandler(&b.log, nil)),
	}
	return b
}

// start runs the agent until it is stopped, or the test ends.
func (b *bench) start() (stop func()) {
	b.Helper()
	a, err := agent.New(b.Context(), b.o)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			b.Errorf("the agent ended with: %v", err)
		}
		if b.Failed() {
			b.Logf("log of the agent:\n%s", strings.Join(b.log.all(), "\n"))
		}
	})
	b.Cleanup(stop)
	return stop
}

// plan makes the node's plan one with some pools.
func (b *bench) plan(change func(*v1alpha1.NodeNetworkSpec), pools ...v1alpha1.PlannedPool) {
	b.Helper()
	nn := &v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: b.name}}
	err := b.api.Get(b.Context(), client.ObjectKeyFromObject(nn), nn)
	nn.Spec = v1alpha1.NodeNetworkSpec{Addresses: []string{netip.MustParsePrefix(ownAddress).Addr().String()}, ASN: 64512, RouterID: "10.211.55.101", ListenPort: 179, Pools: pools}
	if change != nil {
		change(&nn.Spec)
	}
	if err == nil {
		err = b.api.Update(b.Context(), nn)
	} else {
		err = b.api.Create(b.Context(), nn)
	}
	if err != nil {
		b.Fatal(err)
	}
}

func planned(name, cidr string) v1alpha1.PlannedPool {
	return v1alpha1.PlannedPool{Name: name, CIDR: cidr, BlockSize: 26, Encapsulation: v1alpha1.EncapsulationNone, Allocate: true}
}

// until waits until f returns nil.
func (b *bench) until(what string, f func() error) {
	b.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			b.Fatalf("%s: %v", what, err)
		}
	}
}

// condition waits until the node's status has a condition with a text.
func (b *bench) condition(kind, status, text string) {
	b.Helper()
	b.until("condition "+kind, func() error {
		var nn v1alpha1.NodeNetwork
		if err := b.api.Get(b.Context(), client.ObjectKey{Name: b.name}, &nn); err != nil {
			return err
		}
		c := apimeta.FindStatusCondition(nn.Status.Conditions, kind)
		if c == nil || string(c.Status) != status || !strings.Contains(c.Reason+": "+c.Message, text) {
			return fmt.Errorf("is %+v, want %s with %q", c, status, text)
		}
		return nil
	})
}

// event waits until there is an event about the node.
func (b *bench) event(kind, reason, text string) {
	b.Helper()
	b.until("event "+reason, func() error {
		var all corev1.EventList
		if err := b.api.List(b.Context(), &all); err != nil {
			return err
		}
		var seen []string
		for i := range all.Items {
			e := &all.Items[i]
			if e.InvolvedObject.Name != b.name {
				continue
			}
			if e.InvolvedObject.Kind == "Node" && e.Type == kind && e.Reason == reason && strings.Contains(e.Message, text) {
				return nil
			}
			seen = append(seen, e.Type+" "+e.Reason+": "+e.Message)
		}
		return fmt.Errorf("there are the events %q, none %s %s with %q", seen, kind, reason, text)
	})
}

// logged holds one of the first lines of the log to be no mere information and to
// have a text.
func (b *bench) logged(text string) {
	b.Helper()
	const first = 8
	b.until("the log's first lines", func() error {
		lines := b.log.all()
		lines = lines[:min(len(lines), first)]
		if !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, text) && !strings.Contains(l, "level=INFO") }) {
			return fmt.Errorf("no warning says %q", text)
		}
		return nil
	})
}

// untold holds the container runtime to know nothing of Godwit: there is no plugin
// and no configuration.
func (b *bench) untold() {
	b.Helper()
	for _, path := range []string{b.o.CNIConfig, filepath.Join(b.o.CNIBin, "godwit-cni")} {
		if _, err := os.Lstat(path); err == nil {
			b.Errorf("there is %s", path)
		}
	}
}

// untouched holds the node to have no block and no route either.
func (b *bench) untouched() {
	b.Helper()
	b.untold()
	var blocks v1alpha1.IPBlockList
	if err := b.api.List(b.Context(), &blocks); err != nil {
		b.Fatal(err)
	}
	for _, block := range blocks.Items {
		if block.Spec.NodeName == b.name {
			b.Errorf("the node has the block %s", block.Spec.CIDR)
		}
	}
	for class, n := range b.kernel.Routes.Status().Installed {
		if n > 0 {
			b.Errorf("there are %d routes of the class %s", n, class)
		}
	}
}

// serves waits until the node takes pods.
func (b *bench) serves() {
	b.Helper()
	b.until("CNI configuration", func() error { _, err := os.Stat(b.o.CNIConfig); return err })
	b.routed()
	b.condition(v1alpha1.ConditionReady, "True", "")
	b.condition(v1alpha1.ConditionPlanApplied, "True", "")
}

// restart starts the next agent on the node, or on the node that has booted since.
func (b *bench) restart(booted bool) (stop func()) {
	b.Helper()
	if booted {
		if err := os.RemoveAll(b.o.RunDir); err != nil { // it is on tmpfs
			b.Fatal(err)
		}
	}
	b.log.forget()
	b.kernel = newKernel() // the last agent has closed the one before
	b.o.Kernel = b.kernel
	return b.start()
}

// call calls the agent as the plugin does.
func (b *bench) call(verb func(cniapi.CNIService, context.Context, *cniapi.Request) (*cniapi.Response, error), container string) (*cniapi.Response, error) {
	conn, err := new(net.Dialer).DialContext(b.Context(), "unix", filepath.Join(b.o.RunDir, "cni.sock"))
	if err != nil {
		return nil, err
	}
	client := ttrpc.NewClient(conn)
	defer func() { _ = client.Close() }()
	return verb(cniapi.NewCNIClient(client), b.Context(), &cniapi.Request{
		ContainerId: container, Netns: "/run/netns/" + container, IfName: "eth0",
		Config: []byte(`{"cniVersion":"1.1.0","name":"godwit","type":"godwit-cni"}`),
	})
}

// refuses waits until no pod can be attached, for a reason.
func (b *bench) refuses(reason string) {
	b.Helper()
	for name, verb := range map[string]func(cniapi.CNIService, context.Context, *cniapi.Request) (*cniapi.Response, error){
		"ADD": cniapi.CNIService.Add, "STATUS": cniapi.CNIService.Status,
	} {
		b.until(name, func() error {
			r, err := b.call(verb, "refused")
			if err != nil {
				return err
			}
			if !strings.Contains(r.GetError().GetDetails(), reason) {
				return fmt.Errorf("%v, want %q", r.GetError(), reason)
			}
			return nil
		})
	}
}

// routed waits until the node has a route of a block.
func (b *bench) routed() {
	b.Helper()
	b.until("a block's route", func() error {
		if n := b.kernel.Routes.Status().Installed[routes.ClassBlock]; n == 0 {
			return errors.New("there is none")
		}
		return nil
	})
}

func testMissingCRDs(t *testing.T, cfg *rest.Config) {
	b := newBench(t, cfg, "no-crds")
	b.start()
	b.logged("install the CRDs")
	b.event("Warning", "CRDsMissing", "install the CRDs (kubectl apply -k config/crd")
	b.untold()
	if _, err := envtest.InstallCRDs(cfg, envtest.CRDInstallOptions{Paths: []string{"../config/crd"}, ErrorIfPathMissing: true}); err != nil {
		t.Fatal(err)
	}
	b.plan(nil, planned("pods", "172.25.0.0/20"))
	b.serves()
}

func testForeignPool(t *testing.T, cfg *rest.Config) {
	b := newBench(t, cfg, "foreign")
	b.o.APIServer = netip.MustParseAddr("10.96.0.1")
	b.plan(func(s *v1alpha1.NodeNetworkSpec) {
		s.RefusedPools = []v1alpha1.RefusedPool{{Name: "clash", Message: "10.97.0.0/16 overlaps 10.96.0.0/12, from which Services get their addresses"}}
	}, planned("nodes", "10.211.55.128/25"), planned("services", "10.96.0.0/16"))
	b.start()
	const says = "pool nodes is not used on this node: 10.211.55.128/25 overlaps 10.211.55.0/24, the network of the node's interface eth0"
	b.logged(says)
	b.condition(v1alpha1.ConditionPlanApplied, "False", says)
	b.condition(v1alpha1.ConditionPlanApplied, "False", "pool services is not used on this node: 10.96.0.0/16 has the address 10.96.0.1 in it, at which the API server is reached")
	b.condition(v1alpha1.ConditionPlanApplied, "False", "pool clash is not used: 10.97.0.0/16 overlaps 10.96.0.0/12, from which Services get their addresses")
	b.condition(v1alpha1.ConditionPlanApplied, "False", "the container runtime is not told of Godwit yet")
	b.event("Warning", "PlanNotApplied", says)
	b.untouched()
	b.plan(nil, planned("pods", "172.25.0.0/20"))
	b.serves()
	b.event("Normal", "PlanApplied", "over")

	// In use, it is not taken away; and what is wrong is told all the same.
	b.plan(nil, planned("pods", "172.25.0.0/20"), planned("nodes", "10.211.55.128/25"))
	b.condition(v1alpha1.ConditionPlanApplied, "False", says)
	if n := b.kernel.Routes.Status().Installed[routes.ClassBlock]; n == 0 {
		t.Error("the pool that is in order has lost its block")
	}
}

func testUnusableFolder(t *testing.T, cfg *rest.Config) {
	b := newBench(t, cfg, "folder")
	dir := filepath.Dir(b.o.CNIConfig)
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // root may write in any folder, but not in a file
		t.Fatal(err)
	}
	b.plan(nil, planned("pods", "172.25.0.0/20"))
	b.start()
	says := "the folder " + dir + " of the container runtime can't be used"
	b.logged(says)
	b.condition(v1alpha1.ConditionReady, "False", "NodeUnfit: "+says)
	b.condition(v1alpha1.ConditionPlanApplied, "False", "NodeUnfit: "+says)
	b.event("Warning", "PlanNotApplied", says)
	b.refuses(says)
	b.untouched()
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	b.serves()
	b.event("Normal", "PlanApplied", "over")
}

// testUnfitAgain restarts agents on a node that can't be used: nothing is set up by
// the second one either, unless the node took pods before.
func testUnfitAgain(t *testing.T, cfg *rest.Config) {
	b := newBench(t, cfg, "again")
	plugins := b.o.CNIPlugins
	b.o.CNIPlugins = filepath.Join(b.dir, "nowhere")
	b.plan(nil, planned("pods", "172.25.0.0/20"))
	const says = "the CNI plugins to install can't be read"
	stop := b.start()
	b.logged(says)
	b.untouched()
	stop()
	stop = b.restart(false)
	b.logged(says)
	b.refuses(says)
	b.untouched()
	stop()
	b.o.CNIPlugins = plugins
	stop = b.restart(false)
	b.serves()
	if b.restarting {
		t.Error("peers are told of the restart of an agent that had no routes")
	}

	// What works goes on, after a boot too, though nothing could be installed now.
	b.o.CNIPlugins = filepath.Join(b.dir, "nowhere")
	for _, booted := range []bool{false, true} {
		stop()
		stop = b.restart(booted)
		b.routed()
		b.logged("list the CNI plugins to install")
		b.condition(v1alpha1.ConditionPlanApplied, "False", "list the CNI plugins to install")
		b.condition(v1alpha1.ConditionReady, "True", "")
		if b.restarting == booted {
			t.Errorf("booted %t: the speaker is told of routes in the kernel: %t", booted, b.restarting)
		}
	}

	// But not where the runtime lacks its configuration.
	if err := os.Remove(b.o.CNIConfig); err != nil {
		t.Fatal(err)
	}
	stop()
	b.restart(true)
	b.refuses(says)
	b.condition(v1alpha1.ConditionReady, "False", "NodeUnfit: "+says)
	if n := b.kernel.Routes.Status().Installed[routes.ClassBlock]; n > 0 {
		t.Errorf("there are %d routes of blocks", n)
	}
}

// withoutIPIP is a kernel without IPIP.
type withoutIPIP struct{ agent.TunnelTable }

func (w withoutIPIP) Set(ctx context.Context, c tunnel.Config) ([]tunnel.Status, error) {
	all, err := w.TunnelTable.Set(ctx, c)
	for i := range all {
		if all[i].Kind == tunnel.IPIP {
			all[i].Up, all[i].Err = false, fmt.Errorf("make the device: %w", tunnel.ErrNotSupported)
			err = errors.Join(err, all[i].Err)
		}
	}
	return all, err
}

func testNoTunnel(t *testing.T, cfg *rest.Config) {
	b := newBench(t, cfg, "no-ipip")
	b.kernel.Tunnels = withoutIPIP{b.kernel.Tunnels}
	ipip := planned("ipip", "172.26.0.0/24")
	ipip.Encapsulation = v1alpha1.EncapsulationIPIP
	tunnels := func(s *v1alpha1.NodeNetworkSpec) { s.Tunnels = []v1alpha1.TunnelKind{v1alpha1.TunnelIPIP} }
	b.plan(tunnels, ipip)
	b.start()
	b.logged("a pool gives out no addresses on this node, as its packets can't go through the tunnel")
	b.condition(v1alpha1.ConditionTunnelsReady, "False", "NotSupported: ")
	b.condition(v1alpha1.ConditionPlanApplied, "False", "the container runtime is not told of Godwit yet")
	b.event("Warning", "TunnelsNotReady", "the kernel does not support it")
	b.untouched()
	// Another pool does for the node.
	b.plan(tunnels, ipip, planned("pods", "172.25.0.0/20"))
	b.serves()
	var blocks v1alpha1.IPBlockList
	if err := b.api.List(t.Context(), &blocks); err != nil {
		t.Fatal(err)
	}
	for _, block := range blocks.Items {
		if block.Spec.Pool == "ipip" {
			t.Errorf("a block of the pool whose tunnel can't be had is claimed: %s", block.Spec.CIDR)
		}
	}
}

func testLeftovers(t *testing.T, cfg *rest.Config) {
	b := newBench(t, cfg, "leftovers")
	var (
		mu    sync.Mutex
		finds = []others.Find{{Reason: others.ReasonConfig, Message: "05-cilium.conflist comes before Godwit's"}}
	)
	b.o.Others = func() ([]others.Find, error) {
		mu.Lock()
		defer mu.Unlock()
		return finds, nil
	}
	b.plan(nil, planned("pods", "172.25.0.0/20"))
	b.start()
	b.logged("05-cilium.conflist comes before Godwit's")
	b.condition(v1alpha1.ConditionHostSound, "False", "OtherCNIConfig: 05-cilium.conflist comes before Godwit's")
	b.event("Warning", "HostNotSound", "05-cilium.conflist comes before Godwit's")
	b.serves()
	mu.Lock()
	finds = nil
	mu.Unlock()
	b.condition(v1alpha1.ConditionHostSound, "True", "Sound")
	b.event("Normal", "HostSound", "over")
}

// testDeletedPlan: the controller makes the plan anew, of the same generation and
// with the same content. Its object has no status, and gets one though nothing is new.
func testDeletedPlan(t *testing.T, cfg *rest.Config) {
	b := newBench(t, cfg, "deleted")
	b.plan(nil, planned("pods", "172.25.0.0/20"))
	b.start()
	b.serves()
	if err := b.api.Delete(t.Context(), &v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: b.name}}); err != nil {
		t.Fatal(err)
	}
	b.plan(nil, planned("pods", "172.25.0.0/20"))
	b.serves()
}

func testFailedStart(t *testing.T, cfg *rest.Config) {
	b := newBench(t, cfg, "failed")
	b.plan(nil, planned("pods", "172.25.0.0/20"))
	if err := os.WriteFile(b.o.StateDir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := agent.New(t.Context(), b.o)
	if err == nil {
		t.Fatal("an agent without a folder starts")
	}
	if err := agent.Failed(t.Context(), b.o, err); err == nil || !strings.Contains(err.Error(), "make the agent's folder") {
		t.Errorf("it fails with: %v", err)
	}
	b.condition(v1alpha1.ConditionReady, "False", "NotStarted: the agent can't start: make the agent's folder")
	b.event("Warning", "AgentNotStarted", "make the agent's folder")
	b.untouched()
}
