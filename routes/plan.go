package routes

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A batch of entries is worked on in phases, each of which knows the outcome of
// the one before: next hops, groups, routes, removals.

// suspects queues the users of the hops and targets in doubt.
func (c *core) suspects() {
	if len(c.suspectHops) == 0 && len(c.suspectTargets) == 0 {
		return
	}
	for _, e := range c.entries {
		if t, _ := e.active(); t != nil && c.suspicious(t) {
			c.enqueue(e)
		}
	}
	clear(c.suspectHops)
	clear(c.suspectTargets)
}

func (c *core) suspicious(t *target) bool {
	if _, ok := c.suspectTargets[t]; ok {
		return true
	}
	if len(c.suspectHops) == 0 {
		return false
	}
	for _, h := range t.hops {
		if _, ok := c.suspectHops[h]; ok {
			return true
		}
	}
	return false
}

// planHops looks up the gateways of the batch, and returns what their objects
// need.
func (c *core) planHops(batch []*entry) []request {
	c.plans++
	var reqs []request
	for _, e := range batch {
		t, _ := e.active()
		if t == nil {
			continue
		}
		t.from = nil
		for _, h := range t.hops {
			if h.checked == c.plans {
				continue
			}
			h.checked = c.plans
			reqs = c.planHop(h, reqs)
		}
	}
	return reqs
}

func (c *core) planHop(h *hop, reqs []request) []request {
	if !h.fresh {
		h.fresh = true
		var way path
		if way, h.wayErr = c.m.resolve(h.NextHop); h.wayErr == nil {
			h.way = way
		}
	}
	if h.wayErr != nil || c.plain {
		return reqs
	}
	return c.planObject(&h.owned, content{path: h.way}, reqs)
}

// planGroups returns what the groups of the batch need: all hops that can be
// used as members.
func (c *core) planGroups(batch []*entry) []request {
	if c.plain {
		return nil
	}
	var reqs []request
	planned := map[*target]struct{}{}
	for _, e := range batch {
		t, _ := e.active()
		if t == nil || !t.grouped() {
			continue
		}
		if _, ok := planned[t]; ok {
			continue
		}
		planned[t] = struct{}{}
		var ids []uint32
		for _, h := range t.hops {
			if c.usable(h) {
				ids = append(ids, h.id)
			}
			if h.written == c.plans { // perhaps the group failed for want of it
				t.next = time.Time{}
			}
		}
		if len(ids) > 0 {
			reqs = c.planObject(&t.owned, content{members: joinIDs(ids)}, reqs)
		}
	}
	return reqs
}

// grouped says that routes use a group: where there are several hops, or where
// there were.
func (t *target) grouped() bool { return len(t.hops) > 1 || t.id != 0 }

// usable says that routes can use the hop, though perhaps by an object that is
// out of date.
func (c *core) usable(h *hop) bool {
	if c.plain {
		return h.wayErr == nil || h.way.oif != 0 && c.m.usable(h.way.oif) == nil
	}
	_, ok := c.m.objects[h.id]
	return ok
}

func (h *hop) trouble() error {
	if h.wayErr != nil {
		return h.wayErr
	}
	if h.err != nil {
		return fmt.Errorf("gateway %s: %w", h.Gateway, h.err)
	}
	return nil
}

// planObject sees to it that o has an object with the content.
func (c *core) planObject(o *owned, want content, reqs []request) []request {
	have, exists := c.m.objects[o.id]
	if exists && have == want {
		o.succeed()
		return reqs
	}
	if o.err != nil && o.tried == want && o.next.After(c.now()) {
		return reqs
	}
	if o.id == 0 && c.adopt(o, want) {
		return reqs
	}
	if o.id == 0 {
		if o.id = c.newID(); o.id == 0 {
			o.fail(errors.New("no nexthop id is left"), c.now())
			return reqs
		}
		c.owners[o.id] = o
	}
	mode := modeCreate
	if exists {
		mode = modePut
	}
	o.tried = want
	id := o.id
	obj := &kernelObject{id: id, protocol: c.m.protocol, content: want}
	return append(reqs, request{mode: mode, object: obj, done: func(err error) {
		if errors.Is(err, unix.EEXIST) { // somebody else's, or unknown to us
			c.confuse = true
			c.m.taken[id] = struct{}{}
			delete(c.owners, id)
			o.id = 0
			if o.tries == 0 { // another id will do, at once
				o.fail(err, c.now())
				o.next = time.Time{}
				c.suspect(o)
				return
			}
		}
		if err != nil {
			o.fail(fmt.Errorf("nexthop object %d: %w", id, err), c.now())
			return
		}
		if o.err != nil { // routes beyond this batch may wait for it
			c.suspect(o)
		}
		o.succeed()
		if o.hop != nil {
			o.hop.written = c.plans
		}
		c.m.setObject(id, want)
	}})
}

