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
}

// Ping pings an address from inside a machine or pod and returns the shortest
// of the round trips.
func (l *Lab) Ping(ctx context.Context, from string, to netip.Addr) (time.Duration, error) {
	// The first packet also waits for neighbours to be found, hence three.
	out, err := l.RunIn(ctx, from, "ping", "-n", "-q", "-c", "3", "-i", "0.01", "-W", "1", to.String())
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

// Endpoints lists the last pod of each node, and all hosts.
func (l *Lab) Endpoints() []Endpoint {
	var all []Endpoint
	for _, n := range l.Top.Nodes {
		var last Endpoint
		for _, p := range l.Pods() {
			if strings.HasPrefix(p.Name, topology.PodName(n.Name, "")) {
				last = Endpoint{Name: p.Name, Address: p.Address}
			}
		}
		if last.Name != "" {
			all = append(all, last)
		}
	}
	for _, h := range l.Top.Hosts {
		all = append(all, Endpoint{Name: h.Name, Address: h.Address.Addr(), Host: true})
	}
	return all
}

// Matrix is who reaches whom, and how fast.
type Matrix struct {
	Endpoints []Endpoint
	rtt       map[[2]int]time.Duration
	err       map[[2]int]error
}

// PingMatrix lets everybody ping everybody, except the hosts each other: the
// routers do not speak with each other.
func (l *Lab) PingMatrix(ctx context.Context) *Matrix {
	m := &Matrix{Endpoints: l.Endpoints(), rtt: map[[2]int]time.Duration{}, err: map[[2]int]error{}}
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(6)
	for i, from := range m.Endpoints {
		for j, to := range m.Endpoints {
			if !m.wanted(i, j) {
				continue
			}
			g.Go(func() error {
				rtt, err := l.Ping(ctx, from.Name, to.Address)
				mu.Lock()
				defer mu.Unlock()
				m.rtt[[2]int{i, j}], m.err[[2]int{i, j}] = rtt, err
				return nil
			})
		}
	}
	_ = g.Wait()
	return m
}

func (m *Matrix) wanted(i, j int) bool {
	return i != j && (!m.Endpoints[i].Host || !m.Endpoints[j].Host)
}

// Count returns how many pairs were tried, and how many of them do not reach
// each other.
func (m *Matrix) Count() (tried, failed int) {
	for _, err := range m.err {
		if err != nil {
			failed++
		}
	}
	return len(m.err), failed
}

// Err tells who does not reach whom.
func (m *Matrix) Err() error {
	var errs []error
	for i, from := range m.Endpoints {
		for j, to := range m.Endpoints {
			if err := m.err[[2]int{i, j}]; err != nil {
				errs = append(errs, fmt.Errorf("%s does not reach %s (%s): %w", from.Name, to.Name, to.Address, err))
			}
		}
	}
	return errors.Join(errs...)
}

// String is the matrix as a table, times in milliseconds.
func (m *Matrix) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprint(w, "from \\ to")
	for _, e := range m.Endpoints {
		_, _ = fmt.Fprintf(w, "\t%s", e.Name)
	}
	_, _ = fmt.Fprint(w, "\n")
	for _, e := range m.Endpoints {
		_, _ = fmt.Fprintf(w, "\t%s", e.Address)
	}
	_, _ = fmt.Fprint(w, "\n")
	for i, e := range m.Endpoints {
		_, _ = fmt.Fprint(w, e.Name)
		for j := range m.Endpoints {
			_, _ = fmt.Fprintf(w, "\t%s", m.cell(i, j))
		}
		_, _ = fmt.Fprint(w, "\n")
	}
	_ = w.Flush()
	return b.String()
}

func (m *Matrix) cell(i, j int) string {
	switch {
	case !m.wanted(i, j):
		return "–"
	case m.err[[2]int{i, j}] != nil:
		return "✗"
	}
	return fmt.Sprintf("✓ %.2f ms", m.rtt[[2]int{i, j}].Seconds()*1000)
}
