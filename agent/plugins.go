package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ownPlugin is the plugin that is Godwit's own; the others are from elsewhere,
// and the node may have them already.
const ownPlugin = "godwit-cni"

// pluginFolder keeps plugins installed in the folder where the node's runtime
// looks for them.
type pluginFolder struct {
	stateDir string
	seen     map[string]fs.FileInfo // what was found right, by path
}

// install copies the plugins of a folder to another: Godwit's own replaces an
// older one, in one step, so that the runtime never finds half of it; others are
// for nodes that have none of the name, and never replace one.
func (p *pluginFolder) install(from, to string) error {
	if from == "" {
		return nil
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return fmt.Errorf("list the CNI plugins to install: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		if err := p.installOne(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			errs = append(errs, fmt.Errorf("install the CNI plugin %s (is --cni-bin-dir the node's folder, and can it be written?): %w", e.Name(), err))
		}
	}
	return errors.Join(errs...)
}

func (p *pluginFolder) installOne(from, to string) error {
	have, err := os.Stat(to)
	switch {
	case err == nil && filepath.Base(to) != ownPlugin:
		return nil
	case err == nil && p.unchanged(to, have):
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	want, err := os.ReadFile(from) // #nosec G304 -- of the image
	if err != nil {
		return err
	}
	installed := false
	if have != nil && have.Mode().Perm() == 0o755 {
		now, err := os.ReadFile(to) // #nosec G304 -- what we installed
		installed = err == nil && bytes.Equal(now, want)
	}
	if !installed {
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil { // #nosec G301 -- as runtimes make it
			return err
		}
		// Noted first: what is taken away when Godwit leaves must be what it brought.
		if err := p.note(filepath.Base(to)); err != nil {
			return err
		}
		if err := writeFile(to, want, 0o755); err != nil {
			return err
		}
	}
	have, err = os.Stat(to)
	if err != nil {
		return err
	}
	if p.seen == nil {
		p.seen = map[string]fs.FileInfo{}
	}
	p.seen[to] = have
	return nil
}

// broughtName is the file, in the agent's folder on disk, with the names of the
// plugins that the node did not have, a line each.
const broughtName = "cni-plugins"

// note puts a plugin of others on the list of those that were brought.
func (p *pluginFolder) note(name string) error {
	if name == ownPlugin {
		return nil
	}
	names, err := broughtPlugins(p.stateDir)
	if err != nil || slices.Contains(names, name) {
		return err
	}
	return writeFile(filepath.Join(p.stateDir, broughtName), []byte(strings.Join(append(names, name), "\n")+"\n"), 0o600)
}

// broughtPlugins are the plugins that agents have brought.
func broughtPlugins(stateDir string) ([]string, error) {
	raw, err := os.ReadFile(filepath.Join(stateDir, broughtName)) // #nosec G304 -- our own file
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return strings.Fields(string(raw)), nil
}

// unchanged tells that a file is the one that was found right.
func (p *pluginFolder) unchanged(path string, now fs.FileInfo) bool {
	was := p.seen[path]
	return was != nil && sameFile(was, now)
}

// sameFile tells that a file was not changed since it was looked at.
func sameFile(was, now fs.FileInfo) bool {
	return os.SameFile(was, now) && was.ModTime().Equal(now.ModTime()) && was.Size() == now.Size() && was.Mode() == now.Mode()
}
