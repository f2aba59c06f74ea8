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
)

// figure is what a program of a node takes.
type figure struct {
	name  string
	rss   int           // bytes
	spent time.Duration // of the processors, since it started
}

// testFigures prints what Godwit's programs take on a node beside the others',
// with pods that do nothing. It requires nothing.
func testFigures(t *testing.T, c *Cluster) {
	const idle = 30 * time.Second
	for i, image := range c.Images[:1] {
		info, err := os.Stat(image)
		must(t, err)
		t.Logf("image %d: %.1f MB, compressed", i, float64(info.Size())/1e6)
	}
	const node = "n2"
	before := figures(t, c, node)
	<-time.After(idle)
	after := figures(t, c, node)
	for pid, f := range after {
		was, ok := before[pid]
		if !ok {
			continue
		}
		t.Logf("%-16s %6.1f MB resident, %4.1f ms of processor a second", f.name, float64(f.rss)/1e6, float64((f.spent-was.spent).Microseconds())/1e3/idle.Seconds())
	}
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
		if _, err := strconv.Atoi(p.Name()); err != nil || unix.Stat(filepath.Join(dir, "ns/net"), &st) != nil || st.Ino != want.Ino {
			continue
		}
		comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
		name := strings.TrimSpace(string(comm))
		if !strings.HasPrefix(name, "godwit-") && !slices.Contains([]string{"kubelet", "containerd", "kube-proxy"}, name) {
			continue
		}
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		number := func(i int) int { n, _ := strconv.Atoi(fields[i-3]); return n } // proc_pid_stat(5)
		list[p.Name()] = figure{name, number(24) * os.Getpagesize(), time.Duration(number(14)+number(15)) * 10 * time.Millisecond}
	}
	if len(list) < 4 {
		t.Fatal(fmt.Sprint("not all programs were found: ", list))
	}
	return list
}
