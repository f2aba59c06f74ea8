// Package netnstest gives tests network namespaces of their own, so that they
// meet the real kernel and leave nothing behind.
package netnstest

import (
	"crypto/rand"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Prefix starts the name of every namespace that tests make.
const Prefix = "godwit-test-"

// RequireRoot ends a test that can't run without root: as skipped on a
// developer's machine, as failed in CI (where CI is set).
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("this test needs root (it makes network namespaces) and CI must run it as root")
	}
	t.Skip("needs root: it makes network namespaces")
}

// NS is a named network namespace, visible to `ip netns`.
type NS struct {
	Name string
	t    testing.TB
	ns   netns.NsHandle
}

// New makes a namespace with lo up; it is deleted when the test ends.
func New(t testing.TB) *NS {
	t.Helper()
	RequireRoot(t)
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		t.Fatal(err)
	}
	name := Prefix + hex.EncodeToString(b[:])
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		t.Fatalf("ip netns add %s: %v: %s", name, err, out)
	}
	h, err := netns.GetFromPath(filepath.Join("/run/netns", name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = h.Close()
		if out, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
			t.Errorf("ip netns del %s: %v: %s", name, err, out)
		}
	})
	n := &NS{Name: name, t: t, ns: h}
	n.Do(func() {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			t.Fatalf("lo up in %s: %v", name, err)
		}
	})
	return n
}

// Path is the file that stands for the namespace.
func (n *NS) Path() string { return filepath.Join("/run/netns", n.Name) }

// Do runs f with its goroutine in the namespace. Goroutines that f starts are
// not in it; sockets that f opens are, and stay so.
func (n *NS) Do(f func()) {
	n.t.Helper()
	runtime.LockOSThread()
	back, err := netns.Get()
	if err != nil {
		n.t.Fatal(err)
	}
	defer func() { _ = back.Close() }()
	if err := netns.Set(n.ns); err != nil {
		n.t.Fatal(err)
	}
	defer func() {
		// A thread that can't go back stays locked, and ends with its goroutine.
		if err := netns.Set(back); err != nil {
			n.t.Fatal(err)
		}
		runtime.UnlockOSThread()
	}()
	f()
}

// Run runs a command in the namespace and returns what it printed; a command
// that fails ends the test.
func (n *NS) Run(name string, args ...string) string {
	n.t.Helper()
	all := append([]string{"netns", "exec", n.Name, name}, args...)
	out, err := exec.Command("ip", all...).CombinedOutput() // #nosec G204 -- a test's own words
	if err != nil {
		n.t.Fatalf("in %s: %s %v: %v: %s", n.Name, name, args, err, out)
	}
	return string(out)
}
