package e2e

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/routewatch"
	"github.com/godwit-net/godwit/e2e/traffic"
)

// volleyPace is how many datagrams each flow of a volley sends in a second.
const volleyPace = 1000

// volleyFlow is datagrams in one direction.
type volleyFlow struct {
	name, from, to string // the namespaces
	addr           netip.Addr
	towards        bool // to the node that it all is about
}

// volley is flows of datagrams that are counted, and routes that are watched.
type volley struct {
	l       *lab.Lab
	begin   time.Time
	pace    int
	flows   []*traffic.Datagrams
	watches map[string]*routewatch.Watch // by machine
	t       *testing.T
}

func startVolley(t *testing.T, l *lab.Lab, flows []volleyFlow) *volley {
	t.Helper()
	ctx := deadline(t, 20*time.Second)
	v := &volley{t: t, l: l, begin: time.Now(), pace: int(volleyPace / l.Patience), watches: map[string]*routewatch.Watch{}}
	for _, f := range flows {
		d, err := traffic.StartDatagrams(ctx, f.name, f.from, f.to, f.addr, v.pace)
		if err != nil {
			t.Fatal(err)
		}
		v.flows = append(v.flows, d)
	}
	return v
}

// watchAround watches the routes of a node to all others and to the hosts behind
// the routers, and the routes of everyone else to the node's block.
func (v *volley) watchAround(t *testing.T, node string) {
	t.Helper()
	var far, own []netip.Prefix
	for _, n := range v.l.Top.Nodes {
		if n.Name == node {
			own = n.Block.Each()
		} else {
			far = append(far, n.Block.Each()...)
		}
	}
	for _, h := range v.l.Top.Hosts {
		far = append(far, h.Address.Networks()...)
	}
	v.watch(t, node, far)
	for _, n := range v.l.Top.Nodes {
		if n.Name != node {
			v.watch(t, n.Name, own)
		}
	}
	for _, r := range v.l.Top.ToRs {
		v.watch(t, r.Name, own)
	}
}

func (v *volley) watch(t *testing.T, machine string, dsts []netip.Prefix) {
	t.Helper()
	w, err := routewatch.Start(v.l.Top.Namespace(machine), dsts)
	if err != nil {
		t.Fatal(err)
	}
	v.watches[machine] = w
}

// outcome is what became of a flow.
type outcome struct {
	traffic.Count
	name string
	err  error
	at   []time.Duration // when the first that were lost were sent, since the begin
}

// missed is how many datagrams did not arrive or could not even be sent.
func (o outcome) missed() int { return len(o.Lost) + o.Refused }

// outcomes are those of all flows.
type outcomes []outcome

// stop ends the volley and shows the figures. Routes that are watched must have
// been there all the time.
func (v *volley) stop() outcomes {
	v.t.Helper()
	all := make(outcomes, len(v.flows))
	var wg sync.WaitGroup
	for i, d := range v.flows {
		wg.Go(func() {
			all[i].name = d.Name
			all[i].Count, all[i].err = d.Stop()
		})
	}
	wg.Wait()
	for i := range all {
		o := &all[i]
		for _, n := range o.Lost[:min(len(o.Lost), few)] {
			o.at = append(o.at, time.Duration(n)*time.Second/time.Duration(v.pace)) // #nosec G115 -- a count
		}
		v.t.Logf("%-16s %6d sent, %d lost, %d refused, longest gap %v", o.name, o.Sent, len(o.Lost), o.Refused, o.Longest.Round(time.Millisecond))
	}
	for machine, w := range v.watches {
		missing, asked, err := w.Stop()
		if err != nil || len(missing) > 0 || asked == 0 {
			v.t.Errorf("routes of %s were missing %d times, of %d asked: %v, %v", machine, len(missing), asked, err, missing[:min(len(missing), few)])
			continue
		}
		v.t.Logf("no route of %s was missing, of %d times asked", machine, asked)
	}
	v.t.Logf("the volley began at %s", v.begin.Format("15:04:05.000"))
	return all
}

// lossless fails the test for everything that was lost.
func (all outcomes) lossless(t *testing.T) {
	t.Helper()
	for _, o := range all {
		if o.err != nil || o.missed() > 0 || o.Sent == 0 {
			t.Errorf("%s: of %d datagrams %d were lost and %d refused: %v; lost after %v", o.name, o.Sent, len(o.Lost), o.Refused, o.err, o.at)
		}
	}
}
