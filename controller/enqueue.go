package controller

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// queue is what events are turned into work on.
type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// enqueue returns a handler that makes every event the same piece of work, to be
// done when the first of a burst of events is settle old.
func enqueue(key string, settle time.Duration) handler.Funcs {
	request := requestFor(key)
	return handler.Funcs{
		CreateFunc:  func(_ context.Context, _ event.CreateEvent, q queue) { q.AddAfter(request, settle) },
		UpdateFunc:  func(_ context.Context, _ event.UpdateEvent, q queue) { q.AddAfter(request, settle) },
		DeleteFunc:  func(_ context.Context, _ event.DeleteEvent, q queue) { q.AddAfter(request, settle) },
		GenericFunc: func(_ context.Context, _ event.GenericEvent, q queue) { q.AddAfter(request, settle) },
	}
}

func requestFor(name string) reconcile.Request {
	return reconcile.Request{NamespacedName: types.NamespacedName{Name: name}}
}
