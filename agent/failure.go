package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

const (
	eventNotStarted  = "AgentNotStarted"
	eventCRDsMissing = "CRDsMissing"
	reasonNotStarted = "NotStarted"

	failureTimeout = 10 * time.Second // for telling that the agent can't start
)

// Failed tells, in an event and in the node's status, that New failed: a person
// need not look for the log of a container that is gone. It returns err, with what
// kept it from being told if anything did. The rest of the status stands.
func Failed(ctx context.Context, o Options, err error) error {
	ctx, cancel := context.WithTimeout(ctx, failureTimeout)
	defer cancel()
	// Not by the recorder, which needs time that a process at its end does not have.
	now := metav1.Now()
	event := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: fmt.Sprintf("%s.%x", o.Node, now.UnixNano())},
		InvolvedObject: *nodeReference(o.Node), Source: corev1.EventSource{Component: "godwit-agent", Host: o.Node},
		Type: corev1.EventTypeWarning, Reason: eventNotStarted, Message: clip(err.Error(), maxEvent),
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}
	eerr := o.Client.Create(ctx, event)
	var nn v1alpha1.NodeNetwork
	gerr := o.Client.Get(ctx, client.ObjectKey{Name: o.Node}, &nn)
	if gerr == nil {
		before := nn.DeepCopy()
		meta.SetStatusCondition(&nn.Status.Conditions, metav1.Condition{
			Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: reasonNotStarted, Message: clip("the agent can't start: "+err.Error(), maxMessage),
		})
		gerr = o.Client.Status().Patch(ctx, &nn, client.MergeFrom(before))
	}
	if told := errors.Join(eerr, client.IgnoreNotFound(gerr)); told != nil {
		return fmt.Errorf("%w (which could not be told in the API: %w)", err, told)
	}
	return err
}

var errNoCRDs = errors.New("the API server does not know Godwit's kinds, so there is no plan for this node: " +
	"install the CRDs (kubectl apply -k config/crd, or charts/godwit/crds)")

// noteCRDs notes whether the API server knows Godwit's kinds, by what came of a
// list of them, and tells when it does not.
func (a *Agent) noteCRDs(err error) {
	missing := apierrors.IsNotFound(err) // a list is never so for another reason
	if err != nil && !missing {
		return // it says nothing about that
	}
	was := a.noCRDs.Swap(missing)
	switch {
	case missing && !was:
		a.log.Error(errNoCRDs.Error()+"; trying on", "error", err)
		if a.o.Events != nil {
			a.o.Events.Event(nodeReference(a.o.Node), corev1.EventTypeWarning, eventCRDsMissing, errNoCRDs.Error())
		}
	case !missing && was:
		a.log.Info("the API server knows Godwit's kinds now")
	}
}
