package vm

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// kernel is one from a package that was unpacked, and not installed.
type kernel struct {
	release string // as uname(1) has it
	image   string
	modules string // the folder with all modules
}

func findKernel(dir string) (kernel, error) {
	const prefix = "vmlinuz-"
	images, err := filepath.Glob(filepath.Join(dir, "boot", prefix+"*"))
	if err != nil {
		return kernel{}, err
	}
	if len(images) != 1 {
		return kernel{}, fmt.Errorf("%s holds %d kernels and should hold one: run `scripts/vm-kernel %s`", dir, len(images), dir)
	}
	image, err := filepath.Abs(images[0])
	if err != nil {
		return kernel{}, err
	}
	release := strings.TrimPrefix(filepath.Base(image), prefix)
	return kernel{
		release: release, image: image,
		modules: filepath.Join(filepath.Dir(filepath.Dir(image)), "lib", "modules", release),
	}, nil
}

// bootModules are those without which the machine has no file system and no
// ports. All others the kernel asks for by itself when it needs them.
func bootModules() []string {
	return []string{"virtio_pci", "virtiofs", "overlay", "virtio_console", "virtio_rng"}
}

// moduleFiles returns the files of modules and of those that they need, in an
// order in which they can be loaded. A module that is not there is built in.
func (k kernel) moduleFiles(names []string) ([]string, error) {
	f, err := os.Open(filepath.Join(k.modules, "modules.dep"))
	if err != nil {
		return nil, fmt.Errorf("the kernel's modules: %w: run `scripts/vm-kernel` again", err)
	}
	defer func() { _ = f.Close() }()
	needs := map[string][]string{} // by file
	file := map[string]string{}    // by module
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		path, rest, ok := strings.Cut(lines.Text(), ":")
		if !ok {
			return nil, fmt.Errorf("modules.dep: a line without a colon: %q", lines.Text())
		}
		needs[path] = strings.Fields(rest)
		file[moduleName(path)] = path
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("modules.dep: %w", err)
	}
	var order []string
	add := func(path string) {
		if full := filepath.Join(k.modules, path); !slices.Contains(order, full) {
			order = append(order, full)
		}
	}
	for _, name := range names {
		path, ok := file[name]
		if !ok {
			continue
		}
		// A line lists all that a module needs, what is needed most deeply last
		// (depmod(8)).
		for _, n := range slices.Backward(needs[path]) {
			add(n)
		}
		add(path)
	}
	return order, nil
}

// moduleName is the name of a module by its file; the kernel takes - for _.
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}
