// Package table measures what a table of routes costs a node's agent, as a route
// reflector and as a client: the real agent, with its plan from a checkpoint, in a
// network namespace of its own, with a real kernel. All other speakers are of
// bgp/bgptest/sender, in a namespace across a cable.
//
//	reflector: n clients announce a share of the table each; full when each client
//	           was told what all the others announce
//	client:    three reflectors announce the whole table; full when the kernel has it
package table

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/godwit-net/godwit/bgp/bgptest/sender"
	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/e2e/process"
	"github.com/godwit-net/godwit/e2e/scale/usage"
)

// Options say what is measured.
type Options struct {
	Agent      string // the program
	Routes     int    // of the table
	Clients    int    // of the reflector
	Reflectors int    // of the client
	Patience   time.Duration
	Progress   io.Writer
}

// Report is what an agent took.
type Report struct {
	Part     string        `json:"part"`
	Sessions int           `json:"sessions"`
	Routes   int           `json:"routes"`
	Up       time.Duration `json:"upNanoseconds"`   // until all sessions were established
	Full     time.Duration `json:"fullNanoseconds"` // from the first UPDATE
	Empty    usage.Usage   `json:"empty"`           // with the sessions, before the first UPDATE
	Loaded   usage.Usage   `json:"loaded"`          // when the table is full; CPU since Empty
}

const (
	asn      = 64512
	prefix   = "gwtable-"
	nodeName = "table"
	agent    = "agent"
	// dialling is how many sessions come up at the same time at most.
	dialling = 16
)

func own() netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, 1}) }

// other is the address of a sender.
func other(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
}

// Run measures both parts.
func Run(ctx context.Context, o Options) ([]Report, error) {
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	share := o.Routes / o.Clients
	reflector := part{Options: o, name: "reflector", sessions: o.Clients, told: (o.Clients - 1) * share}
	for i := range o.Clients {
		reflector.announce(i, share)
	}
	client := part{Options: o, name: "client", sessions: o.Reflectors, inKernel: o.Routes}
	whole := sender.Table(o.Routes, o.Clients)
	for range o.Reflectors {
		client.tables = append(client.tables, whole)
	}
	var reports []Report
	for _, p := range []part{reflector, client} {
		r, err := p.run(ctx)
		if err != nil {
			return reports, fmt.Errorf("%s: %w", p.name, err)
		}
		reports = append(reports, r)
	}
	return reports, nil
}

// part is one of the two.
type part struct {
	Options
	name     string
	sessions int
	tables   [][]byte // what each sender sends
	blocks   [][]string
	told     int // prefixes that each sender is to be told; 0: no matter
	inKernel int // routes that the kernel is to have; 0: no matter
}

// announce gives the sender i its share of the table.
func (p *part) announce(i, share int) {
	prefixes := make([]netip.Prefix, share)
	blocks := make([]string, share)
	for k := range share {
		prefixes[k] = sender.TablePrefix(i*share + k)
		blocks[k] = prefixes[k].String()
	}
	p.tables = append(p.tables, append(sender.Update(sender.Route{NextHop: other(i), LocalPref: 100}, prefixes...), sender.EndOfRIB(true)...))
	p.blocks = append(p.blocks, blocks)
}

func (p *part) run(ctx context.Context) (r Report, err error) {
	ctx, cancel := context.WithTimeout(ctx, p.Patience)
	defer cancel()
	r = Report{Part: p.name, Sessions: p.sessions, Routes: p.Routes}
	node, far := prefix+strconv.Itoa(os.Getpid())+"-n", prefix+strconv.Itoa(os.Getpid())+"-s"
	dir, err := os.MkdirTemp("/dev/shm", prefix)
	if err != nil {
		return r, err
	}
	group := process.Open(dir)
	defer func() {
		_, serr := group.StopAll(context.WithoutCancel(ctx))
		err = errors.Join(err, serr, namespace.Delete(node), namespace.Delete(far), os.RemoveAll(dir))
	}()
	if err := p.wire(ctx, node, far); err != nil {
		return r, err
	}
	began := time.Now()
	if err := p.start(group, node, dir); err != nil {
		return r, err
	}
	_, _ = fmt.Fprintf(p.Progress, "%s %s with %d sessions and %d routes\n", time.Now().Format("15:04:05"), p.name, p.sessions, p.Routes)
	sessions, heard, err := p.dial(ctx, far)
	defer func() {
		for _, s := range sessions {
			s.Close()
		}
	}()
	if err != nil {
		return r, err
	}
	r.Up = time.Since(began)
	if r.Empty, err = usage.OfProcess(group, agent); err != nil {
		return r, err
	}
	first := time.Now()
	if err := p.send(sessions); err != nil {
		return r, err
	}
	if err := p.wait(ctx, node, sessions, heard); err != nil {
		return r, err
	}
	r.Full = time.Since(first)
	r.Loaded, err = usage.OfProcess(group, agent)
	r.Loaded.CPU -= r.Empty.CPU
	return r, err
}