// adopt finds an object with the content that has no owner.
func (c *core) adopt(o *owned, want content) bool {
	ids := c.free[want]
	for len(ids) > 0 {
		id := ids[len(ids)-1]
		ids = ids[:len(ids)-1]
		if have, ok := c.m.objects[id]; ok && have == want && c.owners[id] == nil {
			c.owners[id] = o
			o.id = id
			o.succeed()
			break
		}
	}
	if len(ids) == 0 {
		delete(c.free, want)
	} else {
		c.free[want] = ids
	}
	return o.id != 0
}

func (c *core) newID() uint32 {
	for range endID - firstID {
		if c.lastID++; c.lastID >= endID {
			c.lastID = firstID + 1
		}
		id := c.lastID
		_, ours := c.m.objects[id]
		_, others := c.m.taken[id]
		if !ours && !others && c.owners[id] == nil {
			return id
		}
	}
	return 0
}

// value is what a route to the target has to say. A route that does without some
// of its hops comes with an error, too.
func (c *core) value(t *target) (v value, paths []path, err error) {
	switch {
	case t.bad != nil:
		return value{}, nil, t.bad
	case t.blackhole:
		return value{kind: valueBlackhole}, nil, nil
	case t.link != "":
		oif, ok := c.m.names[t.link]
		if !ok {
			return value{}, nil, fmt.Errorf("link %s does not exist", t.link)
		}
		if !c.m.links[oif].up() {
			return value{}, nil, fmt.Errorf("link %s is down", t.link)
		}
		return value{kind: valueLink, oif: oif}, []path{{oif: oif}}, nil
	}
	var troubles []string
	for _, h := range t.hops {
		if trouble := h.trouble(); trouble != nil {
			troubles = append(troubles, trouble.Error())
			err = trouble
		}
		if c.usable(h) {
			paths = append(paths, h.way)
			v = value{kind: valueObject, nhid: h.id}
		}
	}
	if len(troubles) > 0 && len(t.hops) > 1 {
		err = fmt.Errorf("%d of %d next hops: %s", len(troubles), len(t.hops), strings.Join(troubles, "; "))
	}
	if len(paths) == 0 && err == nil {
		err = errors.New("no next hop is there") // not reached; never install nothing
	}
	if len(paths) == 0 {
		return value{}, nil, err
	}
	if c.plain {
		sortPaths(paths)
		return value{kind: valuePaths, paths: joinPaths(paths)}, paths, err
	}
	if t.grouped() {
		if _, ok := c.m.objects[t.id]; !ok {
			return value{}, nil, errors.Join(t.err, err)
		}
		if t.err != nil {
			err = t.err
		}
		v.nhid = t.id
	}
	return v, nil, err
}

// planRoutes returns what the routes of the batch need.
func (c *core) planRoutes(batch []*entry) (puts, deletes []request) {
	for _, e := range batch {
		t, _ := e.active()
		have := c.m.get(e.dst)
		if t == nil {
			if have.kind == valueNone {
				c.settle(e, nil)
				continue
			}
			deletes = append(deletes, c.deletion(e))
			continue
		}
		want, paths, trouble := c.value(t)
		if want.kind == valueNone {
			c.settle(e, trouble)
			continue
		}
		if have == want {
			c.settle(e, trouble)
			continue
		}
		if other := c.m.others.conflict(e.dst); other != nil {
			if have.kind != valueNone { // beside the other's, and wrong
				deletes = append(deletes, c.deletion(e))
			}
			c.settle(e, &ConflictError{Protocol: other.protocol})
			continue
		}
		puts = append(puts, c.put1(e, have, want, paths, trouble))
	}
	return puts, deletes
}

