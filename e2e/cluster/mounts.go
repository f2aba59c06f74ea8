package cluster

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// overlays are the folders of which a node has a layer of its own over the
// machine's.
func overlays() []string { return []string{"/etc", "/opt", "/var"} }

// privates are the folders of which a node sees nothing of the machine's. Images
// and volumes are mounts themselves, which a layer over a layer can't hold.
func privates() []string {
	return []string{"/var/lib/containerd", "/var/lib/kubelet", "/var/lib/cni", "/var/log"}
}

func (c *nodeConfig) layer(dir string) string { return filepath.Join(c.Dir, "root", dir) }

// dirs are the folders that must be there before the node starts.
func (c *nodeConfig) dirs() []string {
	dirs := []string{filepath.Join(c.Dir, "log")}
	for _, o := range overlays() {
		dirs = append(dirs, c.layer(o)+".upper", c.layer(o)+".work")
	}
	for _, p := range privates() {
		dirs = append(dirs, c.layer(p))
	}
	return dirs
}

// mount makes the node's view of the file system. The caller is in a mount
// namespace of its own.
func (c *nodeConfig) mount() error {
	type m struct {
		source, target, kind string
		flags                uintptr
		data                 string
	}
	// The cluster's files may be below a folder that gets covered.
	files := filepath.Dir(c.Dir)
	fd, err := unix.Open(files, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", files, err)
	}
	defer func() { _ = unix.Close(fd) }()
	list := []m{{"", "/", "", unix.MS_REC | unix.MS_PRIVATE, ""}} // nothing gets out
	for _, o := range overlays() {
		list = append(list, m{"overlay", o, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", o, c.layer(o)+".upper", c.layer(o)+".work")})
	}
	list = append(list, m{fmt.Sprintf("/proc/self/fd/%d", fd), files, "", unix.MS_BIND, ""})
	for _, p := range privates() {
		list = append(list, m{c.layer(p), p, "", unix.MS_BIND, ""})
	}
	list = append(list,
		m{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
		m{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		m{"", "/", "", unix.MS_REC | unix.MS_SHARED, ""}, // pods see what is mounted after they started
	)
	for _, m := range list {
		if m.flags&unix.MS_BIND != 0 || m.kind == "tmpfs" {
			if err := os.MkdirAll(m.target, 0o755); err != nil { // #nosec G301 -- as on any machine
				return err
			}
		}
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s at %s: %w", m.source, m.target, err)
		}
	}
	return newBootID()
}

// newBootID makes it known that the node has booted, as the kernel, which is the
// machine's, does not.
func newBootID() error {
	const file = "/run/boot_id"
	if err := os.WriteFile(file, []byte(uuid.NewUUID()+"\n"), 0o644); err != nil { // #nosec G306 -- as the kernel's
		return err
	}
	return unix.Mount(file, "/proc/sys/kernel/random/boot_id", "", unix.MS_BIND, "")
}
