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
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"github.com/godwit-net/godwit/ipam"
	"github.com/godwit-net/godwit/nat"
	"github.com/godwit-net/godwit/routes"
	"github.com/godwit-net/godwit/tunnel"
)

const (
	passInterval  = 30 * time.Second       // between passes when nothing happens: heals what was changed by hand
	retryInterval = 2 * time.Second        // after a pass with problems
	settleWait    = 200 * time.Millisecond // after a pass whose routes are not all in the kernel yet
	passwordWait  = 5 * time.Second        // how long the first pass waits for passwords
)

// loop makes a pass at every event, until ctx ends.
func (a *Agent) loop(ctx context.Context, g *errgroup.Group, socket string) error {
	w := worker{Agent: a, group: g, socket: socket, began: time.Now(), plugins: pluginFolder{stateDir: a.o.StateDir}, versions: pluginVersions{log: a.log}}
	if err := w.loadCheckpoint(ctx); err != nil {
		a.log.Warn("starting from the API alone", "error", err)
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		// Which addresses are in use matters to what a drained node announces alone.
		var used <-chan struct{}
		if w.drain.on {
			used = a.addresses.Changed()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-used:
		case p := <-a.plans:
			w.take(ctx, p)
		case blocks := <-a.blocks:
			w.takeBlocks(blocks)
		case <-a.addresses.BlocksChanged():
		case <-a.passwords.changed:
		case <-a.learned.changed:
		case <-a.underlay.changed:
		case <-a.neighbors.Changed():
		case <-a.tunnels.Changed():
		case <-a.remote.changed:
		case <-timer.C:
		}
		a.looping.begin()
		wait := w.pass(ctx)
		a.looping.end()
		timer.Reset(wait)
	}
}

// worker is the loop's own state.
type worker struct {
	*Agent
	group                  *errgroup.Group
	socket                 string
	began                  time.Time
	cleared                bool            // the node was found fit for the first pass
	passed                 bool            // a pass was made
	marked                 bool            // the next agent is told that one ran before
	claims                 bool            // ipam runs
	routed                 []netip.Prefix  // own blocks, as last given to the route table
	devices                []tunnel.Device // as last asked for
	remotely, remoteSynced bool            // the remote class is in use; it was said to be complete
	saved                  checkpoint
	pools                  []ipam.Pool // as last given to ipam
	plugins                pluginFolder
	versions               pluginVersions
	drain                  drain
	problem                []error // of the plan itself
	told                   string  // problems as last logged
	uid                    types.UID
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
	spec, refused := w.refuse(&p.spec)
	d, problems := translate(&spec)
	w.problem = slices.Concat(refused, problems)
	w.state.mu.Lock()
	w.state.plan, w.state.desired, w.state.refused = &p, d, refused
	w.state.mu.Unlock()
	if !w.passed {
		for _, err := range refused {
			w.log.Warn("something is wrong with the plan", "error", err)
		}
	}
	// Before the first pass no block is claimed; after it, one of a pool with a tunnel
	// must wait until it is known that there can be such a tunnel.
	var wait map[string]bool
	if w.passed {
		w.state.mu.Lock()
		wait = untried(&d, w.state.tunnels)
		w.state.mu.Unlock()
	}
	w.setPools(&d, wait)
	if w.uid != "" && p.uid != w.uid {
		// The node was taken for gone: its blocks may be others' by now.
		w.log.Warn("the plan of this node was deleted and made anew: making sure whose its blocks are")
		w.addresses.Recheck()
		signal(w.rewrite) // the new object has no status
	}
	w.uid = p.uid
	names := map[string]bool{}
	for _, ref := range d.passwords {
		names[ref.Name] = true
	}
	w.passwords.want(ctx, names)
	w.neighbors.Set(d.interfaces())
}

func (w *worker) takeBlocks(blocks []ipam.Block) {
	w.addresses.SetBlocks(blocks)
	w.state.mu.Lock()
	w.state.blocksKnown = true
	w.state.mu.Unlock()
}

