package cni

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/godwit-net/godwit/internal/netnstest"
)

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "cni.sock")
	first, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if l, err := Listen(path); err == nil {
		_ = l.Close()
		t.Error("a second agent listens on the socket of the first")
	}
	_ = first.Close() // leaves the socket, as a killed agent does
	if _, err := os.Lstat(path); err != nil {
		t.Fatal(err)
	}
	second, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	_ = second.Close()
	if err := errors.Join(os.Remove(path), os.WriteFile(path, []byte("mine"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if l, err := Listen(path); err == nil {
		_ = l.Close()
		t.Error("a file was replaced by a socket")
	}
}

func TestOnlyRootIsServed(t *testing.T) {
	netnstest.RequireRoot(t)
	b := newBench(t, 4, Options{})
	// Even where the file's mode would let others in.
	for dir := filepath.Dir(b.socket); dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil { // #nosec G302 -- a test's
			t.Fatal(err)
		}
	}
	if err := os.Chmod(b.socket, 0o666); err != nil { // #nosec G302 -- a test's
		t.Fatal(err)
	}
	for uid, want := range map[int]bool{0: true, 65534: false} {
		served := make(chan bool)
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with its user
			served <- answered(t, uid, b.socket)
		}()
		if got := <-served; got != want {
			t.Errorf("uid %d: served %v, want %v", uid, got, want)
		}
	}
}

// answered makes a call as the user, on a thread of that user alone.
func answered(t *testing.T, uid int, socket string) bool {
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
		t.Error(errno)
		return false
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Error(err)
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
		t.Error(err)
		return false
	}
	frame := []byte{0, 0, 0, 0, 0, 0, 0, 1, 1, 0} // an empty request, which is answered with an error
	_, _ = unix.Write(fd, frame)                  // fails when the server hung up before
	n, _ := unix.Read(fd, frame)
	return n > 0
}
