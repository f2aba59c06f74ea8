package process

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	const tail = " S 1 10 10 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 3000 200"
	for name, tt := range map[string]struct {
		in   string
		want stat
		bad  bool
	}{
		"plain":       {in: "10 (bird)" + tail, want: stat{"bird", 'S', 4711}},
		"parentheses": {in: "10 (a) (b c)" + tail, want: stat{"a) (b c", 'S', 4711}},
		"no name":     {in: "10 bird" + tail, bad: true},
		"cut short":   {in: "10 (bird) S 1 2", bad: true},
		"empty":       {in: "", bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseStat(tt.in)
			if (err != nil) != tt.bad || got != tt.want {
				t.Errorf("parseStat = %+v, %v; want %+v, error %t", got, err, tt.want, tt.bad)
			}
		})
	}
}

func TestStopEndsOnlyTheRecordedProcess(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	g := Open(t.TempDir())
	if err := g.Start(Spec{Name: "sleeper", Path: "/bin/sleep", Args: []string{"600"}}); err != nil {
		t.Fatal(err)
	}
	r, err := g.Get("sleeper")
	if err != nil || !r.Alive() {
		t.Fatalf("record %+v, %v: want a living process", r, err)
	}
	if err := g.Start(Spec{Name: "sleeper", Path: "/bin/sleep", Args: []string{"600"}}); err == nil {
		t.Error("a second start of a running process succeeded")
	}
	// The same process id with another start time is somebody else.
	other := r
	other.StartTime++
	if other.Alive() {
		t.Error("a process with another start time counts as the recorded one")
	}
	if err := other.Signal(syscall.SIGKILL); err != nil || !r.Alive() {
		t.Errorf("signal to a process that is gone: %v, and the living one alive: %t", err, r.Alive())
	}
	if err := g.Stop(ctx, "sleeper"); err != nil || r.Alive() {
		t.Errorf("stop: %v, alive %t", err, r.Alive())
	}
	if err := g.Stop(ctx, "sleeper"); err != nil {
		t.Errorf("second stop: %v", err)
	}
}

func TestStopAllFindsProcessesWithoutRecord(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	dir := t.TempDir()
	g := Open(dir)
	if err := g.Start(Spec{Name: "stubborn", Path: "/bin/sleep", Args: []string{"600"}}); err != nil {
		t.Fatal(err)
	}
	r, err := g.Get("stubborn")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "pid", "stubborn.json")); err != nil {
		t.Fatal(err)
	}
	ended, err := Open(dir).StopAll(ctx)
	if err != nil || r.Alive() || len(ended) != 1 || ended[0].PID != r.PID {
		t.Errorf("StopAll = %+v, %v; alive %t", ended, err, r.Alive())
	}
}
