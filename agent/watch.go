package agent

import (
	"context"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// watchOne watches the object of T's kind with a name until ctx ends, through
// every outage of the API server. on is called with its newest state, and with
// found false when there is no such object (any more); never twice at once.
// kind is an empty object and list an empty list of its kind.
//
// The server indexes watches by metadata.name, so that such a watch costs it
// nothing at the events of other objects.
func watchOne[T client.Object](ctx context.Context, c client.WithWatch, key client.ObjectKey, kind T, list client.ObjectList, on func(obj T, found bool)) {
	var (
		mu   sync.Mutex
		told bool
		none T
	)
	tell := func(obj T, found bool) {
		mu.Lock()
		defer mu.Unlock()
		told = true
		on(obj, found)
	}
	emptyList := func() client.ObjectList { return list.DeepCopyObject().(client.ObjectList) }
	options := func(o metav1.ListOptions) *client.ListOptions {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, key.Name).String()
		return &client.ListOptions{Namespace: key.Namespace, Raw: &o}
	}
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				l := emptyList()
				return l, c.List(ctx, l, options(o))
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				return c.Watch(ctx, emptyList(), options(o))
			},
		},
		ObjectType: kind,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { tell(o.(T), true) },
			UpdateFunc: func(_, o any) { tell(o.(T), true) },
			DeleteFunc: func(any) { tell(none, false) },
		},
	})
	var done sync.WaitGroup
	done.Go(func() {
		// What never was makes no event: say so once, after the first list.
		if cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
			mu.Lock()
			defer mu.Unlock()
			if !told {
				on(none, false)
			}
		}
	})
	informer.RunWithContext(ctx)
	done.Wait()
}
