package agent

import (
	"context"
	"maps"
	"net/netip"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/routes"
)

// remoteSettle is how long a change of other nodes' blocks waits for its fellows.
const remoteSettle = 20 * time.Millisecond

// remoteBlocks knows the blocks of all nodes from the API, for as long as the
// plan asks for that. It is the one watch of more than one object that an agent
// has, and costs each as many events as blocks are claimed and freed.
type remoteBlocks struct {
	client  client.WithWatch
	changed chan struct{} // holds at most one

	mu     sync.Mutex
	stop   context.CancelFunc // of the watch; nil: there is none
	synced bool               // the first list is in
	blocks map[netip.Prefix]remoteBlock
	wg     sync.WaitGroup
}

type remoteBlock struct{ pool, node string }

func newRemoteBlocks(c client.WithWatch) *remoteBlocks {
	return &remoteBlocks{client: c, changed: make(chan struct{}, 1), blocks: map[netip.Prefix]remoteBlock{}}
}

// want starts or ends the watch.
func (r *remoteBlocks) want(ctx context.Context, wanted bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case wanted && r.stop == nil:
		ctx, r.stop = context.WithCancel(ctx)
		r.wg.Go(func() { r.watch(ctx) })
	case !wanted && r.stop != nil:
		r.stop()
		r.stop, r.synced = nil, false
		clear(r.blocks)
	}
}

// wait waits for the end of the watch, which ends with its context.
func (r *remoteBlocks) wait() { r.wg.Wait() }

// get returns the blocks, and whether they are all that there are.
func (r *remoteBlocks) get() (map[netip.Prefix]remoteBlock, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.blocks), r.synced
}

func (r *remoteBlocks) watch(ctx context.Context) {
	settled := time.AfterFunc(time.Hour, func() { signal(r.changed) })
	defer settled.Stop()
	note := func(o any, exists bool) {
		if last, ok := o.(cache.DeletedFinalStateUnknown); ok {
			o = last.Obj
		}
		b, ok := o.(*v1alpha1.IPBlock)
		if !ok {
			return
		}
		cidr, err := netip.ParsePrefix(b.Spec.CIDR)
		if err != nil {
			return // the API server validates it; one that got by is nobody's
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if ctx.Err() != nil {
			return // of a watch that is over
		}
		if exists {
			r.blocks[cidr] = remoteBlock{pool: b.Spec.Pool, node: b.Spec.NodeName}
		} else {
			delete(r.blocks, cidr)
		}
		if r.synced {
			settled.Reset(remoteSettle)
		}
	}
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				l := &v1alpha1.IPBlockList{}
				return l, r.client.List(ctx, l, &client.ListOptions{Raw: &o})
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				return r.client.Watch(ctx, &v1alpha1.IPBlockList{}, &client.ListOptions{Raw: &o})
			},
		},
		ObjectType: &v1alpha1.IPBlock{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { note(o, true) },
			UpdateFunc: func(_, o any) { note(o, true) },
			DeleteFunc: func(o any) { note(o, false) },
		},
	})
	var done sync.WaitGroup
	done.Go(func() {
		if cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if ctx.Err() == nil {
				r.synced = true
				signal(r.changed)
			}
		}
	})
	informer.RunWithContext(ctx)
	done.Wait()
}

// routeRemote gives the blocks of other nodes routes as the API tells, if the
// plan says so, and else takes them away: what BGP has learned then counts.
func (w *worker) routeRemote(ctx context.Context, d *desired) {
	w.remote.want(ctx, d.blocksFromAPI)
	if !d.blocksFromAPI {
		if w.remotely || !w.remoteSynced {
			w.table.Set(routes.ClassRemote, nil)
			w.table.Synced(routes.ClassRemote)
		}
		w.remotely, w.remoteSynced = false, true
		return
	}
	blocks, all := w.remote.get()
	if !all {
		return // what is there stays until everything is known
	}
	w.table.Set(routes.ClassRemote, remoteRoutes(d, w.learned.encapsulation(), blocks, w.o.Node))
	w.table.Synced(routes.ClassRemote)
	w.remotely, w.remoteSynced = true, true
}

// remoteRoutes returns the routes to other nodes' blocks. A block of a node or
// a pool that the plan does not name has none.
func remoteRoutes(d *desired, e *encapsulation, blocks map[netip.Prefix]remoteBlock, self string) []routes.Route {
	pools := make(map[string]netip.Prefix, len(d.pools))
	for _, p := range d.pools {
		pools[p.Name] = p.CIDR
	}
	var out []routes.Route
	for cidr, b := range blocks {
		pool, known := pools[b.pool]
		if b.node == self || !known || pool.Bits() > cidr.Bits() || !pool.Contains(cidr.Addr()) {
			continue
		}
		for _, a := range d.nodes[b.node] {
			if a.Is4() == cidr.Addr().Is4() {
				out = append(out, routes.Route{Dst: cidr, NextHops: []routes.NextHop{e.nextHop(cidr, a)}})
			}
		}
	}
	return out
}
