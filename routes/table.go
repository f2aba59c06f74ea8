package routes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Options are a table's. The zero value is what an agent wants.
type Options struct {
	// Protocol is that of the routes and nexthop objects; 0: Protocol (71). Two
	// tables in one network namespace must have different ones.
	Protocol int
	TableID  int           // the kernel's table; 0: main (254)
	Log      *slog.Logger  // nil: discard
	Resync   time.Duration // how often all is compared with the kernel; 0: 90 s
	// PlainRoutes does without nexthop objects, as on kernels that have none.
	PlainRoutes bool
}

// ErrClosed is what waits for a table that ended get.
var ErrClosed = errors.New("the route table is closed")

const (
	defaultResync = 90 * time.Second
	// batchEntries bounds how long somebody who waits for a route waits for the
	// routes of others.
	batchEntries = 1024
	// resyncPause is the least time between two resyncs; it doubles while
	// they keep being asked for.
	resyncPause = 50 * time.Millisecond
)

// Table keeps the kernel's routes as desired. Its methods may be called from any
// goroutine; Set, Update, Synced and Status don't wait for the kernel.
type Table struct {
	log    *slog.Logger
	resync time.Duration
	plain  bool
	kernel kernel

	queueMu sync.Mutex
	queue   []func(*core) // changes not yet taken up
	behind  int           // changes not yet taken in: those, and those in hand

	mu   sync.Mutex // guards core; not held while the kernel works
	core *core

	runMu   sync.Mutex
	running bool
	closed  bool
	stop    chan struct{} // closed by Close
	ended   chan struct{} // closed when nothing will be done any more

	// Run's own.
	resyncAt   time.Time // the next of the regular resyncs
	resyncASAP bool
	resynced   time.Time
	pause      time.Duration
}

// Open opens a table in the current network namespace of the calling thread.
// Nothing happens until Run.
func Open(o Options) (*Table, error) {
	if o.TableID == 0 {
		o.TableID = unix.RT_TABLE_MAIN
	}
	k, err := openNetlink(o.TableID)
	if err != nil {
		return nil, fmt.Errorf("open the route table: %w", err)
	}
	return newTable(o, k), nil
}

func newTable(o Options, k kernel) *Table {
	if o.Protocol == 0 {
		o.Protocol = Protocol
	}
	if o.TableID == 0 {
		o.TableID = unix.RT_TABLE_MAIN
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Resync == 0 {
		o.Resync = defaultResync
	}
	return &Table{
		log: o.Log, resync: o.Resync, plain: o.PlainRoutes, kernel: k,
		core: newCore(uint8(o.Protocol), uint32(o.TableID), time.Now),
		stop: make(chan struct{}), ended: make(chan struct{}),
		resyncASAP: true,
	}
}

// Set makes desired the whole of a class. A route of the class that is not in it
// is removed. Of several routes to one destination the last counts.
func (t *Table) Set(class Class, desired []Route) {
	rs := canonical(desired)
	t.enqueue(func(c *core) { c.set(class, rs) })
}

// Update changes a class: it adds or replaces the routes in put, and then removes
// those to the destinations in remove. It costs as much as it changes. Calls that
// come while the kernel is busy are worked on together.
func (t *Table) Update(class Class, put []Route, remove []netip.Prefix) {
	rs, gone := canonical(put), slices.Clone(remove)
	t.enqueue(func(c *core) {
		for _, r := range rs {
			c.put(class, r)
		}
		for _, dst := range gone {
			c.remove(class, dst.Masked())
		}
	})
}

// Synced says that the class is complete from now on. When all classes are, routes
// of ours in the kernel that nobody wants are removed.
func (t *Table) Synced(class Class) {
	t.enqueue(func(c *core) { c.synced(class) })
}

// Wait waits until the destinations are in the kernel as desired by all that was
// asked for before the call; a destination that nobody wants, until it is gone. It
// returns at once what was the matter when a destination could not be set; the
// table goes on trying.
func (t *Table) Wait(ctx context.Context, dst ...netip.Prefix) error {
	if len(dst) == 0 {
		return nil
	}
	w := &waiter{left: len(dst), done: make(chan error, 1)}
	t.enqueue(func(c *core) { c.wait(w, dst) })
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait for route %s: %w", dst[0], ctx.Err())
	case <-t.ended:
		return ErrClosed
	}
}

// Status reports the state as of the last thing done.
func (t *Table) Status() Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queueMu.Lock()
	behind := t.behind
	t.queueMu.Unlock()
	c := t.core
	s := Status{
		Desired: map[Class]int{}, Installed: map[Class]int{},
		Pending: behind + len(c.queue) + len(c.urgent) + c.inHand, PlainRoutes: c.plain, Synced: c.allSynced(),
	}
	if !c.plain {
		s.NextHops = len(c.m.objects)
	}
	for _, class := range Classes() {
		s.Desired[class], s.Installed[class] = c.desired[class], c.installed[class]
	}
	for e := range c.failed {
		s.Failed = append(s.Failed, Failure{Dst: e.dst, Err: e.err})
	}
	slices.SortFunc(s.Failed, func(a, b Failure) int { return a.Dst.Compare(b.Dst) })
	return s
}

// Close ends Run, if it runs, and frees the sockets. The kernel's routes stay.
func (t *Table) Close() error {
	t.runMu.Lock()
	if t.closed {
		t.runMu.Unlock()
		return nil
	}
	t.closed = true
	close(t.stop)
	running := t.running
	t.runMu.Unlock()
	if running {
		<-t.ended
	} else {
		t.end()
	}
	return t.kernel.close()
}

