package cluster

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"testing"
	"time"

	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/e2e/podtest"
)

// traffic is what a pod sends to others while something else goes on.
type traffic struct {
	from  pod
	cmd   *exec.Cmd
	stdin io.Closer
	out   *bufio.Reader
	err   bytes.Buffer
}

// send has a pod send by a way of podtest to the echo of each address until stop
// is called. It returns when the pod has begun.
func (c *Cluster) send(t *testing.T, from pod, way string, addresses ...string) *traffic {
	t.Helper()
	kubectl, err := c.Program("kubectl")
	must(t, err)
	args := append([]string{"--kubeconfig=" + c.Kubeconfig(), "exec", "-i", from.name, "--", "/bin/podtest", way}, addresses...)
	f := &traffic{from: from, cmd: exec.CommandContext(t.Context(), kubectl, args...)} // #nosec G204 -- the test's own words
	f.cmd.Stderr = &f.err
	f.stdin, err = f.cmd.StdinPipe()
	must(t, err)
	out, err := f.cmd.StdoutPipe()
	must(t, err)
	f.out = bufio.NewReader(out)
	must(t, namespace.Do(c.CP.Netns, f.cmd.Start))
	if line, err := f.out.ReadString('\n'); err != nil || line != "sending\n" {
		t.Fatalf("traffic from the pod on %s does not begin: %q (%v): %s", from.node, line, errors.Join(err, f.cmd.Wait()), f.err.String())
	}
	return f
}

// stop ends what is sent and returns what became of it.
func (f *traffic) stop(t *testing.T) podtest.Report {
	t.Helper()
	must(t, f.stdin.Close())
	out, err := io.ReadAll(f.out)
	if err := errors.Join(err, f.cmd.Wait()); err != nil {
		t.Fatalf("traffic from the pod on %s: %v: %s%s", f.from.node, err, f.err.String(), out)
	}
	var r podtest.Report
	must(t, json.Unmarshal(out, &r))
	return r
}

// allPairs has each pod send datagrams to all the others, 1000 a second to each.
// The function that it returns ends that, and holds that none was lost and that
// this was shown for a time.
func (c *Cluster) allPairs(t *testing.T, pods ...pod) (check func(atLeast time.Duration)) {
	t.Helper()
	var all []*traffic
	for _, from := range pods {
		var to []string
		for _, p := range pods {
			if p != from {
				to = append(to, p.echo())
			}
		}
		all = append(all, c.send(t, from, "flow", to...))
	}
	return func(atLeast time.Duration) {
		t.Helper()
		sent, lost, overflows, pairs := 0, 0, 0, 0
		var pause time.Duration
		for _, f := range all {
			r := f.stop(t)
			overflows += r.Overflows
			for _, w := range r.Flows {
				pairs++
				sent, lost, pause = sent+w.Sent, lost+w.Sent-w.Received, max(pause, w.Pause)
				if w.Sent != w.Received {
					t.Logf("%s → %s: %d of %d lost: %v", f.from.node, w.To, w.Sent-w.Received, w.Sent, w.Gaps)
				}
				if w.Lasted < atLeast || w.Sent < 900*int(w.Lasted.Seconds()) {
					t.Errorf("%s → %s: only %d datagrams in %s: the test shows too little", f.from.node, w.To, w.Sent, w.Lasted)
				}
			}
		}
		t.Logf("on %d pairs %d datagrams, %d lost, of which %d arrived but were taken too late; the longest pause %s",
			pairs, sent, lost, overflows, pause.Round(time.Millisecond))
		if lost > overflows {
			t.Errorf("%d datagrams of %d were lost in the network", lost-overflows, sent)
		}
	}
}

// echo is where a pod echoes.
func (p pod) echo() string { return fmt.Sprint(p.address, ":", podtest.EchoPort) }

// checkStreams ends TCP streams and holds that all that was sent came back.
func checkStreams(t *testing.T, atLeast time.Duration, streams ...*traffic) {
	t.Helper()
	for _, s := range streams {
		for _, f := range s.stop(t).Flows {
			t.Logf("stream %s → %s: %d messages there and back in %.0f s, the longest pause %s",
				s.from.node, f.To, f.Received, f.Lasted.Seconds(), f.Pause.Round(time.Millisecond))
			if f.Sent != f.Received || f.Lasted < atLeast {
				t.Errorf("stream %s → %s: of %d messages %d came back, in %s of at least %s", s.from.node, f.To, f.Sent, f.Received, f.Lasted, atLeast)
			}
		}
	}
}
