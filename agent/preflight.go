package agent

import (
	"fmt"
	"os"
	"path/filepath"
)

// preflight reports what on the node would keep the agent from finishing its work,
// before any of it is begun: a node that can't take pods is not announced, and
// nothing is left on it that no pod uses.
func preflight(o *Options) error {
	var folders []string
	if o.CNIConfig != "" {
		folders = append(folders, filepath.Dir(o.CNIConfig))
	}
	if o.CNIPlugins != "" {
		folders = append(folders, o.CNIBin)
		if _, err := os.ReadDir(o.CNIPlugins); err != nil {
			return fmt.Errorf("the CNI plugins to install can't be read (is --cni-plugins a folder of the image?): %w", err)
		}
	}
	for _, dir := range folders {
		if err := usable(dir); err != nil {
			return fmt.Errorf("the folder %s of the container runtime can't be used (is it the node's, readable and writable? see --cni-conf and --cni-bin-dir): %w", dir, err)
		}
	}
	return nil
}

// usable tells whether files of a folder, which is made if it is not there, can be
// listed, made and removed.
func usable(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { // #nosec G301 -- as runtimes make it
		return err
	}
	if _, err := os.ReadDir(dir); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".godwit-*") // no name that a runtime reads
	if err != nil {
		return err
	}
	_ = f.Close()
	return os.Remove(f.Name())
}
