// Package agent is one node of Godwit: it takes the node's plan from the
// Kubernetes API and has ipam, bgp, routes, nat and cni carry it out, and it
// reports what is so.
//
// Invariants:
//   - Everything is level-based: each event leads to the same pass, which hands
//     each package the whole of what it is to do. A pass that fails in part is
//     repeated; the rest stands.
//   - The API server may be away. The plan and the blocks are kept in a checkpoint,
//     addresses and routes on the node; nothing on the way of a pod waits for the
//     API unless the node's blocks are used up, or the agent has just started
//     (confirmBlocks).
//   - The end of an agent takes nothing away: routes, addresses and pods stay, and
//     the next agent takes them over.
package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/agent/others"
	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/unnumbered"
	"github.com/godwit-net/godwit/cni"
	"github.com/godwit-net/godwit/cni/wire"
	"github.com/godwit-net/godwit/internal/untiring"
	"github.com/godwit-net/godwit/ipam"
	"github.com/godwit-net/godwit/routes"
	"github.com/godwit-net/godwit/tunnel"
)

// Options are what an agent needs. Node, Namespace, RunDir, StateDir, Version,
// Client, NewSpeaker and Log are required.
type Options struct {
	Node      string // the node's name in the Kubernetes API
	Namespace string // of the Secrets that hold passwords
	RunDir    string // on tmpfs: socket, address records, passwords in use
	StateDir  string // on disk: checkpoint
	CNIConfig string // the file that runtimes read, written when the agent is ready; empty: none
	// CNIPlugins is a folder of CNI plugins to install in CNIBin, the folder where
	// runtimes look for them, before CNIConfig is written; empty: none.
	CNIPlugins, CNIBin string
	Version            string
	// MetricsAddress is where Prometheus metrics are served, as host:port, to whoever
	// asks; empty: nowhere.
	MetricsAddress string
	// HealthAddress is where probes are answered, as host:port; empty: nowhere.
	HealthAddress string

	// Sysctls is where the kernel's network settings can be written, as in a container
	// /proc/sys can't; empty: wire.DefaultSysctls.
	Sysctls string

	Client client.WithWatch
	// APIServer is the address at which the API server is reached, if it is known: no
	// pod may have it.
	APIServer netip.Addr
	// Others looks for what other pod networks have on the node; nil: nobody does.
	Others func() ([]others.Find, error)
	// Events takes events about the node; nil: nobody does.
	Events record.EventRecorder
	// NewSpeaker makes the BGP speaker. restarting tells that routes of an earlier
	// life of the agent are in the kernel.
	NewSpeaker func(sink bgp.Sink, restarting bool) (bgp.Speaker, error)
	// Kernel is the node's kernel, which the agent closes at its end; nil: that of the
	// network namespace in which the process runs.
	Kernel *Kernel
	Log    *slog.Logger
}

// Agent is the agent of one node.
type Agent struct {
	o   Options
	log *slog.Logger

	kernel     *Kernel
	table      RouteTable
	tunnels    TunnelTable
	masquerade MasqueradeTable
	host       Host
	addresses  *ipam.Node
	store      BlockStore
	server     *cni.Server
	speaker    bgp.Speaker
	neighbors  *unnumbered.Finder
	learned    *learned
	underlay   *underlay
	passwords  *passwords
	absence    *absence // of the API server
	remote     *remoteBlocks
	namespaces *namespaces
	restarting bool // routes of an earlier life of the agent are in the kernel

	looping, reporting *pulse
	configured         atomic.Bool // runtimes were told to use Godwit
	noCRDs             atomic.Bool // the API server does not know Godwit's kinds
	around             around

	plans  chan plan         // the newest from the API; holds at most one
	blocks chan []ipam.Block // the node's, as listed in the API

	confirmed chan struct{} // closed when pods may have addresses of the blocks: see confirmBlocks

	rewrite chan struct{} // the API may not have the status that was written; holds at most one

	state nodeState
}

// plan is a plan with the generation and UID of the object that it came in; one of
// the checkpoint has no UID.
type plan struct {
	generation int64
	uid        types.UID
	spec       v1alpha1.NodeNetworkSpec
}

// nodeState is what the loop knows and others read.
type nodeState struct {
	mu          sync.Mutex
	plan        *plan
	desired     desired
	blocksKnown bool
	problems    []error
	observed    int64           // generation of the last plan of which all is done that can be; 0: none yet
	tunnels     []tunnel.Status // of the tunnels that are there
	tunnelErr   error           // what is wrong with them as a whole
	remote      bool            // blocks of other nodes are routed as the API tells

	unfit   error            // what keeps the first pass from being made
	refused []error          // what is wrong with pools: those of the plan that are not used
	lacking map[string]error // pools that give out no addresses, by name, as their tunnel can't be had
}

