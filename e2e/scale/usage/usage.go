// Package usage tells what processes take of the machine.
package usage

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/godwit-net/godwit/e2e/process"
)

// tick is the unit of the CPU times in /proc/PID/stat (sysconf(_SC_CLK_TCK),
// which Linux has at 100 on all architectures that it shows to programs).
const tick = time.Second / 100

// Usage is what a process takes.
type Usage struct {
	CPU     time.Duration `json:"cpuNanoseconds"` // since its start
	RSS     int64         `json:"rssBytes"`
	PeakRSS int64         `json:"peakRSSBytes"`
}

// OfProcess looks at a process of a group.
func OfProcess(g *process.Group, name string) (Usage, error) {
	r, err := g.Get(name)
	if err != nil {
		return Usage{}, err
	}
	if !r.Alive() {
		return Usage{}, fmt.Errorf("%s ended: see %s", name, g.Log(name))
	}
	return Of(r.PID)
}

// Of looks at any process.
func Of(pid int) (Usage, error) {
	var u Usage
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return u, err
	}
	// The name, in parentheses, may hold anything; utime and stime are the 12th and
	// 13th fields after it (proc_pid_stat(5)).
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 13 {
		return u, fmt.Errorf("process %d: its status has %d fields", pid, len(fields))
	}
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return u, err
		}
		u.CPU += time.Duration(n) * tick
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return u, err
	}
	u.RSS, err = kilobytes(string(status), "VmRSS:")
	if err != nil {
		return u, err
	}
	u.PeakRSS, err = kilobytes(string(status), "VmHWM:")
	return u, err
}

func kilobytes(status, field string) (int64, error) {
	_, after, found := strings.Cut(status, field)
	if !found {
		return 0, errors.New("there is no " + field + " in the status of the process")
	}
	number, _, _ := strings.Cut(strings.TrimSpace(after), " ")
	n, err := strconv.ParseInt(number, 10, 64)
	return n << 10, err
}
