package pack

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// program builds a small Go program for an architecture.
func program(t *testing.T, dir, arch string) {
	t.Helper()
	src := t.TempDir()
	for name, content := range map[string]string{
		"go.mod":  "module example.com/small\n\ngo 1.26.0\n",
		"main.go": "package main\n\nfunc main() {}\n",
	} {
		if err := os.WriteFile(filepath.Join(src, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", filepath.Join(dir, "bin", "small"), ".")
	cmd.Dir, cmd.Env = src, append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
}

// tree makes a folder with a program and a file. Its modes and times differ from
// call to call.
func tree(t *testing.T, arch string, dirMode os.FileMode, at time.Time) string {
	t.Helper()
	dir := t.TempDir()
	program(t, dir, arch)
	note := filepath.Join(dir, "etc", "note")
	if err := errors.Join(os.Mkdir(filepath.Dir(note), dirMode), os.WriteFile(note, []byte("note\n"), 0o600), os.Chtimes(note, at, at)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func options(t *testing.T, dirMode os.FileMode, at time.Time) Options {
	return Options{
		Name: "example/small:v1", Version: "v1.2.3", Created: time.Unix(1_700_000_000, 0),
		Labels:     map[string]string{"org.opencontainers.image.version": "v1.2.3"},
		Entrypoint: []string{"/bin/small"}, Env: []string{"PATH=/bin"},
		Trees: []Tree{{"linux/amd64", tree(t, "amd64", dirMode, at)}, {"linux/arm64", tree(t, "arm64", dirMode, at)}},
	}
}

func write(t *testing.T, o Options) (*Result, string) {
	t.Helper()
	out := t.TempDir()
	r, err := Write(out, o)
	if err != nil {
		t.Fatal(err)
	}
	return r, out
}

// TestSameContentSameDigest packs the same content of folders at other paths with
// other modes and times.
func TestSameContentSameDigest(t *testing.T) {
	first, a := write(t, options(t, 0o755, time.Unix(1, 0)))
	second, b := write(t, options(t, 0o700, time.Now()))
	if first.Index != second.Index || !cmp.Equal(first.Images, second.Images) {
		t.Errorf("the same content made %v and %v", first, second)
	}
	for _, name := range []string{"small-linux-amd64.tar", "small-linux-arm64.tar", "small-linux-arm64.cdx.json", "oci/index.json"} {
		one, err1 := os.ReadFile(filepath.Join(a, name))
		two, err2 := os.ReadFile(filepath.Join(b, name))
		if err1 != nil || err2 != nil || !bytes.Equal(one, two) {
			t.Errorf("%s differs (%v, %v)", name, err1, err2)
		}
	}

	other := options(t, 0o755, time.Now())
	if err := os.WriteFile(filepath.Join(other.Trees[0].Dir, "etc/note"), []byte("other\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if third, _ := write(t, other); third.Index == first.Index {
		t.Error("other content made the same digest: the test shows nothing")
	}
}

// TestLayout reads what was written back as a container engine does.
func TestLayout(t *testing.T) {
	r, _ := write(t, options(t, 0o755, time.Now()))
	index, err := layout.ImageIndexFromPath(r.Layout)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Errorf("the layout is not valid: %v", err)
	}
	top, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(top.Manifests) != 1 || top.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "v1" {
		t.Fatalf("the layout holds %+v, want one index named v1", top.Manifests)
	}
	child, err := index.ImageIndex(r.Index)
	if err != nil {
		t.Fatal(err)
	}
	m, err := child.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var platforms []string
	for _, d := range m.Manifests {
		platforms = append(platforms, d.Platform.String())
		img, err := child.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		checkImage(t, img, d.Platform.Architecture)
	}
	if want := []string{"linux/amd64", "linux/arm64"}; !slices.Equal(platforms, want) {
		t.Errorf("platforms %v, want %v", platforms, want)
	}
}

// TestArchive reads an archive back as `docker load` does.
func TestArchive(t *testing.T) {
	r, _ := write(t, options(t, 0o755, time.Now()))
	img, err := tarball.ImageFromPath(r.Archives["linux/arm64"], nil)
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, img, "arm64")
	m, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(r.Archives["linux/arm64"]) })
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"example/small:v1"}; !cmp.Equal(m[0].RepoTags, want) {
		t.Errorf("tags %v, want %v", m[0].RepoTags, want)
	}
}

func checkImage(t *testing.T, img v1.Image, arch string) {
	t.Helper()
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	want := v1.Config{
		Entrypoint: []string{"/bin/small"}, Env: []string{"PATH=/bin"}, WorkingDir: "/",
		Labels: map[string]string{"org.opencontainers.image.version": "v1.2.3"},
	}
	if diff := cmp.Diff(want, c.Config); diff != "" || c.Architecture != arch || c.OS != "linux" {
		t.Errorf("configuration of %s/%s (-want +got):\n%s", c.OS, c.Architecture, diff)
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers (%v), want one", len(layers), err)
	}
	files, materials := list(t, layers[0])
	wantFiles := []string{
		"bin/ 0755", "bin/small 0755", "etc/ 0755", "etc/note 0644",
		"usr/ 0755", "usr/share/ 0755", "usr/share/sbom/ 0755", "usr/share/sbom/sbom.cdx.json 0644",
	}
	if diff := cmp.Diff(wantFiles, files); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	var b cdx.BOM
	if err := json.Unmarshal(materials, &b); err != nil {
		t.Fatal(err)
	}
	var refs []string
	for _, c := range *b.Components {
		ref, _, _ := strings.Cut(c.BOMRef, "@")
		refs = append(refs, ref)
	}
	if diff := cmp.Diff([]string{"file:/bin/small", "pkg:golang/example.com/small", "pkg:golang/std"}, refs); diff != "" {
		t.Errorf("bill of materials (-want +got):\n%s", diff)
	}
}

// list names the files of a layer, each with its mode, and holds them to the
// time and the owner that all have; it returns the bill of materials, too.
func list(t *testing.T, l v1.Layer) (files []string, materials []byte) {
	t.Helper()
	content, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = content.Close() }()
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, materials
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.ModTime.Unix() != 1_700_000_000 || h.Uid != 0 || h.Gid != 0 {
			t.Errorf("%s is of %v, of user %d:%d", h.Name, h.ModTime, h.Uid, h.Gid)
		}
		files = append(files, h.Name+" 0"+octal(h.Mode))
		if h.Name == sbomPath {
			if materials, err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func octal(mode int64) string {
	return string([]byte{'0' + byte(mode>>6&7), '0' + byte(mode>>3&7), '0' + byte(mode&7)})
}

// TestRefuses holds what can't be packed to errors that say what it is.
func TestRefuses(t *testing.T) {
	good := options(t, 0o755, time.Now())
	link := options(t, 0o755, time.Now())
	if err := os.Symlink("note", filepath.Join(link.Trees[0].Dir, "etc/link")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, want string
		o          Options
	}{
		{"no platform", "no platform", Options{Name: good.Name}},
		{"bad name", "image name", Options{Name: "Not A Name", Trees: good.Trees}},
		{"a folder without programs", "no Go program", Options{Name: good.Name, Trees: []Tree{{"linux/amd64", t.TempDir()}}}},
		{"a symbolic link", "neither a file nor a folder", link},
	} {
		if _, err := Write(t.TempDir(), c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
	}
}
