// Package pack makes container images of folders without a container engine
// and without a registry.
//
// Invariants:
//   - The same contents and options make the same digests, whoever packs them,
//     where and when.
//   - An image is one layer of exactly the folder and its bill of materials.
package pack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Tree is the content of an image for a platform.
type Tree struct {
	Platform string // such as linux/amd64
	Dir      string
}

// Options say what an image is to be. Name, Version and Trees are required.
type Options struct {
	Name       string // with its tag
	Version    string
	Trees      []Tree
	Created    time.Time
	Labels     map[string]string
	Entrypoint []string
	Env        []string
}

// Result is what was packed.
type Result struct {
	Index    v1.Hash            // of the index over all platforms
	Images   map[string]v1.Hash // by platform
	Archives map[string]string  // docker-archive files by platform
	Layout   string             // folder of the OCI layout
}

// Write packs the trees into a folder: oci/, an OCI image layout with an index
// over all platforms; an archive for each platform that container engines load
// (docker-archive); and its bill of materials.
func Write(out string, o Options) (*Result, error) {
	if len(o.Trees) == 0 {
		return nil, errors.New("no platform is named")
	}
	ref, err := name.NewTag(o.Name)
	if err != nil {
		return nil, fmt.Errorf("image name: %w", err)
	}
	r := &Result{Images: map[string]v1.Hash{}, Archives: map[string]string{}, Layout: filepath.Join(out, "oci")}
	if err := os.RemoveAll(r.Layout); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(out, 0o755); err != nil { // #nosec G301 -- images are to be read
		return nil, err
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	base := filepath.Base(ref.RepositoryStr())
	for _, t := range o.Trees {
		p, err := v1.ParsePlatform(t.Platform)
		if err != nil {
			return nil, fmt.Errorf("platform %q: %w", t.Platform, err)
		}
		materials, err := bom(t.Dir, base, o.Version, o.Created)
		if err != nil {
			return nil, err
		}
		img, err := image(t.Dir, p, materials, o)
		if err != nil {
			return nil, err
		}
		stem := filepath.Join(out, base+"-"+strings.ReplaceAll(t.Platform, "/", "-"))
		if err := os.WriteFile(stem+".cdx.json", materials, 0o644); err != nil { // #nosec G306 -- it is to be read
			return nil, err
		}
		if err := tarball.WriteToFile(stem+".tar", ref, img); err != nil {
			return nil, fmt.Errorf("write %s.tar: %w", stem, err)
		}
		if r.Images[t.Platform], err = img.Digest(); err != nil {
			return nil, err
		}
		r.Archives[t.Platform] = stem + ".tar"
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: p}})
	}
	if r.Index, err = index.Digest(); err != nil {
		return nil, err
	}
	dir, err := layout.Write(r.Layout, empty.Index)
	if err != nil {
		return nil, err
	}
	// Engines find the name in the layout by these.
	return r, dir.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": ref.TagStr(),
		"io.containerd.image.name":          ref.Name(),
	}))
}

// image makes the image of a platform.
func image(dir string, p *v1.Platform, materials []byte, o Options) (v1.Image, error) {
	l, err := layer(dir, o.Created, file{sbomPath, materials})
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.Append(img, mutate.Addendum{Layer: l, MediaType: types.OCILayer, History: v1.History{
		Created: v1.Time{Time: o.Created.UTC()}, CreatedBy: "godwit image", Comment: "from scratch",
	}})
	if err != nil {
		return nil, err
	}
	have, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	c := have.DeepCopy()
	c.OS, c.Architecture, c.Variant, c.Created = p.OS, p.Architecture, p.Variant, v1.Time{Time: o.Created.UTC()}
	c.Config = v1.Config{Entrypoint: o.Entrypoint, Env: o.Env, Labels: o.Labels, WorkingDir: "/"}
	return mutate.ConfigFile(img, c)
}
