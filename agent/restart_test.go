package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"k8s.io/client-go/rest"

	"github.com/godwit-net/godwit/agent"
	"github.com/godwit-net/godwit/agent/agenttest"
	cniapi "github.com/godwit-net/godwit/api/cni"
	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/cni"
	"github.com/godwit-net/godwit/cni/wire"
	"github.com/godwit-net/godwit/nat"
	"github.com/godwit-net/godwit/tunnel"
)

// quietSpeaker is a speaker that says what it is told to, to the sink alone.
type quietSpeaker struct{ sink bgp.Sink }

func (quietSpeaker) Set(context.Context, bgp.Config) error { return nil }
func (quietSpeaker) Announced(context.Context, []netip.Prefix) ([]netip.Prefix, error) {
	return nil, nil
}

func (quietSpeaker) Sessions(context.Context) ([]bgp.Session, error) { return nil, nil }
func (quietSpeaker) Stop(context.Context, bgp.StopMode) error        { return nil }

// restarted is an agent that starts from its checkpoint, without the API server, on
// a node in memory.
type restarted struct {
	kernel  *agent.Kernel
	o       agent.Options
	speaker quietSpeaker
}

// newRestarted makes one that is not started yet, of the plan that the checkpoint has.
func newRestarted(t *testing.T, plan v1alpha1.NodeNetworkSpec) *restarted {
	t.Helper()
	api, err := agent.NewClient(&rest.Config{Host: "https://127.0.0.1:1"}) // nobody is there
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	plan.Addresses, plan.ASN, plan.RouterID, plan.ListenPort = []string{"10.211.55.101"}, 64512, "10.211.55.101", 179
	checkpoint, err := json.Marshal(map[string]any{
		"version": 1, "node": "n1", "generation": 1, "plan": plan,
		"blocks": []map[string]string{{"cidr": "172.25.0.0/26", "pool": "vxlan"}},
	})
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "checkpoint.json"), checkpoint, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	r := &restarted{kernel: agenttest.NewKernel(netip.MustParsePrefix(ownAddress))}
	r.o = agent.Options{
		Node: "n1", Namespace: "godwit-system", RunDir: filepath.Join(dir, "run"), StateDir: dir,
		CNIConfig: filepath.Join(dir, "net.d", "10-godwit.conflist"), Version: "test", Client: api, Kernel: r.kernel,
		NewSpeaker: func(sink bgp.Sink, _ bool) (bgp.Speaker, error) {
			r.speaker.sink = sink
			return r.speaker, nil
		},
		Log: slog.New(slog.DiscardHandler),
	}
	return r
}

// start runs the agent until the test ends.
func (r *restarted) start(t *testing.T) {
	t.Helper()
	a, err := agent.New(t.Context(), r.o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the agent ended with: %v", err)
		}
	})
}

// within waits until f returns nil.
func within(t *testing.T, what string, f func() error) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// vxlanPlan has one pool, whose packets go through VXLAN and are masqueraded, and
// a session with a reflector alone.
func vxlanPlan() v1alpha1.NodeNetworkSpec {
	pool := planned("vxlan", "172.25.0.0/20")
	pool.Encapsulation, pool.NATOutgoing = v1alpha1.EncapsulationVXLAN, true
	return v1alpha1.NodeNetworkSpec{
		Pools: []v1alpha1.PlannedPool{pool}, Tunnels: []v1alpha1.TunnelKind{v1alpha1.TunnelVXLAN},
		Sessions: []v1alpha1.PlannedSession{{Name: "reflector", Kind: "Node", PeerAddress: "10.211.55.116", PeerPort: 179, PeerASN: 64512}},
	}
}

