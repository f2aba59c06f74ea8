package converge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/bgp/bgptest/router"
	"github.com/godwit-net/godwit/e2e/process"
)

// contender is a router that takes part. All take nothing but blocks of the
// pool, as a node does. What else is not a router's own default in its
// configuration is an operator's choice for speed.
type contender struct {
	name, version string
	start         func(ctx context.Context, netns, dir string) (running, error)
}

type running struct {
	stop func() error
	log  func() string
}

func contenders(ctx context.Context, o Options) ([]contender, error) {
	all := []contender{
		{name: "Godwit", start: func(_ context.Context, netns, dir string) (running, error) {
			return startAgent(o.Agent, netns, dir) //nolint:contextcheck // it outlives the start
		}},
		{name: "BIRD", start: func(ctx context.Context, netns, dir string) (running, error) {
			return startRouter(router.StartBIRD(ctx, netns, dir, birdConf()))
		}},
		{name: "FRR", start: func(ctx context.Context, netns, dir string) (running, error) {
			return startRouter(router.StartFRR(ctx, netns, dir, frrConf()))
		}},
	}
	var chosen []contender
	for _, c := range all {
		if len(o.Only) > 0 && !slices.ContainsFunc(o.Only, func(s string) bool { return strings.EqualFold(s, c.name) }) {
			continue
		}
		var err error
		if c.version, err = version(ctx, c.name, o); err != nil {
			return nil, err
		}
		chosen = append(chosen, c)
	}
	return chosen, nil
}

// version asks a contender's program for its version: the last word of what it
// says first, in all three cases.
func version(ctx context.Context, name string, o Options) (string, error) {
	path := map[string]string{"Godwit": o.Agent, "BIRD": "/usr/sbin/bird", "FRR": "/usr/lib/frr/bgpd"}[name]
	out, err := exec.CommandContext(ctx, path, "--version").CombinedOutput() // #nosec G204 -- the contenders
	if err != nil {
		return "", fmt.Errorf("%s does not run: %w: %s", path, err, out)
	}
	first, _, _ := strings.Cut(string(out), "\n")
	words := strings.Fields(first)
	if len(words) == 0 {
		return "", fmt.Errorf("%s does not tell its version", path)
	}
	return words[len(words)-1], nil
}

func startRouter(r *router.Router, err error) (running, error) {
	if err != nil {
		return running{}, err
	}
	return running{stop: r.Stop, log: r.Log}, nil
}

// birdConf has `direct` so that next hops on the cable are taken as they are,
// and are not looked up again and again: the faster of BIRD's two ways.
func birdConf() string {
	return fmt.Sprintf(`log stderr all;
router id %[1]v;
protocol device {}
protocol kernel { ipv4 { import none; export all; }; }
protocol bgp sender {
  local %[1]v as %[3]d;
  neighbor %[2]v as %[3]d;
  direct;
  graceful restart on;
  ipv4 {
    import filter { if net ~ [ %[4]v{26,26} ] then accept; reject; };
    export none;
  };
}
`, routerAddress(), senderAddress(), asn, announced())
}

func frrConf() string {
	return fmt.Sprintf(`ip prefix-list blocks seq 5 permit %[4]v ge 26 le 26
route-map blocks permit 10
 match ip address prefix-list blocks
router bgp %[3]d
 bgp router-id %[1]v
 neighbor %[2]v remote-as %[3]d
 address-family ipv4 unicast
  neighbor %[2]v route-map blocks in
`, routerAddress(), senderAddress(), asn, announced())
}

const nodeName = "bench"

// startAgent runs the real agent, with its plan from a checkpoint, as on a node
// whose API server is away.
func startAgent(path, netns, dir string) (running, error) {
	state := filepath.Join(dir, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		return running{}, err
	}
	raw, err := json.Marshal(checkpoint())
	if err != nil {
		return running{}, err
	}
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := errors.Join(
		os.WriteFile(filepath.Join(state, "checkpoint.json"), raw, 0o600),
		os.WriteFile(kubeconfig, []byte(noServer), 0o600),
	); err != nil {
		return running{}, err
	}
	g := process.Open(dir)
	err = g.Start(process.Spec{
		Name: "agent", Netns: netns, Path: path,
		Args: []string{
			"--node-name", nodeName, "--kubeconfig", kubeconfig, "--cni-conf", "",
			"--run-dir", filepath.Join(dir, "run"), "--state-dir", state,
		},
	})
	if err != nil {
		return running{}, err
	}
	return running{
		stop: func() error { return g.Stop(context.Background(), "agent") },
		log: func() string {
			text, _ := os.ReadFile(g.Log("agent"))
			return string(text)
		},
	}, nil
}

const noServer = `apiVersion: v1
kind: Config
clusters: [{name: none, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: none, user: {}}]
contexts: [{name: none, context: {cluster: none, user: none}}]
current-context: none
`

// announced holds the sender's prefixes.
func announced() netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{16}), 8) }

// ownBlock is the agent's: it needs one to begin without the API server.
func ownBlock() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{16, 255, 255, 192}), 26)
}

// checkpoint is what an earlier life of the agent left: a plan in which the
// sender is another node.
func checkpoint() any {
	type block struct {
		CIDR netip.Prefix `json:"cidr"`
		Pool string       `json:"pool"`
	}
	return struct {
		Version    int                      `json:"version"`
		Node       string                   `json:"node"`
		Generation int64                    `json:"generation"`
		Plan       v1alpha1.NodeNetworkSpec `json:"plan"`
		Blocks     []block                  `json:"blocks"`
	}{
		Version: 1, Node: nodeName, Generation: 1,
		Blocks: []block{{CIDR: ownBlock(), Pool: "bench"}},
		Plan: v1alpha1.NodeNetworkSpec{
			Addresses: []string{routerAddress().String()}, ASN: asn, RouterID: routerAddress().String(), ListenPort: 179,
			Pools: []v1alpha1.PlannedPool{{
				Name: "bench", CIDR: announced().String(), BlockSize: 26, Encapsulation: v1alpha1.EncapsulationNone,
				NATOutgoing: true, Allocate: true,
			}},
			Sessions: []v1alpha1.PlannedSession{{
				Name: "sender", Kind: v1alpha1.SessionNode, PeerAddress: senderAddress().String(), PeerPort: 179, PeerASN: asn,
				MaxPrefixes: 1_000_000,
			}},
		},
	}
}
