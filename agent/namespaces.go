package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	namespaceFresh   = 10 * time.Second       // how long labels are taken to be right
	namespaceTimeout = 10 * time.Second       // how long a pod waits for labels that were never read
	namespaceRefresh = 100 * time.Millisecond // how long a pod waits for newer ones
	namespaceRead    = 30 * time.Second       // how long the API server has for its answer
	mostNamespaces   = 4096                   // that are remembered
)

// namespaces reads the labels of namespaces, which pools with a namespace
// selector need; nobody else asks. What was read is used for a while without
// asking. Later the API is asked again, and has a moment for its answer: when it
// is slow, or away, the pod goes on with what is known, and the answer is for the
// next one. What is known is on disk, for an agent that starts without the API.
type namespaces struct {
	client client.Reader
	file   string
	log    *slog.Logger
	now    func() time.Time

	mu      sync.Mutex
	labels  map[string]namespaceLabels
	reading map[string]*namespaceRequest
}

type namespaceLabels struct {
	set  labels.Set
	read time.Time
}

// namespaceRequest is a request that is under way.
type namespaceRequest struct {
	done chan struct{} // closed at the end
	err  error         // set before
}

func newNamespaces(c client.Reader, file string, log *slog.Logger) *namespaces {
	n := &namespaces{
		client: c, file: file, log: log, now: time.Now,
		labels: map[string]namespaceLabels{}, reading: map[string]*namespaceRequest{},
	}
	kept := map[string]labels.Set{}
	data, err := os.ReadFile(file) // #nosec G304 -- the operator's own folder
	if err == nil {
		err = json.Unmarshal(data, &kept)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("can't read the labels of namespaces that an earlier agent kept", "error", err)
	}
	for name, set := range kept {
		n.labels[name] = namespaceLabels{set: set} // to be read again when they are asked for
	}
	return n
}

// get returns the labels of a namespace.
func (n *namespaces) get(ctx context.Context, name string) (labels.Set, error) {
	n.mu.Lock()
	known, ok := n.labels[name]
	if ok && n.now().Sub(known.read) < namespaceFresh {
		n.mu.Unlock()
		return known.set, nil
	}
	request, under := n.reading[name]
	if !under {
		request = &namespaceRequest{done: make(chan struct{})}
		n.reading[name] = request
		go n.read(context.WithoutCancel(ctx), name, request)
	}
	n.mu.Unlock()

	patience := namespaceTimeout
	switch {
	case ok && under: // somebody waited already, and in vain
		return known.set, nil
	case ok:
		patience = namespaceRefresh
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var err error
	select {
	case <-ctx.Done():
		err = ctx.Err()
	case <-request.done:
		err = request.err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if now, ok := n.labels[name]; ok {
		return now.set, nil
	}
	return nil, fmt.Errorf("read the labels of namespace %s, which the pools' namespace selectors need: %w", name, err)
}

// read asks the API for a namespace and notes the answer.
func (n *namespaces) read(ctx context.Context, name string, r *namespaceRequest) {
	ctx, cancel := context.WithTimeout(ctx, namespaceRead)
	defer cancel()
	var ns corev1.Namespace
	r.err = n.client.Get(ctx, client.ObjectKey{Name: name}, &ns)
	n.mu.Lock()
	defer n.mu.Unlock()
	defer close(r.done)
	delete(n.reading, name)
	if r.err != nil {
		return
	}
	old, known := n.labels[name]
	if !known && len(n.labels) >= mostNamespaces {
		clear(n.labels)
	}
	n.labels[name] = namespaceLabels{set: ns.Labels, read: n.now()}
	if known && labels.Equals(old.set, ns.Labels) {
		return
	}
	kept := make(map[string]labels.Set, len(n.labels))
	for name, l := range n.labels {
		kept[name] = l.set
	}
	data, err := json.Marshal(kept)
	if err == nil {
		err = writeFile(n.file, data, 0o600)
	}
	if err != nil {
		n.log.Warn("can't keep the labels of namespaces for the next agent, which needs the API server then", "error", err)
	}
}
