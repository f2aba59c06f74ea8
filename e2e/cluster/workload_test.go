package cluster

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// hostPort is the nodes' port of the pods of the DaemonSet.
const hostPort = 18080

// workload is what the tests run in the cluster: a pod on each node, at a port of
// the node, too, and some of a Deployment behind a Service.
const workload = `apiVersion: apps/v1
kind: DaemonSet
metadata: {name: each}
spec:
  selector: {matchLabels: {app: each}}
  template:
    metadata: {labels: {app: each}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations: [{operator: Exists}]
      containers:
      - name: c
        image: godwit-net/podtest:test
        imagePullPolicy: Never
        ports: [{containerPort: 8080, hostPort: 18080}]
        securityContext: {capabilities: {add: [NET_ADMIN]}} # large buffers
        readinessProbe: {httpGet: {port: 8080, path: /}, periodSeconds: 1}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 30
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: godwit-net/podtest:test
        imagePullPolicy: Never
        readinessProbe: {httpGet: {port: 8080, path: /}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: dns, port: 53, targetPort: 5353, protocol: UDP}
  - {name: echo, port: 7, targetPort: 7007}
`

// pod is a pod that runs.
type pod struct {
	name, node, address string
	ready               bool
	restarts            int32
}

// pods returns the pods with a label, sorted by node.
func (c *Cluster) pods(t *testing.T, app string) []pod {
	t.Helper()
	raw := c.kubectl(t, "get", "pods", "-l", "app="+app, "-o", "json")
	var all corev1.PodList
	must(t, json.Unmarshal([]byte(raw), &all))
	var list []pod
	for _, p := range all.Items {
		if p.Status.Phase != corev1.PodRunning || p.DeletionTimestamp != nil || len(p.Status.ContainerStatuses) != 1 {
			continue
		}
		st := p.Status.ContainerStatuses[0]
		list = append(list, pod{p.Name, p.Spec.NodeName, p.Status.PodIP, st.Ready, st.RestartCount})
	}
	slices.SortFunc(list, func(a, b pod) int { return strings.Compare(a.node+a.name, b.node+b.name) })
	return list
}

// service returns the address of a Service.
func (c *Cluster) service(t *testing.T, name string) string {
	t.Helper()
	return c.kubectl(t, "get", "service", name, "-o", "jsonpath={.spec.clusterIP}")
}

// rolledOut waits until all pods of DaemonSets and Deployments are of the newest
// kind, and ready.
func (c *Cluster) rolledOut(ctx context.Context, what ...string) error {
	for _, w := range what {
		args := []string{"rollout", "status", w, "--timeout=" + c.Patience.Times(2*time.Minute).String()}
		if strings.Contains(w, "godwit") {
			args = append(args, "-n", "godwit-system")
		}
		if _, err := c.Kubectl(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}
