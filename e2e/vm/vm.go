// Package vm runs a virtual machine with a Linux kernel that has everything
// which the lab and the tests may need of one (ipip, wireguard, vrf, ipvs),
// on a machine whose own kernel lacks some. Inside, all of the host's files and
// programs are there under their own paths, so that a command runs as it would
// outside. The machine has no network but its own loopback and what is made in it.
//
//	host                                    guest
//	┌──────────────────────────┐            ┌──────────────────────────────┐
//	│ vm run -- COMMAND        │ serial     │ vm guest (first process)     │
//	│   Machine.Run ───────────┼─ports──────┼──▶ agent ──▶ COMMAND         │
//	│                          │ (frames)   │                              │
//	│ virtiofsd ◀── / read-only┼─virtiofs───┼──▶ / under a layer in memory │
//	│ qemu: kernel, initramfs  │            │   /run, /dev, … its own      │
//	└──────────────────────────┘            └──────────────────────────────┘
//
// Invariants:
//   - The guest can't change the host's files, whatever it does: the server of
//     the share sees them through read-only mounts. Config.Writable names the
//     exceptions.
//   - Everything of a machine is in its directory and among its marked
//     processes, so Stop works also after a failed or killed Start.
//   - A machine that isn't Detached ends with the process that started it, even
//     if that is killed: the guest powers off when its life port is let go.
package vm

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/godwit-net/godwit/e2e/process"
)

// Variable is the environment variable that is 1 for commands in a machine.
const Variable = "GODWIT_VM"

// Config says what a machine is made of.
type Config struct {
	Dir     string // for all the machine's files while it is up; removed with it
	Kernel  string // the folder of an unpacked kernel package, as scripts/vm-kernel makes it
	Program string // the vm program, linked statically: it is the machine's first process, too

	Writable []string // folders of the host in which the guest may write
	Detached bool     // the machine stays up without its starter, until Stop

	CPUs     int    // 0: as many as the host has, up to 4
	MemoryMB int    // 0: 4096; what is unused costs nothing
	Accel    string // of QEMU; empty: emulation, which works everywhere

	BootTimeout time.Duration // 0: two minutes
	// Step does one step and may show it to a person; nil: it is just done.
	Step func(what string, do func() error) error
}

func (c Config) withDefaults() (Config, error) {
	if !filepath.IsAbs(c.Dir) || filepath.Clean(c.Dir) == "/" {
		return c, fmt.Errorf("a machine needs a directory of its own (%q)", c.Dir)
	}
	if os.Geteuid() != 0 {
		return c, errors.New("a machine shares the host's files, so it must be started as root")
	}
	for i, w := range c.Writable {
		abs, err := filepath.Abs(w)
		if err != nil {
			return c, err
		}
		if st, err := os.Stat(abs); err != nil || !st.IsDir() {
			return c, fmt.Errorf("%s is no folder to write in", w)
		}
		c.Writable[i] = abs
	}
	if c.CPUs == 0 {
		c.CPUs = min(numCPU(), 4)
	}
	if c.MemoryMB == 0 {
		c.MemoryMB = 4096
	}
	if c.Accel == "" {
		c.Accel = emulation
	}
	if c.BootTimeout == 0 {
		c.BootTimeout = 2 * time.Minute
	}
	if c.Step == nil {
		c.Step = func(_ string, do func() error) error { return do() }
	}
	return c, nil
}

// Machine is a virtual machine that is, was or may be up.
type Machine struct {
	dir   string
	group *process.Group
	life  net.Conn // held while a machine that isn't detached is to live
}

// Open returns the machine of a directory, which may be up or not.
func Open(dir string) *Machine { return &Machine{dir: dir, group: process.Open(dir)} }

func (m *Machine) path(elem ...string) string {
	return filepath.Join(append([]string{m.dir}, elem...)...)
}

// Console is the file with what the kernel and the guest print.
func (m *Machine) Console() string { return m.path("console.log") }

// IsUp tells whether the machine runs.
func (m *Machine) IsUp() bool {
	r, err := m.group.Get(qemuProcess)
	return err == nil && r.Alive()
}

// Exists tells whether anything of the machine is there.
func (m *Machine) Exists() bool {
	_, err := os.Stat(m.dir)
	return err == nil
}

