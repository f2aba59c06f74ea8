package v1alpha1_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/godwit-net/godwit/internal/apitest"
)

// validation is one object that the API server is given.
type validation struct {
	// Case says what is right or wrong with the object.
	Case string `json:"case"`
	// Object is the object, Change its spec in an update that follows.
	Object map[string]any `json:"object"`
	Change map[string]any `json:"change,omitempty"`
	// Error is what the API server answers to the last of the two; empty: it takes
	// the object.
	Error string `json:"error,omitempty"`
}

// TestValidation gives a real API server each object of testdata/validation.yaml
// and compares its answer to the letter: it is what a person gets to read.
// GODWIT_UPDATE_GOLDENS=1 writes the answers anew.
func TestValidation(t *testing.T) {
	const file = "testdata/validation.yaml"
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	c := apitest.Client(t, apitest.Start(t))
	var out bytes.Buffer
	for doc := range bytes.SplitSeq(data, []byte("\n---\n")) {
		var v validation
		if err := yaml.UnmarshalStrict(doc, &v); err != nil {
			t.Fatalf("%v in:\n%s", err, doc)
		}
		var got string
		t.Run(v.Case, func(t *testing.T) {
			if err := try(t, c, v); err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(v.Error, got); diff != "" && os.Getenv("GODWIT_UPDATE_GOLDENS") == "" {
				t.Errorf("the API server's answer differs (-want +got):\n%s", diff)
			}
		})
		v.Error = got
		data, err := yaml.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if out.Len() > 0 {
			out.WriteString("---\n")
		}
		out.Write(data)
	}
	if os.Getenv("GODWIT_UPDATE_GOLDENS") != "" {
		if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// try creates the object, changes it, and returns the error of the last step.
func try(t *testing.T, c client.Client, v validation) error {
	t.Helper()
	ctx := context.Background()
	u := &unstructured.Unstructured{Object: v.Object}
	u.SetAPIVersion("godwit.dev/v1alpha1")
	create := client.FieldValidation("Strict")
	written := u.DeepCopy()
	err := c.Create(ctx, written, create)
	if err == nil {
		t.Cleanup(func() {
			if err := c.Delete(ctx, written); err != nil {
				t.Error(err)
			}
		})
	}
	if v.Change == nil || err != nil {
		if v.Change != nil {
			t.Fatalf("create: %v", err)
		}
		return err
	}
	changed := written.DeepCopy()
	changed.Object["spec"] = v.Change
	return c.Update(ctx, changed, client.FieldValidation("Strict"))
}

// The API server bounds what the validation of one object may cost: a filter of
// the largest size must be within that.
func TestLargestFilter(t *testing.T) {
	communities := make([]any, 16)
	for i := range communities {
		communities[i] = fmt.Sprintf("42949672%02d:4294967295:4294967295", i)
	}
	rules := make([]any, 128)
	for i := range rules {
		rules[i] = map[string]any{
			"cidr": "fd00:25:ffff:ffff::/64", "minLength": int64(64), "maxLength": int64(128),
			"communities": communities, "communityRegex": strings.Repeat("1", 256), "asPathRegex": strings.Repeat("1", 256),
			"action": "Accept", "set": map[string]any{"addCommunities": communities, "removeCommunities": communities},
		}
	}
	c := apitest.Client(t, apitest.Start(t))
	err := try(t, c, validation{Object: map[string]any{
		"kind": "BGPFilter", "metadata": map[string]any{"name": "f"}, "spec": map[string]any{"rules": rules},
	}})
	if err != nil {
		t.Errorf("a filter of the largest size is refused: %v", err)
	}
}
