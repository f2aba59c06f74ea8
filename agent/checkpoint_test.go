package agent

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

func TestCheckpointComesBack(t *testing.T) {
	dir := t.TempDir()
	none, err := loadCheckpoint(dir, "n1")
	if none != nil || err != nil {
		t.Fatalf("from an empty folder: %v, %v", none, err)
	}
	want := &checkpoint{
		Node: "n1", Generation: 7, Plan: *parsePlan(t, referencePlan),
		Blocks: []checkpointBlock{{CIDR: netip.MustParsePrefix("172.25.0.128/26"), Pool: "default"}},
	}
	if err := want.save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := loadCheckpoint(dir, "n1")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, compareNetip()); diff != "" {
		t.Errorf("checkpoint (-want +got):\n%s", diff)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("files left: %v, %v; want the checkpoint alone", left, err)
	}
	info, err := os.Stat(filepath.Join(dir, checkpointName))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
}

// TestSaveComparesPlans: a plan of the same generation may be another, as when an
// older agent left out fields, or etcd was restored from a snapshot. One that is
// the same is not written again.
func TestSaveComparesPlans(t *testing.T) {
	dir := t.TempDir()
	older := parsePlan(t, referencePlan)
	newer := older.DeepCopy()
	newer.Pools[0].ReservedCIDRs = append(newer.Pools[0].ReservedCIDRs, "172.25.3.0/24")
	if err := (&checkpoint{Node: "n1", Generation: 7, Plan: *older}).save(dir); err != nil {
		t.Fatal(err)
	}
	c, err := loadCheckpoint(dir, "n1")
	if err != nil {
		t.Fatal(err)
	}
	w := &worker{Agent: &Agent{o: Options{Node: "n1", StateDir: dir}}, saved: *c}
	save := func(spec *v1alpha1.NodeNetworkSpec) os.FileInfo {
		t.Helper()
		if err := w.save(plan{generation: 7, spec: *spec}, nil); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(dir, checkpointName))
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	before := save(older)
	if again := save(older.DeepCopy()); !os.SameFile(before, again) {
		t.Error("the same plan was written again")
	}
	if after := save(newer); os.SameFile(before, after) {
		t.Error("another plan of the same generation was not written")
	}
	if c, err := loadCheckpoint(dir, "n1"); err != nil || !slices.Contains(c.Plan.Pools[0].ReservedCIDRs, "172.25.3.0/24") {
		t.Errorf("the checkpoint has not the newer plan (%v)", err)
	}
}

func TestCheckpointThatIsNotUsed(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"torn":            {`{"version": 1, "node": "n1", "plan": {`, "can't be read"},
		"empty":           {"", "can't be read"},
		"another version": {`{"version": 2, "node": "n1"}`, "has version 2"},
		"another node":    {`{"version": 1, "node": "n2"}`, `is of node "n2"`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, checkpointName), []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := loadCheckpoint(dir, "n1")
			if got != nil || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, %v; want an error with %q", got, err, c.want)
			}
		})
	}
}

func FuzzLoadCheckpoint(f *testing.F) {
	f.Add([]byte(`{"version": 1, "node": "n1", "blocks": [{"cidr": "172.25.0.128/26", "pool": "default"}]}`))
	f.Add([]byte(`{"version": 1, "node": "n1", "blocks": [{"cidr": 5}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, checkpointName), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := loadCheckpoint(dir, "n1"); err == nil && c != nil {
			_, _ = translate(&c.Plan) // what could be read must not end the agent
		}
	})
}
