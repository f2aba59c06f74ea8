package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// build builds Godwit's image from a checkout and returns it.
func build(t *testing.T, checkout string) v1.Image {
	t.Helper()
	out := filepath.Join(t.TempDir(), "dist")
	cmd := exec.Command(filepath.Join(checkout, "scripts/image"), out, "linux/amd64")
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "VERSION=v0.0.0-test", "SOURCE_DATE_EPOCH=1700000000")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("scripts/image: %v\n%s", err, said)
	}
	img, err := tarball.ImageFromPath(filepath.Join(out, "godwit-linux-amd64.tar"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// copyCheckout copies what git knows of the checkout, and new files, elsewhere.
func copyCheckout(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	list := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "*.go", "*.mod", "*.sum", "scripts")
	list.Dir = from
	names, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Split(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		content, err := os.ReadFile(filepath.Join(from, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // removed, but not committed
		}
		if err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(to, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(target), 0o700), os.WriteFile(target, content, 0o700)); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// TestImage builds Godwit's image twice, from the checkout and from a copy at
// another path that is no git repository: both must be the same to the bit. Then
// it looks at what is inside.
func TestImage(t *testing.T) {
	checkout, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	img := build(t, checkout)
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	again, err := build(t, copyCheckout(t, checkout)).Digest()
	if err != nil {
		t.Fatal(err)
	}
	if digest != again {
		t.Errorf("two builds made %s and %s", digest, again)
	}

	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if c.Config.Labels["org.opencontainers.image.version"] != "v0.0.0-test" || c.Config.Labels["org.opencontainers.image.created"] != "2023-11-14T22:13:20Z" {
		t.Errorf("labels %v", c.Config.Labels)
	}
	if !slices.Equal(c.Config.Entrypoint, []string{"/bin/godwit-agent"}) {
		t.Errorf("entrypoint %v", c.Config.Entrypoint)
	}
	files := contents(t, img)
	var names []string
	for name, content := range files {
		names = append(names, name)
		if strings.HasPrefix(name, "bin/") || strings.HasPrefix(name, "cni/") {
			checkStatic(t, name, content)
		}
	}
	slices.Sort(names)
	want := []string{
		"bin/godwit-agent", "bin/godwit-controller", "bin/godwitctl",
		"cni/bandwidth", "cni/godwit-cni", "cni/loopback", "cni/portmap", "usr/share/sbom/sbom.cdx.json",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	for _, module := range []string{"pkg:golang/github.com/osrg/gobgp/v4@v4.", "pkg:golang/github.com/godwit-net/godwit@v0.0.0-test"} {
		if !bytes.Contains(files["usr/share/sbom/sbom.cdx.json"], []byte(module)) {
			t.Errorf("the bill of materials does not name %s", module)
		}
	}
}

// contents returns the files of an image, folders left out.
func contents(t *testing.T, img v1.Image) map[string][]byte {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, l := range layers {
		content, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		for r := tar.NewReader(content); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if h.Typeflag == tar.TypeDir {
				continue
			}
			if files[h.Name], err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		}
		_ = content.Close()
	}
	return files
}

// checkStatic holds a program to need no loader, as there is none in the image.
func checkStatic(t *testing.T, name string, content []byte) {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Errorf("%s is linked dynamically", name)
		}
	}
}
