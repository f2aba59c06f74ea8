package routes

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// core holds what is desired and what is believed to be in the kernel, and says
// what is to be done. It does nothing itself.
type core struct {
	m     *mirror
	plain bool // no nexthop objects
	now   func() time.Time

	entries map[netip.Prefix]*entry
	targets map[string]*target
	hops    map[NextHop]*hop
	byLink  map[string]map[*hop]struct{} // hops that name their link

	owners map[uint32]*owned    // of nexthop objects
	free   map[content][]uint32 // objects that have had no owner at some time
	lastID uint32

	urgent, queue []*entry // to be looked at
	inHand        int      // entries that were taken and are being worked on
	failed        map[*entry]struct{}
	retryAt       time.Time // when the first of failed is due; zero: none is

	// suspects are hops and targets whose users must be looked at.
	suspectHops    map[*hop]struct{}
	suspectTargets map[*target]struct{}

	complete  [classCount]bool
	desired   [classCount]int
	installed [classCount]int

	swept   bool // stale routes were queued since every class is complete
	litter  bool // there may be unused objects
	confuse bool // the kernel answered what the mirror doesn't explain
	plans   uint64
	keyBuf  []byte
}

func newCore(protocol uint8, table uint32, now func() time.Time) *core {
	return &core{
		m: newMirror(protocol, table), now: now,
		entries: map[netip.Prefix]*entry{}, targets: map[string]*target{}, hops: map[NextHop]*hop{},
		byLink: map[string]map[*hop]struct{}{},
		owners: map[uint32]*owned{}, free: map[content][]uint32{}, lastID: firstID,
		failed:      map[*entry]struct{}{},
		suspectHops: map[*hop]struct{}{}, suspectTargets: map[*target]struct{}{},
	}
}

// Our nexthop objects have ids that a person recognises in `ip route`.
const (
	firstID = 71_000_000
	endID   = 72_000_000
)

// put notes a wish. The route is canonical.
func (c *core) put(class Class, r Route) {
	e := c.entry(r.Dst)
	t := c.intern(r)
	old := e.want[class]
	if old == t {
		if e.err != nil { // asked for again: a new chance at once
			for _, h := range t.hops {
				h.next = time.Time{}
			}
			e.tries = 0
			c.enqueue(e)
		}
		return
	}
	switch {
	case t.refs == 0:
		t.from = old
	case t.from != old:
		t.from = nil
	}
	t.refs++
	e.want[class] = t
	if old == nil {
		c.desired[class]++
	} else {
		c.bequeath(old, t)
		c.release(old, e)
	}
	if t.users != nil {
		t.users[e] = struct{}{}
	}
	e.tries = 0
	c.enqueue(e)
}

// remove takes a wish back. What an earlier life left there goes, too.
func (c *core) remove(class Class, dst netip.Prefix) {
	e := c.entries[dst]
	if e == nil {
		if c.m.get(dst).kind != valueNone {
			c.enqueue(c.entry(dst))
		}
		return
	}
	if old := e.want[class]; old != nil {
		e.want[class] = nil
		c.desired[class]--
		c.release(old, e)
	}
	e.tries = 0
	c.enqueue(e)
}

// set replaces all wishes of a class, additions first.
func (c *core) set(class Class, desired []Route) {
	keep := make(map[netip.Prefix]struct{}, len(desired))
	for _, r := range desired {
		keep[r.Dst] = struct{}{}
		c.put(class, r)
	}
	for dst, e := range c.entries {
		if _, ok := keep[dst]; !ok && e.want[class] != nil {
			c.remove(class, dst)
		}
	}
}

// synced notes that a class is complete.
func (c *core) synced(class Class) {
	c.complete[class] = true
	c.sweep()
}

func (c *core) allSynced() bool { return !slices.Contains(c.complete[:], false) }

// sweep queues the routes that nobody wants, once that is known for sure.
func (c *core) sweep() {
	if !c.allSynced() {
		return
	}
	for dst := range c.m.ours {
		e := c.entry(dst)
		if t, _ := e.active(); t == nil {
			c.enqueue(e)
		}
	}
	c.swept, c.litter = true, true
}

// wait answers the waiter when the destinations are settled.
func (c *core) wait(w *waiter, dsts []netip.Prefix) {
	for _, dst := range dsts {
		e := c.entries[dst.Masked()]
		switch {
		case e == nil && c.m.get(dst.Masked()).kind == valueNone:
			w.hear(nil)
		case e != nil && !e.queued && e.err != nil:
			w.hear(c.failure(e))
		case e != nil && !e.queued && e.counted != classCount:
			w.hear(nil)
		default:
			e = c.entry(dst.Masked())
			e.waiters = append(e.waiters, w)
			if e.queued {
				c.urgent = append(c.urgent, e)
			}
		}
	}
}

