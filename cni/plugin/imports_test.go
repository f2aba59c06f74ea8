package plugin

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What the binary may be made of: its process start is most of what a CNI call
// costs. Package time is for the deadline; internal packages are the runtime's.
func TestBinaryIsMadeOfNextToNothing(t *testing.T) {
	allowed := map[string]bool{
		"cmp": true, "errors": true, "iter": true, "math/bits": true, "runtime": true, "slices": true, "strconv": true,
		"sync": true, "sync/atomic": true, "syscall": true, "time": true, "unicode/utf8": true, "unsafe": true,
		"github.com/godwit-net/godwit/cni/plugin":     true,
		"github.com/godwit-net/godwit/cmd/godwit-cni": true,
	}
	out, err := exec.Command("go", "list", "-deps", "github.com/godwit-net/godwit/cmd/godwit-cni").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(out)) {
		if !allowed[p] && !strings.HasPrefix(p, "internal/") {
			t.Errorf("godwit-cni imports %s, whose initialisation every CNI call would pay for", p)
		}
	}
}

func TestBinaryIsSmall(t *testing.T) {
	const limit = 3 << 20 // of the 15 MB that are allowed
	path := build(t)
	if size := fileSize(t, path); size > limit {
		t.Errorf("%s has %d bytes, of at most %d", filepath.Base(path), size, limit)
	}
}
