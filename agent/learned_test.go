package agent

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/routes"
)

// noteTable writes down what it is told.
type noteTable struct{ notes []string }

func (n *noteTable) Set(c routes.Class, desired []routes.Route) {
	n.notes = append(n.notes, fmt.Sprintf("set %v to", c))
	slices.SortFunc(desired, func(a, b routes.Route) int { return a.Dst.Compare(b.Dst) })
	n.Update(c, desired, nil)
}

// AddPeers implements peerAdder.
func (n *noteTable) AddPeers(peers []netip.Addr) error {
	n.notes = append(n.notes, fmt.Sprint("peers ", peers))
	return nil
}

func (n *noteTable) Update(_ routes.Class, put []routes.Route, remove []netip.Prefix) {
	for _, r := range put {
		line := r.Dst.String()
		for _, h := range r.NextHops {
			line += " via " + h.Gateway.String()
			if h.Link != "" {
				line += " dev " + h.Link
			}
			if h.OnLink {
				line += " onlink"
			}
		}
		n.notes = append(n.notes, line)
	}
	for _, p := range remove {
		n.notes = append(n.notes, "del "+p.String())
	}
}

func (n *noteTable) Synced(c routes.Class) { n.notes = append(n.notes, fmt.Sprintf("synced %d", c)) }

func route(prefix string, node bool, via ...string) bgp.Route {
	r := bgp.Route{Prefix: netip.MustParsePrefix(prefix), FromNode: node}
	for _, v := range via {
		r.NextHops = append(r.NextHops, netip.MustParseAddr(v))
	}
	return r
}

func TestLearnedRoutesGoToTheTable(t *testing.T) {
	var table noteTable
	l := newLearned(&table, &table, slog.New(slog.DiscardHandler))
	l.Learned([]bgp.Route{
		route("172.25.0.192/26", true, "10.211.55.116"),
		route("192.168.200.0/24", false, "10.211.55.1", "10.211.55.2"),
		route("fd00::/122", true, "fe80::1%eth0"),
	}, []netip.Prefix{netip.MustParsePrefix("172.25.9.0/26")})
	l.InSync()
	want := []string{
		"172.25.0.192/26 via 10.211.55.116",
		"192.168.200.0/24 via 10.211.55.1 via 10.211.55.2",
		"fd00::/122 via fe80::1 dev eth0",
		"del 172.25.9.0/26",
		fmt.Sprintf("synced %d", routes.ClassLearned),
	}
	if diff := cmp.Diff(want, table.notes); diff != "" {
		t.Errorf("told the table (-want +got):\n%s", diff)
	}
}

func TestNodesAreKnownByTheirBlocks(t *testing.T) {
	l := newLearned(&noteTable{}, &noteTable{}, slog.New(slog.DiscardHandler))
	gone := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	for i, step := range []struct {
		put    []bgp.Route
		gone   []netip.Prefix
		want   string
		signal bool
	}{
		{put: []bgp.Route{route("172.25.1.0/26", true, "10.0.0.1")}, want: "[10.0.0.1]", signal: true},
		{put: []bgp.Route{route("172.25.2.0/26", true, "10.0.0.1")}, want: "[10.0.0.1]"},
		{put: []bgp.Route{route("192.168.1.0/24", false, "10.0.0.9")}, want: "[10.0.0.1]"},
		{gone: gone("172.25.1.0/26"), want: "[10.0.0.1]"},
		{put: []bgp.Route{route("172.25.2.0/26", true, "10.0.0.2")}, want: "[10.0.0.2]", signal: true},
		{put: []bgp.Route{route("172.25.2.0/26", false, "10.0.0.2")}, want: "[]", signal: true},
		{put: []bgp.Route{route("172.25.2.0/26", true, "10.0.0.2")}, want: "[10.0.0.2]", signal: true},
		{gone: gone("172.25.2.0/26"), want: "[]", signal: true},
		{gone: gone("172.25.2.0/26"), want: "[]"},
		{gone: gone("192.168.1.0/24"), want: "[]"},
	} {
		l.Learned(step.put, step.gone)
		l.settle()
		if got := fmt.Sprint(l.nodeAddresses()); got != step.want {
			t.Errorf("step %d: nodes %s, want %s", i, got, step.want)
		}
		if got := len(l.changed) == 1; got != step.signal {
			t.Errorf("step %d: signalled %v, want %v", i, got, step.signal)
		}
		for len(l.changed) > 0 {
			<-l.changed
		}
	}
	if !slices.Equal(l.nodeAddresses(), []netip.Addr{}) || len(l.known) != 0 {
		t.Errorf("something is left: %v", l.known)
	}
}

