package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/namespace"
)

// The tags of the two builds that upgrades go between.
const (
	currentImage  = "godwit-net/godwit:dev"
	previousImage = "godwit-net/godwit:previous"
)

const configDir = "../../config"

// workload is what the tests run in the cluster: a pod on each node, and 30 of a
// Deployment behind a Service.
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
  - {name: echo, port: 53, targetPort: 5353, protocol: UDP}
`

// TestCluster installs Godwit on a real cluster, uses it, upgrades it under
// traffic, takes it away and installs it again. It is run by `make test-cluster`.
func TestCluster(t *testing.T) {
	if os.Getenv("GODWIT_CLUSTER_IMAGES") == "" {
		t.Fatal("this test needs programs and images: run `make test-cluster`")
	}
	prefix := os.Getenv("GODWIT_E2E_NAME")
	if prefix == "" {
		prefix = "gwcl"
	}
	c, err := Open(Config{
		Prefix: prefix + "-", Dir: filepath.Join("/var/tmp", prefix+"-cluster"), Bin: strings.Split(os.Getenv("GODWIT_KUBE_BIN"), ":"),
		NodeProgram: filepath.Join(os.Getenv("GODWIT_BIN"), "cluster"), Images: strings.Split(os.Getenv("GODWIT_CLUSTER_IMAGES"), ":"),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if err := c.Down(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			keepLogs(t, c)
		}
		if err := c.Down(context.WithoutCancel(ctx)); err != nil {
			t.Errorf("take the cluster down: %v", err)
		}
	})
	if err := c.Up(ctx, lab.NewProgress(os.Stdout)); err != nil {
		t.Fatal(err)
	}
	before := c.snapshot(t)
	for _, part := range []struct {
		name string
		run  func(*testing.T, *Cluster)
	}{
		{"install", testInstall},
		{"reach", testReach},
		{"figures", testFigures},
		{"upgrade", testUpgrade},
		{"uninstall", func(t *testing.T, c *Cluster) { testUninstall(t, c, before) }},
		{"install again", testInstall},
		{"reach again", testReach},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.run(t, c) }) {
			t.FailNow()
		}
	}
}

// keepLogs copies the cluster's logs to where the other tests leave theirs.
func keepLogs(t *testing.T, c *Cluster) {
	dir := os.Getenv("GODWIT_E2E_LOGS")
	if dir == "" {
		return
	}
	for _, name := range append([]string{""}, "n1", "n2", "n3") {
		if err := os.CopyFS(filepath.Join(dir, "cluster", name, fmt.Sprint(time.Now().Unix())), os.DirFS(c.path(name, "log"))); err != nil {
			t.Log(err)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// testInstall installs Godwit as a person would.
func testInstall(t *testing.T, c *Cluster) {
	start := time.Now()
	must(t, c.Install(t.Context(), filepath.Join(configDir, "default")))
	t.Logf("from `kubectl apply -k config/default` until all nodes and agents are ready: %.1f s", time.Since(start).Seconds())
}

// pod is a pod of the workload.
type pod struct{ name, node, address string }

// pods returns the pods with a label, sorted by node.
func (c *Cluster) pods(t *testing.T, app string) []pod {
	t.Helper()
	words, err := c.Lines(t.Context(), "get", "pods", "-l", "app="+app, "--field-selector=status.phase=Running",
		"-o", `jsonpath={range .items[*]}{.metadata.name},{.spec.nodeName},{.status.podIP}{"\n"}{end}`)
	must(t, err)
	var list []pod
	for _, w := range words {
		f := strings.Split(w, ",")
		list = append(list, pod{f[0], f[1], f[2]})
	}
	slices.SortFunc(list, func(a, b pod) int { return strings.Compare(a.node+a.name, b.node+b.name) })
	return list
}

// testReach holds that pods, nodes and Services reach each other.
func testReach(t *testing.T, c *Cluster) {
	ctx := t.Context()
	start := time.Now()
	must(t, c.Apply(ctx, workload))
	for _, what := range []string{"daemonset/each", "deployment/web"} {
		_, err := c.Kubectl(ctx, "rollout", "status", what, "--timeout=3m")
		must(t, err)
	}
	t.Logf("33 pods are ready after %.1f s", time.Since(start).Seconds())

	each := c.pods(t, "each")
	if len(each) != 3 {
		t.Fatalf("pods %v, want one on each of three nodes", each)
	}
	service, err := c.Kubectl(ctx, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	must(t, err)
	web := map[string]bool{}
	for _, p := range c.pods(t, "web") {
		web[p.name] = true
	}
	if len(web) != 30 {
		t.Fatalf("%d pods of the Deployment run, want 30", len(web))
	}
	for _, from := range each {
		for _, to := range each {
			checkAnswer(t, c, from, "get", "http://"+to.address+":8080", to.name)
		}
		for _, n := range c.Nodes {
			hostPort := fmt.Sprintf("http://%s:18080", n.Address.Addr())
			i := slices.IndexFunc(each, func(p pod) bool { return p.node == n.Name })
			checkAnswer(t, c, from, "get", hostPort, each[i].name)
		}
		checkAnswer(t, c, from, "udp", service+":53", "hello")
		checkService(t, "pod on "+from.node, web, func() (string, error) { return c.Exec(ctx, from.name, "get", "http://"+service) })
	}
	podtest := filepath.Join(os.Getenv("GODWIT_BIN"), "podtest")
	for _, n := range c.Nodes {
		checkService(t, "node "+n.Name, web, func() (string, error) {
			out, err := namespace.Run(ctx, c.Netns(n.Name), podtest, "get", "http://"+service)
			return strings.TrimSpace(out), err
		})
	}
}

func checkAnswer(t *testing.T, c *Cluster, from pod, how, to, want string) {
	t.Helper()
	got, err := c.Exec(t.Context(), from.name, how, to)
	if err != nil || got != want {
		t.Errorf("pod on %s: %s %s: %q (%v), want %q", from.node, how, to, got, err, want)
	}
}

// checkService asks a Service some times: pods of it answer, and not one alone.
func checkService(t *testing.T, who string, members map[string]bool, ask func() (string, error)) {
	t.Helper()
	answered := map[string]bool{}
	for range 8 {
		name, err := ask()
		if err != nil || !members[name] {
			t.Errorf("%s: the Service answered %q (%v)", who, name, err)
			return
		}
		answered[name] = true
	}
	if len(answered) < 2 {
		t.Errorf("%s: of 30 pods only %v answered in 8 times", who, answered)
	}
}

// report is what podtest's flow prints.
type report struct {
	Flows []struct {
		To             string
		Sent, Received int
	}
	Overflows int
}

// testUpgrade rolls the agents to another build and back while pods on all pairs
// of nodes send to each other, and pods start meanwhile.
func testUpgrade(t *testing.T, c *Cluster) {
	const long = 60 * time.Second
	each := c.pods(t, "each")
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	g, gctx := errgroup.WithContext(ctx)
	reports := make([]report, len(each))
	for i, from := range each {
		args := []string{"flow", long.String()}
		for _, to := range each {
			if to.name != from.name {
				args = append(args, to.address+":5353")
			}
		}
		g.Go(func() error {
			out, err := c.Exec(gctx, from.name, args...)
			if err != nil {
				return err
			}
			return json.Unmarshal([]byte(out), &reports[i])
		})
	}
	begin := time.Now()
	g.Go(func() error {
		for i, image := range []string{previousImage, currentImage} {
			start := time.Now()
			if err := c.roll(gctx, image, 30-i); err != nil {
				return err
			}
			t.Logf("rolled to %s in %.1f s; the pod made meanwhile runs", image, time.Since(start).Seconds())
		}
		if d := time.Since(begin); d > long {
			t.Errorf("the upgrades took %s, longer than the traffic of %s: the test shows too little", d, long)
		}
		return nil
	})
	must(t, g.Wait())
	sent, lost, overflows := 0, 0, 0
	for i, r := range reports {
		for _, f := range r.Flows {
			t.Logf("%s → %s: %d sent, %d lost", each[i].node, f.To, f.Sent, f.Sent-f.Received)
			sent, lost = sent+f.Sent, lost+f.Sent-f.Received
		}
		overflows += r.Overflows
	}
	t.Logf("%d datagrams, %d lost, of which %d arrived but were taken too late", sent, lost, overflows)
	if lost > overflows {
		t.Errorf("%d datagrams of %d were lost in the network", lost-overflows, sent)
	}
	if sent < 6*900*int(long.Seconds()) {
		t.Errorf("only %d datagrams were sent: the test shows too little", sent)
	}
}

// roll makes the agents of an image, and pods of another number at the same time.
func (c *Cluster) roll(ctx context.Context, image string, replicas int) error {
	for _, args := range [][]string{
		{"-n", "godwit-system", "set", "image", "daemonset/godwit-agent", "agent=" + image},
		{"scale", "deployment/web", fmt.Sprint("--replicas=", replicas+3)},
		{"-n", "godwit-system", "rollout", "status", "daemonset/godwit-agent", "--timeout=2m"},
		{"rollout", "status", "deployment/web", "--timeout=1m"},
		{"scale", "deployment/web", fmt.Sprint("--replicas=", replicas)},
	} {
		if _, err := c.Kubectl(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}
