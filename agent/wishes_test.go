package agent

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

func TestWishes(t *testing.T) {
	for _, tt := range []struct{ pools, address, want string }{
		{"", "", "[] []"},
		{`["a", "b"]`, `["10.0.0.7", "fd00::7"]`, "[a b] [10.0.0.7 fd00::7]"}, // as for Calico
		{"a, b", "10.0.0.7", "[a b] [10.0.0.7]"},
		{`[a]`, "", `annotation godwit.dev/ippools of the pod: "[a]" is no JSON list of strings`},
		{"[]", "", `annotation godwit.dev/ippools of the pod: "[]" names nothing: leave the annotation out`},
		{"a,,b", "", `annotation godwit.dev/ippools of the pod: "a,,b" has an empty entry: give a JSON list, or entries separated by commas`},
		{"", "10.0.0.7,10.0.0.8", `annotation godwit.dev/ip of the pod: "10.0.0.7,10.0.0.8" has two addresses of one family: a pod has one of each`},
		{"", "10.0.0.0/26", `annotation godwit.dev/ip of the pod: "10.0.0.0/26" is not an address`},
	} {
		annotations := map[string]string{"other": "x"}
		if tt.pools != "" {
			annotations[v1alpha1.PoolsAnnotation] = tt.pools
		}
		if tt.address != "" {
			annotations[v1alpha1.AddressAnnotation] = tt.address
		}
		w, err := readWishes(annotations)
		got := fmt.Sprint(w.pools, w.addresses)
		if err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%v: %s, want %s", annotations, got, tt.want)
		}
	}
}

// A pod may name pools that are for its namespace, and none that its node does not
// give out.
func TestNamedPools(t *testing.T) {
	red, err := labels.Parse("colour=red")
	if err != nil {
		t.Fatal(err)
	}
	choices := []poolChoice{{name: "open"}, {name: "more"}, {name: "red", selector: red}}
	away := errors.New("API server is away")
	for _, tt := range []struct {
		pools     []string
		namespace string
		labels    labels.Set
		err       error
		want      string
	}{
		{[]string{"more", "open"}, "a", nil, away, "[more open]"}, // no selector: nothing is read
		{[]string{"open", "red"}, "a", labels.Set{"colour": "red"}, nil, "[open red]"},
		{[]string{"red"}, "a", labels.Set{"colour": "blue"}, nil, `annotation godwit.dev/ippools of the pod names IP pool red, whose namespaceSelector does not match namespace "a"`},
		{[]string{"red"}, "", nil, away, `annotation godwit.dev/ippools of the pod names IP pool red, whose namespaceSelector does not match namespace ""`},
		{[]string{"red"}, "a", nil, away, away.Error()},
		{[]string{"open", "old"}, "a", nil, away, "annotation godwit.dev/ippools of the pod names IP pool old, which gives out no addresses on this node " +
			"(see kubectl get ippools; it may not exist, be disabled, or not be for this node)"},
	} {
		names, err := wishes{pools: tt.pools, by: "the pod"}.choosePools(t.Context(), choices, tt.namespace, func(context.Context, string) (labels.Set, error) {
			return tt.labels, tt.err
		})
		got := fmt.Sprint(names)
		if err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("pools %s in namespace %q: %s, want %s", tt.pools, tt.namespace, got, tt.want)
		}
	}
}
