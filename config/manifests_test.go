// Package config_test holds the manifests to what they promise, against a real
// API server.
package config_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// installFile is what config/default renders to, for those without kustomize.
const installFile = "install.yaml"

const installHeader = `# All of Godwit: kubectl apply -f install.yaml. Rendered from config/default:
#   GODWIT_UPDATE_GOLDENS=1 go test ./config
`

// render renders config/default as `kubectl apply -k` does.
func render(t *testing.T) []byte {
	t.Helper()
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		t.Fatal("this test needs kubectl: run `make test-unit`, or set KUBEBUILDER_ASSETS to the folder that holds it")
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(filepath.Join(assets, "kubectl"), "kustomize", "default")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("kubectl kustomize: %v: %s", err, stderr.String())
	}
	return append([]byte(installHeader), stdout.Bytes()...)
}

// TestInstallFile holds install.yaml to be what config/default renders to.
func TestInstallFile(t *testing.T) {
	want := render(t)
	if os.Getenv("GODWIT_UPDATE_GOLDENS") != "" {
		if err := os.WriteFile(installFile, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(installFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(have), string(want)); diff != "" {
		t.Errorf("config/install.yaml is not what config/default renders to: run GODWIT_UPDATE_GOLDENS=1 go test ./config (-have +want):\n%s", diff)
	}
}

// objects returns the objects of a manifest.
func objects(t *testing.T, manifest []byte) []*unstructured.Unstructured {
	t.Helper()
	var list []*unstructured.Unstructured
	for dec := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifest), 4096); ; {
		u := &unstructured.Unstructured{}
		err := dec.Decode(&u.Object)
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(u.Object) > 0 {
			list = append(list, u)
		}
	}
}

// install applies install.yaml as an administrator would.
func install(t *testing.T, admin client.Client) {
	t.Helper()
	manifest, err := os.ReadFile(installFile)
	if err != nil {
		t.Fatal(err)
	}
	list := objects(t, manifest)
	if len(list) == 0 {
		t.Fatal("install.yaml is empty")
	}
	for _, u := range list {
		err := admin.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(u), client.FieldOwner("test"), client.ForceOwnership)
		if err != nil {
			t.Fatalf("apply %s %s: %v", u.GetKind(), u.GetName(), err)
		}
	}
}

// eventually waits until f returns nil.
func eventually(t *testing.T, what string, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		err := f(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// TestNothingPrivileged holds the pods to the rights that they are known to need.
func TestNothingPrivileged(t *testing.T) {
	for _, u := range objects(t, render(t)) {
		if kind := u.GetKind(); kind != "DaemonSet" && kind != "Deployment" {
			continue
		}
		seccomp, _, _ := unstructured.NestedString(u.Object, "spec", "template", "spec", "securityContext", "seccompProfile", "type")
		if seccomp != "RuntimeDefault" {
			t.Errorf("%s has the seccomp profile %q", u.GetName(), seccomp)
		}
		containers, _, err := unstructured.NestedSlice(u.Object, "spec", "template", "spec", "containers")
		if err != nil || len(containers) != 1 {
			t.Fatalf("%s has %d containers (%v)", u.GetName(), len(containers), err)
		}
		context, _, err := unstructured.NestedMap(containers[0].(map[string]any), "securityContext")
		if err != nil {
			t.Fatal(err)
		}
		if context["privileged"] == true || context["allowPrivilegeEscalation"] != false || context["readOnlyRootFilesystem"] != true {
			t.Errorf("%s: %v", u.GetName(), context)
		}
		drop, _, _ := unstructured.NestedStringSlice(context, "capabilities", "drop")
		add, _, _ := unstructured.NestedStringSlice(context, "capabilities", "add")
		want := map[string]string{"godwit-agent": "NET_ADMIN NET_BIND_SERVICE SYS_ADMIN", "godwit-controller": ""}[u.GetName()]
		if got := strings.Join(add, " "); got != want || strings.Join(drop, " ") != "ALL" {
			t.Errorf("%s has the capabilities %q of those that are left of %v, want %q", u.GetName(), got, drop, want)
		}
	}
}
