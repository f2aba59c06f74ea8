// Package charts_test keeps the Helm chart in one source with config/: what can be
// is made of the manifests there, and the rest must render to the same.
package charts_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

const (
	chart  = "godwit"
	config = "../config"
)

// rights are the files of config/rbac, and rightsFile the template made of them.
const rightsFile = "templates/rights.yaml"

var rights = []string{"agent.yaml", "agent-policy.yaml", "controller.yaml", "controller-policy.yaml"}

const rightsHeader = "# Made of config/rbac by `make generate`.\n"

// TestGenerated holds those of the chart's files that are made of others to be
// what they are made of. With GODWIT_UPDATE_GOLDENS it makes them.
func TestGenerated(t *testing.T) {
	want := map[string][]byte{
		rightsFile:           rightsTemplate(t),
		"values.schema.json": valuesSchema(t),
	}
	for _, path := range crds(t) {
		want["crds/"+filepath.Base(path)] = read(t, path)
	}
	update := os.Getenv("GODWIT_UPDATE_GOLDENS") != ""
	for _, name := range slices.Sorted(maps.Keys(want)) {
		path := filepath.Join(chart, name)
		if update {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, want[name], 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(string(read(t, path)), string(want[name])); diff != "" {
			t.Errorf("%s is not what it is made of: run GODWIT_UPDATE_GOLDENS=1 go test -run TestGenerated ./charts (-have +want):\n%s", path, diff)
		}
	}
	there, err := filepath.Glob(filepath.Join(chart, "crds/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range there {
		if want["crds/"+filepath.Base(path)] == nil {
			t.Errorf("%s is of no CRD: delete it", path)
		}
	}
}

func crds(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(config, "crd/godwit.dev_*.yaml"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("CRDs: %d (%v)", len(paths), err)
	}
	return paths
}

// rightsTemplate makes a template of config/rbac: what in it depends on values are
// the namespace and the names of Secrets.
func rightsTemplate(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	out.WriteString(rightsHeader)
	for _, name := range rights {
		out.WriteString("---\n")
		out.Write(read(t, filepath.Join(config, "rbac", name)))
	}
	text := out.String()
	if strings.Contains(text, "{{") {
		t.Fatal("config/rbac has what Helm takes for a template")
	}
	for _, r := range [][2]string{
		{"godwit-system", "{{ .Values.namespace.name }}"},
		{"resourceNames: [bgp-passwords]", "resourceNames: {{ toJson .Values.passwordSecrets }}"},
	} {
		if !strings.Contains(text, r[0]) {
			t.Fatalf("config/rbac has no %q any more, which the chart puts a value in place of", r[0])
		}
		text = strings.ReplaceAll(text, r[0], r[1])
	}
	return []byte(text)
}

type schema = map[string]any

// valuesSchema makes the schema of the values of schema.yaml and the CRDs.
func valuesSchema(t *testing.T) []byte {
	t.Helper()
	specs := map[string]schema{}
	for _, path := range crds(t) {
		var crd struct {
			Spec struct {
				Names    struct{ Kind string }
				Versions []struct {
					Schema struct{ OpenAPIV3Schema schema }
				}
			}
		}
		if err := yaml.Unmarshal(read(t, path), &crd); err != nil {
			t.Fatal(err)
		}
		specs[crd.Spec.Names.Kind] = crd.Spec.Versions[0].Schema.OpenAPIV3Schema["properties"].(schema)["spec"].(schema)
	}
	var whole schema
	if err := yaml.Unmarshal(read(t, "schema.yaml"), &whole); err != nil {
		t.Fatal(err)
	}
	out, err := json.MarshalIndent(close(expand(t, whole, specs)), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(out, '\n')
}

// expand puts the specs of CRDs in where they are named.
func expand(t *testing.T, s schema, specs map[string]schema) schema {
	t.Helper()
	kind, is := s["crd"].(string)
	if !is {
		return each(s, func(s schema) schema { return expand(t, s, specs) })
	}
	spec := maps.Clone(specs[kind])
	if spec == nil {
		t.Fatalf("schema.yaml names the CRD %q, which is not there", kind)
	}
	properties := maps.Clone(spec["properties"].(schema))
	spec["properties"] = properties
	if s["named"] == true {
		properties["name"] = schema{"$ref": "#/definitions/name"}
		required, _ := spec["required"].([]any)
		spec["required"] = append([]any{"name"}, required...)
	}
	more, _ := s["properties"].(schema)
	for name, add := range more {
		p, there := properties[name].(schema)
		if !there {
			t.Fatalf("schema.yaml adds to %s of the CRD %s, which has none", name, kind)
		}
		p = maps.Clone(p)
		maps.Copy(p, add.(schema))
		properties[name] = p
	}
	return spec
}

// close forbids fields that an object's schema does not list, and takes out what
// is not JSON Schema but the API server's.
func close(s schema) schema {
	s = each(s, close)
	maps.DeleteFunc(s, func(key string, _ any) bool { return strings.HasPrefix(key, "x-kubernetes-") })
	_, listed := s["properties"].(schema)
	if s["type"] == "object" && listed {
		s["additionalProperties"] = false
	}
	return s
}

// each makes a schema with f done to the schemas right inside it.
func each(s schema, f func(schema) schema) schema {
	out := maps.Clone(s)
	for key, value := range s {
		switch key {
		case "properties", "definitions":
			inner := schema{}
			for name, p := range value.(schema) {
				inner[name] = f(p.(schema))
			}
			out[key] = inner
		case "items", "additionalProperties":
			if p, is := value.(schema); is {
				out[key] = f(p)
			}
		case "anyOf", "oneOf", "allOf":
			var inner []any
			for _, p := range value.([]any) {
				inner = append(inner, f(p.(schema)))
			}
			out[key] = inner
		}
	}
	return out
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return data
}
