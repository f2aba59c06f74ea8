package router

import (
	"context"
	"fmt"
	"regexp"
	"strings"
)

// State is what a router says of a neighbour.
type State struct {
	Established bool
	// Session tells sessions with the neighbour apart: it is another text for each.
	Session string
	// Keeps tells that the neighbour is away and its routes are kept, for it is taken
	// to restart (RFC 4724, section 4.2).
	Keeps bool
	// Restarted tells that the neighbour said at the begin of the session that it has
	// restarted, and that it has gone on forwarding (RFC 4724, section 3).
	Restarted bool
	View      string // the router's own words
}

var (
	birdState = regexp.MustCompile(`BGP state: +(\S+)`)
	// birdRestarted are the neighbour's capabilities; the router's own, which look the
	// same, come before.
	birdRestarted  = regexp.MustCompile(`(?s)Neighbor capabilities.*Graceful restart\n +Restart time: \d+\n +Restart recovery\n +AF supported:[^\n]*\n +AF preserved: +ip`)
	frrConnections = regexp.MustCompile(`Connections established (\d+);`)
)

func (b *bird) Neighbor(ctx context.Context, n Neighbor) (State, error) {
	view, err := b.Show(ctx, "show protocols all "+n.Name)
	if err != nil {
		return State{}, err
	}
	s := State{View: view, Keeps: strings.Contains(view, "Neighbor graceful restart active"), Restarted: birdRestarted.MatchString(view)}
	state := birdState.FindStringSubmatch(view)
	if state == nil {
		return s, fmt.Errorf("birdc of %s says no state of %s: %s", b.Name, n.Name, view)
	}
	s.Established = state[1] == "Established"
	for line := range strings.Lines(view) {
		if f := strings.Fields(line); len(f) > 4 && f[0] == n.Name {
			s.Session = f[4] // since when
		}
	}
	return s, nil
}

func (f *frr) Neighbor(ctx context.Context, n Neighbor) (State, error) {
	view, err := f.Show(ctx, "show bgp neighbors "+n.Address.String())
	if err != nil {
		return State{}, err
	}
	s := State{
		View:        view,
		Established: strings.Contains(view, "BGP state = Established"),
		Keeps:       strings.Contains(view, "remaining time of restart timer"),
		Restarted:   strings.Contains(view, "R bit: True") && strings.Contains(view, "F bit: True"),
	}
	count := frrConnections.FindStringSubmatch(view)
	if count == nil {
		return s, fmt.Errorf("vtysh of %s does not count the sessions with %s: %s", f.Name, n.Name, view)
	}
	s.Session = count[1]
	return s, nil
}