// put1 writes one route.
func (c *core) put1(e *entry, have, want value, paths []path, trouble error) request {
	r := &kernelRoute{
		dst: e.dst, table: c.m.table, protocol: c.m.protocol,
		kind: unix.RTN_UNICAST, scope: scopeUniverse, nhid: want.nhid, paths: paths,
	}
	switch want.kind {
	case valueBlackhole:
		r.kind = unix.RTN_BLACKHOLE
	case valueLink:
		if e.dst.Addr().Is4() {
			r.scope = scopeLink
		}
	case valueNone, valueUnknown, valueObject, valuePaths:
	}
	mode := modeCreate
	if have.kind != valueNone {
		mode = modeReplace
	}
	return request{mode: mode, route: r, done: func(err error) {
		switch {
		case err == nil:
			c.m.set(e.dst, want)
			c.settle(e, trouble)
		case mode == modeReplace && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH)):
			c.m.set(e.dst, value{}) // it went without a word
			c.enqueue(e)
		case errors.Is(err, unix.EEXIST) && !e.puzzled:
			// A notification that was older than our own write misled us, or somebody
			// was faster. The next snapshot tells, and comes at once.
			e.puzzled, c.confuse = true, true
		default:
			c.confuse = c.confuse || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EINVAL)
			c.settle(e, err)
		}
	}}
}

// deletion removes our route to the entry's destination.
func (c *core) deletion(e *entry) request {
	r := &kernelRoute{dst: e.dst, table: c.m.table, protocol: c.m.protocol}
	if !e.dst.Addr().Is4() {
		r.metric = usualMetric(e.dst)
	}
	return request{mode: modeDelete, route: r, done: func(err error) {
		if gone(err) {
			err = nil
			c.m.set(e.dst, value{})
		}
		if t, _ := e.active(); t != nil {
			return // it made way for somebody else's
		}
		c.settle(e, err)
	}}
}

func gone(err error) bool {
	return err == nil || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT)
}

// planLitter returns what removes unused objects and strays. The members of a
// group are in use, so that they go after it.
func (c *core) planLitter() []request {
	if !c.litter || !c.allSynced() {
		return nil
	}
	c.litter = false
	var reqs []request
	for id, content := range c.m.objects {
		if c.owners[id] != nil || c.m.refs[id] > 0 {
			continue
		}
		reqs = append(reqs, request{mode: modeDelete, object: &kernelObject{id: id}, done: func(err error) {
			if gone(err) {
				c.m.forget(id)
				c.litter = c.litter || content.group() // its members may be free now
			}
		}})
	}
	for key := range c.m.strays {
		r := &kernelRoute{dst: key.dst, table: c.m.table, protocol: c.m.protocol, metric: key.metric, tos: key.tos}
		reqs = append(reqs, request{mode: modeDelete, route: r, done: func(err error) {
			if gone(err) {
				delete(c.m.strays, key)
			}
		}})
	}
	return reqs
}

// ConflictError says that somebody else's route has the place of ours.
type ConflictError struct {
	Protocol uint8 // whose
}

func (e *ConflictError) Error() string {
	name := fmt.Sprint(e.Protocol)
	switch e.Protocol {
	case unix.RTPROT_REDIRECT:
		name = "redirect"
	case unix.RTPROT_KERNEL:
		name = "kernel"
	case unix.RTPROT_BOOT:
		name = "boot"
	case unix.RTPROT_STATIC:
		name = "static"
	case unix.RTPROT_RA:
		name = "ra"
	case unix.RTPROT_DHCP:
		name = "dhcp"
	case unix.RTPROT_BIRD:
		name = "bird"
	case unix.RTPROT_ZEBRA:
		name = "zebra"
	case unix.RTPROT_BGP:
		name = "bgp"
	}
	return fmt.Sprintf("a route of protocol %s to this destination is there and was left alone; "+
		"remove it (`ip route del`), or see to it that the destination is not announced", name)
}
