package agent

import (
	"context"
	"errors"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/labels"
)

func TestChoosePools(t *testing.T) {
	selector := func(s string) labels.Selector {
		out, err := labels.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	open4 := poolChoice{name: "open4"}
	more4 := poolChoice{name: "more4"}
	open6 := poolChoice{name: "open6", v6: true}
	red4 := poolChoice{name: "red4", selector: selector("colour=red")}
	red6 := poolChoice{name: "red6", v6: true, selector: selector("colour=red")}
	away := errors.New("API server is away")

	for name, c := range map[string]struct {
		choices   []poolChoice
		namespace string
		labels    labels.Set
		err       error
		want      []string
		wantErr   error
	}{
		"all without selectors":         {choices: []poolChoice{open4, more4, open6}, namespace: "a", want: []string{"open4", "more4", "open6"}},
		"a selector that matches wins":  {choices: []poolChoice{open4, red4}, namespace: "a", labels: labels.Set{"colour": "red"}, want: []string{"red4"}},
		"a selector that doesn't match": {choices: []poolChoice{open4, red4}, namespace: "a", labels: labels.Set{"colour": "blue"}, want: []string{"open4"}},
		"families choose apart":         {choices: []poolChoice{open4, red4, open6}, namespace: "a", labels: labels.Set{"colour": "red"}, want: []string{"red4", "open6"}},
		"the other family alone":        {choices: []poolChoice{open4, red6}, namespace: "a", labels: labels.Set{"colour": "red"}, want: []string{"open4", "red6"}},
		"none matches":                  {choices: []poolChoice{red4}, namespace: "a", wantErr: errNoPool},
		"none at all":                   {namespace: "a", wantErr: errNoPool},
		"labels can't be had":           {choices: []poolChoice{open4, red4}, namespace: "a", err: away, wantErr: away},
		"labels that nobody needs":      {choices: []poolChoice{open4}, namespace: "a", err: away, want: []string{"open4"}},
		"a container of no namespace":   {choices: []poolChoice{open4, red4}, err: away, want: []string{"open4"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := choosePools(t.Context(), c.choices, c.namespace, func(context.Context, string) (labels.Set, error) {
				return c.labels, c.err
			})
			if !errors.Is(err, c.wantErr) {
				t.Errorf("error %v, want %v", err, c.wantErr)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("pools %q, want %q", got, c.want)
			}
		})
	}
}
