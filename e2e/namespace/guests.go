package namespace

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Guests lists the processes that are in any of the namespaces, each as a
// person would name it.
func Guests(names []string) ([]string, error) {
	byInode := map[uint64]string{}
	for _, n := range names {
		var st unix.Stat_t
		if unix.Stat(Path(n), &st) == nil && Exists(n) {
			byInode[st.Ino] = n
		}
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var guests []string
	for _, p := range procs {
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(filepath.Join("/proc", p.Name(), "ns/net"), &st) != nil {
			continue
		}
		if ns, ok := byInode[st.Ino]; ok {
			comm, _ := os.ReadFile(filepath.Join("/proc", p.Name(), "comm"))
			guests = append(guests, fmt.Sprintf("%s (process %s) in %s", strings.TrimSpace(string(comm)), p.Name(), ns))
		}
	}
	return guests, nil
}
