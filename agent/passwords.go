package agent

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// passwords keeps the Secrets that a plan names, each by a watch of its own, so
// that the agent needs to be allowed no more than those names.
type passwords struct {
	client    client.WithWatch
	namespace string
	changed   chan struct{} // a secret changed; holds at most one

	mu      sync.Mutex
	watches map[string]*secretWatch // by name of the Secret
	wg      sync.WaitGroup
}

type secretWatch struct {
	stop  context.CancelFunc
	known bool // the API has told
	data  map[string][]byte
}

func newPasswords(c client.WithWatch, namespace string) *passwords {
	return &passwords{
		client:    c,
		namespace: namespace,
		changed:   make(chan struct{}, 1),
		watches:   map[string]*secretWatch{},
	}
}

// want makes exactly the named Secrets watched, until ctx ends.
func (p *passwords) want(ctx context.Context, names map[string]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, w := range p.watches {
		if !names[name] {
			w.stop()
			delete(p.watches, name)
		}
	}
	for name := range names {
		if p.watches[name] != nil {
			continue
		}
		ctx, cancel := context.WithCancel(ctx)
		w := &secretWatch{stop: cancel}
		p.watches[name] = w
		p.wg.Go(func() {
			key := client.ObjectKey{Namespace: p.namespace, Name: name}
			watchOne(ctx, p.client, key, &corev1.Secret{}, &corev1.SecretList{}, func(s *corev1.Secret, found bool) {
				p.mu.Lock()
				w.known, w.data = true, nil
				if found {
					w.data = s.Data
				}
				p.mu.Unlock()
				signal(p.changed)
			})
		})
	}
}

// get returns the password that ref names. While it is missing or empty that is
// an error: a session that is to have a password never goes without.
func (p *passwords) get(ref v1alpha1.SecretKeyRef) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.watches[ref.Name]
	switch {
	case w == nil || !w.known:
		return "", fmt.Errorf("the password's Secret %s/%s has not been read yet", p.namespace, ref.Name)
	case w.data == nil:
		return "", fmt.Errorf("the password's Secret %s/%s does not exist: create it", p.namespace, ref.Name)
	case len(w.data[ref.Key]) == 0:
		return "", fmt.Errorf("the password's Secret %s/%s has nothing under the key %q", p.namespace, ref.Name, ref.Key)
	}
	return string(w.data[ref.Key]), nil
}

// pending reports whether a wanted Secret has not been read yet.
func (p *passwords) pending() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.watches {
		if !w.known {
			return true
		}
	}
	return false
}

// wait returns when all watches have ended; their context must have.
func (p *passwords) wait() { p.wg.Wait() }
