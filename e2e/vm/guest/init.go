// Package guest is the inside of a virtual machine: its first process, which
// makes the host's programs and files usable there, and the agent that runs
// what the host asks for.
//
// Invariants:
//   - The host's file system lies under a layer in memory, so whatever is
//     written inside is gone with the machine; only the shares that are named as
//     writable reach the host.
//   - When anything fails, the machine ends: the host sees that at once, and the
//     reason on the console.
package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/godwit-net/godwit/e2e/vm/wire"
)

// agentVariable marks the second process, the agent, to which it carries the
// settings: the file that they came in is out of reach by then.
const agentVariable = "GODWIT_VM_BOOT"

// Main runs the guest: as the kernel's first process, which never returns, or
// as the agent.
func Main() error {
	if raw, ok := os.LookupEnv(agentVariable); ok {
		var b wire.Boot
		if err := json.Unmarshal([]byte(raw), &b); err != nil {
			return err
		}
		if err := os.Unsetenv(agentVariable); err != nil {
			return err
		}
		return serve(b)
	}
	if os.Getpid() != 1 {
		return errors.New("this is the first process of a virtual machine, and of no use elsewhere")
	}
	if err := first(); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "godwit-vm:", err)
	}
	unix.Sync()
	return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// first prepares the machine, starts the agent, and inherits and buries
// whatever processes are left by others, until the agent ends.
func first() error {
	b, err := prepare()
	if err != nil {
		return err
	}
	settings, err := json.Marshal(b)
	if err != nil {
		return err
	}
	agent := exec.Command("/proc/self/exe")
	agent.Args[0] = wire.InitProgram
	agent.Env = []string{agentVariable + "=" + string(settings)}
	agent.Stdout, agent.Stderr = os.Stdout, os.Stderr
	if err := agent.Start(); err != nil {
		return fmt.Errorf("start the agent: %w", err)
	}
	for {
		var status unix.WaitStatus
		switch pid, err := unix.Wait4(-1, &status, 0, nil); {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for processes: %w", err)
		case pid == agent.Process.Pid && (status.Exited() || status.Signaled()):
			if status.ExitStatus() == 0 {
				return nil
			}
			return fmt.Errorf("the agent ended: exit status %d, signal %d", status.ExitStatus(), status.Signal())
		}
	}
}

func prepare() (wire.Boot, error) {
	var b wire.Boot
	raw, err := os.ReadFile(wire.BootFile)
	if err != nil {
		return b, err
	}
	if err := json.Unmarshal(raw, &b); err != nil {
		return b, fmt.Errorf("%s: %w", wire.BootFile, err)
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"load kernel modules", loadModules},
		{"mount the host's files", mountRoot},
		{"offer the kernel's modules", func() error { return offerModules(b) }},
		{"mount the system's file systems", mountSystem},
		{"mount writable shares", func() error { return mountWritable(b) }},
		{"set up", func() error { return setUp(b) }},
	} {
		if err := step.do(); err != nil {
			return b, fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return b, nil
}

func loadModules() error {
	files, err := os.ReadDir(wire.ModuleDir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := loadModule(filepath.Join(wire.ModuleDir, f.Name())); err != nil {
			return fmt.Errorf("%s: %w", f.Name(), err)
		}
	}
	return nil
}

func loadModule(path string) error {
	f, err := os.Open(path) // #nosec G304 -- from the machine's own first file system
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	flags := 0
	if strings.HasSuffix(path, ".xz") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	if err := unix.FinitModule(int(f.Fd()), "", flags); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// mount makes the folder as well.
func mount(source, target, kind string, flags uintptr, data string) error {
	if err := os.MkdirAll(target, 0o755); err != nil { // #nosec G301 -- as the system's folders are
		return err
	}
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", kind, target, err)
	}
	return nil
}

// mountRoot lays a layer in memory over the host's files and makes that the
// root. The first file system can't be left by pivot_root(2), only covered.
func mountRoot() error {
	if err := mount(wire.RootTag, "/lower", "virtiofs", unix.MS_RDONLY, ""); err != nil {
		return err
	}
	if err := mount("tmpfs", "/upper", "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, d := range []string{"/upper/files", "/upper/work"} {
		if err := os.Mkdir(d, 0o755); err != nil { // #nosec G301 -- the root of all
			return err
		}
	}
	if err := mount("overlay", "/new", "overlay", 0, "lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work"); err != nil {
		return err
	}
	if err := os.Chdir("/new"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	return os.Chdir("/")
}

// offerModules puts the kernel's modules where modprobe(8) looks, which the
// kernel itself runs when it lacks something.
func offerModules(b wire.Boot) error {
	return mount(b.Modules, filepath.Join("/lib/modules", b.Release), "", unix.MS_BIND, "")
}

func mountSystem() error {
	for _, m := range []struct {
		kind, target string
		flags        uintptr
		data         string
	}{
		{"proc", "/proc", 0, ""},
		{"sysfs", "/sys", 0, ""},
		{"devtmpfs", "/dev", 0, ""},
		{"devpts", "/dev/pts", 0, "mode=620,ptmxmode=666"},
		{"tmpfs", "/dev/shm", unix.MS_NOSUID | unix.MS_NODEV, ""},
		{"tmpfs", "/run", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
		// Or else what programs of the host leave here would come and go.
		{"tmpfs", "/var/tmp", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"cgroup2", "/sys/fs/cgroup", 0, ""},
		{"bpf", "/sys/fs/bpf", 0, ""},
	} {
		if err := mount(m.kind, m.target, m.kind, m.flags, m.data); err != nil {
			return err
		}
	}
	for link, target := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "fd/0", "/dev/stdout": "fd/1", "/dev/stderr": "fd/2",
	} {
		if err := os.Symlink(target, link); err != nil {
			return err
		}
	}
	return nil
}

func mountWritable(b wire.Boot) error {
	for _, s := range b.Writable {
		if err := mount(s.Tag, s.Path, "virtiofs", 0, ""); err != nil {
			return err
		}
	}
	return nil
}

// maxOpenFiles is what a service gets that asks for much.
const maxOpenFiles = 1 << 19

func setUp(b wire.Boot) error {
	if err := unix.Sethostname([]byte(b.Hostname)); err != nil {
		return fmt.Errorf("name: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: maxOpenFiles, Max: maxOpenFiles}); err != nil {
		return fmt.Errorf("open files: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return nil
}
