package router

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"github.com/godwit-net/godwit/e2e/process"
)

// frrTemp is where FRR's daemons keep their crash logs, one directory a
// process; there is no option to move it.
const frrTemp = "/var/tmp/frr"

// RemoveCrashLogs removes what an ended process left outside of its router's
// directory, if it was one of FRR's daemons.
func RemoveCrashLogs(r process.Record) error {
	if len(r.Argv) == 0 {
		return nil
	}
	daemon := filepath.Base(r.Argv[0])
	if daemon != "zebra" && daemon != "bgpd" {
		return nil
	}
	return removeCrashLogs(daemon, r.PID)
}

// removeCrashLogs removes the crash-log directory of a daemon that has ended,
// and the directory of them all when it is empty.
func removeCrashLogs(daemon string, pid int) error {
	if err := os.RemoveAll(filepath.Join(frrTemp, daemon+"."+strconv.Itoa(pid))); err != nil {
		return err
	}
	// Only an empty one goes; another FRR may be at work.
	if left, err := os.ReadDir(frrTemp); err == nil && len(left) == 0 {
		if err := os.Remove(frrTemp); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// chownTo gives a directory to a user, because the daemons change to theirs
// before they make their sockets.
func chownTo(dir, name string) error {
	u, err := user.Lookup(name)
	if err != nil {
		return fmt.Errorf("user %s, which comes with the frr package: %w", name, err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	return os.Chown(dir, uid, gid)
}
