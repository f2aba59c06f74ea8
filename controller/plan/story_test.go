package plan

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// TestStories plays each testdata/*.story: after each step ("> ...") the plan is
// made and written until nothing changes any more, and each pass prints the lines
// that are new. GODWIT_UPDATE_GOLDENS=1 writes what is printed anew. The steps:
//
//	node NAME ADDRESS...              a node joins; its agent does nothing yet
//	delete NAME                       its Node is deleted, but has a finalizer
//	gone NAME                         its Node is no more
//	ready NAME True|False|Unknown     what its kubelet says
//	block NAME CIDR POOL              it owns a block
//	mute NAME                         it announces only the first of its blocks; unmute NAME ends that
//	pool NAME CIDR ENCAPSULATION      a pool is made or changed
//	nopool NAME                       a pool is deleted
//	topology Mesh|None
//	fail NAME KIND REASON MESSAGE...  it can't make tunnels of a kind; mend NAME KIND ends that
//	remake NAME                       it loses its tunnels, makes them again and reports
//	agents NAME...                    their agents take their plans, and all that have a plan
//	                                  connect to each other and report
//	connected NAME...                 the same, but only those named connect
//	writable NAME...                  only the plans of these can be written; none named: all can
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.story")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories in testdata: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".story"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(want))
			if os.Getenv("GODWIT_UPDATE_GOLDENS") != "" {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("the story of %s is another (-want +got):\n%s", file, diff)
			}
		})
	}
}

// play plays a story and returns it with what is printed.
func play(t *testing.T, story string) string {
	t.Helper()
	s := newSim(t)
	var writable []string
	var out bytes.Buffer
	var shown []string
	for line := range strings.Lines(story) {
		if strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "" {
			out.WriteString(line)
			continue
		}
		step, ok := strings.CutPrefix(line, "> ")
		if !ok {
			continue // printed before
		}
		out.WriteString(line)
		if f := strings.Fields(step); f[0] == "writable" {
			writable = f[1:]
		} else {
			s.step(f)
		}
		for i := 0; ; i++ {
			for name := range s.networks {
				s.see(name)
			}
			p, wrote := s.pass(func(name string) bool { return len(writable) == 0 || slices.Contains(writable, name) })
			now := s.show(p)
			for _, l := range now {
				if !slices.Contains(shown, l) {
					fmt.Fprintf(&out, "    %s\n", l)
				}
			}
			for _, l := range shown {
				if !slices.Contains(now, l) && (l == "reports are awaited" || strings.HasPrefix(l, "topology waits")) {
					fmt.Fprintf(&out, "    no more: %s\n", l)
				}
			}
			shown = now
			if !wrote {
				break
			}
			if i == 5 {
				t.Fatalf("after %q the plan changes for ever", step)
			}
		}
	}
	return out.String()
}

func (s *sim) step(f []string) {
	s.t.Helper()
	switch f[0] {
	case "node":
		s.addNode(f[1], f[2:]...)
	case "delete":
		s.node(f[1]).DeletionTimestamp = new(metav1.Unix(1e9, 0))
	case "gone":
		s.removeNode(f[1])
	case "ready":
		s.setReady(f[1], corev1.ConditionStatus(f[2]))
	case "block":
		a := s.agents[f[1]]
		s.all = nil
		a.blocks = append(a.blocks, v1alpha1.BlockStatus{CIDR: f[2], Pool: f[3]})
	case "pool":
		s.pool(f[1]).Spec = v1alpha1.IPPoolSpec{CIDR: f[2], Encapsulation: v1alpha1.Encapsulation(f[3])}
	case "nopool":
		s.in.Pools = slices.DeleteFunc(s.in.Pools, func(p v1alpha1.IPPool) bool { return p.Name == f[1] })
	case "topology":
		s.setTopology(v1alpha1.Topology(f[1]))
	case "reflectors": // redundancy, mesh limit, "labelled" or "any"
		redundancy, err1 := strconv.Atoi(f[1])
		limit, err2 := strconv.Atoi(f[2])
		if err1 != nil || err2 != nil {
			s.t.Fatalf("reflectors needs two numbers: %v, %v", err1, err2)
		}
		s.setReflectors(int32(redundancy), int32(limit), f[3] == "labelled")
	case "label":
		s.label(f[1], f[2], f[3])
	case "unlabel":
		s.label(f[1], f[2], "")
	case "fail":
		s.agents[f[1]].fails[v1alpha1.TunnelKind(f[2])] = []string{f[3], strings.Join(f[4:], " ")}
	case "mend":
		delete(s.agents[f[1]].fails, v1alpha1.TunnelKind(f[2]))
	case "mute", "unmute":
		s.all = nil
		s.agents[f[1]].mute = f[0] == "mute"
	case "remake":
		s.agents[f[1]].devices = nil
		s.take(f[1])
		s.report(f[1])
	case "agents", "connected":
		for _, name := range f[1:] {
			s.take(name)
		}
		for i, a := range f[1:] {
			for _, b := range s.in.Nodes {
				if f[0] == "agents" || slices.Contains(f[1:][i+1:], b.Name) {
					s.connect(a, b.Name)
				}
			}
		}
		for name := range s.networks {
			s.report(name)
		}
	default:
		s.t.Fatalf("unknown step %q", f[0])
	}
}