// pass carries the plan out and returns how long to wait for the next pass if
// nothing happens. Without a plan and the node's blocks it does nothing:
// announcing some of the blocks would withdraw the others.
func (w *worker) pass(ctx context.Context) time.Duration {
	if w.informed() != nil {
		return passInterval
	}
	if !w.cleared {
		if !w.fit() {
			return retryInterval
		}
		w.cleared = true
		w.group.Go(func() error { w.confirmBlocks(ctx); return nil })
	}
	// The speaker tells the peers of its first configuration that it restarts and
	// still forwards; those with passwords, and those on links, must be among them.
	if !w.passed && w.passwords.pending() && time.Since(w.began) < passwordWait {
		return retryInterval
	}
	if !w.passed && w.restarting && missesNeighbor(w.neighbors.Neighbors()) && time.Since(w.began) < neighborWait {
		return settleWait
	}
	w.passed = true
	w.state.mu.Lock()
	p, d := *w.state.plan, w.state.desired
	w.state.mu.Unlock()
	blocks := w.addresses.Blocks()

	problems := slices.Clone(w.problem)
	if !w.marked {
		err := markStarted(w.o.RunDir)
		if w.marked = err == nil; !w.marked {
			problems = append(problems, err)
		}
	}
	if err := forwarding(w.host, &d); err != nil {
		problems = append(problems, err)
	}
	encapsulated, troubles := w.encapsulate(ctx, &d, blocks)
	problems = append(problems, troubles...)
	w.withhold(&d)
	if !w.claims {
		w.claims = true
		w.group.Go(func() error { return w.addresses.Run(ctx) })
	}
	w.routeRemote(ctx, &d)
	announce, more := w.drain.advertised(d.speaker.Draining, blocks, time.Now())
	problems = append(problems, w.speak(ctx, d, announce)...)
	w.routeBlocks(&d, blocks)
	if err := w.masquerade.Set(ctx, w.natRules(&d)); err != nil {
		problems = append(problems, fmt.Errorf("masquerade: %w", err))
	}
	if err := w.save(p, blocks); err != nil {
		problems = append(problems, err)
	}
	if err := w.installCNI(ctx); err != nil {
		problems = append(problems, err)
	}

	// The controller goes on with a change when all nodes have observed its step: only
	// then does no packet go any more as it went before.
	settled := w.table.Status().Pending == 0
	if settled {
		w.dropTunnels(ctx, &d)
	}
	w.state.mu.Lock()
	w.state.problems = problems
	w.state.remote = w.remotely
	if settled && encapsulated {
		w.state.observed = p.generation
	}
	failing := len(problems) > 0 || w.state.tunnelErr != nil
	w.state.mu.Unlock()
	if now := joined(problems); now != w.told {
		if w.told = now; now != "" {
			w.log.Warn("the plan is not carried out in full", "problems", now)
		} else {
			w.log.Info("the plan is carried out in full")
		}
	}
	wait := passInterval
	switch {
	case failing:
		wait = retryInterval
	case !settled:
		wait = settleWait
	}
	if more > 0 {
		wait = min(wait, more)
	}
	return wait
}

// fit looks, before the first pass on a node that took no pods yet, whether all of
// it can be done, and tells what is wrong if not. Where pods were taken before, what
// works goes on, and what is wrong is a problem of the pass: the runtime goes on
// calling the plugin, and its pods need their routes.
func (w *worker) fit() bool {
	var err error
	if !w.restarting && !w.worked() {
		err = preflight(&w.o)
	}
	w.state.mu.Lock()
	was := w.state.unfit
	w.state.unfit = err
	w.state.mu.Unlock()
	if err != nil && text(err) != text(was) {
		w.log.Error("the node can't take pods, so nothing is set up on it; trying on", "error", err)
	}
	return err == nil
}

// worked tells whether the node took pods before, even if it has booted since: there
// was a checkpoint, and the runtime still has its configuration.
func (w *worker) worked() bool {
	if w.saved.Node == "" {
		return false
	}
	if w.o.CNIConfig == "" {
		return true
	}
	_, err := os.Stat(w.o.CNIConfig)
	return err == nil
}

// speak makes the speaker do its part. A peer whose password can't be had is
// left out, so that its session ends or does not begin.
func (w *worker) speak(ctx context.Context, d desired, announce []netip.Prefix) []error {
	c := d.speaker
	c.Peers, c.Advertise, c.Barred = nil, announce, slices.Clone(c.Barred)
	var problems []error
	neighbors := w.neighbors.Neighbors()
	for _, peer := range d.speaker.Peers {
		ref, secret := d.passwords[peer.Address]
		if !locate(&peer, neighbors) {
			continue // its session's message says why
		}
		if secret {
			password, err := w.passwords.get(ref)
			if err != nil {
				problems = append(problems, fmt.Errorf("session %s: %w", peer.Name, err))
				c.Barred = append(c.Barred, peer.Address)
				continue
			}
			peer.Password = password
		}
		c.Peers = append(c.Peers, peer)
	}
	// A node that does not know all others yet would draw their pods' packets to itself
	// only to drop them.
	if w.learned.complete() {
		c.Aggregates = aggregatesOf(&d, announce)
	}
	if err := w.speaker.Set(ctx, c); err != nil && ctx.Err() == nil {
		problems = append(problems, fmt.Errorf("BGP: %w", err))
	}
	return problems
}

