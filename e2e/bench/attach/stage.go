package attach

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/e2e/process"
)

// prefix begins the names of all namespaces; the process id of their owner
// follows.
const prefix = "gwbench-"

// uplink bears the node's address.
const uplink = "gwb0"

const nodeName = "bench"

// stage is a node with an agent, and the pods to be.
type stage struct {
	node   string // namespace
	dir    string
	socket string
	agent  *process.Group
}

func newStage(ctx context.Context, o Options) (_ *stage, err error) {
	st := &stage{node: prefix + strconv.Itoa(os.Getpid()) + "-node"}
	if st.dir, err = os.MkdirTemp("", prefix); err != nil {
		return nil, err
	}
	st.socket = filepath.Join(st.runDir(), "cni.sock")
	st.agent = process.Open(st.dir)
	defer func() {
		if err != nil {
			err = errors.Join(err, st.remove(context.WithoutCancel(ctx)))
		}
	}()
	// The agent's run folder is on tmpfs, as a node's /run is.
	if err := os.Mkdir(st.runDir(), 0o755); err != nil { // #nosec G301 -- as /run/godwit
		return nil, err
	}
	if err := unix.Mount("tmpfs", st.runDir(), "tmpfs", 0, ""); err != nil {
		return nil, fmt.Errorf("mount a tmpfs: %w", err)
	}
	if err := namespace.Add(ctx, st.node); err != nil {
		return nil, err
	}
	for i := range podsPerRound {
		if err := namespace.Add(ctx, st.pod(i)); err != nil {
			return nil, err
		}
	}
	for _, line := range [][]string{
		{"link", "add", uplink, "type", "veth", "peer", "name", uplink + "p"},
		{"addr", "add", "10.0.0.1/24", "dev", uplink},
		{"link", "set", uplink, "up"},
		{"link", "set", uplink + "p", "up"},
	} {
		if _, err := namespace.Run(ctx, st.node, append([]string{"ip"}, line...)...); err != nil {
			return nil, err
		}
	}
	return st, st.startAgent(o.Agent)
}

func (st *stage) runDir() string { return filepath.Join(st.dir, "run") }

func (st *stage) pod(i int) string {
	return prefix + strconv.Itoa(os.Getpid()) + "-pod" + strconv.Itoa(i)
}

func (st *stage) remove(ctx context.Context) error {
	err := st.agent.Stop(ctx, "agent")
	if errors.Is(err, os.ErrNotExist) {
		err = nil // it never started
	}
	errs := []error{err, namespace.Delete(st.node)}
	if err := unix.Unmount(st.runDir(), 0); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		errs = append(errs, fmt.Errorf("unmount %s: %w", st.runDir(), err))
	}
	errs = append(errs, os.RemoveAll(st.dir))
	for i := range podsPerRound {
		errs = append(errs, namespace.Delete(st.pod(i)))
	}
	return errors.Join(errs...)
}

func (st *stage) startAgent(path string) error {
	state := filepath.Join(st.dir, "state")
	kubeconfig := filepath.Join(st.dir, "kubeconfig")
	raw, err := json.Marshal(checkpoint())
	if err := errors.Join(
		err,
		os.Mkdir(state, 0o700),
		os.WriteFile(kubeconfig, []byte(noServer), 0o600),
	); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(state, "checkpoint.json"), raw, 0o600); err != nil {
		return err
	}
	return st.agent.Start(process.Spec{
		Name: "agent", Netns: st.node, Path: path,
		Args: []string{
			"--node-name", nodeName, "--kubeconfig", kubeconfig, "--cni-conf", "",
			"--run-dir", st.runDir(), "--state-dir", state,
		},
	})
}

// warm waits until the agent serves.
func (st *stage) warm(ctx context.Context) error {
	err := await(ctx, 20*time.Second, "the agent's socket", func() (bool, error) {
		_, err := os.Stat(st.socket)
		return err == nil, nil
	})
	if err != nil {
		text, _ := os.ReadFile(st.agent.Log("agent"))
		return fmt.Errorf("%w; the agent's log:\n%s", err, text)
	}
	return nil
}

// linksDir is the kernel's list of the node's links, as seen by the agent.
func (st *stage) linksDir() string {
	r, err := st.agent.Get("agent")
	if err != nil {
		return ""
	}
	return fmt.Sprintf("/proc/%d/net/dev_snmp6", r.PID)
}

const noServer = `apiVersion: v1
kind: Config
clusters: [{name: none, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: none, user: {}}]
contexts: [{name: none, context: {cluster: none, user: none}}]
current-context: none
`

// checkpoint is what an earlier life of the agent left: a plan, and blocks
// enough for all pods.
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
		Blocks: []block{
			{CIDR: netip.MustParsePrefix("172.25.0.0/26"), Pool: "bench"},
			{CIDR: netip.MustParsePrefix("172.25.0.64/26"), Pool: "bench"},
		},
		Plan: v1alpha1.NodeNetworkSpec{
			Addresses: []string{"10.0.0.1"}, ASN: 64512, RouterID: "10.0.0.1", ListenPort: 179,
			Pools: []v1alpha1.PlannedPool{{
				Name: "bench", CIDR: "172.25.0.0/16", BlockSize: 26, Encapsulation: v1alpha1.EncapsulationNone,
				NATOutgoing: true, Allocate: true,
			}},
		},
	}
}
