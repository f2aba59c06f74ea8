package routes

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// mirror is what we believe to be in the kernel.
type mirror struct {
	protocol uint8
	table    uint32

	links map[int]link
	names map[string]int // of links

	// ours holds our routes at the usual metric and TOS, where a desired route
	// would stand; strays those that only somebody else can have made.
	ours   map[netip.Prefix]value
	strays map[strayKey]struct{}
	byLink map[int]map[netip.Prefix]struct{} // those of ours with kind valueLink
	pathed int                               // how many of ours have kind valuePaths

	// objects holds our nexthop objects, refs how many of our routes and groups use
	// them, and taken the ids of others' objects.
	objects map[uint32]content
	refs    map[uint32]int
	taken   map[uint32]struct{}

	// others holds everybody else's routes in our table, main those in the main
	// table: the same, as a rule.
	others, main *prefixTable
}

type strayKey struct {
	dst    netip.Prefix
	metric uint32
	tos    uint8
}

// value is where a route of ours sends packets; comparable.
type value struct {
	kind  valueKind
	nhid  uint32 // of valueObject
	oif   int    // of valueLink
	paths string // of valuePaths, as joinPaths makes it
}

type valueKind uint8

const (
	valueNone      valueKind = iota // there is no route
	valueUnknown                    // there is one, and who knows what it says
	valueBlackhole                  // to nowhere
	valueLink                       // directly on a link
	valueObject                     // over a nexthop object
	valuePaths                      // over gateways, without nexthop objects
)

func newMirror(protocol uint8, table uint32) *mirror {
	m := &mirror{protocol: protocol, table: table}
	m.clear()
	return m
}

func (m *mirror) clear() {
	m.links, m.names = map[int]link{}, map[string]int{}
	m.ours, m.strays = map[netip.Prefix]value{}, map[strayKey]struct{}{}
	m.byLink = map[int]map[netip.Prefix]struct{}{}
	m.pathed = 0
	m.objects, m.refs = map[uint32]content{}, map[uint32]int{}
	m.taken = map[uint32]struct{}{}
	m.others = newPrefixTable()
	m.main = m.others
	if m.table != unix.RT_TABLE_MAIN {
		m.main = newPrefixTable()
	}
}

// get is our route to dst.
func (m *mirror) get(dst netip.Prefix) value { return m.ours[dst] }

// set notes what our route to dst now is.
func (m *mirror) set(dst netip.Prefix, v value) {
	old := m.ours[dst]
	if old == v {
		return
	}
	m.ref(old.nhid, -1)
	m.ref(v.nhid, +1)
	if old.kind == valueLink {
		delete(m.byLink[old.oif], dst)
		if len(m.byLink[old.oif]) == 0 {
			delete(m.byLink, old.oif)
		}
	}
	if v.kind == valueLink {
		if m.byLink[v.oif] == nil {
			m.byLink[v.oif] = map[netip.Prefix]struct{}{}
		}
		m.byLink[v.oif][dst] = struct{}{}
	}
	if old.kind == valuePaths {
		m.pathed--
	}
	if v.kind == valuePaths {
		m.pathed++
	}
	if v.kind == valueNone {
		delete(m.ours, dst)
		return
	}
	m.ours[dst] = v
}

func (m *mirror) ref(id uint32, n int) {
	if id == 0 {
		return
	}
	if m.refs[id] += n; m.refs[id] == 0 {
		delete(m.refs, id)
	}
}

// setObject notes what our nexthop object now says.
func (m *mirror) setObject(id uint32, c content) {
	m.forget(id)
	for _, member := range splitIDs(c.members) {
		m.ref(member, +1)
	}
	m.objects[id] = c
}

// forget notes that there is no such object of ours, and that nothing used it.
func (m *mirror) forget(id uint32) {
	for _, member := range splitIDs(m.objects[id].members) {
		m.ref(member, -1)
	}
	delete(m.objects, id)
}

