package pack

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// file is one that is put into a layer beside those of a folder.
type file struct {
	name    string // without a slash at the front
	content []byte
}

// layer packs a folder and further files. What it is follows from names,
// contents and whether the owner may execute a file: owners, modes and times of
// the folder itself don't matter.
func layer(dir string, created time.Time, more ...file) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	made := map[string]bool{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			made[name] = true
			return w.WriteHeader(header(name+"/", tar.TypeDir, 0o755, 0, created))
		}
		return addFile(w, name, path, d, created)
	})
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", dir, err)
	}
	for _, f := range more {
		if err := addParents(w, made, f.name, created); err != nil {
			return nil, err
		}
		if err := w.WriteHeader(header(f.name, tar.TypeReg, 0o644, int64(len(f.content)), created)); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b.Bytes())), nil
	})
}

func addFile(w *tar.Writer, name, path string, d fs.DirEntry, created time.Time) error {
	if d.Type()&fs.ModeType != 0 {
		return fmt.Errorf("%s is neither a file nor a folder: only these are packed", path)
	}
	info, err := d.Info()
	if err != nil {
		return err
	}
	mode := int64(0o644)
	if info.Mode()&0o100 != 0 {
		mode = 0o755
	}
	if err := w.WriteHeader(header(name, tar.TypeReg, mode, info.Size(), created)); err != nil {
		return err
	}
	f, err := os.Open(path) // #nosec G304 -- what is to be packed
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	_, err = io.Copy(w, f)
	return err
}

// addParents adds the folders that a file is in.
func addParents(w *tar.Writer, made map[string]bool, name string, created time.Time) error {
	dir := filepath.Dir(name)
	if dir == "." || made[dir] {
		return nil
	}
	if err := addParents(w, made, dir, created); err != nil {
		return err
	}
	made[dir] = true
	return w.WriteHeader(header(dir+"/", tar.TypeDir, 0o755, 0, created))
}

func header(name string, kind byte, mode, size int64, created time.Time) *tar.Header {
	return &tar.Header{Name: filepath.ToSlash(name), Typeflag: kind, Mode: mode, Size: size, ModTime: created, Format: tar.FormatPAX}
}
