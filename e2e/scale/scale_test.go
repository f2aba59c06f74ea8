package scale

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/go-logr/logr"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/internal/netnstest"
)

// What one change may cost, whatever the size of the cluster.
const (
	// redundancy is how many reflectors each node has.
	redundancy = 3
	// clientEvents: an agent hears of a node that joined by its own status, once, when
	// its figures are written.
	clientEvents = 1
	// reflectorEvents: a reflector gets a plan with the node, and one with its block;
	// it reports each, and the figures.
	reflectorEvents = 6
	// joinWrites: the node's plan, and those of its reflectors twice.
	joinWrites = 1 + 2*redundancy
)

// TestScale looks at what changes of a cluster cost the API, with 30 nodes and
// with twice as many: the same. The same figures with thousands are in
// docs/scale.md; make scale measures them anew.
func TestScale(t *testing.T) {
	netnstest.RequireRoot(t)
	ctrllog.SetLogger(logr.Discard())
	bin, kubeBin := os.Getenv("GODWIT_BIN"), os.Getenv("GODWIT_KUBE_BIN")
	if bin == "" || kubeBin == "" {
		t.Fatal("this test needs Godwit's programs and a control plane: run `make test-e2e`, or set GODWIT_BIN and GODWIT_KUBE_BIN")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	c, err := NewCluster(ctx, Setup{
		Bin: bin, KubeBin: kubeBin, ConfigDir: "../../config", Topology: v1alpha1.TopologyAuto, MeshLimit: 10, Pools: 1, Progress: t.Output(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	r := newRun(c, Options{Setup: c.Setup, Nodes: 30, Agents: 60, Over: 3 * time.Second, Rest: 5 * time.Second, Joins: 1, Patience: 2 * time.Minute})
	step := func(name string, f func(context.Context) error) {
		t.Helper()
		if err := f(ctx); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	step("join", r.join)
	step("one more", r.joins)
	r.o.Nodes = 60
	step("join", r.join)
	step("rest", r.rest)
	step("one more", r.joins)
	step("events", r.events)
	if err := r.report.Write(t.Output()); err != nil {
		t.Error(err)
	}

	if n := r.report.Reflectors; n != redundancy {
		t.Errorf("%d reflectors, want %d", n, redundancy)
	}
	if rest := r.report.Rest.Traffic; rest.Requests+rest.Events+rest.Watches > 0 {
		t.Errorf("at rest agents exchange %+v", rest)
	}
	if rss := r.report.Join.Controller.PeakRSS; rss > 200<<20 {
		t.Errorf("the controller took %d MB", rss>>20)
	}
	// As often as the plan of each node that it concerns: no more, and no less.
	writes := map[string]int64{
		"node joins": joinWrites, "block claimed": redundancy, "node leaves": redundancy,
		"peer of one node added": 1, "peer of one node changed": 1, "peer given to all nodes": 61,
	}
	for _, e := range r.report.Events {
		t.Logf("%s: %d plans written; events of a client %d, of a reflector %d", e.Name, e.Writes, e.Clients.MostEvents, e.Reflectors.MostEvents)
		if want := writes[e.Name]; e.Writes > want || e.Writes < min(want, redundancy) {
			t.Errorf("%s: %d plans were written, want %d", e.Name, e.Writes, want)
		}
		if e.Name == "node joins" && (e.Clients.MostEvents > clientEvents || e.Reflectors.MostEvents > reflectorEvents) {
			t.Errorf("a node that joins brings a client %d events and a reflector %d, want at most %d and %d",
				e.Clients.MostEvents, e.Reflectors.MostEvents, clientEvents, reflectorEvents)
		}
	}
}
