package agent

import (
	"os"
	"path/filepath"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

// The client asks no API server for what it knows: the resources of all kinds, as
// their definitions have them.
func TestClientKnowsItsKinds(t *testing.T) {
	c, err := NewClient(&rest.Config{Host: "https://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("../config/crd/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var crd struct {
			Kind string
			Spec struct {
				Group, Scope string
				Names        struct{ Kind, Plural string }
				Versions     []struct{ Name string }
			}
		}
		if err := yaml.Unmarshal(raw, &crd); err != nil {
			t.Fatal(err)
		}
		if crd.Kind != "CustomResourceDefinition" {
			continue
		}
		found++
		m, err := c.RESTMapper().RESTMapping(schema.GroupKind{Group: crd.Spec.Group, Kind: crd.Spec.Names.Kind}, crd.Spec.Versions[0].Name)
		if err != nil {
			t.Error(err)
			continue
		}
		if m.Resource.Resource != crd.Spec.Names.Plural || string(m.Scope.Name()) != "root" || crd.Spec.Scope != "Cluster" {
			t.Errorf("%s has the resource %s, scope %s", crd.Spec.Names.Kind, m.Resource.Resource, m.Scope.Name())
		}
	}
	if found == 0 {
		t.Error("there are no definitions")
	}
	for kind, namespaced := range map[string]bool{"Namespace": false, "Secret": true, "Event": true} {
		m, err := c.RESTMapper().RESTMapping(schema.GroupKind{Kind: kind}, "v1")
		if err != nil || (m.Scope.Name() == "namespace") != namespaced {
			t.Errorf("%s: %v, %v", kind, m, err)
		}
	}
}
