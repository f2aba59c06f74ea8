package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// ownPlugin is the plugin that is Godwit's own; the others are from elsewhere,
// and the node may have them already.
const ownPlugin = "godwit-cni"

// pluginFolder keeps plugins installed in the folder where the node's runtime
// looks for them.
type pluginFolder struct {
	seen map[string]fs.FileInfo // what was found right, by path
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

// unchanged tells that a file is the one that was found right.
func (p *pluginFolder) unchanged(path string, now fs.FileInfo) bool {
	was := p.seen[path]
	return was != nil && os.SameFile(was, now) && was.ModTime().Equal(now.ModTime()) && was.Size() == now.Size() && was.Mode() == now.Mode()
}
