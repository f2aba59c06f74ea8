package wire

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// ErrNoNamespace says that a path does not lead to a network namespace.
var ErrNoNamespace = errors.New("not a network namespace")

// ErrNodeNamespace says that a path leads to the node's own network namespace.
var ErrNodeNamespace = errors.New("it is the node's own network namespace")

// Namespace is a container's network namespace, held open.
type Namespace struct{ f *os.File }

// OpenNamespace opens the network namespace that path stands for. The error
// wraps fs.ErrNotExist, ErrNoNamespace or ErrNodeNamespace.
func (w *Wirer) OpenNamespace(path string) (*Namespace, error) {
	// O_NONBLOCK, so that a fifo at the path does not hold up the caller.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0) // #nosec G304 -- the runtime names the path
	if err != nil {
		return nil, fmt.Errorf("open the network namespace: %w", err)
	}
	if err := w.vet(f); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &Namespace{f: f}, nil
}

// Close lets go of the namespace.
func (n *Namespace) Close() error { return n.f.Close() }

func (w *Wirer) vet(f *os.File) error {
	fd := int(f.Fd())
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return fmt.Errorf("statfs: %w", err)
	}
	if fs.Type != unix.NSFS_MAGIC {
		return ErrNoNamespace
	}
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return ErrNoNamespace
	}
	same, err := sameFile(f, w.host)
	if err != nil {
		return err
	}
	if same {
		return ErrNodeNamespace
	}
	return nil
}

func sameFile(a, b *os.File) (bool, error) {
	var sa, sb unix.Stat_t
	if err := errors.Join(unix.Fstat(int(a.Fd()), &sa), unix.Fstat(int(b.Fd()), &sb)); err != nil {
		return false, fmt.Errorf("stat a network namespace: %w", err)
	}
	return sa.Ino == sb.Ino && sa.Dev == sb.Dev, nil
}

// inside runs f with its thread in the namespace ns, and brings the thread
// home. A thread that can't go home stays locked and ends with its goroutine;
// f must not start goroutines that need the namespace.
func (w *Wirer) inside(ns *os.File, f func() error) error {
	runtime.LockOSThread()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the network namespace: %w", err)
	}
	err := f()
	if back := unix.Setns(int(w.home.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, fmt.Errorf("leave the network namespace: %w", back))
	}
	runtime.UnlockOSThread()
	return err
}

// onNode runs f with its thread in the node's namespace, which is where the
// process lives anyway but in tests.
func (w *Wirer) onNode(f func() error) error {
	if w.atHome {
		return f()
	}
	return w.inside(w.host, f)
}
