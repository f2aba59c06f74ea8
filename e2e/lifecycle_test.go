package e2e

import (
	"bufio"
	"context"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/internal/netnstest"
)

// TestInterruptedUp ends `lab up` in the middle, kindly and with SIGKILL, and
// expects the machine as it was: at once, or after `lab down`.
func TestInterruptedUp(t *testing.T) {
	netnstest.RequireRoot(t)
	for _, tt := range []struct {
		name string
		sig  syscall.Signal
		at   string // the step during which the signal is sent
		down bool   // whether `lab down` is needed
	}{
		{"interrupt while the control plane starts", syscall.SIGINT, "control plane", false},
		{"kill while the control plane starts", syscall.SIGKILL, "control plane", true},
		{"kill while the agents start", syscall.SIGKILL, "agents ready", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx := deadline(t, 2*time.Minute)
			cfg := config(t, "godwit-cut-", "/run/godwit-cut")
			l := open(t, cfg)
			if _, err := l.Down(ctx); err != nil {
				t.Fatal(err)
			}
			before := takeSnapshot(ctx, t, cfg)
			t.Cleanup(func() { _, _ = l.Down(context.WithoutCancel(ctx)) })
			cmd, out := program(ctx, t, l, "up")
			if !waitForText(out, tt.at) {
				t.Fatalf("lab up ended before %q", tt.at)
			}
			if err := cmd.Process.Signal(tt.sig); err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, out)
			if err := cmd.Wait(); err == nil {
				t.Error("an interrupted `lab up` says that all went well")
			}
			if tt.down {
				if !l.IsUp() {
					t.Fatal("nothing was up when the signal came")
				}
				for range 2 { // once more does no harm
					cmd, out := program(ctx, t, l, "down")
					said, _ := io.ReadAll(out)
					if err := cmd.Wait(); err != nil {
						t.Fatalf("lab down: %v: %s", err, said)
					}
				}
			}
			before.compare(t, takeSnapshot(ctx, t, cfg))
		})
	}
}

// program starts the lab program.
func program(ctx context.Context, t *testing.T, l *lab.Lab, verb string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	path, err := l.Program("lab")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, path, verb, "--prefix", l.Prefix, "--dir", l.Dir, "--config", l.ConfigDir,
		"--bin", l.Bin[0], "--kube-bin", l.Bin[1])
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewReader(out)
}

// waitForText reads until a text has come.
func waitForText(r *bufio.Reader, text string) bool {
	var seen strings.Builder
	for {
		b, err := r.ReadByte()
		if err != nil {
			return false
		}
		seen.WriteByte(b)
		if strings.HasSuffix(seen.String(), text) {
			return true
		}
	}
}
