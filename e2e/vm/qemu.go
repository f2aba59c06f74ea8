package vm

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/godwit-net/godwit/e2e/process"
	"github.com/godwit-net/godwit/e2e/vm/wire"
)

const qemuProcess = "qemu"

// emulation needs nothing of the host's processor. One thread a virtual
// processor, and room for the code that was translated once: a control plane's is large.
const emulation = "tcg,thread=multi,tb-size=512"

// sessionPorts is how many commands can run in a machine at a time.
const sessionPorts = 8

func numCPU() int { return runtime.NumCPU() }

// parts is what a machine is made of, found on the host.
type parts struct {
	qemu      string
	virtiofsd string
	program   string
	kernel    kernel
}

func findParts(c Config) (parts, error) {
	var p parts
	var err error
	if p.qemu, err = exec.LookPath("qemu-system-x86_64"); err != nil {
		return p, fmt.Errorf("QEMU is missing: install the package qemu-system-x86 (%w)", err)
	}
	if p.virtiofsd, err = findVirtiofsd(); err != nil {
		return p, err
	}
	if _, err = exec.LookPath("modprobe"); err != nil {
		return p, fmt.Errorf("modprobe, which the guest's kernel calls, is missing: install the package kmod (%w)", err)
	}
	if p.kernel, err = findKernel(c.Kernel); err != nil {
		return p, err
	}
	if p.program, err = filepath.Abs(c.Program); err != nil {
		return p, err
	}
	return p, checkStatic(p.program)
}

// findVirtiofsd looks where Debian's packages put it: it is no command for a
// person.
func findVirtiofsd() (string, error) {
	places := []string{"/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"}
	for _, p := range places {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("virtiofsd is in none of %v: install the package virtiofsd or qemu-system-common", places)
}

func (m *Machine) lifeSocket() string { return m.path("life.sock") }

func (m *Machine) sessionSocket(i int) string {
	return m.path("session-" + strconv.Itoa(i) + ".sock")
}

// kernelArguments are those of the kernel's command line.
func kernelArguments() string {
	return "console=ttyS0 quiet" +
		" panic=-1 oops=panic" + // end at once; the host reads the console
		" tsc=reliable" + // a clock that costs no trip to QEMU; it is the host's, so it is steady
		" mitigations=off nokaslr audit=0 apparmor=0 nowatchdog" + // whatever costs time and guards nothing here
		" rcupdate.rcu_expedited=1" + // network namespaces end without a wait
		" random.trust_cpu=on"
}

func (m *Machine) qemuArguments(c Config, p parts) []string {
	memory := strconv.Itoa(c.MemoryMB) + "M"
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none",
		"-machine", "q35,memory-backend=memory", "-accel", c.Accel, "-cpu", "max",
		"-smp", strconv.Itoa(c.CPUs), "-m", memory,
		// The server of the files reads and writes the guest's memory.
		"-object", "memory-backend-memfd,id=memory,share=on,size=" + memory,
		"-kernel", p.kernel.image, "-initrd", m.initramfs(), "-append", kernelArguments(),
		"-serial", "file:" + m.Console(),
		"-rtc", "base=utc",
		"-device", "virtio-rng-pci",
		"-device", "virtio-serial-pci,max_ports=" + strconv.Itoa(sessionPorts+2), // port 0 is a console's
	}
	port := func(id, name, socket string) {
		args = append(args,
			"-chardev", "socket,server=on,wait=off,id="+id+",path="+socket,
			"-device", "virtserialport,chardev="+id+",name="+name)
	}
	for i := range sessionPorts {
		port("session"+strconv.Itoa(i), wire.SessionPort+strconv.Itoa(i), m.sessionSocket(i))
	}
	port("life", wire.LifePort, m.lifeSocket()) // the last: the guest waits for it
	for _, s := range m.shares(c) {
		args = append(args,
			"-chardev", "socket,id="+s.tag+",path="+s.socket,
			"-device", "vhost-user-fs-pci,queue-size=1024,chardev="+s.tag+",tag="+s.tag)
	}
	return args
}

func (m *Machine) startQEMU(c Config, p parts) error {
	return m.group.Start(process.Spec{Name: qemuProcess, Path: p.qemu, Args: m.qemuArguments(c, p)})
}

// awaitSocket waits until a socket is there to be connected to. The check of
// the process that makes it may end the wait.
func awaitSocket(ctx context.Context, path string, check func() error) error {
	for {
		// Its file comes a moment before it listens, and a trial connection might be
		// taken for the one that counts.
		if listening(path) {
			return nil
		}
		if err := check(); err != nil {
			return err
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// listening tells whether the kernel lists a socket of that path as one that
// takes connections (proc_net_unix in unix(7)): its flag is __SO_ACCEPTCON.
func listening(path string) bool {
	raw, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line) // number, references, protocol, flags, type, state, inode, path
		if len(f) == 8 && f[7] == path && f[3] == "00010000" {
			return true
		}
	}
	return false
}

func dial(ctx context.Context, socket string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", socket)
}
