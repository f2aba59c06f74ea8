package agent

import (
	"encoding/json"
	"fmt"

	"github.com/godwit-net/godwit/cni"
)

// Versions of the CNI specification. Runtimes with a libcni older than 1.2, such as
// containerd 1.7, know oldCNI and nothing newer; newCNI has the verbs GC and STATUS.
const (
	oldCNI = "1.0.0"
	newCNI = "1.1.0"
)

// chainedPlugin is a plugin of the chain with its settings.
type chainedPlugin struct {
	Capabilities map[string]bool `json:"capabilities"`
	SNAT         bool            `json:"snat,omitempty"`
	Socket       string          `json:"socket,omitempty"`
	Type         string          `json:"type"`
}

// chain is the plugins that runtimes call for each pod, in order. portmap follows,
// for hostPort.
func chain(socket string) []chainedPlugin {
	return []chainedPlugin{
		{Type: ownPlugin, Socket: socket, Capabilities: map[string]bool{cni.PodAnnotations: true}},
		{Type: "portmap", Capabilities: map[string]bool{"portMappings": true}, SNAT: true},
	}
}

// cniConfig returns the network configuration that container runtimes read (CNI
// specification 1.1.0, section 1). A runtime that knows cniVersions takes the
// newest of them that it supports, and one that does not takes cniVersion.
func cniConfig(plugins []chainedPlugin, versions []string) ([]byte, error) {
	data, err := json.MarshalIndent(map[string]any{
		"cniVersion":   oldCNI,
		"cniVersions":  versions,
		"name":         "godwit",
		"disableCheck": false,
		"plugins":      plugins,
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode CNI configuration: %w", err)
	}
	return append(data, '\n'), nil
}
