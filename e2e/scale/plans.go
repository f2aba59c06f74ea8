package scale

import (
	"context"
	"maps"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// plans watches what the controller writes: the metadata of all NodeNetworks,
// whose generation counts the changes of a plan.
type plans struct {
	api    client.WithWatch
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	known   map[string]int64 // generation of each plan
	created map[string]time.Time
	writes  int64 // creations and changes
	deletes int64
	last    time.Time // of a write or delete
}

func watchPlans(ctx context.Context, c *Cluster) *plans {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p := &plans{api: c.api, cancel: cancel, done: make(chan struct{}), known: map[string]int64{}, created: map[string]time.Time{}, last: time.Now()}
	go p.follow(ctx)
	return p
}

// follow watches for as long as ctx lasts. An API server that has much to do ends
// watches; what is missed then is found out from generations.
func (p *plans) follow(ctx context.Context) {
	defer close(p.done)
	for ctx.Err() == nil {
		if err := p.watch(ctx); err != nil && ctx.Err() == nil {
			sleepUntil(ctx, time.Now().Add(time.Second))
		}
	}
}

func (p *plans) watch(ctx context.Context) error {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(v1alpha1.GroupVersion().WithKind("NodeNetworkList"))
	if err := p.api.List(ctx, list); err != nil {
		return err
	}
	there := make(map[string]bool, len(list.Items))
	for i := range list.Items {
		there[list.Items[i].Name] = true
		p.note(watch.Event{Type: watch.Modified, Object: &list.Items[i]})
	}
	p.mu.Lock()
	for name := range p.known {
		if !there[name] {
			p.gone(name)
		}
	}
	p.mu.Unlock()
	w, err := p.api.Watch(ctx, list, &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: list.ResourceVersion}})
	if err != nil {
		return err
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		p.note(e)
	}
	return nil
}

func (p *plans) note(e watch.Event) {
	o, ok := e.Object.(*metav1.PartialObjectMetadata)
	if !ok {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch before, known := p.known[o.Name]; {
	case e.Type == watch.Deleted:
		p.gone(o.Name)
	case e.Type == watch.Bookmark, known && before == o.Generation:
	default:
		if !known {
			p.created[o.Name] = time.Now()
			before = 0
		}
		p.writes += o.Generation - before
		p.known[o.Name] = o.Generation
		p.last = time.Now()
	}
}

// gone notes the end of a plan. The lock is held.
func (p *plans) gone(name string) {
	delete(p.known, name)
	p.deletes++
	p.last = time.Now()
}

func (p *plans) stop() {
	p.cancel()
	<-p.done
}

// snapshot returns the generation of each plan, how many writes there were, and
// since when there was none.
func (p *plans) snapshot() (known map[string]int64, writes, deletes int64, last time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.known), p.writes, p.deletes, p.last
}