// dropObjects notes that nexthop objects are gone. With them go, without a word
// from the kernel, the routes that use them and their membership in groups. It
// returns the destinations of the routes.
func (m *mirror) dropObjects(gone map[uint32]struct{}) []netip.Prefix {
	for id, c := range m.objects { // groups have no groups as members: once is enough
		if _, is := gone[id]; is || !c.group() {
			continue
		}
		left := c
		for _, member := range splitIDs(c.members) {
			if _, is := gone[member]; is {
				left = left.without(member)
			}
		}
		switch {
		case left == c:
		case left.group():
			m.setObject(id, left)
		default:
			gone[id] = struct{}{}
		}
	}
	used := false
	for id := range gone {
		m.forget(id)
		used = used || m.refs[id] > 0
	}
	if !used {
		return nil
	}
	var lost []netip.Prefix
	for dst, v := range m.ours {
		if _, is := gone[v.nhid]; is && v.kind == valueObject {
			lost = append(lost, dst)
		}
	}
	for _, dst := range lost {
		m.set(dst, value{})
	}
	return lost
}

// effect is what an event means for what is desired.
type effect struct {
	// touched are destinations that someone else's doing concerns.
	touched []netip.Prefix
	// moved are prefixes that are now reached otherwise: gateways inside must be
	// looked up again. all says the same of all gateways.
	moved []netip.Prefix
	all   bool
	// links are names of links that came, went, or changed their state.
	links []string
	// objects are ids of nexthop objects that were changed or lost.
	objects []uint32
}

// apply takes in an event. Applied to a cleared mirror, a snapshot's events make
// a true one.
func (m *mirror) apply(ev event, eff *effect) {
	switch {
	case ev.route != nil:
		m.applyRoute(ev, eff)
	case ev.object != nil:
		m.applyObject(ev, eff)
	case ev.link != nil:
		m.applyLink(*ev.link, ev.del, eff)
	}
}

func (m *mirror) applyRoute(ev event, eff *effect) {
	r := ev.route
	if r.dst.Addr().IsLinkLocalUnicast() && r.dst.Addr().Is6() {
		return // one on each link, and no way to a gateway without a link
	}
	if r.table != m.table {
		if r.table == unix.RT_TABLE_MAIN && r.protocol != m.protocol {
			m.main.apply(ev)
			eff.moved = append(eff.moved, r.dst)
		}
		return
	}
	if r.protocol == m.protocol {
		m.applyOurs(ev, eff)
		return
	}
	// One that took the place of ours altered it; that is undone. (One beside ours
	// was no replacement.)
	if ev.replace && !ev.del && r.usual() && m.get(r.dst).kind != valueNone {
		m.set(r.dst, value{kind: valueUnknown})
		eff.touched = append(eff.touched, r.dst)
		return
	}
	m.others.apply(ev)
	if r.table == unix.RT_TABLE_MAIN {
		eff.moved = append(eff.moved, r.dst)
	}
	if r.usual() {
		eff.touched = append(eff.touched, r.dst)
	}
}

// applyOurs takes in an event about a route of our protocol.
func (m *mirror) applyOurs(ev event, eff *effect) {
	r := ev.route
	eff.touched = append(eff.touched, r.dst)
	if !r.usual() {
		key := strayKey{dst: r.dst, metric: r.metric, tos: r.tos}
		if ev.del {
			delete(m.strays, key)
		} else {
			m.strays[key] = struct{}{}
		}
		return
	}
	if ev.del {
		m.set(r.dst, value{})
		return
	}
	m.set(r.dst, valueOf(r))
}

// valueOf is what a route of ours says.
func valueOf(r *kernelRoute) value {
	switch {
	case r.odd:
	case r.kind == unix.RTN_BLACKHOLE && r.nhid == 0:
		return value{kind: valueBlackhole}
	case r.kind != unix.RTN_UNICAST:
	case r.nhid != 0:
		return value{kind: valueObject, nhid: r.nhid}
	case len(r.paths) == 1 && !r.paths[0].gateway.IsValid():
		return value{kind: valueLink, oif: r.paths[0].oif}
	case len(r.paths) > 0:
		return value{kind: valuePaths, paths: joinPaths(r.paths)}
	}
	return value{kind: valueUnknown}
}

