package table

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/process"
)

const noServer = `apiVersion: v1
kind: Config
clusters: [{name: none, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: none, user: {}}]
contexts: [{name: none, context: {cluster: none, user: none}}]
current-context: none
`

// start starts the agent with what an earlier life of it left.
func (p *part) start(group *process.Group, netns, dir string) error {
	type block struct {
		CIDR string `json:"cidr"`
		Pool string `json:"pool"`
	}
	spec := v1alpha1.NodeNetworkSpec{
		Addresses: []string{own().String()}, ASN: asn, RouterID: own().String(), ListenPort: 179,
		ValidateOrigin: true, Reflector: len(p.blocks) > 0,
		Pools: []v1alpha1.PlannedPool{{Name: "table", CIDR: "16.0.0.0/8", BlockSize: 26, Encapsulation: v1alpha1.EncapsulationNone, NATOutgoing: true, Allocate: true}},
	}
	for i := range p.sessions {
		s := v1alpha1.PlannedSession{
			Name: fmt.Sprintf("n%05d", i), Kind: v1alpha1.SessionNode, PeerAddress: other(i).String(), PeerPort: 179, PeerASN: asn,
			Reflection: v1alpha1.ReflectionServer, MaxPrefixes: 100000,
		}
		if spec.Reflector {
			s.Reflection, s.Blocks = v1alpha1.ReflectionClient, p.blocks[i]
		}
		spec.Sessions = append(spec.Sessions, s)
	}
	raw, err := json.Marshal(map[string]any{
		"version": 1, "node": nodeName, "generation": 1, "plan": spec, "blocks": []block{{"16.255.255.192/26", "table"}},
	})
	if err != nil {
		return err
	}
	state := filepath.Join(dir, "state")
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := errors.Join(
		os.Mkdir(state, 0o700),
		os.WriteFile(filepath.Join(state, "checkpoint.json"), raw, 0o600),
		os.WriteFile(kubeconfig, []byte(noServer), 0o600),
	); err != nil {
		return err
	}
	return group.Start(process.Spec{
		Name: agent, Netns: netns, Path: p.Agent,
		Args: []string{
			"--node-name", nodeName, "--kubeconfig", kubeconfig, "--cni-conf", "", "--log-level", "error",
			"--run-dir", filepath.Join(dir, "run"), "--state-dir", state,
		},
	})
}
