package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	namespaceFresh   = 10 * time.Second // how long labels are taken to be right
	namespaceTimeout = 2 * time.Second  // how long a pod waits for them
)

// namespaces reads the labels of namespaces, which pools with a namespace
// selector need; nobody else asks. What was read is used for a while, and for
// as long as the API server is away.
type namespaces struct {
	client client.Reader
	now    func() time.Time

	mu     sync.Mutex
	labels map[string]namespaceLabels
}

type namespaceLabels struct {
	set  labels.Set
	read time.Time
}

func newNamespaces(c client.Reader) *namespaces {
	return &namespaces{client: c, now: time.Now, labels: map[string]namespaceLabels{}}
}

func (n *namespaces) get(ctx context.Context, name string) (labels.Set, error) {
	n.mu.Lock()
	known, ok := n.labels[name]
	n.mu.Unlock()
	if ok && n.now().Sub(known.read) < namespaceFresh {
		return known.set, nil
	}
	ctx, cancel := context.WithTimeout(ctx, namespaceTimeout)
	defer cancel()
	var ns corev1.Namespace
	if err := n.client.Get(ctx, client.ObjectKey{Name: name}, &ns); err != nil {
		if ok {
			return known.set, nil // serves while the API server is away
		}
		return nil, fmt.Errorf("read the labels of namespace %s, which the pools' namespace selectors need: %w", name, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.labels[name] = namespaceLabels{set: ns.Labels, read: n.now()}
	return ns.Labels, nil
}
