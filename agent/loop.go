package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/godwit-net/godwit/ipam"
	"github.com/godwit-net/godwit/nat"
	"github.com/godwit-net/godwit/routes"
)

const (
	passInterval  = 30 * time.Second // between passes when nothing happens: heals what was changed by hand
	retryInterval = 2 * time.Second  // after a pass with problems
	passwordWait  = 5 * time.Second  // how long the first pass waits for passwords
)

// loop makes a pass at every event, until ctx ends.
func (a *Agent) loop(ctx context.Context, g *errgroup.Group, socket string) error {
	w := worker{Agent: a, group: g, socket: socket, began: time.Now()}
	if err := w.loadCheckpoint(ctx); err != nil {
		a.log.Warn("starting from the API alone", "error", err)
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case p := <-a.plans:
			w.take(ctx, p)
		case blocks := <-a.blocks:
			w.takeBlocks(blocks)
		case <-a.addresses.BlocksChanged():
		case <-a.passwords.changed:
		case <-a.learned.changed:
		case <-timer.C:
		}
		if w.pass(ctx) {
			timer.Reset(passInterval)
		} else {
			timer.Reset(retryInterval)
		}
	}
}

// worker is the loop's own state.
type worker struct {
	*Agent
	group   *errgroup.Group
	socket  string
	began   time.Time
	passed  bool           // a pass was made
	claims  bool           // ipam runs
	routed  []netip.Prefix // own blocks, as last given to the route table
	saved   checkpoint
	problem []error // of the plan itself
	told    string  // problems as last logged
}

func (w *worker) loadCheckpoint(ctx context.Context) error {
	c, err := loadCheckpoint(w.o.StateDir, w.o.Node)
	if err != nil || c == nil {
		return err
	}
	w.log.Info("starting from the checkpoint", "generation", c.Generation, "blocks", len(c.Blocks))
	w.saved = *c
	w.take(ctx, plan{generation: c.Generation, spec: c.Plan})
	w.takeBlocks(c.blocks())
	return nil
}

// take makes p the plan.
func (w *worker) take(ctx context.Context, p plan) {
	d, problems := translate(&p.spec)
	w.problem = problems
	w.state.mu.Lock()
	w.state.plan, w.state.desired = &p, d
	w.state.mu.Unlock()
	w.addresses.SetPools(d.pools)
	names := map[string]bool{}
	for _, ref := range d.passwords {
		names[ref.Name] = true
	}
	w.passwords.want(ctx, names)
}

func (w *worker) takeBlocks(blocks []ipam.Block) {
	w.addresses.SetBlocks(blocks)
	w.state.mu.Lock()
	w.state.blocksKnown = true
	w.state.mu.Unlock()
}

// pass carries the plan out and reports whether it could do so in full. Without
// a plan and the node's blocks it does nothing: announcing some of the blocks
// would withdraw the others.
func (w *worker) pass(ctx context.Context) bool {
	if w.ready() != nil {
		return true
	}
	// The speaker tells the peers of its first configuration that it restarts and
	// still forwards; those with passwords must be among them.
	if !w.passed && w.passwords.pending() && time.Since(w.began) < passwordWait {
		return false
	}
	w.passed = true
	if !w.claims {
		w.claims = true
		w.group.Go(func() error { return w.addresses.Run(ctx) })
	}
	w.state.mu.Lock()
	p, d := *w.state.plan, w.state.desired
	w.state.mu.Unlock()
	blocks := w.addresses.Blocks()

	problems := slices.Clone(w.problem)
	problems = append(problems, w.speak(ctx, d, blocks)...)
	w.routeBlocks(blocks)
	if err := w.masquerade.Set(ctx, nat.Rules{Masquerade: d.natted, Exempt: w.exempt(d)}); err != nil {
		problems = append(problems, fmt.Errorf("masquerade: %w", err))
	}
	if err := w.save(p, blocks); err != nil {
		problems = append(problems, err)
	}
	if err := w.writeCNIConfig(); err != nil {
		problems = append(problems, err)
	}

	w.state.mu.Lock()
	w.state.problems = problems
	w.state.mu.Unlock()
	if now := joined(problems); now != w.told {
		if w.told = now; now != "" {
			w.log.Warn("the plan is not carried out in full", "problems", now)
		} else {
			w.log.Info("the plan is carried out in full")
		}
	}
	return len(problems) == 0
}