// choices are the pools that pods may have addresses of.
func (s *nodeState) choices() []poolChoice {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lacking) == 0 {
		return s.desired.choices
	}
	return slices.DeleteFunc(slices.Clone(s.desired.choices), func(c poolChoice) bool { return s.lacking[c.name] != nil })
}

// troubles is what is wrong with pools, for those who get no address.
func (s *nodeState) troubles() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	errs := slices.Clone(s.refused)
	for name, err := range s.lacking {
		errs = append(errs, fmt.Errorf("pool %s: %w", name, err))
	}
	if len(errs) == 0 {
		return nil
	}
	return errors.New(joined(errs))
}

// New opens everything that an agent needs on its node, and takes over what an
// earlier life of it left: addresses, pods and routes.
func New(ctx context.Context, o Options) (*Agent, error) {
	o.Sysctls = cmp.Or(o.Sysctls, wire.DefaultSysctls)
	gone := &absence{}
	// Only the watch of the plan asks while the API server is away; the rest waits for it.
	rest := untiringClient{o.Client, untiring.Options{Away: gone.away}}
	a := &Agent{
		o:          o,
		log:        o.Log,
		neighbors:  unnumbered.New(unnumbered.Options{Log: o.Log.With("part", "unnumbered")}),
		passwords:  newPasswords(rest, o.Namespace, filepath.Join(o.RunDir, "passwords.json"), o.Log.With("part", "passwords")),
		absence:    gone,
		remote:     newRemoteBlocks(rest),
		namespaces: newNamespaces(o.Client, filepath.Join(o.StateDir, "namespaces.json"), o.Log.With("part", "namespaces")),
		store:      BlockStore{Client: o.Client},
		plans:      make(chan plan, 1),
		blocks:     make(chan []ipam.Block, 1),
		confirmed:  make(chan struct{}),
		looping:    newPulse("the agent's loop"),
		reporting:  newPulse("the reporter of the node's status"),
		rewrite:    make(chan struct{}, 1),
		around:     around{look: o.Others},
	}
	a.around.see(time.Now(), a.log)
	for _, dir := range []string{o.RunDir, o.StateDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make the agent's folder: %w", err)
		}
	}
	var err error
	if a.restarting, err = startedBefore(o.RunDir); err != nil {
		return nil, err
	}
	if a.kernel = o.Kernel; a.kernel == nil {
		if a.kernel, err = OpenKernel(o.Log, o.Sysctls); err != nil {
			return nil, err
		}
	}
	a.table, a.tunnels, a.masquerade, a.host = a.kernel.Routes, a.kernel.Tunnels, a.kernel.Masquerade, a.kernel.Host
	a.underlay = newUnderlay(a.host, o.Log.With("part", "underlay"))
	a.learned = newLearned(a.table, a.tunnels, o.Log)
	if a.store.Returned, err = openReturned(filepath.Join(o.StateDir, "returned.json"), o.Log.With("part", "ipam")); err != nil {
		a.log.Warn("can't tell which blocks an earlier agent gave back", "error", err)
	}
	a.addresses, err = ipam.Open(ipam.Options{
		Node:  o.Node,
		Store: a.store,
		Dir:   filepath.Join(o.RunDir, "addresses"),
		Log:   o.Log.With("part", "ipam"),

		Elsewhere: a.learned.announced,
	})
	if err != nil {
		return nil, fmt.Errorf("open the address records: %w", err)
	}
	if a.speaker, err = o.NewSpeaker(a.learned, a.restarting); err != nil {
		return nil, fmt.Errorf("make the BGP speaker: %w", err)
	}
	if err := a.openCNI(ctx); err != nil {
		return nil, err
	}
	return a, nil
}

// openCNI makes the CNI server and takes over the pods that are attached.
func (a *Agent) openCNI(ctx context.Context) error {
	a.server = cni.NewServer(cni.Options{
		Allocator: allocator{a},
		Routes:    podRoutes{a.table},
		Wirer:     a.kernel.Wirer,
		Ready:     a.ready,
		MTU:       a.podMTU,
		Hurry:     a.claimed,
		Log:       a.log.With("part", "cni"),
	})
	attached, err := a.server.Recover(ctx)
	if err != nil {
		return fmt.Errorf("take over the pods that are attached: %w", err)
	}
	var pods []routes.Route
	for _, p := range attached {
		for _, addr := range p.Addresses {
			pods = append(pods, routes.Route{Dst: hostPrefix(addr), Link: p.HostLink})
		}
	}
	a.table.Set(routes.ClassPod, pods)
	a.table.Synced(routes.ClassPod)
	a.log.Info("took over attached pods", "pods", len(attached))
	return nil
}

