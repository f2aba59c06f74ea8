package vm

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-net/godwit/e2e/vm/guest"
	"github.com/godwit-net/godwit/e2e/vm/wire"
)

// TestMain also is the machine's first process and the server of its files.
func TestMain(m *testing.M) {
	var err error
	switch {
	case os.Args[0] == wire.InitProgram:
		err = guest.Main()
	case len(os.Args) > 4 && os.Args[1] == ShareArgument:
		err = Share(os.Args[2], os.Args[3], os.Args[4] == strconv.FormatBool(true), os.Args[5:])
	default:
		os.Exit(m.Run())
	}
	_, _ = fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// TestVM boots one machine for all that is asked of one. It needs root, QEMU
// and the kernel, and fails without: `make test-vm` has them.
func TestVM(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	kernelDir := os.Getenv("GODWIT_VM_KERNEL")
	if kernelDir == "" {
		kernelDir = filepath.Join("..", "..", ".cache", "vm")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	shared := t.TempDir()
	dir := filepath.Join("/run", "godwit-vm-test-"+strconv.Itoa(os.Getpid()))
	m, err := Start(ctx, Config{Dir: dir, Kernel: kernelDir, Program: program, Writable: []string{shared}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		if m.Exists() || m.IsUp() {
			t.Errorf("something is left of the machine: files %v, processes %v", m.Exists(), m.IsUp())
		}
		if marked, err := m.group.List(); err != nil || len(marked) > 0 {
			t.Errorf("processes are left: %v, %v", marked, err)
		}
	})
	t.Run("kernel", func(t *testing.T) { testKernel(ctx, t, m, kernelDir) })
	t.Run("commands", func(t *testing.T) { testCommands(ctx, t, m) })
	t.Run("files", func(t *testing.T) { testFiles(ctx, t, m, shared) })
	t.Run("many at a time", func(t *testing.T) { testMany(ctx, t, m) })
	t.Run("interrupted", func(t *testing.T) { testInterrupted(ctx, t, m) })
	t.Run("ends with its host", func(t *testing.T) { testEnds(ctx, t, m) })
}

// sh runs a script in the machine and returns what it printed.
func sh(ctx context.Context, t *testing.T, m *Machine, script string) (string, int) {
	t.Helper()
	var out strings.Builder
	code, err := m.Run(ctx, Command{Argv: []string{"sh", "-c", script}, Stdout: &out, Stderr: &out})
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	return strings.TrimSpace(out.String()), code
}

// testKernel looks for what the machine is there for.
func testKernel(ctx context.Context, t *testing.T, m *Machine, kernelDir string) {
	k, err := findKernel(kernelDir)
	if err != nil {
		t.Fatal(err)
	}
	out, code := sh(ctx, t, m, "uname -r")
	var major, minor int
	if _, err := fmt.Sscanf(out, "%d.%d", &major, &minor); err != nil || code != 0 || out != k.release {
		t.Fatalf("the kernel is %q (exit code %d), not %q", out, code, k.release)
	}
	if major < 6 || major == 6 && minor < 1 {
		t.Errorf("kernel %s is older than 6.1", out)
	}
	for _, link := range []string{"ipip local 127.0.0.1", "vxlan id 1 dstport 4789", "wireguard", "vrf table 7"} {
		if out, code := sh(ctx, t, m, "ip link add name test0 type "+link+" && ip link del test0"); code != 0 {
			t.Errorf("%s: exit code %d: %s", link, code, out)
		}
	}
	if links, err := net.Interfaces(); err == nil {
		for _, l := range links {
			if l.Name == "test0" {
				t.Error("the machine made a device of the host's")
			}
		}
	}
}

func testCommands(ctx context.Context, t *testing.T, m *Machine) {
	for _, tt := range []struct {
		name           string
		cmd            Command
		code           int
		stdout, stderr string
	}{
		{"output and exit code", Command{Argv: []string{"sh", "-c", "echo out; echo err >&2; exit 3"}}, 3, "out\n", "err\n"},
		{"input", Command{Argv: []string{"wc", "-c"}, Stdin: strings.NewReader(strings.Repeat("x", 100_000))}, 0, "100000\n", ""},
		{"no input", Command{Argv: []string{"cat"}}, 0, "", ""},
		{"much output", Command{Argv: []string{"sh", "-c", "head -c 300000 /dev/zero | tr '\\0' y"}}, 0, strings.Repeat("y", 300_000), ""},
		{"environment and folder", Command{
			Argv: []string{"sh", "-c", "echo $WORD; pwd"}, Dir: "/usr", Env: []string{"PATH=/usr/bin:/bin", "WORD=yes"},
		}, 0, "yes\n/usr\n", ""},
		{"a signal", Command{Argv: []string{"sh", "-c", "kill -9 $$"}}, 137, "", ""},
		{"not found", Command{Argv: []string{"nonesuch"}, Env: []string{"PATH=/bin"}}, 127, "", "nonesuch is not found in PATH=/bin\n"},
		{"a terminal", Command{Argv: []string{"stty", "size"}, Terminal: &Size{Rows: 11, Columns: 22}}, 0, "11 22\r\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out, errs strings.Builder
			tt.cmd.Stdout, tt.cmd.Stderr = &out, &errs
			code, err := m.Run(ctx, tt.cmd)
			if err != nil || code != tt.code {
				t.Errorf("exit code %d, %v; want %d", code, err, tt.code)
			}
			if out.String() != tt.stdout || errs.String() != tt.stderr {
				t.Errorf("output %.100q and %.100q, want %.100q and %.100q", out.String(), errs.String(), tt.stdout, tt.stderr)
			}
		})
	}
}

// testFiles: the guest sees the host's files, and changes only what it may.
func testFiles(ctx context.Context, t *testing.T, m *Machine, shared string) {
	closed := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(closed, []byte("the host's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code := sh(ctx, t, m, "cat "+closed+"; echo changed >"+closed+" && cat "+closed); code != 0 || out != "the host'schanged" {
		t.Errorf("inside: exit code %d: %q", code, out)
	}
	if raw, err := os.ReadFile(closed); err != nil || string(raw) != "the host's" {
		t.Errorf("the host's file holds %q, %v", raw, err)
	}
	open := filepath.Join(shared, "file")
	if out, code := sh(ctx, t, m, "echo written >"+open); code != 0 {
		t.Errorf("a writable folder: exit code %d: %s", code, out)
	}
	if raw, err := os.ReadFile(open); err != nil || string(raw) != "written\n" {
		t.Errorf("what the guest wrote is %q here, %v", raw, err)
	}
}

// testMany runs more commands at a time than there are ports.
func testMany(ctx context.Context, t *testing.T, m *Machine) {
	var wg sync.WaitGroup
	for i := range sessionPorts + 2 {
		wg.Go(func() {
			var out strings.Builder
			code, err := m.Run(ctx, Command{Argv: []string{"echo", strconv.Itoa(i)}, Stdout: &out})
			if want := strconv.Itoa(i) + "\n"; err != nil || code != 0 || out.String() != want {
				t.Errorf("command %d: exit code %d, %v, output %q", i, code, err, out.String())
			}
		})
	}
	wg.Wait()
}

// notify is a writer that tells of the first write.
type notify struct{ wrote func() }

func (n notify) Write(p []byte) (int, error) {
	n.wrote()
	return len(p), nil
}

// testInterrupted: a command ends with its caller's patience.
func testInterrupted(ctx context.Context, t *testing.T, m *Machine) {
	first, cancel := context.WithCancel(ctx)
	defer cancel()
	_, err := m.Run(first, Command{Argv: []string{"sh", "-c", "echo ready; exec sleep 4242"}, Stdout: notify{cancel}})
	if err == nil {
		t.Error("the command ended well")
	}
	if out, code := sh(ctx, t, m, "pgrep -x sleep"); code != 1 {
		t.Errorf("the command goes on: %d %s", code, out)
	}
}

// testEnds: the machine ends when its starter lets go of it, as it does when
// it is killed.
func testEnds(ctx context.Context, t *testing.T, m *Machine) {
	if err := m.life.Close(); err != nil {
		t.Fatal(err)
	}
	for m.IsUp() {
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			t.Fatalf("the machine goes on: %v", err)
		}
	}
}
