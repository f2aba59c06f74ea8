package tunnel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
)

// maxRounds bounds how often Set looks again at what it did. Two rounds of
// changes make a device, one removes what is not wanted, and that may make way
// for another device; more are needed only if somebody else changes the same.
const maxRounds = 8

// errUnsettled says that a device did not become as wanted though every change
// was made: somebody else changes it, too.
var errUnsettled = errors.New("it is changed as often as it is put right")

// Options are a table's. The zero value is what an agent wants.
type Options struct {
	Log *slog.Logger // nil: discard
	// Sysctls is where the kernel's network settings can be written, as in a container
	// /proc/sys can't; "": DefaultSysctls.
	Sysctls string
}

// Table keeps the tunnel devices of a network namespace. Its methods may be
// called from any goroutine.
type Table struct {
	log        *slog.Logger
	oldOffload bool // the kernel can't be trusted with VXLAN's checksums
	mon        *monitor
	signal     *pacer

	mu      sync.Mutex // guards what follows, and is held while the kernel works
	req     *conn
	proc    *proc
	closed  bool
	wants   []*want
	peers   peers
	partial bool // there may be more peers
	seen    seen
}

// seen is what the last Set left behind.
type seen struct {
	devices map[int]*work      // what is ours and of the right make, by index
	inWay   map[int]bool       // what has a name of ours and is not
	locals  map[ifaddrKey]bool // who has the node's addresses
	failing bool               // a device is not as wanted
}

// Open opens a table in the network namespace of the calling thread. It changes
// nothing.
func Open(o Options) (_ *Table, err error) {
	t := &Table{log: o.Log, signal: newPacer(), peers: newPeers()}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	defer func() {
		if err != nil {
			_ = t.Close()
			err = fmt.Errorf("open the tunnel table: %w", err)
		}
	}()
	release, err := kernelRelease()
	if err != nil {
		return nil, err
	}
	t.oldOffload = oldOffload(release)
	if t.req, err = dial(); err != nil {
		return nil, err
	}
	if t.proc, err = openProc(cmp.Or(o.Sysctls, DefaultSysctls)); err != nil {
		return nil, err
	}
	if t.mon, err = openMonitor(); err != nil {
		return nil, err
	}
	return t, nil
}

// Close ends Run and frees the sockets. The devices stay.
func (t *Table) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	t.closed = true
	t.signal.stop()
	var errs []error
	if t.req != nil {
		errs = append(errs, t.req.close())
	}
	if t.proc != nil {
		errs = append(errs, t.proc.close())
	}
	if t.mon != nil {
		errs = append(errs, t.mon.close())
	}
	return errors.Join(errs...)
}

// Set makes c all that there is: it makes and changes what c wants, and then
// removes the devices and entries of ours that c does not want, but for the entries
// that Config.Partial spares. Calling it again changes nothing. It returns the state of every wanted device in c's order, also
// with an error, which joins those of the devices.
func (t *Table) Set(ctx context.Context, c Config) ([]Status, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wants = wants(c.Devices)
	if t.partial = c.Partial; !t.partial {
		t.peers = newPeers()
	}
	t.peers.add(c.Peers)

	works, err := t.converge(ctx)
	all := make([]Status, len(c.Devices))
	var errs []error
	for i, d := range c.Devices {
		all[i] = Status{Device: d, Err: err}
		if works != nil {
			all[i].Up = works[i].up
			if err == nil {
				all[i].Err = works[i].err
			}
		}
		if all[i].Err != nil && err == nil {
			errs = append(errs, fmt.Errorf("%s: %w", t.wants[i].name, all[i].Err))
		}
	}
	return all, errors.Join(append(errs, err)...)
}

// converge looks, plans and acts until there is nothing (more) to do. It returns
// what it saw last of each wanted device.
func (t *Table) converge(ctx context.Context) ([]*work, error) {
	var works []*work
	for round := 1; ; round++ {
		switch {
		case t.closed:
			return works, ErrClosed
		case ctx.Err() != nil:
			return works, fmt.Errorf("set the tunnels: %w", ctx.Err())
		}
		// What happened until here is seen now. So the notifications that come after
		// the last look are of somebody else's changes.
		t.signal.clear()
		if _, err := t.mon.drain(func(header, []byte) {}); err != nil {
			return works, fmt.Errorf("drain the notifications: %w", err)
		}
		s, err := t.observe(t.wants)
		if err != nil {
			return works, err
		}
		if t.partial {
			// Before anything is planned, so that a device that is made anew has them, too.
			t.peers.add(s.knownNodes())
		}
		works = works[:0]
		for _, w := range t.wants {
			works = append(works, s.plan(w, t.peers))
		}
		t.remember(s, works)
		changed := t.applyAll(works)
		if !changed {
			changed, err = t.removeUnwanted(s)
		}
		if !changed {
			return works, err
		}
		if round == maxRounds {
			for _, k := range works {
				if k.err == nil && !k.done() {
					k.err = errUnsettled
				}
			}
			return works, err
		}
	}
}

// applyAll does what the devices need, and leaves the errors with them.
func (t *Table) applyAll(works []*work) (changed bool) {
	for _, k := range works {
		if k.err != nil || k.done() {
			continue
		}
		var c bool
		c, k.err = t.apply(k)
		changed = changed || c
		t.seen.failing = t.seen.failing || k.err != nil
	}
	return changed
}

// removeUnwanted removes the devices of ours that nobody wants.
func (t *Table) removeUnwanted(s *state) (changed bool, err error) {
	var m batch
	for _, l := range s.unwanted(t.wants) {
		t.log.Info("removing a tunnel device that is not wanted", "device", l.name)
		m.deleteLink(l.name, l.index)
	}
	refused := t.req.do(&m)
	return len(refused) < len(m.reqs), explain(nil, refused)
}

// remember keeps what is needed to tell news from what is known.
func (t *Table) remember(s *state, works []*work) {
	t.seen = seen{devices: map[int]*work{}, inWay: map[int]bool{}, locals: map[ifaddrKey]bool{}}
	for _, k := range works {
		t.seen.failing = t.seen.failing || k.err != nil
		switch l := k.link; {
		case l == nil:
		case l.ours() && k.w.err == nil && l.params == k.p:
			t.seen.devices[l.index] = k
		default:
			t.seen.inWay[l.index] = true
		}
		for _, a := range s.addrs {
			if a.addr == k.w.Local {
				t.seen.locals[a.key()] = true
			}
		}
	}
}

// AddPeers makes peers known to the VXLAN devices before it returns, at the cost
// of what it adds. They stay until a Set whose Peers lack them and are not
// Partial. A device that is not there gets them when Set makes it.
func (t *Table) AddPeers(addrs []netip.Addr) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return ErrClosed
	}
	added := t.peers.add(addrs)
	var errs []error
	for index, k := range t.seen.devices {
		var m batch
		for _, a := range added {
			if k.w.reaches(a) {
				mac := t.peers.nodes[a]
				m.putFDB(index, fdbEntry{mac: mac, dst: a})
				m.putNeighbour(index, neighbour{addr: Gateway(a), mac: mac})
			}
		}
		if err := explain(k.w, t.req.do(&m)); err != nil {
			errs = append(errs, fmt.Errorf("add peers to %s: %w", k.w.name, err))
		}
	}
	return errors.Join(errs...)
}