// wire makes the namespaces and the cable, with the addresses of all senders.
func (p *part) wire(ctx context.Context, node, far string) error {
	for _, ns := range []string{node, far} {
		if err := namespace.Add(ctx, ns); err != nil {
			return err
		}
	}
	var batch strings.Builder
	for i := range p.sessions {
		fmt.Fprintf(&batch, "addr add %v/8 dev gwt1\n", other(i))
	}
	for _, c := range []struct{ args, stdin string }{
		{args: "-n " + node + " link add gwt0 type veth peer name gwt1 netns " + far},
		{args: "-n " + node + " addr add " + own().String() + "/8 dev gwt0"},
		{args: "-n " + node + " link set gwt0 up"},
		{args: "-n " + far + " -batch -", stdin: batch.String()},
		{args: "-n " + far + " link set gwt1 up"},
	} {
		cmd := exec.CommandContext(ctx, "ip", strings.Fields(c.args)...) // #nosec G204 -- our own words
		cmd.Stdin = strings.NewReader(c.stdin)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", c.args, err, out)
		}
	}
	return nil
}

// dial brings all sessions up. heard counts what each sender is told.
func (p *part) dial(ctx context.Context, far string) ([]*sender.Session, []atomic.Int64, error) {
	heard := make([]atomic.Int64, p.sessions)
	var mu sync.Mutex
	var all []*sender.Session
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(dialling)
	for i := range p.sessions {
		g.Go(func() error {
			seen := map[netip.Prefix]bool{}
			o := sender.Options{Local: other(i), ASN: asn, RouterID: other(i), OnUpdate: func(c sender.Change) {
				for _, announced := range c.Announced {
					seen[announced] = true
				}
				for _, gone := range c.Withdrawn {
					delete(seen, gone)
				}
				heard[i].Store(int64(len(seen)))
			}}
			for {
				var s *sender.Session
				// The agent may not listen yet, or may be calling itself at this moment.
				err := namespace.Do(far, func() (err error) {
					s, err = sender.Dial(ctx, netip.AddrPortFrom(own(), 179), o)
					return err
				})
				if err == nil {
					mu.Lock()
					all = append(all, s)
					mu.Unlock()
					return nil
				}
				select {
				case <-ctx.Done():
					return fmt.Errorf("session %d: %w", i, err)
				case <-time.After(200 * time.Millisecond):
				}
			}
		})
	}
	err := g.Wait()
	slices.SortFunc(all, func(a, b *sender.Session) int { return a.LocalAddr().Compare(b.LocalAddr()) })
	return all, heard, err
}

// send lets all senders send at once.
func (p *part) send(sessions []*sender.Session) error {
	var g errgroup.Group
	for i, s := range sessions {
		g.Go(func() error { return s.Send(p.tables[i]) })
	}
	return g.Wait()
}

// wait waits until the table is full.
func (p *part) wait(ctx context.Context, netns string, sessions []*sender.Session, heard []atomic.Int64) error {
	for {
		lacking := ""
		for i, s := range sessions {
			select {
			case <-s.Done():
				return fmt.Errorf("session %d of %d was lost: %w", i, len(sessions), s.Err())
			default:
			}
		}
		for i := range heard {
			// Its own block is one that the agent tells of, too.
			if got := int(heard[i].Load()); p.told > 0 && got < p.told {
				lacking = fmt.Sprintf("sender %d was told %d prefixes of %d", i, got, p.told)
				break
			}
		}
		if p.inKernel > 0 {
			out, err := namespace.Run(ctx, netns, "ip", "route", "show", "proto", "71", "type", "unicast")
			if err != nil {
				return err
			}
			if got := strings.Count(out, "\n"); got < p.inKernel {
				lacking = fmt.Sprintf("the kernel has %d routes of %d", got, p.inKernel)
			}
		}
		if lacking == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s (%w)", lacking, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