// Run runs the agent until ctx ends. What is on the node then stays, for the
// next agent.
func (a *Agent) Run(ctx context.Context) error {
	socket := filepath.Join(a.o.RunDir, "cni.sock")
	listener, err := cni.Listen(socket)
	if err != nil {
		return fmt.Errorf("listen for the CNI plugin: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	leave := context.WithoutCancel(ctx)
	g.Go(func() error { return a.table.Run(ctx) })
	g.Go(func() error { return a.tunnels.Run(ctx) })
	g.Go(func() error { a.underlay.watch(ctx); return nil })
	g.Go(func() error { return a.neighbors.Run(ctx) })
	g.Go(func() error { return a.server.Serve(ctx, listener) })
	g.Go(func() error { a.watchPlan(ctx); return nil })
	g.Go(func() error { a.listBlocks(ctx); return nil })
	g.Go(func() error { a.report(ctx); return nil })
	if a.o.MetricsAddress != "" {
		metrics := newRegistry(newCollector(a.measure, time.Now))
		g.Go(func() error { serveMetrics(ctx, a.o.MetricsAddress, metrics, a.log); return nil })
	}
	if a.o.HealthAddress != "" {
		g.Go(func() error { serveHealth(ctx, a.o.HealthAddress, a.healthy, a.serving, a.log); return nil })
	}
	g.Go(func() error {
		defer a.passwords.wait()
		defer a.remote.wait()
		return a.loop(ctx, g, socket)
	})
	err = g.Wait()
	return errors.Join(err, a.stop(leave))
}

func (a *Agent) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	// Peers keep the routes of an agent that will be back, and those of pods that
	// still are there.
	mode := bgp.StopRestart
	a.state.mu.Lock()
	draining := a.state.desired.speaker.Draining
	a.state.mu.Unlock()
	if drained(draining, a.addresses.Blocks()) {
		mode = bgp.StopLeave
	}
	return errors.Join(
		a.speaker.Stop(ctx, mode),
		a.kernel.close(),
	)
}

// listBlocks reads the node's blocks from the API once, however long that takes.
func (a *Agent) listBlocks(ctx context.Context) {
	for wait := time.Second; ; wait = min(2*wait, maxBackoff) {
		blocks, err := a.store.ListNode(ctx, a.o.Node)
		if err == nil {
			a.blocks <- blocks // never full: sent once
			return
		}
		a.log.Warn("can't read the node's blocks; trying again", "in", wait, "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// ready reports why no pod can be attached, or nil.
func (a *Agent) ready() error {
	if err := a.informed(); err != nil {
		return err
	}
	a.state.mu.Lock()
	defer a.state.mu.Unlock()
	return a.state.unfit
}

// informed reports what the agent has yet to be told before it can do anything on
// its node, or nil.
func (a *Agent) informed() error {
	a.state.mu.Lock()
	defer a.state.mu.Unlock()
	switch {
	case a.state.plan == nil && a.noCRDs.Load():
		return errNoCRDs
	case a.state.plan == nil:
		return fmt.Errorf("node %s has no plan yet: see that godwit-controller runs and that kubectl get nodenetwork %s shows a plan", a.o.Node, a.o.Node)
	case !a.state.blocksKnown:
		return fmt.Errorf("the blocks of node %s are not known yet: see that the agent reaches the API server", a.o.Node)
	}
	return nil
}

// report writes the node's status, as long as ctx lasts.
func (a *Agent) report(ctx context.Context) {
	w := newStatusWriter(a.o.Client, a.o.Node)
	events, suspects := newTeller(a.o.Events, a.o.Node, a.log), suspicion{}
	agreement := agreement{look: a.local}
	tick := time.NewTicker(statusInterval)
	defer tick.Stop()
	var failed string
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.rewrite:
			w.stale, w.next = true, time.Time{}
		case now := <-tick.C:
			a.reporting.begin()
			finds := a.around.see(now, a.log)
			o, ok := a.observe(ctx)
			if !ok {
				a.reporting.end()
				continue
			}
			o.finds = finds
			if o.unfit == nil {
				o.differ = agreement.differences(ctx, now)
				suspects.weigh(o.sessions, now)
				events.look(o.desired.expected(o.sessions), now)
			}
			wctx, cancel := context.WithTimeout(ctx, writeTime(len(o.sessions)))
			err := w.write(wctx, o, now)
			cancel()
			events.lookConditions(w.seen, now)
			a.reporting.end()
			if text(err) != failed && ctx.Err() == nil {
				if failed = text(err); err != nil {
					a.log.Warn("can't report the node's status; trying on", "error", err)
				}
			}
		}
	}
}

func (a *Agent) observe(ctx context.Context) (*observation, bool) {
	o := &observation{version: a.o.Version, notReady: a.ready()}
	a.state.mu.Lock()
	generation, want, unfit := a.state.observed, a.state.desired.addresses, a.state.unfit
	o.problems = append(o.problems, a.state.problems...)
	o.desired, o.tunnels, o.tunnelErr, o.remote = a.state.desired, a.state.tunnels, a.state.tunnelErr, a.state.remote
	a.state.mu.Unlock()
	// Until a plan was carried out what an earlier life of the agent reported stands:
	// the controller must not take the node for one that has no routes yet.
	if generation == 0 && unfit == nil {
		return nil, false
	}
	if unfit != nil {
		// Of a node on which nothing was begun there is only that to be said.
		return &observation{version: a.o.Version, unfit: unfit}, true
	}
	o.generation = generation
	o.mtu = a.poolMTU(&o.desired)
	var err error
	if o.addresses, err = a.host.Addresses(want); err != nil {
		o.problems = append(o.problems, err)
	}
	if len(o.addresses) < len(want) {
		o.problems = append(o.problems, fmt.Errorf("not all of the node's addresses %v are on its interfaces", want))
	}
	if o.sessions, err = a.sessions(ctx); err != nil {
		o.problems = append(o.problems, err)
	}
	o.blocks, o.routes = a.addresses.Blocks(), a.table.Status()
	if asked := o.desired.departedBlocks; len(asked) > 0 {
		if byRouters, err := a.speaker.Announced(ctx, asked); err != nil {
			o.problems = append(o.problems, err) // and nothing is said of the blocks
		} else {
			o.departed = a.learned.departed(asked, byRouters)
		}
	}
	for _, r := range a.addresses.Records() {
		if !r.Owner.IsNode() {
			o.held = append(o.held, r.Address)
		}
	}
	o.learned = a.learned.summary()
	return o, true
}

// sessions returns the state of every planned session.
func (a *Agent) sessions(ctx context.Context) ([]bgp.Session, error) {
	sessions, err := a.speaker.Sessions(ctx)
	a.state.mu.Lock()
	peers := a.state.desired.speaker.Peers
	a.state.mu.Unlock()
	return withNeighbors(sessions, peers, a.neighbors.Neighbors()), err
}

// allocator gives pods addresses of the pools that are for them.
type allocator struct{ a *Agent }

func (al allocator) Allocate(ctx context.Context, o ipam.Owner, pod cni.Pod) ([]ipam.Record, error) {
	w, err := readWishes(pod.Annotations)
	if err != nil {
		return nil, err
	}
	if err := al.a.awaitConfirmed(ctx); err != nil {
		return nil, err
	}
	r := ipam.Request{Owner: o, Pod: pod.String(), Addresses: w.addresses}
	if w.byPod || len(w.claims) > 0 {
		if r.Claims, err = al.a.claimsOf(ctx, w, pod); err != nil {
			return nil, err
		}
		r.Holder = holderOfPod(pod)
	}
	r.Pools, err = al.a.choosePools(ctx, w, r.Claims, pod.Namespace)
	if trouble := al.a.state.troubles(); err != nil && trouble != nil {
		return nil, fmt.Errorf("%w; what is wrong with pools: %w", err, trouble)
	}
	if err != nil {
		return nil, err
	}
	return al.a.addresses.Allocate(ctx, r)
}

func (al allocator) Release(_ context.Context, o ipam.Owner) error {
	_, err := al.a.addresses.Release(o)
	return err
}

func (al allocator) Adopt(r ipam.Record) error { return al.a.addresses.Adopt(r) }

func (al allocator) Records() []ipam.Record { return al.a.addresses.Records() }

// podRoutes are the routes of pods in the node's table.
type podRoutes struct{ table RouteTable }

func (p podRoutes) Add(ctx context.Context, addr netip.Addr, link string) error {
	dst := hostPrefix(addr)
	p.table.Update(routes.ClassPod, []routes.Route{{Dst: dst, Link: link}}, nil)
	return p.table.Wait(ctx, dst)
}

func (p podRoutes) Remove(_ context.Context, addr netip.Addr) {
	p.table.Update(routes.ClassPod, nil, []netip.Prefix{hostPrefix(addr)})
}

func hostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
