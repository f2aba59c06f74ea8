package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/godwit-net/godwit/e2e/process"
	"github.com/godwit-net/godwit/e2e/vm/wire"
)

// ShareArgument is the argument by which the vm program becomes the server of
// one share.
const ShareArgument = "share"

// share is a folder of the host that the guest sees.
type share struct {
	tag      string
	source   string
	target   string // where the server sees it
	socket   string
	writable bool
}

// shares returns the machine's: the root first.
func (m *Machine) shares(c Config) []share {
	all := []share{m.newShare(wire.RootTag, "/", false)}
	for i, w := range c.Writable {
		all = append(all, m.newShare("writable-"+strconv.Itoa(i), w, true))
	}
	return all
}

func (m *Machine) newShare(tag, source string, writable bool) share {
	return share{
		tag: tag, source: source, writable: writable,
		target: m.path("share", tag), socket: m.path("share-" + tag + ".sock"),
	}
}

// shareDirs returns the mount points of the servers of this machine.
func (m *Machine) shareDirs() []string {
	entries, err := os.ReadDir(m.path("share"))
	if err != nil {
		return nil
	}
	var dirs []string
	for _, e := range entries {
		dirs = append(dirs, m.path("share", e.Name()))
	}
	return dirs
}

// share starts the servers of the machine's files and waits for their sockets.
func (m *Machine) share(ctx context.Context, c Config, p parts) error {
	for _, s := range m.shares(c) {
		if err := os.MkdirAll(s.target, 0o700); err != nil {
			return err
		}
		name := "share-" + s.tag
		if err := m.group.Start(process.Spec{
			Name: name, Path: p.program,
			Args: []string{
				ShareArgument, s.source, s.target, strconv.FormatBool(s.writable),
				p.virtiofsd, "--socket-path=" + s.socket,
				// What the guest has read is not asked for again: nothing that it runs
				// is expected to change under it.
				"-o", "source=" + s.target + ",cache=always,log_level=warn",
			},
		}); err != nil {
			return err
		}
		if err := awaitSocket(ctx, s.socket, func() error { return m.alive(name) }); err != nil {
			return err
		}
	}
	return nil
}

// alive returns an error with the process's last words if it has ended.
func (m *Machine) alive(name string) error {
	if r, err := m.group.Get(name); err == nil && r.Alive() {
		return nil
	}
	said, _ := os.ReadFile(m.group.Log(name))
	return fmt.Errorf("%s ended: %s", name, said)
}

// Share shows the calling process one folder at another place, read-only
// unless writable, in a mount namespace of its own, and becomes another program.
// It returns only if that fails.
func Share(source, target string, writable bool, argv []string) error {
	if len(argv) == 0 {
		return errors.New("no program to become")
	}
	runtime.LockOSThread() // the namespace is the thread's, until exec(2) makes it the process's
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	// The copy is made read-only before it has a place, so there is no moment at
	// which the host's files can be changed through it.
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("copy the mounts of %s: %w", source, err)
	}
	if !writable {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
			return fmt.Errorf("read-only mounts of %s: %w", source, err)
		}
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, target, err)
	}
	return syscall.Exec(argv[0], argv, os.Environ()) // #nosec G204 G702 -- the caller's program
}
