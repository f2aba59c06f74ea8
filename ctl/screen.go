package ctl

import (
	"fmt"
	"io"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

// maxRows is how long a table may be before it shows only what is not in order.
const maxRows = 60

// screen prints a report for a person.
type screen struct {
	out   io.Writer
	color bool
	now   time.Time
	all   bool // rows of long tables
	wide  bool

	err error // the first of writing
}

func (s screen) print(r Report) error {
	s.nodes(r)
	s.sessions(r.Sessions)
	s.blocks(r)
	s.pools(r.Pools)
	s.claims(r.Claims)
	s.tunnels(r.Tunnels)
	s.problems(r.Problems)
	return s.err
}

// section prints a heading and a table, if it has rows.
func (s *screen) section(title, summary string, ok bool, t table) {
	mark := state(ok, "●")
	s.printf("%s %s  %s\n", mark.render(s.color), cell{title, bold}.render(s.color), summary)
	if s.err == nil && len(t.rows) > 0 {
		s.err = t.write(s.out, s.color)
	}
	s.printf("\n")
}

func (s *screen) printf(format string, args ...any) {
	if s.err == nil {
		_, s.err = fmt.Fprintf(s.out, format, args...)
	}
}

func (s *screen) nodes(r Report) {
	t := table{columns: []column{
		{title: "NAME"},
		{title: "ADDRESS"},
		{title: "ASN", number: true},
		{title: "ROUTER-ID", optional: true},
		{title: "SESSIONS", number: true},
		{title: "BLOCKS", number: true},
		{title: "PODS", number: true},
		{title: "ROUTES", number: true},
		{title: "MTU", number: true, optional: true},
		{title: "STATUS"},
		{title: "AGENT"},
		{title: "AGE", number: true},
	}}
	ready, pods := 0, 0
	for _, n := range r.Nodes {
		status := state(n.Ready, n.Reason)
		if n.Ready {
			ready++
			status.text = "Ready"
		}
		pods += n.Pods
		id := ""
		if s.wide {
			id = n.RouterID
		}
		mtu := ""
		if s.wide || len(r.Tunnels) > 0 {
			mtu = number(int64(n.MTU))
		}
		t.add(
			text(n.Name), text(orDash(strings.Join(n.Addresses, ","))), text(orDash(number(n.ASN))), text(id),
			state(n.Established == n.Sessions, fmt.Sprintf("%d/%d", n.Established, n.Sessions)),
			text(n.Blocks), text(n.Pods), text(n.Routes), text(mtu), status, text(orDash(n.AgentVersion)), text(s.age(n.Created)),
		)
	}
	s.section("Nodes", fmt.Sprintf("%d of %d ready, %d pods", ready, len(r.Nodes), pods), ready == len(r.Nodes), t)
}

func (s *screen) blocks(r Report) {
	blocks := r.Blocks
	t := table{columns: []column{
		{title: "CIDR"},
		{title: "POOL"},
		{title: "NODE"},
		{title: "IN USE", number: true},
		{title: "SIZE", number: true},
	}}
	used, total, hidden, ok := int64(0), int64(0), 0, true
	for _, b := range blocks {
		allocated := cell{"?", bad}
		if b.Allocated != nil {
			allocated = text(*b.Allocated)
			used += int64(*b.Allocated)
		}
		ok = ok && b.Allocated != nil
		total += b.Size
		if b.Allocated != nil && !s.all && len(blocks) > maxRows {
			hidden++
			continue
		}
		t.add(text(b.CIDR), text(b.Pool), text(b.Node), allocated, text(b.Size))
	}
	routed, route := s.routedFromAPI(r.Nodes)
	s.section("Blocks", fmt.Sprintf("%d with %d addresses, %d in use%s%s", len(blocks), total, used, route, hint(hidden, "reported ones are")),
		ok && routed, t)
}

// routedFromAPI says on how many nodes blocks are routed as the API tells, if they
// are to be on any, and tells whether all of these do.
func (s *screen) routedFromAPI(nodes []Node) (ok bool, text string) {
	planned, routed := 0, 0
	for _, n := range nodes {
		if n.BlocksFromAPI {
			planned++
			if n.BlocksRouted {
				routed++
			}
		}
	}
	if planned == 0 {
		return true, ""
	}
	return routed == planned, fmt.Sprintf(", routed from the API on %d of %d nodes", routed, planned)
}

func (s *screen) pools(pools []Pool) {
	t := table{columns: []column{
		{title: "NAME"},
		{title: "CIDR"},
		{title: "ENCAP"},
		{title: "NAT"},
		{title: "BLOCKS", number: true},
		{title: "IN USE", number: true},
		{title: "STATUS"},
	}}
	ready, ok := 0, true
	for _, p := range pools {
		status := state(p.Ready, p.Reason)
		switch {
		case p.Ready:
			ready++
			status.text = "Ready"
		case p.Reason == "Disabled":
			status.paint = faint
		default:
			ok = false
		}
		encap := encapsulation(p)
		ok = ok && encap.paint != bad
		nat := "no"
		if p.NATOutgoing {
			nat = "yes"
		}
		t.add(text(p.Name), text(p.CIDR), encap, text(nat), text(orDash(p.Summary)), text(p.Allocated), status)
	}
	s.section("Pools", fmt.Sprintf("%d of %d ready", ready, len(pools)), ok, t)
}

// encapsulation shows what a pool's packets are put into and, while that is
// changed, what they will be.
func encapsulation(p Pool) cell {
	if p.PlannedEncapsulation == "" || p.PlannedEncapsulation == p.Encapsulation {
		return text(p.Encapsulation)
	}
	return cell{p.PlannedEncapsulation + " → " + p.Encapsulation, bad}
}

func (s *screen) problems(problems []Problem) {
	if len(problems) == 0 {
		s.printf("%s %s\n", state(true, "●").render(s.color), "All is well.")
		return
	}
	t := table{columns: []column{{title: "KIND"}, {title: "NAME"}, {title: "REASON"}, {title: "MESSAGE"}}}
	for _, p := range problems {
		t.add(text(p.Kind), text(orDash(p.Name)), cell{p.Reason, bad}, text(p.Message))
	}
	s.section("Problems", fmt.Sprint(len(problems)), false, t)
}

func (s *screen) age(t metav1.Time) string {
	if t.IsZero() {
		return "-"
	}
	return duration.HumanDuration(max(0, s.now.Sub(t.Time)))
}

// hint tells of rows that are not shown.
func hint(hidden int, which string) string {
	if hidden == 0 {
		return ""
	}
	return " (" + which + " not listed: see --all)"
}

func number(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
