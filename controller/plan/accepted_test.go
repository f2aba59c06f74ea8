package plan

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/internal/apitest"
)

// A real API server takes the plans of each testdata/*.in.yaml: one that it
// refused would keep a node from all that comes after.
func TestPlansAreAccepted(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no inputs in testdata: %v", err)
	}
	api := apitest.Client(t, apitest.Start(t))
	for i, file := range inputs {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".in.yaml"), func(t *testing.T) {
			p := Make(readInput(t, file))
			for _, node := range p.Nodes() {
				spec, ok := p.Spec(node)
				if !ok {
					t.Fatalf("no spec of node %s", node)
				}
				o := &v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%d.%s", i, node)}, Spec: spec}
				if err := api.Create(context.Background(), o); err != nil {
					t.Errorf("the plan of node %s: %v", node, err)
				}
			}
		})
	}
}
