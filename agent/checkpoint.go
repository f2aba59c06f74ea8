package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/ipam"
)

const (
	checkpointVersion = 1
	checkpointName    = "checkpoint.json"
)

// checkpoint is what an agent needs in order to start while the API server is
// away: its last plan and its blocks. It holds no secrets.
type checkpoint struct {
	Version    int                      `json:"version"`
	Node       string                   `json:"node"`
	Generation int64                    `json:"generation"`
	Plan       v1alpha1.NodeNetworkSpec `json:"plan"`
	Blocks     []checkpointBlock        `json:"blocks"`
}

type checkpointBlock struct {
	CIDR   netip.Prefix `json:"cidr"`
	Pool   string       `json:"pool"`
	Holder string       `json:"holder,omitempty"`
}

func (c *checkpoint) blocks() []ipam.Block {
	out := make([]ipam.Block, len(c.Blocks))
	for i, b := range c.Blocks {
		out[i] = ipam.Block{CIDR: b.CIDR, Pool: b.Pool, Node: c.Node, Holder: b.Holder}
	}
	return out
}

// loadCheckpoint returns nil without an error where there is none. One that is
// of another version or another node, or torn, is an error: the agent then
// starts from the API alone.
func loadCheckpoint(dir, node string) (*checkpoint, error) {
	path := filepath.Join(dir, checkpointName)
	data, err := os.ReadFile(path) // #nosec G304 -- the operator's own folder
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read checkpoint: %w", err)
	}
	var c checkpoint
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("checkpoint %s can't be read, and is not used: %w", path, err)
	}
	if c.Version != checkpointVersion {
		return nil, fmt.Errorf("checkpoint %s has version %d, this agent reads %d; it is not used", path, c.Version, checkpointVersion)
	}
	if c.Node != node {
		return nil, fmt.Errorf("checkpoint %s is of node %q, this is %q; it is not used", path, c.Node, node)
	}
	return &c, nil
}

// save writes the checkpoint so that a crash leaves the old or the new one.
func (c *checkpoint) save(dir string) error {
	c.Version = checkpointVersion
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("encode checkpoint: %w", err)
	}
	return writeFile(filepath.Join(dir, checkpointName), data, 0o600)
}

// writeFile replaces a file atomically and durably.
func writeFile(path string, data []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Chmod(mode); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