// aggregatesOf are the aggregates of the plan with one of a node's blocks inside.
func aggregatesOf(d *desired, blocks []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range d.aggregates {
		if slices.ContainsFunc(blocks, func(b netip.Prefix) bool { return a.Bits() < b.Bits() && a.Contains(b.Addr()) }) {
			out = append(out, a)
		}
	}
	return out
}

// routeBlocks gives each own block its blackhole route, so that packets to
// addresses that no pod has don't leave by the default route, and each aggregate,
// so that those to blocks that no node has don't. A block of one address has none:
// it would stand in the way of its pod's own route.
func (w *worker) routeBlocks(d *desired, blocks []ipam.BlockUsage) {
	own := make([]netip.Prefix, len(blocks))
	for i, b := range blocks {
		own[i] = b.CIDR
	}
	want := append(make([]netip.Prefix, 0, len(own)), aggregatesOf(d, own)...)
	for _, b := range own {
		if !b.IsSingleIP() {
			want = append(want, b)
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

// natRules say what leaves under the node's address. Pods reach pools and nodes
// under their own, but for the nodes that answer through a tunnel: their answers
// would come in another way than the pod's packets went out, which strict
// reverse-path filters drop, as may the network between the nodes.
func (w *worker) natRules(d *desired) nat.Rules {
	// Asked for before the nodes are, which may become complete meanwhile.
	r := nat.Rules{Partial: !w.learned.complete(), Masquerade: d.natted, Exempt: slices.Clone(d.ranges)}
	for _, a := range w.nodeAddresses(d, w.learned.nodeAddresses()) {
		r.Nodes = append(r.Nodes, hostPrefix(a))
	}
	for _, a := range d.addresses {
		r.Own = append(r.Own, hostPrefix(a))
	}
	r.Exempt = slices.Concat(r.Exempt, r.Nodes, r.Own)
	for _, p := range d.encapsulated {
		r.Tunnelled = append(r.Tunnelled, p.cidr)
	}
	return r
}

// save keeps the plan and the blocks for a start without the API server. The same
// generation need not be the same plan: an older agent left out fields that it did
// not know, and an etcd that was restored from a snapshot counts once more.
func (w *worker) save(p plan, blocks []ipam.BlockUsage) error {
	now := checkpoint{Version: checkpointVersion, Node: w.o.Node, Generation: p.generation, Plan: p.spec}
	for _, b := range blocks {
		now.Blocks = append(now.Blocks, checkpointBlock{CIDR: b.CIDR, Pool: b.Pool, Holder: b.Holder})
	}
	if now.Generation == w.saved.Generation && slices.Equal(now.Blocks, w.saved.Blocks) && equality.Semantic.DeepEqual(now.Plan, w.saved.Plan) {
		return nil
	}
	if err := now.save(w.o.StateDir); err != nil {
		return err
	}
	w.saved = now
	return nil
}

// installCNI makes the node's runtime use Godwit, now that the agent is ready:
// the plugins first, as the runtime may call them as soon as it sees the
// configuration.
func (w *worker) installCNI(ctx context.Context) error {
	if err := w.nothingToGive(); err != nil {
		return err
	}
	if err := w.plugins.install(w.o.CNIPlugins, w.o.CNIBin); err != nil {
		return err
	}
	if err := w.writeCNIConfig(ctx); err != nil {
		return err
	}
	w.configured.Store(true)
	return nil
}

// writeCNIConfig writes the configuration of the node's runtime, in words that all
// of the node's plugins understand.
func (w *worker) writeCNIConfig(ctx context.Context) error {
	if w.o.CNIConfig == "" {
		return nil
	}
	plugins := chain(w.socket)
	versions, err := w.versions.common(ctx, plugins, w.o.CNIBin)
	if err != nil {
		return err
	}
	want, err := cniConfig(plugins, versions)
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
