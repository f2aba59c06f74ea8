// Package process runs the lab's long-lived programs: it starts them in
// network namespaces, records who they are, and stops exactly those.
//
// Invariants:
//   - A process is signalled only if its start time is the recorded one, so that
//     a process id that the kernel gave to somebody else is never hit.
//   - Every process bears the group's mark in its environment, so that one whose
//     record was lost (its starter was killed) is still found.
package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/e2e/patience"
)

// markVariable is the environment variable that bears a group's mark.
const markVariable = "GODWIT_LAB_PROCESS_OF"

// stopGrace is how long a process has between SIGTERM and SIGKILL.
const stopGrace = 5 * time.Second

// Spec is a program to start.
type Spec struct {
	Name  string // unique in the group; the name of its record and its log
	Netns string // the network namespace's name; empty: the caller's
	Path  string
	Args  []string
	Env   []string // besides the caller's environment
	// Cloneflags are namespaces to make for it, such as syscall.CLONE_NEWPID.
	Cloneflags uintptr
}

// Record is what a group keeps about a process.
type Record struct {
	Name string   `json:"name"`
	PID  int      `json:"pid"`
	Argv []string `json:"argv"`
	// StartTime is when the process started, in clock ticks since boot.
	StartTime uint64 `json:"startTime"`
}

// Group is a set of processes with records and logs in one directory. Its
// methods may be called concurrently for different names.
type Group struct {
	// Patience stretches the time that processes have to end.
	Patience patience.Factor

	dir string

	mu   sync.Mutex
	done map[string]chan struct{} // closed when a child of this very process was reaped
}

// Open returns the group of a directory, with the processes that are in it.
func Open(dir string) *Group { return &Group{dir: dir, done: map[string]chan struct{}{}} }

// Log is the file with what a process printed.
func (g *Group) Log(name string) string { return filepath.Join(g.dir, "log", name+".log") }

func (g *Group) record(name string) string { return filepath.Join(g.dir, "pid", name+".json") }

// Start starts a program that outlives the caller: a session of its own,
// output appended to its log.
func (g *Group) Start(s Spec) error {
	if r, err := g.Get(s.Name); err == nil && r.Alive() {
		return fmt.Errorf("%s runs already, as process %d", s.Name, r.PID)
	}
	for _, f := range []string{g.record(s.Name), g.Log(s.Name)} {
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil { // #nosec G301 -- FRR runs as its own user
			return err
		}
	}
	log, err := os.OpenFile(g.Log(s.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644) // #nosec G302 G304 -- logs are to be read
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(s.Path, s.Args...) // #nosec G204 -- the lab's own programs
	cmd.Env = append(os.Environ(), s.Env...)
	cmd.Env = append(cmd.Env, markVariable+"="+g.dir)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: s.Cloneflags}
	if err := namespace.Do(s.Netns, cmd.Start); err != nil {
		return fmt.Errorf("start %s: %w", s.Name, err)
	}
	reaped := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(reaped)
	}()
	g.mu.Lock()
	g.done[s.Name] = reaped
	g.mu.Unlock()
	st, err := readStat(cmd.Process.Pid)
	if err != nil {
		return fmt.Errorf("%s ended at once: see %s", s.Name, g.Log(s.Name))
	}
	raw, err := json.Marshal(Record{Name: s.Name, PID: cmd.Process.Pid, Argv: cmd.Args, StartTime: st.startTime})
	if err != nil {
		return err
	}
	return os.WriteFile(g.record(s.Name), raw, 0o600)
}

// Get returns the record of a process, which need not be alive.
func (g *Group) Get(name string) (Record, error) {
	var r Record
	raw, err := os.ReadFile(g.record(name))
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, fmt.Errorf("record of %s: %w", name, err)
	}
	return r, nil
}

