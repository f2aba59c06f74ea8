package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// passwords keeps the Secrets that a plan names, each by a watch of its own, so
// that the agent needs to be allowed no more than those names.
//
// Passwords that sessions use are kept in a file as well, for an agent that is
// restarted while the API server is away. It is on tmpfs, for root alone, as a
// Secret that is mounted is: no password gets onto a disk.
type passwords struct {
	client    client.WithWatch
	namespace string
	file      string // of kept passwords
	log       *slog.Logger
	changed   chan struct{} // a secret changed; holds at most one

	mu      sync.Mutex
	watches map[string]*secretWatch // by name of the Secret
	kept    map[string]string       // by name of the Secret and key, as in the file
	wg      sync.WaitGroup
}

type secretWatch struct {
	stop  context.CancelFunc
	known bool // the API has told
	data  map[string][]byte
}

func newPasswords(c client.WithWatch, namespace, file string, log *slog.Logger) *passwords {
	p := &passwords{
		client:    c,
		namespace: namespace,
		file:      file,
		log:       log,
		changed:   make(chan struct{}, 1),
		watches:   map[string]*secretWatch{},
		kept:      map[string]string{},
	}
	data, err := os.ReadFile(file) // #nosec G304 -- our own folder
	if err == nil {
		err = json.Unmarshal(data, &p.kept)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("can't read the passwords that an earlier agent kept", "error", err)
	}
	return p
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
	for id := range p.kept {
		if name, _, _ := strings.Cut(id, "/"); !names[name] {
			p.keep(id, "")
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

// get returns the password that ref names; as long as the API has not told, the one
// that an earlier agent used. While it is missing or empty that is an error: a
// session that is to have a password never goes without.
func (p *passwords) get(ref v1alpha1.SecretKeyRef) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w, id := p.watches[ref.Name], ref.Name+"/"+ref.Key
	if w == nil || !w.known {
		if kept, ok := p.kept[id]; ok {
			return kept, nil
		}
		return "", fmt.Errorf("the password's Secret %s/%s has not been read yet", p.namespace, ref.Name)
	}
	password := string(w.data[ref.Key])
	p.keep(id, password)
	switch {
	case w.data == nil:
		return "", fmt.Errorf("the password's Secret %s/%s does not exist: create it", p.namespace, ref.Name)
	case password == "":
		return "", fmt.Errorf("the password's Secret %s/%s has nothing under the key %q", p.namespace, ref.Name, ref.Key)
	}
	return password, nil
}

// keep makes a password, or that there is none, known to the next agent. The lock
// is held.
func (p *passwords) keep(id, password string) {
	if p.kept[id] == password {
		return
	}
	p.kept[id] = password
	if password == "" {
		delete(p.kept, id)
	}
	data, err := json.Marshal(p.kept)
	if err == nil {
		err = writeFile(p.file, data, 0o600)
	}
	if err != nil {
		p.log.Warn("can't keep passwords for the next agent, which needs the API server then", "error", err)
	}
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
