// Package namespace makes and removes named network namespaces, as `ip netns`
// does, and runs code and programs inside them.
//
// Invariants:
//   - Nothing here changes the network of the caller's own namespace.
//   - Add and Delete are idempotent.
package namespace

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Dir is where named namespaces live.
const Dir = "/run/netns"

// Path is the file that stands for a namespace.
func Path(name string) string { return filepath.Join(Dir, name) }

// Exists tells whether there is a namespace of that name.
func Exists(name string) bool {
	var st unix.Statfs_t
	return unix.Statfs(Path(name), &st) == nil && st.Type == unix.NSFS_MAGIC
}

// List returns the names that start with prefix, sorted; also those of files
// without a namespace behind them, which a crash may have left.
func List(prefix string) ([]string, error) {
	entries, err := os.ReadDir(Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Add makes a namespace with lo up.
func Add(ctx context.Context, name string) error {
	if !Exists(name) {
		if err := ip(ctx, "netns", "add", name); err != nil {
			return fmt.Errorf("make network namespace %s: %w", name, err)
		}
	}
	if err := ip(ctx, "-n", name, "link", "set", "lo", "up"); err != nil {
		return fmt.Errorf("network namespace %s: %w", name, err)
	}
	return nil
}

// Delete removes a namespace. The kernel tears down what is in it as soon as
// no process is inside.
func Delete(name string) error {
	// The name is a mount point as long as the namespace is there; a half-made one is
	// a plain file.
	err := unix.Unmount(Path(name), unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount network namespace %s: %w", name, err)
	}
	if err := os.Remove(Path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove network namespace %s: %w", name, err)
	}
	return nil
}

func ip(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput() // #nosec G204 -- the lab's own words
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Do runs f with its goroutine in the namespace; an empty name is the
// caller's own. Goroutines that f starts are not in it; sockets and processes
// that f itself makes are, and stay so.
func Do(name string, f func() error) error {
	if name == "" {
		return f()
	}
	runtime.LockOSThread()
	back, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("own network namespace: %w", err)
	}
	defer func() { _ = back.Close() }()
	there, err := netns.GetFromPath(Path(name))
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("network namespace %s: %w", name, err)
	}
	defer func() { _ = there.Close() }()
	if err := netns.Set(there); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace %s: %w", name, err)
	}
	ferr := f()
	if err := netns.Set(back); err != nil {
		// The thread stays locked, and so ends with its goroutine.
		return errors.Join(ferr, fmt.Errorf("leave network namespace %s: %w", name, err))
	}
	runtime.UnlockOSThread()
	return ferr
}

// Run runs a command in the namespace and returns its standard output. The
// error of one that fails holds what it printed.
func Run(ctx context.Context, name string, argv ...string) (string, error) {
	var stdout, stderr strings.Builder
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...) // #nosec G204 -- the lab's own words
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := Do(name, cmd.Start); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return stdout.String(), fmt.Errorf("in %s: %s: %w: %s", name, strings.Join(argv, " "), err,
			strings.TrimSpace(stderr.String()+" "+stdout.String()))
	}
	return stdout.String(), nil
}