// List returns all records, sorted by name.
func (g *Group) List() ([]Record, error) {
	files, err := filepath.Glob(filepath.Join(g.dir, "pid", "*.json"))
	if err != nil {
		return nil, err
	}
	var all []Record
	for _, f := range files {
		r, err := g.Get(strings.TrimSuffix(filepath.Base(f), ".json"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// Alive tells whether the process is the one that was recorded, and runs.
func (r Record) Alive() bool {
	st, err := readStat(r.PID)
	return err == nil && st.startTime == r.StartTime && st.state != 'Z' && st.state != 'X'
}

// Signal signals the process if it is still the one that was recorded; one
// that is gone is no error.
func (r Record) Signal(sig syscall.Signal) error {
	// The descriptor pins the process; only then its identity is looked at.
	p, err := os.FindProcess(r.PID)
	if err != nil {
		return err
	}
	defer func() { _ = p.Release() }()
	if !r.Alive() {
		return nil
	}
	if err := p.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s (process %d): %w", r.Name, r.PID, err)
	}
	return nil
}

// Stop ends a process, SIGTERM first, and forgets it. One that is not there
// is no error.
func (g *Group) Stop(ctx context.Context, name string) error {
	return g.end(ctx, name, syscall.SIGTERM)
}

// Kill ends a process with SIGKILL and forgets it.
func (g *Group) Kill(ctx context.Context, name string) error {
	return g.end(ctx, name, syscall.SIGKILL)
}

// Crash ends a process of a Go program as a panic in one of its goroutines does,
// with all their stacks in its log, and forgets it.
func (g *Group) Crash(ctx context.Context, name string) error {
	return g.end(ctx, name, syscall.SIGABRT)
}

func (g *Group) end(ctx context.Context, name string, sig syscall.Signal) error {
	r, err := g.Get(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := g.endOne(ctx, r, sig); err != nil {
		return err
	}
	g.mu.Lock()
	reaped := g.done[name]
	delete(g.done, name)
	g.mu.Unlock()
	if reaped != nil {
		<-reaped
	}
	return os.Remove(g.record(name))
}

func (g *Group) endOne(ctx context.Context, r Record, sig syscall.Signal) error {
	if err := r.Signal(sig); err != nil {
		return err
	}
	grace := g.Patience.Times(stopGrace)
	killAt := time.Now().Add(grace)
	giveUp := killAt.Add(grace)
	for r.Alive() {
		switch now := time.Now(); {
		case now.After(giveUp):
			return fmt.Errorf("%s (process %d) does not end", r.Name, r.PID)
		case now.After(killAt) && sig != syscall.SIGKILL:
			sig = syscall.SIGKILL
			if err := r.Signal(sig); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// StopAll ends every process of the group at once, also those whose record
// was lost, and returns who they were.
func (g *Group) StopAll(ctx context.Context) ([]Record, error) {
	var errs []error
	ended, err := g.List()
	errs = append(errs, err)
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, r := range ended {
		wg.Go(func() {
			err := g.Stop(ctx, r.Name)
			mu.Lock()
			errs = append(errs, err)
			mu.Unlock()
		})
	}
	wg.Wait()
	marked, err := g.marked()
	errs = append(errs, err)
	for _, r := range marked {
		errs = append(errs, g.endOne(ctx, r, syscall.SIGTERM))
	}
	return append(ended, marked...), errors.Join(errs...)
}

// marked finds the living processes that bear the group's mark.
func (g *Group) marked() ([]Record, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	mark := markVariable + "=" + g.dir
	var found []Record
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		st, err := readStat(pid)
		if err != nil {
			continue
		}
		env, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err != nil || !slices.Contains(strings.Split(string(env), "\x00"), mark) {
			continue
		}
		argv, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		found = append(found, Record{
			Name: st.comm, PID: pid, StartTime: st.startTime,
			Argv: strings.Split(strings.TrimSuffix(string(argv), "\x00"), "\x00"),
		})
	}
	return found, nil
}

type stat struct {
	comm      string
	state     byte
	startTime uint64
}

// readStat reads /proc/PID/stat, whose second field is a name in parentheses
// that may itself hold spaces and parentheses (proc_pid_stat(5)).
func readStat(pid int) (stat, error) {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return stat{}, err
	}
	return parseStat(string(raw))
}

func parseStat(s string) (stat, error) {
	open, end := strings.IndexByte(s, '('), strings.LastIndexByte(s, ')')
	if open < 0 || end < open {
		return stat{}, fmt.Errorf("process status without a name: %q", s)
	}
	// After the name come field 3, the state, and onwards; the start time is field 22.
	fields := strings.Fields(s[end+1:])
	if len(fields) < 20 {
		return stat{}, fmt.Errorf("process status with %d fields", len(fields))
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("process start time: %w", err)
	}
	return stat{comm: s[open+1 : end], state: fields[0][0], startTime: start}, nil
}
