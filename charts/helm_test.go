package charts_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	k8syaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// helm runs Helm with a home of its own, and returns what it says: by both of its
// outputs when it fails, else by its standard output.
func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		t.Fatal("this test needs helm: run `make test-unit`, or set KUBEBUILDER_ASSETS to the folder that holds it")
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), filepath.Join(assets, "helm"), args...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "HELM_DRIVER=secret", "KUBECONFIG=")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String() + stderr.String(), fmt.Errorf("helm %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// template renders the chart with some values.
func template(t *testing.T, args ...string) map[string]*unstructured.Unstructured {
	t.Helper()
	out, err := helm(t, append([]string{"template", "godwit", chart, "--include-crds"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return objects(t, []byte(out))
}

// objects returns the objects of a manifest by kind, namespace and name.
func objects(t *testing.T, manifest []byte) map[string]*unstructured.Unstructured {
	t.Helper()
	all := map[string]*unstructured.Unstructured{}
	for dec := k8syaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifest), 4096); ; {
		u := &unstructured.Unstructured{}
		err := dec.Decode(&u.Object)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(u.Object) == 0 {
			continue
		}
		key := fmt.Sprintf("%s %s/%s", u.GetKind(), u.GetNamespace(), u.GetName())
		if all[key] != nil {
			t.Errorf("the manifest has %s twice", key)
		}
		all[key] = u
	}
}

// text is objects as YAML, whose difference can be read.
func text(t *testing.T, all map[string]*unstructured.Unstructured) map[string]string {
	t.Helper()
	out := map[string]string{}
	for key, u := range all {
		y, err := yaml.Marshal(u.Object)
		if err != nil {
			t.Fatal(err)
		}
		out[key] = string(y)
	}
	return out
}

// TestDefaultsAreInstallFile holds the chart to be, without a setting, what
// config/install.yaml is.
func TestDefaultsAreInstallFile(t *testing.T) {
	want := objects(t, read(t, filepath.Join(config, "install.yaml")))
	if len(want) < 20 {
		t.Fatalf("install.yaml has %d objects", len(want))
	}
	if diff := cmp.Diff(text(t, want), text(t, template(t))); diff != "" {
		t.Errorf("the chart renders to other objects (- install.yaml, + chart):\n%s", diff)
	}
	// Helm makes the namespace of the release itself.
	delete(want, "Namespace /godwit-system")
	if diff := cmp.Diff(text(t, want), text(t, template(t, "--namespace", "godwit-system"))); diff != "" {
		t.Errorf("in godwit-system the chart renders to other objects (- install.yaml, + chart):\n%s", diff)
	}
}

// TestUninstallIsThatOfConfig holds the pods of an uninstall to be what
// config/uninstall has.
func TestUninstallIsThatOfConfig(t *testing.T) {
	want := podSpec(t, objects(t, read(t, filepath.Join(config, "uninstall/daemonset.yaml")))["DaemonSet godwit-system/godwit-uninstall"])
	all := template(t, "--set", "uninstall=true")
	have := all["DaemonSet godwit-system/godwit-agent"]
	if diff := cmp.Diff(want, podSpec(t, have)); diff != "" {
		t.Errorf("(- config/uninstall, + chart):\n%s", diff)
	}
	at, _, _ := unstructured.NestedString(have.Object, "spec", "updateStrategy", "rollingUpdate", "maxUnavailable")
	if at != "100%" {
		t.Errorf("of the agents %s give way at once, want 100%%", at)
	}
	if all["Deployment godwit-system/godwit-controller"] == nil {
		t.Error("the controller, which lets pools go, is not there any more")
	}
}

func podSpec(t *testing.T, u *unstructured.Unstructured) map[string]any {
	t.Helper()
	if u == nil {
		t.Fatal("there is no such object")
	}
	spec, found, err := unstructured.NestedMap(u.Object, "spec", "template", "spec")
	if err != nil || !found {
		t.Fatalf("%s has no template of pods (%v)", u.GetName(), err)
	}
	return spec
}

// TestLint has Helm find nothing to say of the chart.
func TestLint(t *testing.T) {
	out, err := helm(t, "lint", "--strict", "--set", "pools[0].name=pods,pools[0].cidr=172.25.0.0/16", chart)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out, "WARNING") || strings.Contains(out, "ERROR") {
		t.Error(out)
	}
}
