package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/e2e/scale/usage"
)

// crowd is how many pods with an address the node has of which figures are taken:
// nearly the most that kubelet lets it have.
const crowd = 100

// idlePods are pods of n2 that do nothing.
const idlePods = `apiVersion: apps/v1
kind: Deployment
metadata: {name: idle}
spec:
  replicas: %d
  selector: {matchLabels: {app: idle}}
  template:
    metadata: {labels: {app: idle}}
    spec:
      terminationGracePeriodSeconds: 1
      nodeSelector: {kubernetes.io/hostname: n2}
      containers:
      - name: c
        image: godwit-net/pause:test
        imagePullPolicy: Never
`

// testFigures prints what Godwit takes beside the other programs of a node with
// 100 pods that do nothing, and the size of its image beside theirs. That all the
// pods get an address is required, of the figures nothing.
func testFigures(t *testing.T, c *Cluster) {
	const idle = time.Minute
	node, start := c.Nodes[1], time.Now()
	must(t, c.Apply(t.Context(), fmt.Sprintf(idlePods, crowd-len(c.records(t, node)))))
	must(t, c.rolledOut(t.Context(), "deployment/idle"))
	c.noLeak(t, node)
	if n := len(c.records(t, node)); n != crowd {
		t.Errorf("%s has %d pods with an address, want %d", node.Name, n, crowd)
	}
	t.Logf("%d pods on %s after %.1f s", crowd, node.Name, time.Since(start).Seconds())
	before := figures(t, c, node.Name)
	<-time.After(idle)
	after := figures(t, c, node.Name)
	total := map[string]figure{}
	for pid, f := range after {
		was, ok := before[pid]
		if !ok {
			continue
		}
		sum := total[f.name]
		total[f.name] = figure{f.name, sum.count + 1, sum.rss + f.rss, sum.spent + f.spent - was.spent}
	}
	for _, name := range append(programs(), "containerd-shim") {
		f := total[name]
		if f.count == 0 {
			t.Errorf("%s does not run on %s, or was started anew within %s", name, node.Name, idle)
		}
		t.Logf("%-16s %3d × %6.1f MB resident, %5.1f ms of processor a second",
			name, f.count, float64(f.rss)/float64(max(f.count, 1))/1e6, float64(f.spent.Microseconds())/1e3/idle.Seconds())
	}
	sizes(t, c)
}

// programs are those of a node of which there is one.
func programs() []string { return []string{"godwit-agent", "kubelet", "containerd", "kube-proxy"} }

// sizes prints the size of the image, of the programs in it, and of the others.
func sizes(t *testing.T, c *Cluster) {
	t.Helper()
	archive, err := os.Stat(c.Images[0])
	must(t, err)
	t.Logf("image %s: %.1f MB, its layers compressed", currentImage, float64(archive.Size())/1e6)
	var files []string
	for _, name := range []string{"bin/*", "cni/*"} {
		more, err := filepath.Glob(filepath.Join(filepath.Dir(c.Images[0]), "tree", "*", name))
		must(t, err)
		files = append(files, more...)
	}
	for _, name := range []string{"kubelet", "containerd", "kube-proxy"} {
		path, err := c.Program(name)
		must(t, err)
		files = append(files, path)
	}
	for _, file := range files {
		info, err := os.Stat(file)
		must(t, err)
		t.Logf("program %-18s %6.1f MB", filepath.Base(file), float64(info.Size())/1e6)
	}
}

// figure is what programs of a node take.
type figure struct {
	name  string
	count int
	rss   int64         // bytes
	spent time.Duration // of the processors, since it started
}

// figures are those of the programs in a node's own network, by process.
func figures(t *testing.T, c *Cluster, node string) map[string]figure {
	t.Helper()
	var want, st unix.Stat_t
	must(t, unix.Stat(namespace.Path(c.Netns(node)), &want))
	procs, err := os.ReadDir("/proc")
	must(t, err)
	list := map[string]figure{}
	for _, p := range procs {
		dir := filepath.Join("/proc", p.Name())
		pid, err := strconv.Atoi(p.Name())
		if err != nil || unix.Stat(filepath.Join(dir, "ns/net"), &st) != nil || st.Ino != want.Ino {
			continue
		}
		comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
		name := strings.TrimSpace(string(comm))
		if !slices.Contains(programs(), name) && name != "containerd-shim" {
			continue
		}
		if u, err := usage.Of(pid); err == nil { // else it has just ended
			list[p.Name()] = figure{name, 1, u.RSS, u.CPU}
		}
	}
	return list
}
