package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// askTimeout bounds a plugin's answer to VERSION, which takes milliseconds: the
	// loop waits for it.
	askTimeout = 2 * time.Second
	// askAgain is how soon a plugin that gave no answer is asked once more.
	askAgain = 5 * time.Minute
)

// pluginVersions knows which versions of the CNI specification the plugins in the
// node's folder support: those of others may be older than the agent's. Each is
// asked once, and again when its file is another.
type pluginVersions struct {
	log   *slog.Logger
	asked map[string]versionAnswer // by path
}

// versionAnswer is what a plugin says that it supports; nothing if it says nothing.
type versionAnswer struct {
	file     fs.FileInfo
	at       time.Time
	versions []string
}

// common returns those versions that a chain can be called with. All runtimes know
// oldCNI, so that a plugin without it is an error. One that can't be asked, as it
// needs libraries that the agent's image lacks, is taken for one of oldCNI.
func (v *pluginVersions) common(ctx context.Context, plugins []chainedPlugin, folder string) ([]string, error) {
	versions := []string{oldCNI, newCNI}
	for _, p := range plugins {
		if p.Type == ownPlugin {
			continue
		}
		supported := v.of(ctx, filepath.Join(folder, p.Type))
		if len(supported) > 0 && !slices.Contains(supported, oldCNI) {
			return nil, fmt.Errorf("the CNI plugin %s in %s supports the versions %s of the CNI specification, and runtimes call it with %s: "+
				"replace it by one of the reference plugins 1.0 or newer, or delete it, and the agent installs its own",
				p.Type, folder, strings.Join(supported, ", "), oldCNI)
		}
		if !slices.Contains(supported, newCNI) {
			versions = []string{oldCNI}
		}
	}
	return versions, nil
}

// of returns the versions that a plugin supports, none if it can't be asked.
func (v *pluginVersions) of(ctx context.Context, path string) []string {
	file, err := os.Stat(path)
	if err != nil {
		return nil
	}
	was, known := v.asked[path]
	if known && sameFile(was.file, file) && (len(was.versions) > 0 || time.Since(was.at) < askAgain) {
		return was.versions
	}
	versions, err := askVersions(ctx, path)
	if ctx.Err() != nil {
		return nil
	}
	if v.asked == nil {
		v.asked = map[string]versionAnswer{}
	}
	v.asked[path] = versionAnswer{file, time.Now(), versions}
	if !slices.Contains(versions, newCNI) && (!known || !slices.Equal(was.versions, versions)) {
		v.log.Info("a CNI plugin of the node is not known to support "+newCNI+", so the runtime is offered "+oldCNI+" alone, without GC and STATUS",
			"plugin", path, "supports", versions, "error", err)
	}
	return versions
}

// askVersions asks a plugin for the versions that it supports.
func askVersions(ctx context.Context, path string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path) // #nosec G204 -- the runtime executes it as well
	cmd.Env = []string{"CNI_COMMAND=VERSION"}
	cmd.Stdin = strings.NewReader(`{"cniVersion":"` + newCNI + `"}`)
	cmd.WaitDelay = askTimeout // what it has started may outlive it
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("ask %s for its versions: %w", path, err)
	}
	var answer struct {
		SupportedVersions []string `json:"supportedVersions"`
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		return nil, fmt.Errorf("read what %s says of its versions: %w", path, err)
	}
	return answer.SupportedVersions, nil
}
