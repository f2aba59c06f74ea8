package e2e

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/namespace"
)

// snapshot is what a lab could leave on a machine. What other programs do
// on it at the same time is not in it.
type snapshot struct {
	Namespaces []string // of the lab's prefix
	Links      []string // in the machine's own network
	Tables     []string // nftables, in the machine's own network
	Processes  []string // that bear the lab's directory in their arguments or environment
	Files      []string
}

func takeSnapshot(ctx context.Context, t *testing.T, c lab.Config) snapshot {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, patient(t).Times(20*time.Second))
	defer cancel()
	var s snapshot
	var err error
	if s.Namespaces, err = namespace.List(c.Prefix); err != nil {
		t.Fatal(err)
	}
	for dst, command := range map[*[]string]string{&s.Links: "ip -br link", &s.Tables: "nft list tables"} {
		out, err := namespace.Run(ctx, "", strings.Fields(command)...)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out) {
			// The kernel makes tunl0 in every namespace when it loads the module ipip.
			if !strings.HasPrefix(line, "tunl0@") {
				*dst = append(*dst, strings.TrimSpace(line))
			}
		}
	}
	s.Processes = processesOf(t, c.Dir)
	for _, glob := range []string{
		c.Dir, c.Dir + "/*", "/etc/iproute2/rt_protos.d/" + strings.TrimSuffix(c.Prefix, "-") + "*", "/var/tmp/frr/*", "/var/lib/cni/*", "/run/godwit/*", "/var/lib/godwit/*", "/etc/cni/net.d/*",
	} {
		files, err := filepath.Glob(glob)
		if err != nil {
			t.Fatal(err)
		}
		s.Files = append(s.Files, slices.DeleteFunc(files, inUse)...)
	}
	return s
}

// inUse tells whether a file is the crash-log directory of a daemon of FRR, such
// as bgpd.4711, that is alive: somebody else's, and not left behind by anyone.
func inUse(file string) bool {
	daemon, pid, ok := strings.Cut(filepath.Base(file), ".")
	if filepath.Dir(file) != "/var/tmp/frr" || !ok {
		return false
	}
	// Another program may have the number of one that left its directory long ago.
	name, err := os.ReadFile(filepath.Join("/proc", pid, "comm"))
	return err == nil && strings.TrimSpace(string(name)) == daemon
}

func processesOf(t *testing.T, dir string) []string {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, p := range procs {
		args, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		env, _ := os.ReadFile(filepath.Join(p, "environ"))
		if p == filepath.Join("/proc", "self") || !strings.Contains(string(args)+"\x00"+string(env), dir) {
			continue
		}
		found = append(found, p+" "+strings.ReplaceAll(string(args), "\x00", " "))
	}
	return found
}

// compare fails the test if the machine is not as it was.
func (s snapshot) compare(t *testing.T, after snapshot) {
	t.Helper()
	if diff := cmp.Diff(s, after); diff != "" {
		t.Errorf("the lab left something behind (+) or took something away (-):\n%s", diff)
	}
}