// When all is learned the nodes are complete, too, though it was not quiet yet: what
// they are not among is forgotten from then on.
func TestNodesAreCompleteWhenInSync(t *testing.T) {
	l := newLearned(&noteTable{}, &noteTable{}, slog.New(slog.DiscardHandler))
	l.withNodes(func(_ []netip.Addr, all bool) []netip.Addr {
		if all {
			t.Error("the nodes are said to be all before anything is learned")
		}
		return nil
	})
	l.Learned([]bgp.Route{route("172.25.1.0/26", true, "10.0.0.1")}, nil)
	l.InSync()
	if got := fmt.Sprint(l.nodeAddresses()); !l.complete() || got != "[10.0.0.1]" {
		t.Errorf("complete %v, nodes %s, want [10.0.0.1]", l.complete(), got)
	}
	l.withNodes(func(nodes []netip.Addr, all bool) []netip.Addr {
		if !all || len(nodes) != 1 {
			t.Errorf("nodes %v, all of them: %v", nodes, all)
		}
		return nodes
	})
}

// TestNodesAreToldWhenItIsQuiet has a table come in over three seconds: the
// routes go on at once, the set of nodes is told of twice.
func TestNodesAreToldWhenItIsQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var table noteTable
		l := newLearned(&table, &table, slog.New(slog.DiscardHandler))
		told := []time.Duration{}
		begin := time.Now()
		for i := range 60 {
			l.Learned([]bgp.Route{route(fmt.Sprintf("172.25.%d.0/26", i), true, fmt.Sprintf("10.0.0.%d", i+1))}, nil)
			if len(table.notes) != i+1 {
				t.Fatalf("after route %d the table has been told of %d", i+1, len(table.notes))
			}
			deadline := time.After(50 * time.Millisecond)
			select {
			case <-l.changed:
				told = append(told, time.Since(begin))
				<-deadline
			case <-deadline:
			}
		}
		<-l.changed
		told = append(told, time.Since(begin))
		want := []time.Duration{atMost, 59*50*time.Millisecond + quiet}
		if !slices.Equal(told, want) || len(l.nodeAddresses()) != 60 {
			t.Errorf("told at %v, want %v; %d nodes", told, want, len(l.nodeAddresses()))
		}
	})
}

// Of blocks whose node is gone nothing is said before all is learned: a restarted
// agent must not take what it has not heard yet for what nobody announces.
func TestDepartedBlocks(t *testing.T) {
	var table noteTable
	l := newLearned(&table, &table, slog.New(slog.DiscardHandler))
	asked := []netip.Prefix{netip.MustParsePrefix("172.25.0.0/26"), netip.MustParsePrefix("172.25.0.64/26")}
	l.Learned([]bgp.Route{route("172.25.0.0/26", true, "10.0.0.1"), route("172.25.0.64/27", false, "10.0.0.1")}, nil)
	if got := l.departed(asked, nil); got != nil {
		t.Errorf("before everything is learned: %v, want nothing", got)
	}
	l.InSync()
	want := []v1alpha1.DepartedBlock{{CIDR: "172.25.0.0/26", Announced: true}, {CIDR: "172.25.0.64/26"}}
	if diff := cmp.Diff(want, l.departed(asked, nil)); diff != "" {
		t.Errorf("- want, + got:\n%s", diff)
	}
	want[1].Announced = true
	if diff := cmp.Diff(want, l.departed(asked, asked[1:])); diff != "" {
		t.Errorf("with one that routers announce: - want, + got:\n%s", diff)
	}
	l.Learned(nil, asked[:1])
	want[0].Announced, want[1].Announced = false, false
	if diff := cmp.Diff(want, l.departed(asked, nil)); diff != "" {
		t.Errorf("after it was withdrawn: - want, + got:\n%s", diff)
	}
	if got := l.departed(nil, nil); got != nil {
		t.Errorf("not asked: %v, want nothing", got)
	}
}
