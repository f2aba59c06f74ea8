package controller

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// Which pools a namespace chooses its pods' agents read when a pod comes, and keep.
// The plans say only whether any namespace chooses at all: so they change when the
// first one does and when the last one does no more, and in between no node hears
// of namespaces, however many there are.

// namespacesChoose tells whether some namespace chooses pools for its pods.
func (r *planner) namespacesChoose(ctx context.Context) (bool, error) {
	var list corev1.NamespaceList
	if err := r.client.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return false, fmt.Errorf("read the annotations of namespaces: %w", err)
	}
	for i := range list.Items {
		if chooses(&list.Items[i]) {
			return true, nil
		}
	}
	return false, nil
}

func chooses(namespace client.Object) bool {
	return namespace.GetAnnotations()[v1alpha1.PoolsAnnotation] != ""
}

// choiceChanged lets events of namespaces pass by which one more, or one less,
// chooses pools.
func choiceChanged() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc:  func(e event.CreateEvent) bool { return chooses(e.Object) },
		UpdateFunc:  func(e event.UpdateEvent) bool { return chooses(e.ObjectOld) != chooses(e.ObjectNew) },
		DeleteFunc:  func(e event.DeleteEvent) bool { return chooses(e.Object) },
		GenericFunc: func(event.GenericEvent) bool { return false },
	}
}

// slimNamespace keeps of a namespace whether it chooses pools.
func slimNamespace(obj any) (any, error) {
	n, ok := obj.(*corev1.Namespace)
	if !ok {
		return obj, nil // the marker of a deletion that the watch missed
	}
	slim := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: n.UID, ResourceVersion: n.ResourceVersion}}
	if pools := n.Annotations[v1alpha1.PoolsAnnotation]; pools != "" {
		slim.Annotations = map[string]string{v1alpha1.PoolsAnnotation: pools}
	}
	return slim, nil
}