// joinPaths makes paths comparable, whatever their order.
func joinPaths(ps []path) string {
	ps = append([]path(nil), ps...)
	sortPaths(ps)
	var b []byte
	for _, p := range ps {
		b = fmt.Appendf(b, "%s%%%d", p.gateway, p.oif)
		if p.onlink {
			b = append(b, " onlink"...)
		}
		b = append(b, '\n')
	}
	return string(b)
}

func (m *mirror) applyObject(ev event, eff *effect) {
	o := ev.object
	_, was := m.objects[o.id]
	switch {
	case ev.del:
		delete(m.taken, o.id)
		if was {
			eff.objects = append(eff.objects, o.id)
			eff.touched = append(eff.touched, m.dropObjects(map[uint32]struct{}{o.id: {}})...)
		}
	case o.protocol != m.protocol && was:
		// Somebody altered ours.
		eff.objects = append(eff.objects, o.id)
		m.setObject(o.id, content{odd: true, path: o.content.path, members: o.content.members})
	case o.protocol != m.protocol:
		m.taken[o.id] = struct{}{}
	default:
		eff.objects = append(eff.objects, o.id)
		m.setObject(o.id, o.content)
	}
}

// applyLink takes in a link's state. The kernel drops much of what lies over a
// link that goes down, and tells little of it.
func (m *mirror) applyLink(l link, del bool, eff *effect) {
	old, known := m.links[l.index]
	if known && !del && old == l {
		return
	}
	if known {
		eff.links = append(eff.links, old.name)
		if m.names[old.name] == l.index {
			delete(m.names, old.name)
		}
	}
	if del {
		delete(m.links, l.index)
		l.flags = 0
	} else {
		m.links[l.index] = l
		m.names[l.name] = l.index
		eff.links = append(eff.links, l.name)
	}
	if known && old.running() && !l.running() {
		gone := map[uint32]struct{}{}
		for id, c := range m.objects {
			if c.path.oif == l.index && !c.group() {
				gone[id] = struct{}{}
				eff.objects = append(eff.objects, id)
			}
		}
		if len(gone) > 0 {
			eff.touched = append(eff.touched, m.dropObjects(gone)...)
		}
		eff.all = true
	}
	if known && old.up() && !l.up() {
		eff.touched = append(eff.touched, m.dropOver(l.index)...)
		eff.all = m.main.dropOver(l.index) || eff.all
		if m.others != m.main {
			m.others.dropOver(l.index)
		}
	}
	if l.running() && (!known || !old.running()) {
		eff.all = true
	}
}

// dropOver notes that a link is down: plain routes over it are gone, or have
// lost a path. It returns their destinations.
func (m *mirror) dropOver(oif int) []netip.Prefix {
	var lost []netip.Prefix
	for dst := range m.byLink[oif] {
		lost = append(lost, dst)
	}
	for _, dst := range lost {
		m.set(dst, value{})
	}
	if m.pathed == 0 {
		return lost
	}
	needle := fmt.Sprintf("%%%d", oif)
	for dst, v := range m.ours {
		if v.kind == valuePaths && overLink(v.paths, needle) {
			m.set(dst, value{kind: valueUnknown})
			lost = append(lost, dst)
		}
	}
	return lost
}

// usable says whether a link can carry traffic to a gateway.
func (m *mirror) usable(oif int) error {
	l, ok := m.links[oif]
	switch {
	case !ok:
		return fmt.Errorf("link %d does not exist", oif)
	case !l.up():
		return fmt.Errorf("link %s is down", l.name)
	case !l.running():
		return fmt.Errorf("link %s has no carrier", l.name)
	}
	return nil
}
