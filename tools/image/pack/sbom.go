package pack

import (
	"bytes"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// sbomPath is where an image has its bill of materials.
const sbomPath = "usr/share/sbom/sbom.cdx.json"

// bom says in CycloneDX what the Go programs below a folder were built from, as
// the linker wrote it into them. Files that are no Go programs are left out.
func bom(dir, name, version string, created time.Time) ([]byte, error) {
	modules := map[string]cdx.Component{}
	var programs []cdx.Component
	var depends []cdx.Dependency
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			return nil //nolint:nilerr // it is no Go program
		}
		inside, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		program := cdx.Component{
			Type: cdx.ComponentTypeApplication, BOMRef: "file:/" + filepath.ToSlash(inside),
			Name: "/" + filepath.ToSlash(inside), Version: moduleVersion(info.Main.Version, version),
		}
		programs = append(programs, program)
		refs := []string{}
		add := func(path, version string) {
			c := library(path, version)
			modules[c.BOMRef] = c
			refs = append(refs, c.BOMRef)
		}
		add("std", strings.TrimPrefix(info.GoVersion, "go"))
		add(info.Main.Path, moduleVersion(info.Main.Version, version))
		for _, m := range info.Deps {
			if m.Replace != nil {
				m = m.Replace
			}
			add(m.Path, m.Version)
		}
		slices.Sort(refs)
		refs = slices.Compact(refs)
		depends = append(depends, cdx.Dependency{Ref: program.BOMRef, Dependencies: &refs})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("bill of materials of %s: %w", dir, err)
	}
	if len(programs) == 0 {
		return nil, errors.New("there is no Go program in " + dir)
	}
	components := programs
	for _, ref := range sortedKeys(modules) {
		components = append(components, modules[ref])
	}
	b := cdx.NewBOM()
	b.Metadata = &cdx.Metadata{
		Timestamp: created.UTC().Format(time.RFC3339),
		Component: &cdx.Component{Type: cdx.ComponentTypeContainer, BOMRef: "image", Name: name, Version: version},
	}
	b.Components, b.Dependencies = &components, &depends
	var out bytes.Buffer
	if err := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetPretty(true).Encode(b); err != nil {
		return nil, fmt.Errorf("encode the bill of materials: %w", err)
	}
	return out.Bytes(), nil
}

// moduleVersion is a main module's version: the linker knows none of what was
// built from a checkout.
func moduleVersion(linked, built string) string {
	if linked == "" || linked == "(devel)" {
		return built
	}
	return linked
}

func library(path, version string) cdx.Component {
	url := "pkg:golang/" + path + "@" + version
	return cdx.Component{Type: cdx.ComponentTypeLibrary, BOMRef: url, Name: path, Version: version, PackageURL: url}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
