package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// wishes are what a pod asks for by its annotations. They come with the call of
// the runtime, so that nothing is read from the API for them.
type wishes struct {
	pools     []string     // in order of preference; empty: as its namespace says, or their selectors
	by        string       // whose wish the pools are, for people
	addresses []netip.Addr // at most one of each family, out of the node's blocks
	claims    []netip.Addr // at most one of each family, by IPClaims
	byPod     bool         // the claims that name the pod
}

func readWishes(annotations map[string]string) (wishes, error) {
	w := wishes{by: "the pod"}
	var err error
	if text, ok := annotations[v1alpha1.PoolsAnnotation]; ok {
		if w.pools, err = readList(text); err != nil {
			return w, fmt.Errorf("annotation %s of the pod: %w", v1alpha1.PoolsAnnotation, err)
		}
	}
	if text, ok := annotations[v1alpha1.ClaimAnnotation]; ok {
		if w.claims, w.byPod, err = readClaims(text); err != nil {
			return w, fmt.Errorf("annotation %s of the pod: %w", v1alpha1.ClaimAnnotation, err)
		}
		if _, both := annotations[v1alpha1.AddressAnnotation]; both {
			return w, fmt.Errorf("the pod has both annotations %s and %s: a claimed address is in no block of its node", v1alpha1.ClaimAnnotation, v1alpha1.AddressAnnotation)
		}
		return w, nil
	}
	text, ok := annotations[v1alpha1.AddressAnnotation]
	if !ok {
		return w, nil
	}
	list, err := readList(text)
	if err != nil {
		return w, fmt.Errorf("annotation %s of the pod: %w", v1alpha1.AddressAnnotation, err)
	}
	for _, s := range list {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return w, fmt.Errorf("annotation %s of the pod: %q is not an address", v1alpha1.AddressAnnotation, s)
		}
		a = a.Unmap()
		if slices.ContainsFunc(w.addresses, func(o netip.Addr) bool { return o.Is4() == a.Is4() }) {
			return w, fmt.Errorf("annotation %s of the pod: %q has two addresses of one family: a pod has one of each", v1alpha1.AddressAnnotation, text)
		}
		w.addresses = append(w.addresses, a)
	}
	return w, nil
}

// readList reads a JSON list of strings, or names separated by commas.
func readList(text string) ([]string, error) {
	text = strings.TrimSpace(text)
	var list []string
	if strings.HasPrefix(text, "[") {
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			return nil, fmt.Errorf("%q is no JSON list of strings", text)
		}
	} else {
		list = strings.Split(text, ",")
	}
	for i := range list {
		if list[i] = strings.TrimSpace(list[i]); list[i] == "" {
			return nil, fmt.Errorf("%q has an empty entry: give a JSON list, or entries separated by commas", text)
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%q names nothing: leave the annotation out", text)
	}
	return list, nil
}

// choosePools returns the pools that a pod or its namespace names. They may name
// those only that are for the namespace.
func (w wishes) choosePools(ctx context.Context, choices []poolChoice, namespace string, read func(context.Context, string) (labels.Set, error)) ([]string, error) {
	var set labels.Set
	for _, name := range w.pools {
		i := slices.IndexFunc(choices, func(c poolChoice) bool { return c.name == name })
		if i < 0 {
			return nil, fmt.Errorf("annotation %s of %s names IP pool %s, which gives out no addresses on this node "+
				"(see kubectl get ippools; it may not exist, be disabled, or not be for this node)", v1alpha1.PoolsAnnotation, w.by, name)
		}
		if choices[i].selector == nil {
			continue
		}
		if set == nil && namespace != "" {
			var err error
			if set, err = read(ctx, namespace); err != nil {
				return nil, err
			}
		}
		if namespace == "" || !choices[i].selector.Matches(set) {
			return nil, fmt.Errorf("annotation %s of %s names IP pool %s, whose namespaceSelector does not match namespace %q",
				v1alpha1.PoolsAnnotation, w.by, name, namespace)
		}
	}
	return w.pools, nil
}