func (t *Table) end() {
	select {
	case <-t.ended:
	default:
		close(t.ended)
	}
}

func (t *Table) enqueue(f func(*core)) {
	t.queueMu.Lock()
	t.queue = append(t.queue, f)
	t.behind++
	t.queueMu.Unlock()
	t.kernel.wake()
}

func canonical(rs []Route) []Route {
	out := make([]Route, len(rs))
	for i, r := range rs {
		out[i] = r.canonical()
	}
	return out
}

// Run does all the work, until ctx ends or Close is called, which is no error. It
// can run once; a table that is closed already returns ErrClosed.
func (t *Table) Run(ctx context.Context) error {
	t.runMu.Lock()
	if t.closed {
		t.runMu.Unlock()
		return ErrClosed
	}
	if t.running {
		t.runMu.Unlock()
		return errors.New("routes: Run was called twice")
	}
	t.running = true
	t.runMu.Unlock()
	defer t.end()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stopped := make(chan struct{})
	defer func() { <-stopped }()
	defer cancel()
	go func() {
		defer close(stopped)
		select {
		case <-t.stop:
			cancel()
		case <-ctx.Done():
		}
		t.kernel.wake()
	}()

	for ctx.Err() == nil {
		if t.round() {
			continue
		}
		if err := t.kernel.wait(t.sleep()); err != nil {
			return fmt.Errorf("wait for route changes: %w", err)
		}
	}
	return nil
}

// round does a bounded piece of work; false when there was none.
func (t *Table) round() bool {
	if t.resyncDue() {
		t.doResync()
	}
	if t.resynced.IsZero() {
		return false // nothing is known of the kernel yet
	}
	// The changes are taken before the notifications are read: whoever made a link
	// and then asked for a route over it finds the link known.
	changes := t.takeChanges()
	evs, err := t.kernel.events()
	if err != nil {
		t.log.Warn("netlink notifications were lost; comparing all routes anew", "err", err)
		if t.resyncASAP = len(changes) == 0; !t.resyncASAP {
			t.doResync() // at once, as among what was lost may be the link of a change
			evs = nil    // older than what was seen now
		}
	}
	t.mu.Lock()
	for _, f := range changes {
		f(t.core)
	}
	t.tookIn(len(changes))
	t.core.happened(evs)
	t.core.due()
	t.core.suspects()
	batch := t.core.take(batchEntries)
	t.resyncASAP = t.resyncASAP || t.core.confuse
	t.core.confuse = false
	t.mu.Unlock()
	if len(batch) > 0 {
		t.work(batch)
		return true
	}
	return t.clean()
}

// takeChanges returns what was asked for since.
func (t *Table) takeChanges() []func(*core) {
	t.queueMu.Lock()
	defer t.queueMu.Unlock()
	changes := t.queue
	t.queue = nil
	return changes
}

// tookIn notes that the core knows of n changes more.
func (t *Table) tookIn(n int) {
	t.queueMu.Lock()
	defer t.queueMu.Unlock()
	t.behind -= n
}

// work does what a batch of entries needs, phase by phase.
func (t *Table) work(batch []*entry) {
	var puts, deletes []request
	t.phase(func(c *core) []request { return c.planHops(batch) })
	t.phase(func(c *core) []request { return c.planGroups(batch) })
	t.phase(func(c *core) []request {
		puts, deletes = c.planRoutes(batch)
		return puts
	})
	t.phase(func(*core) []request { return deletes })
	t.mu.Lock()
	defer t.mu.Unlock()
	t.core.done()
}

// clean removes what is no longer used.
func (t *Table) clean() bool {
	return t.phase(func(c *core) []request { return c.planLitter() })
}

// phase plans, lets the kernel work, and takes in its answers.
func (t *Table) phase(plan func(*core) []request) bool {
	t.mu.Lock()
	reqs := plan(t.core)
	t.mu.Unlock()
	if len(reqs) == 0 {
		return false
	}
	err := t.kernel.write(reqs)
	if err != nil {
		t.log.Warn("netlink failed; comparing all routes anew", "err", err)
		t.resyncASAP = true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range reqs {
		if reqs[i].err == nil {
			reqs[i].err = err // what became of it is not known
		}
		reqs[i].done(reqs[i].err)
	}
	return true
}

func (t *Table) resyncDue() bool {
	now := time.Now()
	if !now.Before(t.resyncAt) {
		return true
	}
	return t.resyncASAP && now.Sub(t.resynced) >= t.pause
}

// doResync compares everything with the kernel.
func (t *Table) doResync() {
	start := time.Now()
	asked := t.resyncASAP
	t.resyncASAP = false
	t.resyncAt = start.Add(t.resync)
	s, err := t.kernel.snapshot()
	if err != nil {
		t.log.Error("could not read the kernel's routes; trying again", "err", err)
		t.resyncAt = start.Add(time.Second)
		return
	}
	t.mu.Lock()
	t.core.ingest(s, t.plain)
	t.mu.Unlock()
	took := time.Since(start)
	if asked && start.Sub(t.resynced) < 10*t.pause {
		t.pause = min(2*t.pause, t.resync)
	} else {
		t.pause = max(resyncPause, 2*took)
	}
	t.resynced = time.Now()
	t.log.Debug("compared all routes with the kernel", "took", took)
}

// sleep is how long there is nothing to do.
func (t *Table) sleep() time.Duration {
	until := t.resyncAt
	if t.resyncASAP {
		until = t.resynced.Add(t.pause)
	}
	t.mu.Lock()
	if at := t.core.retryAt; !at.IsZero() && at.Before(until) {
		until = at
	}
	t.mu.Unlock()
	return time.Until(until)
}
