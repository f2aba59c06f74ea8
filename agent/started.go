package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// startedName is the file in the agent's folder on tmpfs that tells that an agent has
// begun its work since the node booted: routes of it may be in the kernel.
const startedName = "started"

// startedBefore tells whether an agent has begun its work since the node booted.
func startedBefore(runDir string) (bool, error) {
	_, err := os.Stat(filepath.Join(runDir, startedName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("look whether an agent ran before: %w", err)
	}
	return err == nil, nil
}

// markStarted leaves that mark, when the first pass begins and not before: an agent
// that is started anew on a node that was unfit has left nothing that it restarts from.
func markStarted(runDir string) error {
	f, err := os.OpenFile(filepath.Join(runDir, startedName), os.O_CREATE|os.O_WRONLY, 0o600) // #nosec G304 -- our own folder
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return fmt.Errorf("mark the agent's start (can the folder of --run-dir be written?): %w", err)
	}
	return nil
}
