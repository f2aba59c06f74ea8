package agent

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
)

// NewEventRecorder returns a recorder that writes events of the agent of a node
// to an API server; stop ends it. Events wait in a queue for the server, and are
// dropped when there are too many or it is away for minutes.
func NewEventRecorder(c *rest.Config, node string) (events record.EventRecorder, stop func(), err error) {
	client, err := typedcorev1.NewForConfig(c)
	if err != nil {
		return nil, nil, fmt.Errorf("make a client for events: %w", err)
	}
	// The default would drop events without a word that a teller lets pass.
	b := record.NewBroadcasterWithCorrelatorOptions(record.CorrelatorOptions{BurstSize: 2 * eventBurst, QPS: float32(1 / eventInterval.Seconds())})
	b.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.Events("")})
	return b.NewRecorder(runtime.NewScheme(), corev1.EventSource{Component: "godwit-agent", Host: node}), b.Shutdown, nil
}