// TestRestartKeepsNodesUntilAllAreLearned starts an agent where an earlier life of it
// has left what tunnels and masquerade know of nodes, most of which the plan does
// not name: they stay until it is known which of them there are.
func TestRestartKeepsNodesUntilAllAreLearned(t *testing.T) {
	t.Parallel()
	r := newRestarted(t, vxlanPlan())
	own, reflector, node, gone := netip.MustParseAddr("10.211.55.101"), netip.MustParseAddr("10.211.55.116"), netip.MustParseAddr("10.211.55.117"), netip.MustParseAddr("10.211.55.118")
	before := []netip.Addr{reflector, node, gone}
	rules := nat.Rules{}
	for _, a := range before {
		rules.Nodes = append(rules.Nodes, netip.PrefixFrom(a, 32))
	}
	_, err := r.kernel.Tunnels.Set(t.Context(), tunnel.Config{
		Devices: []tunnel.Device{{Kind: tunnel.VXLAN, Local: own, MTU: 1450}}, Peers: before,
	})
	if err := errors.Join(err, r.kernel.Masquerade.Set(t.Context(), rules)); err != nil {
		t.Fatal(err)
	}
	knows := func(want ...netip.Addr) error {
		if peers, nodes := agenttest.Peers(r.kernel), agenttest.Nodes(r.kernel); !slices.Equal(peers, want) || !slices.Equal(nodes, want) {
			return fmt.Errorf("the tunnel knows %v and the masquerade %v, want %v", peers, nodes, want)
		}
		return nil
	}

	r.start(t)
	within(t, "the first pass", func() error { _, err := os.Stat(r.o.CNIConfig); return err })
	if err := knows(before...); err != nil {
		t.Errorf("after a pass with nothing learned: %v", err)
	}
	r.speaker.sink.Learned([]bgp.Route{{Prefix: netip.MustParsePrefix("172.25.1.0/26"), NextHops: []netip.Addr{node}, FromNode: true}}, nil)
	r.speaker.sink.InSync()
	within(t, "all is learned", func() error { return knows(reflector, node) })
}

// pod is the wiring of a pod, which is noted and no more.
type pod struct {
	cni.Wirer
	mtu chan int // of those that are attached
}

func (pod) OpenNamespace(string) (*wire.Namespace, error) { return &wire.Namespace{}, nil }

func (p pod) Attach(_ context.Context, _ *wire.Namespace, s wire.Spec) (wire.Link, error) {
	p.mtu <- s.MTU
	return wire.Link{Identity: s.Identity, HostEnd: agenttest.Link, MTU: s.MTU}, nil
}

// TestPodBeforeTheFirstPass attaches a pod while the agent's first pass waits for a
// password: the pod has the MTU that its pool leaves it.
func TestPodBeforeTheFirstPass(t *testing.T) {
	t.Parallel()
	plan := vxlanPlan()
	plan.Sessions[0].PasswordSecretRef = &v1alpha1.SecretKeyRef{Name: "reflector", Key: "password"}
	r := newRestarted(t, plan)
	p := pod{r.kernel.Wirer, make(chan int, 1)}
	r.kernel.Wirer = p
	r.start(t)
	conn, err := net.Dial("unix", filepath.Join(r.o.RunDir, "cni.sock"))
	within(t, "the agent's socket", func() error {
		if err != nil {
			conn, err = net.Dial("unix", filepath.Join(r.o.RunDir, "cni.sock"))
		}
		return err
	})
	client := ttrpc.NewClient(conn)
	defer func() { _ = client.Close() }()
	within(t, "ADD", func() error {
		resp, err := cniapi.NewCNIClient(client).Add(t.Context(), &cniapi.Request{
			ContainerId: "c", Netns: "/run/netns/c", IfName: "eth0", Config: []byte(`{"cniVersion":"1.1.0","name":"godwit","type":"godwit-cni"}`),
		})
		if e := resp.GetError(); err == nil && e != nil {
			err = fmt.Errorf("%s: %s", e.GetMsg(), e.GetDetails())
		}
		return err
	})
	const want = agenttest.MTU - tunnel.VXLANOverhead
	if got := <-p.mtu; got != want {
		t.Errorf("the pod has MTU %d, want %d", got, want)
	}
}
