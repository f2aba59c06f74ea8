package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/ipam"
)

// errNoPool says that no pool is for a pod.
var errNoPool = errors.New("no IP pool gives out addresses to this pod: there is none for this node and the pod's namespace " +
	"(see kubectl get ippools; a pool may be disabled, or its selectors may not match)")

// choosePools returns the names of the pools that a pod of a namespace may
// take addresses of, in the plan's order. Of each family, pools whose namespace
// selector matches are chosen; where there are none, those without a selector.
// read is called only if there are selectors to be matched.
func choosePools(ctx context.Context, choices []poolChoice, namespace string, read func(context.Context, string) (labels.Set, error)) ([]string, error) {
	var set labels.Set
	for _, c := range choices {
		if c.selector == nil || namespace == "" {
			continue
		}
		var err error
		if set, err = read(ctx, namespace); err != nil {
			return nil, err
		}
		break
	}
	selected := map[bool]bool{} // by family: some pool's selector matches
	for _, c := range choices {
		if c.selector != nil && namespace != "" && c.selector.Matches(set) {
			selected[c.v6] = true
		}
	}
	var names []string
	for _, c := range choices {
		matches := c.selector == nil
		if selected[c.v6] {
			matches = c.selector != nil && c.selector.Matches(set)
		}
		if matches {
			names = append(names, c.name)
		}
	}
	if len(names) == 0 {
		return nil, errNoPool
	}
	return names, nil
}

// choosePools chooses the pools of the families for which a pod has no claim: those
// that the pod names, else those that its namespace does, else by selectors.
func (a *Agent) choosePools(ctx context.Context, w wishes, claims []ipam.AddressClaim, namespace string) ([]string, error) {
	choices := a.state.choices()
	a.state.mu.Lock()
	namespacesChoose := a.state.desired.namespacesChoose
	a.state.mu.Unlock()
	if len(w.pools) == 0 && namespacesChoose && namespace != "" {
		chosen, err := a.namespaces.chosen(ctx, namespace)
		if err != nil {
			return nil, err
		}
		if chosen != "" {
			w.by = "namespace " + namespace
			if w.pools, err = readList(chosen); err != nil {
				return nil, fmt.Errorf("annotation %s of %s: %w", v1alpha1.PoolsAnnotation, w.by, err)
			}
		}
	}
	if len(w.pools) > 0 {
		return w.choosePools(ctx, choices, namespace, a.namespaces.get)
	}
	if len(claims) > 0 {
		choices = slices.DeleteFunc(slices.Clone(choices), func(c poolChoice) bool {
			return slices.ContainsFunc(claims, func(l ipam.AddressClaim) bool { return l.Address.Is6() == c.v6 })
		})
	}
	names, err := choosePools(ctx, choices, namespace, a.namespaces.get)
	if errors.Is(err, errNoPool) && len(claims) > 0 {
		return nil, nil
	}
	return names, err
}
