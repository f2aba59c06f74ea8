package e2e

import (
	"testing"
	"time"

	"github.com/godwit-net/godwit/e2e/lab"
)

// testEncapRestart kills an agent whose node sends packets through tunnels, and
// starts it again. The tunnels know of some nodes only by what the agent learns, as
// of the IPv6 addresses of nodes with which it speaks over IPv4: until it has
// learned them again they must not be forgotten.
func testEncapRestart(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, 2*time.Minute)
	n1 := l.Top.Nodes[0]
	var flows []volleyFlow
	for _, f := range l.Options.Family.Each() {
		from, back := podOf(t, l, n1, 1, f)
		for _, n := range l.Top.Nodes[1:] {
			to, addr := podOf(t, l, n, 1, f)
			flows = append(flows,
				volleyFlow{name: from + " to " + to + " by " + string(f), from: l.Top.Namespace(from), to: l.Top.Namespace(to), addr: addr},
				volleyFlow{name: to + " to " + from + " by " + string(f), from: l.Top.Namespace(to), to: l.Top.Namespace(from), addr: back})
		}
	}
	v := startVolley(t, l, flows)
	if err := l.Group.Kill(ctx, lab.AgentProcess(n1.Name)); err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	if err := l.StartAgent(ctx, n1.Name); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitRestarted(ctx, n1.Name, started); err != nil {
		t.Fatal(err)
	}
	t.Logf("the agent of %s was back after %v", n1.Name, time.Since(started).Round(time.Millisecond))
	v.stop().lossless(t)
}
