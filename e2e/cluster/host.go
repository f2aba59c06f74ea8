package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// hostSysctls are the machine's settings, of no namespace, that kubelet and
// kube-proxy change.
func hostSysctls() []string {
	return []string{
		"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
		"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes", "net/netfilter/nf_conntrack_max",
	}
}

func (c *Cluster) hostFile() string { return c.path("host-sysctls.json") }

// recordHost notes the machine's settings, once.
func (c *Cluster) recordHost() error {
	if isFile(c.hostFile()) {
		return nil
	}
	have := map[string]string{}
	for _, name := range hostSysctls() {
		value, err := os.ReadFile(filepath.Join("/proc/sys", name)) // #nosec G304 -- a sysctl of the list
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		have[name] = strings.TrimSpace(string(value))
	}
	raw, err := json.Marshal(have)
	if err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(c.Dir, 0o700), os.WriteFile(c.hostFile(), raw, 0o600))
}

// restoreHost puts the settings back that were noted.
func (c *Cluster) restoreHost() error {
	raw, err := os.ReadFile(c.hostFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var was map[string]string
	if err := json.Unmarshal(raw, &was); err != nil {
		return fmt.Errorf("%s: %w", c.hostFile(), err)
	}
	var errs []error
	for name, value := range was {
		file := filepath.Join("/proc/sys", name)
		now, err := os.ReadFile(file) // #nosec G304 -- a sysctl
		if err != nil || strings.TrimSpace(string(now)) == value {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, os.WriteFile(file, []byte(value), 0o600)) // #nosec G703 -- a sysctl that we noted
	}
	return errors.Join(errs...)
}

// cgroupRoots are the folders of the hierarchies of cgroups of some versions, each
// told by the magic number of its file system.
func cgroupRoots(versions ...int64) ([]string, error) {
	entries, err := os.ReadDir("/sys/fs/cgroup")
	if err != nil {
		return nil, err
	}
	var roots []string
	for _, e := range entries {
		root := filepath.Join("/sys/fs/cgroup", e.Name())
		var st unix.Statfs_t
		if e.IsDir() && unix.Statfs(root, &st) == nil && slices.Contains(versions, st.Type) {
			roots = append(roots, root)
		}
	}
	if len(roots) == 0 {
		return nil, errors.New("the cluster's nodes are made for cgroups v1, and there are none in /sys/fs/cgroup")
	}
	return roots, nil
}

// cgroup is that of a node, or with an empty name that of the cluster.
func (c *Cluster) cgroup(node string) string {
	return filepath.Join("/", strings.Trim(c.Prefix, "-"), node)
}

// makeCgroup makes the cgroup below which kubelet of a node puts the pods.
func (c *Cluster) makeCgroup(node string) error {
	roots, err := cgroupRoots(unix.CGROUP_SUPER_MAGIC)
	if err != nil {
		return err
	}
	for _, root := range roots {
		dir := root
		for part := range strings.SplitSeq(strings.Trim(c.cgroup(node), "/"), "/") {
			parent := dir
			dir = filepath.Join(dir, part)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) { // #nosec G301 -- as all cgroups are
				return err
			}
			// A new cpuset has no processors and no memory of its own.
			for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
				value, err := os.ReadFile(filepath.Join(parent, f)) // #nosec G304 -- a cgroup's
				if err != nil {
					continue
				}
				if err := os.WriteFile(filepath.Join(dir, f), value, 0o600); err != nil { // #nosec G703 -- a cgroup's
					return err
				}
			}
		}
	}
	return nil
}

// removeCgroups removes the cgroups below one, such as those of a node. Those of
// processes that have just ended may be busy for a moment.
func (c *Cluster) removeCgroups(ctx context.Context, cgroup string) error {
	// runc makes some in the hierarchy of version 2 beside those of version 1, too.
	roots, err := cgroupRoots(unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC)
	if err != nil {
		return err
	}
	return c.Wait(ctx, 20*time.Second, "remove the cgroups", func(context.Context) error {
		var errs []error
		for _, root := range roots {
			var dirs []string
			top := filepath.Join(root, cgroup)
			err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return err
			})
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			errs = append(errs, err)
			for _, dir := range slices.Backward(dirs) {
				errs = append(errs, unix.Rmdir(dir))
			}
		}
		return errors.Join(errs...)
	})
}
