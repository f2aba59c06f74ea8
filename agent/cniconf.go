package agent

import (
	"encoding/json"
	"fmt"

	"github.com/godwit-net/godwit/cni"
)

// cniConfig returns the network configuration that container runtimes read
// (CNI specification 1.1.0, section 1). portmap follows, for hostPort.
func cniConfig(socket string) ([]byte, error) {
	type plugin map[string]any
	conf := map[string]any{
		"cniVersion":   "1.1.0",
		"name":         "godwit",
		"disableCheck": false,
		"plugins": []plugin{
			{"type": "godwit-cni", "socket": socket, "capabilities": map[string]bool{cni.PodAnnotations: true}},
			{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}, "snat": true},
		},
	}
	data, err := json.MarshalIndent(conf, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode CNI configuration: %w", err)
	}
	return append(data, '\n'), nil
}