// speak makes the speaker do its part. A peer whose password can't be had is
// left out, so that its session ends or does not begin.
func (w *worker) speak(ctx context.Context, d desired, blocks []ipam.BlockUsage) []error {
	c := d.speaker
	c.Peers = nil
	var problems []error
	for _, peer := range d.speaker.Peers {
		if ref, ok := d.passwords[peer.Address]; ok {
			password, err := w.passwords.get(ref)
			if err != nil {
				problems = append(problems, fmt.Errorf("session %s: %w", peer.Name, err))
				continue
			}
			peer.Password = password
		}
		c.Peers = append(c.Peers, peer)
	}
	for _, b := range blocks {
		c.Advertise = append(c.Advertise, b.CIDR)
	}
	if err := w.speaker.Set(ctx, c); err != nil && ctx.Err() == nil {
		problems = append(problems, fmt.Errorf("BGP: %w", err))
	}
	return problems
}

// routeBlocks gives each own block its blackhole route, so that packets to
// addresses that no pod has don't leave by the default route. A block of one
// address has none: it would stand in the way of its pod's own route.
func (w *worker) routeBlocks(blocks []ipam.BlockUsage) {
	want := make([]netip.Prefix, 0, len(blocks))
	for _, b := range blocks {
		if !b.CIDR.IsSingleIP() {
			want = append(want, b.CIDR)
		}
	}
	if w.routed != nil && slices.Equal(want, w.routed) {
		return
	}
	holes := make([]routes.Route, len(want))
	for i, p := range want {
		holes[i] = routes.Route{Dst: p, Blackhole: true}
	}
	w.table.Set(routes.ClassBlock, holes)
	w.table.Synced(routes.ClassBlock)
	w.routed = want
}

// exempt returns the destinations that pods reach under their own address:
// pools and nodes.
func (w *worker) exempt(d desired) []netip.Prefix {
	nodes := slices.Concat(d.addresses, w.learned.nodeAddresses())
	for _, p := range d.speaker.Peers {
		if p.Kind == 0 {
			nodes = append(nodes, p.Address)
		}
	}
	out := slices.Clone(d.ranges)
	for _, a := range sortedUnique(nodes) {
		out = append(out, hostPrefix(a.WithZone("")))
	}
	return out
}

// save keeps the plan and the blocks for a start without the API server.
func (w *worker) save(p plan, blocks []ipam.BlockUsage) error {
	now := checkpoint{Version: checkpointVersion, Node: w.o.Node, Generation: p.generation, Plan: p.spec}
	for _, b := range blocks {
		now.Blocks = append(now.Blocks, checkpointBlock{CIDR: b.CIDR, Pool: b.Pool})
	}
	if now.Generation == w.saved.Generation && slices.Equal(now.Blocks, w.saved.Blocks) {
		return nil
	}
	if err := now.save(w.o.StateDir); err != nil {
		return err
	}
	w.saved = now
	return nil
}

// writeCNIConfig makes the node's runtime use Godwit, now that the agent is ready.
func (w *worker) writeCNIConfig() error {
	if w.o.CNIConfig == "" {
		return nil
	}
	want, err := cniConfig(w.socket)
	if err != nil {
		return err
	}
	have, err := os.ReadFile(w.o.CNIConfig)
	if err == nil && bytes.Equal(have, want) {
		return nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read the CNI configuration: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(w.o.CNIConfig), 0o750); err != nil {
		return fmt.Errorf("make the folder of the CNI configuration: %w", err)
	}
	return writeFile(w.o.CNIConfig, want, 0o600)
}
