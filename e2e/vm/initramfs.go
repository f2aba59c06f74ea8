package vm

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/godwit-net/godwit/e2e/vm/wire"
)

func (m *Machine) initramfs() string { return m.path("initramfs") }

// writeInitramfs writes the file system that the kernel starts from: the vm
// program, the settings, and the modules to get to the host's files.
func (m *Machine) writeInitramfs(c Config, p parts) error {
	boot := wire.Boot{
		Hostname: "godwit-vm", Modules: p.kernel.modules, Release: p.kernel.release,
		EndsWithHost: !c.Detached,
	}
	for _, s := range m.shares(c)[1:] {
		boot.Writable = append(boot.Writable, wire.Share{Tag: s.tag, Path: s.source})
	}
	settings, err := json.Marshal(boot)
	if err != nil {
		return err
	}
	modules, err := p.kernel.moduleFiles(bootModules())
	if err != nil {
		return err
	}
	f, err := os.OpenFile(m.initramfs(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	a := &archive{w: f}
	a.file(wire.InitProgram, 0o755, p.program)
	a.bytes(wire.BootFile, 0o644, settings)
	a.dir(wire.ModuleDir)
	for i, path := range modules {
		a.file(fmt.Sprintf("%s/%03d-%s", wire.ModuleDir, i, filepath.Base(path)), 0o644, path)
	}
	a.end()
	if err := f.Close(); a.err == nil {
		a.err = err
	}
	return a.err
}

// archive writes a cpio archive in the format that the kernel unpacks
// ("newc", Documentation/driver-api/early-userspace/buffer-format.rst). The
// first error sticks.
type archive struct {
	w     io.Writer
	inode int
	err   error
}

const (
	typeDir  = 0o040000
	typeFile = 0o100000
)

func (a *archive) file(name string, mode int, source string) {
	content, err := os.ReadFile(source) // #nosec G304 -- the caller's own files
	if err != nil && a.err == nil {
		a.err = err
	}
	a.bytes(name, mode, content)
}

func (a *archive) bytes(name string, mode int, content []byte) {
	a.entry(name, typeFile|mode, content)
}

func (a *archive) dir(name string) { a.entry(name, typeDir|0o755, nil) }

func (a *archive) end() { a.entry("TRAILER!!!", 0, nil) }

// entry writes a header of 110 bytes, the name with a zero byte, and the
// content; after the name and after the content it is padded to 4 bytes.
func (a *archive) entry(name string, mode int, content []byte) {
	if a.err != nil {
		return
	}
	name = path.Clean(name)
	if name[0] == '/' {
		name = name[1:]
	}
	a.inode++
	header := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		a.inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0, name)
	for _, part := range [][]byte{[]byte(header), padding(len(header)), content, padding(len(content))} {
		if _, err := a.w.Write(part); err != nil {
			a.err = err
			return
		}
	}
}

func padding(n int) []byte { return make([]byte, (4-n%4)%4) }