func (c *core) failure(e *entry) error { return fmt.Errorf("route %s: %w", e.dst, e.err) }

func (c *core) entry(dst netip.Prefix) *entry {
	e := c.entries[dst]
	if e == nil {
		e = &entry{dst: dst, counted: classCount}
		c.entries[dst] = e
	}
	return e
}

func (c *core) enqueue(e *entry) {
	if e.queued {
		return
	}
	e.queued = true
	if _, class := e.active(); class == ClassPod || len(e.waiters) > 0 {
		c.urgent = append(c.urgent, e)
		return
	}
	c.queue = append(c.queue, e)
}

// take returns up to n entries to be looked at, those that somebody waits for
// first. They are in hand until they are said to be done.
func (c *core) take(n int) []*entry {
	var batch []*entry
	for _, q := range []*[]*entry{&c.urgent, &c.queue} {
		for len(*q) > 0 && len(batch) < n {
			e := (*q)[0]
			*q = (*q)[1:]
			if e.queued { // it may be in both
				e.queued = false
				batch = append(batch, e)
			}
		}
		if len(*q) == 0 {
			*q = nil
		}
	}
	c.inHand = len(batch)
	return batch
}

// done notes that all was tried of what was taken.
func (c *core) done() { c.inHand = 0 }

// intern returns the target of a canonical route.
func (c *core) intern(r Route) *target {
	c.keyBuf = r.appendKey(c.keyBuf[:0])
	if t := c.targets[string(c.keyBuf)]; t != nil {
		return t
	}
	t := &target{key: string(c.keyBuf), bad: r.check()}
	t.target = t
	c.targets[t.key] = t
	if t.bad != nil {
		return t
	}
	t.blackhole, t.link = r.Blackhole, r.Link
	if t.link != "" {
		t.users = map[*entry]struct{}{}
	}
	for _, nh := range r.NextHops {
		h := c.hops[nh]
		if h == nil {
			h = c.newHop(nh)
		}
		h.refs++
		t.hops = append(t.hops, h)
	}
	return t
}

func (c *core) newHop(nh NextHop) *hop {
	h := &hop{NextHop: nh}
	h.hop = h
	c.hops[nh] = h
	if nh.Link != "" {
		if c.byLink[nh.Link] == nil {
			c.byLink[nh.Link] = map[*hop]struct{}{}
		}
		c.byLink[nh.Link][h] = struct{}{}
	}
	return h
}

// release takes a wish off a target. Its objects go to whoever comes next with
// the same content, or are removed.
func (c *core) release(t *target, e *entry) {
	if t.users != nil {
		delete(t.users, e)
	}
	if t.refs--; t.refs > 0 {
		return
	}
	delete(c.targets, t.key)
	delete(c.suspectTargets, t)
	c.disown(&t.owned)
	for _, h := range t.hops {
		if h.refs--; h.refs == 0 {
			delete(c.hops, h.NextHop)
			if delete(c.byLink[h.Link], h); len(c.byLink[h.Link]) == 0 {
				delete(c.byLink, h.Link)
			}
			delete(c.suspectHops, h)
			c.disown(&h.owned)
		}
	}
}

// bequeath gives the group of a target that goes to the one that all its routes
// go over to. A peer that is lost then costs one message, which takes its next
// hop out of the group, and not one for each of its routes. The routes that use
// the group in the kernel must be the heir's, all and only; else it would lead
// others astray.
func (c *core) bequeath(old, heir *target) {
	if old.refs > 1 || old.id == 0 || heir.from != old || heir.id != 0 || len(heir.hops) == 0 || c.m.refs[old.id] != heir.refs {
		return
	}
	if have, ok := c.m.objects[old.id]; !ok || !have.group() {
		return
	}
	heir.id, old.id = old.id, 0
	c.owners[heir.id] = &heir.owned
}

func (c *core) disown(o *owned) {
	if o.id == 0 {
		return
	}
	if content, ok := c.m.objects[o.id]; ok {
		c.free[content] = append(c.free[content], o.id)
	}
	delete(c.owners, o.id)
	o.id = 0
	c.litter = true
}

// ingest takes in a snapshot; everything is looked at anew.
func (c *core) ingest(s snapshot, plain bool) {
	c.plain = plain || !s.objects
	c.m.clear()
	var eff effect
	for _, ev := range s.events {
		eff.touched, eff.moved, eff.links, eff.objects = eff.touched[:0], eff.moved[:0], eff.links[:0], eff.objects[:0]
		c.m.apply(ev, &eff)
	}
	for id, o := range c.owners {
		if _, ok := c.m.taken[id]; ok || c.plain {
			delete(c.owners, id)
			o.id = 0
		}
	}
	c.free = map[content][]uint32{}
	for id, content := range c.m.objects {
		if c.owners[id] == nil {
			c.free[content] = append(c.free[content], id)
		}
		if id >= firstID && id < endID {
			c.lastID = max(c.lastID, id)
		}
	}
	for _, h := range c.hops {
		h.fresh = false
	}
	now := c.now()
	for _, e := range c.entries {
		if e.err == nil || e.puzzled || !e.next.After(now) {
			c.enqueue(e)
		}
	}
	c.litter = true
	c.sweep()
}

