package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/godwit-net/godwit/e2e/topology"
)

// Endpoint is somebody who pings and is pinged.
type Endpoint struct {
	Name    string
	Address netip.Addr
	Host    bool // outside of the cluster
	Subnet  int  // index of that of its node or router
}

// Ping pings an address from inside a machine or pod and returns the shortest
// of the round trips.
func (l *Lab) Ping(ctx context.Context, from string, to netip.Addr) (time.Duration, error) {
	// The first packet also waits for neighbours to be found, hence three.
	wait := strconv.FormatFloat(l.Patience.Times(time.Second).Seconds(), 'f', -1, 64)
	out, err := l.RunIn(ctx, from, "ping", "-n", "-q", "-c", "3", "-i", "0.01", "-W", wait, to.String())
	if err != nil {
		return 0, err
	}
	return parsePing(out)
}

// parsePing reads ping's last line: rtt min/avg/max/mdev = 0.036/0.048/0.060/0.010 ms.
func parsePing(out string) (time.Duration, error) {
	m := regexp.MustCompile(`(?m)^rtt min/avg/max/mdev = ([0-9.]+)/`).FindStringSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("ping printed no round-trip times: %q", out)
	}
	ms, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return 0, err
	}
	return time.Duration(ms * float64(time.Millisecond)), nil
}

// Endpoints lists the last pod of each node, and all hosts, with their
// addresses of a family.
func (l *Lab) Endpoints(f topology.Family) []Endpoint {
	var all []Endpoint
	for _, n := range l.Top.Nodes {
		var last Endpoint
		for _, p := range l.Pods() {
			a, ok := p.Of(f == topology.IPv6)
			if ok && strings.HasPrefix(p.Name, topology.PodName(n.Name, "")) {
				last = Endpoint{Name: p.Name, Address: a, Subnet: n.Subnet}
			}
		}
		if last.Name != "" {
			all = append(all, last)
		}
	}
	for _, h := range l.Top.Hosts {
		all = append(all, Endpoint{Name: h.Name, Address: h.Address.Of(f).Addr(), Host: true})
	}
	return all
}

// Matrix is who reaches whom, and how fast, in each family.
type Matrix struct{ tables []*table }

// table is a matrix of one family.
type table struct {
	endpoints []Endpoint
	rtt       map[[2]int]time.Duration
	err       map[[2]int]error
}

// PingMatrix lets everybody ping everybody, except the hosts each other: the
// routers do not speak with each other. Nor does a router speak with nodes of
// another subnet.
func (l *Lab) PingMatrix(ctx context.Context) *Matrix {
	m := &Matrix{}
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(6)
	for _, f := range l.Options.Family.Each() {
		t := &table{endpoints: l.Endpoints(f), rtt: map[[2]int]time.Duration{}, err: map[[2]int]error{}}
		m.tables = append(m.tables, t)
		for i, from := range t.endpoints {
			for j, to := range t.endpoints {
				if !t.wanted(i, j) {
					continue
				}
				g.Go(func() error {
					rtt, err := l.Ping(ctx, from.Name, to.Address)
					mu.Lock()
					defer mu.Unlock()
					t.rtt[[2]int{i, j}], t.err[[2]int{i, j}] = rtt, err
					return nil
				})
			}
		}
	}
	_ = g.Wait()
	return m
}

func (t *table) wanted(i, j int) bool {
	a, b := t.endpoints[i], t.endpoints[j]
	switch {
	case i == j || a.Host && b.Host:
		return false
	case a.Host || b.Host:
		return a.Subnet == b.Subnet // hosts are behind the routers of the first
	}
	return true
}

// Count returns how many pairs were tried, and how many of them do not reach
// each other.
func (m *Matrix) Count() (tried, failed int) {
	for _, t := range m.tables {
		tried += len(t.err)
		for _, err := range t.err {
			if err != nil {
				failed++
			}
		}
	}
	return tried, failed
}

// Err tells who does not reach whom.
func (m *Matrix) Err() error {
	var errs []error
	for _, t := range m.tables {
		for i, from := range t.endpoints {
			for j, to := range t.endpoints {
				if err := t.err[[2]int{i, j}]; err != nil {
					errs = append(errs, fmt.Errorf("%s does not reach %s (%s): %w", from.Name, to.Name, to.Address, err))
				}
			}
		}
	}
	return errors.Join(errs...)
}

// String is the matrix as a table a family, times in milliseconds.
func (m *Matrix) String() string {
	var parts []string
	for _, t := range m.tables {
		parts = append(parts, t.String())
	}
	return strings.Join(parts, "\n")
}

func (t *table) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprint(w, "from \\ to")
	for _, e := range t.endpoints {
		_, _ = fmt.Fprintf(w, "\t%s", e.Name)
	}
	_, _ = fmt.Fprint(w, "\n")
	for _, e := range t.endpoints {
		_, _ = fmt.Fprintf(w, "\t%s", e.Address)
	}
	_, _ = fmt.Fprint(w, "\n")
	for i, e := range t.endpoints {
		_, _ = fmt.Fprint(w, e.Name)
		for j := range t.endpoints {
			_, _ = fmt.Fprintf(w, "\t%s", t.cell(i, j))
		}
		_, _ = fmt.Fprint(w, "\n")
	}
	_ = w.Flush()
	return b.String()
}

func (t *table) cell(i, j int) string {
	switch {
	case !t.wanted(i, j):
		return "–"
	case t.err[[2]int{i, j}] != nil:
		return "✗"
	}
	return fmt.Sprintf("✓ %.2f ms", t.rtt[[2]int{i, j}].Seconds()*1000)
}