// Lock keeps others from starting or ending the same machine until it is
// released. It leaves no file, and goes with its holder.
func (m *Machine) Lock() (release func(), err error) {
	s, err := net.Listen("unix", "@godwit-vm:"+m.dir)
	if err != nil {
		return nil, fmt.Errorf("another is at work on the virtual machine in %s: wait for it, or choose another directory (%w)", m.dir, err)
	}
	return func() { _ = s.Close() }, nil
}

// Start boots a machine and returns once it takes commands. The context is
// that of the start, not of the machine's life. What Start leaves when it
// fails, it removes.
func Start(ctx context.Context, c Config) (*Machine, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	m := Open(c.Dir)
	if m.IsUp() {
		return nil, fmt.Errorf("a virtual machine is up in %s already", c.Dir)
	}
	if err := m.Stop(ctx); err != nil { // what a killed one left
		return nil, err
	}
	if err := m.start(ctx, c); err != nil {
		return nil, errors.Join(err, m.Stop(context.WithoutCancel(ctx)))
	}
	return m, nil
}

func (m *Machine) start(ctx context.Context, c Config) error {
	var p parts
	if err := c.Step("look for QEMU and the kernel", func() (err error) {
		p, err = findParts(c)
		return err
	}); err != nil {
		return err
	}
	return c.Step("boot Linux "+p.kernel.release, func() error {
		ctx, cancel := context.WithTimeoutCause(ctx, c.BootTimeout, fmt.Errorf("no sign of life within %v", c.BootTimeout))
		defer cancel()
		if err := os.MkdirAll(m.dir, 0o700); err != nil {
			return err
		}
		if err := m.writeInitramfs(c, p); err != nil {
			return fmt.Errorf("first file system: %w", err)
		}
		if err := m.share(ctx, c, p); err != nil {
			return fmt.Errorf("share files: %w", err)
		}
		if err := m.startQEMU(c, p); err != nil {
			return err
		}
		if err := m.awaitBoot(ctx, c.Detached); err != nil {
			return m.explain(fmt.Errorf("the machine does not come up: %w", err))
		}
		return nil
	})
}

// awaitBoot returns when the guest greets.
func (m *Machine) awaitBoot(ctx context.Context, detached bool) error {
	var err error
	check := func() error { return m.alive(qemuProcess) }
	if err := awaitSocket(ctx, m.lifeSocket(), check); err != nil {
		return err
	}
	if !detached {
		if m.life, err = dial(ctx, m.lifeSocket()); err != nil {
			return err
		}
	}
	s, err := m.openSession(ctx)
	if err != nil {
		return err
	}
	s.close()
	return nil
}

// Stop ends the machine and removes everything of it. One that is not there
// is no error.
func (m *Machine) Stop(ctx context.Context) error {
	if m.life != nil {
		_ = m.life.Close()
		m.life = nil
	}
	if !m.Exists() {
		return nil
	}
	if _, err := m.group.StopAll(ctx); err != nil {
		return fmt.Errorf("end the machine's processes: %w", err)
	}
	// The host's files were mounted here, in namespaces that are gone by now.
	// Removed as an empty folder, in case they are not.
	for _, d := range m.shareDirs() {
		if err := os.Remove(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what was a mount point: %w", err)
		}
	}
	return os.RemoveAll(m.dir)
}

// explain adds the last words of QEMU and of the console to an error.
func (m *Machine) explain(err error) error {
	if said, readErr := os.ReadFile(m.group.Log(qemuProcess)); readErr == nil && len(said) > 0 {
		err = fmt.Errorf("%w; QEMU says: %s", err, strings.TrimSpace(string(said)))
	}
	raw, readErr := os.ReadFile(m.Console())
	if readErr != nil || len(raw) == 0 {
		return err
	}
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(string(raw), "\r", "")), "\n")
	lines = lines[max(0, len(lines)-consoleTail):]
	return fmt.Errorf("%w; the last lines of its console:\n  %s", err, strings.Join(lines, "\n  "))
}

// consoleTail is how many lines of the console a person gets to see: a
// kernel's panic fits in.
const consoleTail = 30

// checkStatic tells whether a program runs where there are no libraries.
func checkStatic(program string) error {
	f, err := elf.Open(program)
	if err != nil {
		return fmt.Errorf("the vm program: %w", err)
	}
	defer func() { _ = f.Close() }()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is linked dynamically; build it with CGO_ENABLED=0", program)
		}
	}
	return nil
}