// happened takes in what others changed.
func (c *core) happened(evs []event) {
	var eff effect
	lost := 0
	for _, ev := range evs {
		if ev.object != nil && ev.del {
			// Each takes a look at all routes; many are found out cheaper by a snapshot.
			if lost++; lost*len(c.m.ours) > 500_000 {
				c.confuse = true
				continue
			}
		}
		c.m.apply(ev, &eff)
	}
	c.litter = c.litter || len(c.m.strays) > 0
	for _, id := range eff.objects {
		c.litter = true
		if o := c.owners[id]; o != nil {
			o.next = time.Time{}
			c.suspect(o)
		}
	}
	for _, name := range eff.links {
		c.linkChanged(name)
	}
	c.moved(&eff)
	for _, dst := range eff.touched {
		c.touched(dst)
	}
}

// suspect has the users of a hop or target looked at.
func (c *core) suspect(o *owned) {
	if o.hop != nil {
		c.suspectHops[o.hop] = struct{}{}
		return
	}
	c.suspectTargets[o.target] = struct{}{}
}

// linkChanged has whatever names the link looked at.
func (c *core) linkChanged(name string) {
	if t := c.targets["@"+name]; t != nil {
		for e := range t.users {
			e.next = time.Time{}
			c.enqueue(e)
		}
	}
	for h := range c.byLink[name] {
		c.doubt(h)
	}
}

// doubt has the way to a gateway looked up again, at once.
func (c *core) doubt(h *hop) {
	h.fresh, h.next = false, time.Time{}
	c.suspectHops[h] = struct{}{}
}

// moved has the gateways looked up again that may be reached otherwise now.
func (c *core) moved(eff *effect) {
	if !eff.all && len(eff.moved) == 0 {
		return
	}
	all := eff.all || len(eff.moved) > 64
	for _, h := range c.hops {
		if all || (h.Link == "" || h.err != nil || c.plain) && slices.ContainsFunc(eff.moved, func(p netip.Prefix) bool { return p.Contains(h.Gateway) }) {
			c.doubt(h)
		}
	}
}

var errContested = errors.New("somebody else keeps changing it; find out who, with `ip monitor route`")

// A destination is put right healBurst/healEvery times at once, and then every
// healEvery, so that two programs that fight over a route don't burn the machine.
const (
	healEvery = 100 * time.Millisecond
	healBurst = 2 * time.Second
)

// touched puts a destination right that somebody else touched.
func (c *core) touched(dst netip.Prefix) {
	e := c.entries[dst]
	if e == nil {
		if !c.swept || c.m.get(dst).kind == valueNone {
			return
		}
		e = c.entry(dst)
	}
	now := c.now()
	if e.healed.Before(now) {
		e.healed = now
	}
	if e.healed.Sub(now) > healBurst {
		if e.err == nil || !e.next.After(now) {
			c.settle(e, errContested)
		}
		return
	}
	e.healed = e.healed.Add(healEvery)
	c.enqueue(e)
}

// due queues the failed entries whose time has come.
func (c *core) due() {
	now := c.now()
	if c.retryAt.IsZero() || c.retryAt.After(now) {
		return
	}
	c.retryAt = time.Time{}
	for e := range c.failed {
		if !e.next.After(now) {
			c.enqueue(e)
			continue
		}
		c.remind(e.next)
	}
}

func (c *core) remind(at time.Time) {
	if c.retryAt.IsZero() || at.Before(c.retryAt) {
		c.retryAt = at
	}
}

// settle notes the outcome of an entry.
func (c *core) settle(e *entry, err error) {
	if e.counted != classCount {
		c.installed[e.counted]--
		e.counted = classCount
	}
	t, class := e.active()
	if err != nil {
		e.fail(err, c.now())
		c.failed[e] = struct{}{}
		if t == nil || t.bad == nil {
			c.remind(e.next)
		}
		c.tell(e, c.failure(e))
		return
	}
	delete(c.failed, e)
	e.puzzled = false
	e.succeed()
	if t != nil {
		e.counted = class
		c.installed[class]++
	}
	c.tell(e, nil)
	if t == nil && !e.queued {
		delete(c.entries, e.dst)
	}
}

func (c *core) tell(e *entry, err error) {
	if e.queued {
		return // wishes have changed meanwhile
	}
	for _, w := range e.waiters {
		w.hear(err)
	}
	e.waiters = nil
}
