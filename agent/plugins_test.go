package agent

import (
	"os"
	"path/filepath"
	"testing"
)

// TestInstallPlugins holds what becomes of plugins that the node has, has not,
// and had.
func TestInstallPlugins(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "opt", "cni", "bin")
	write := func(dir, name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	check := func(name, content string) os.FileInfo {
		t.Helper()
		path := filepath.Join(to, name)
		got, err := os.ReadFile(path)
		if err != nil || string(got) != content {
			t.Errorf("%s holds %q (%v), want %q", name, got, err, content)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	var p pluginFolder
	install := func() {
		t.Helper()
		if err := p.install(from, to); err != nil {
			t.Fatal(err)
		}
	}
	write(from, "godwit-cni", "new")
	write(from, "portmap", "ours")
	write(from, "loopback", "ours")
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Fatal(err)
	}
	write(to, "godwit-cni", "old")
	write(to, "portmap", "the node's")

	install()
	first := check("godwit-cni", "new")
	check("portmap", "the node's")
	if mode := check("loopback", "ours").Mode().Perm(); mode != 0o755 {
		t.Errorf("loopback has mode %v", mode)
	}
	install()
	if again := check("godwit-cni", "new"); !os.SameFile(first, again) {
		t.Error("a plugin that was right was written again")
	}
	write(to, "godwit-cni", "bad") // of the same size
	install()
	if again := check("godwit-cni", "new"); os.SameFile(first, again) {
		t.Error("the plugin was changed in place: a runtime might run half of it")
	}
	if err := os.Remove(filepath.Join(to, "godwit-cni")); err != nil {
		t.Fatal(err)
	}
	install()
	check("godwit-cni", "new")
	entries, err := os.ReadDir(to)
	if err != nil || len(entries) != 3 {
		t.Errorf("the folder holds %v (%v), want three plugins and nothing else", entries, err)
	}

	if err := p.install(from, "/proc/nowhere"); err == nil {
		t.Error("a folder that can't be made is no error")
	}
	if err := p.install("", "/proc/nowhere"); err != nil {
		t.Errorf("nothing to install: %v", err)
	}
}
