package routes

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// fakeKernel is a kernel in memory, true to the real one in what the table
// counts on: what create, replace and delete do with what is there, that routes
// need their nexthop objects and go with them, and that a link that goes down
// takes all with it without a word. TestConformance holds it to the real one.
type fakeKernel struct {
	mu      sync.Mutex
	links   map[int]link
	routes  []kernelRoute
	objects map[uint32]kernelObject
	told    []event
	log     []string // what was written, one line each
	woken   chan struct{}
}

// newFakeKernel has the links and connected networks of cluster.
func newFakeKernel() *fakeKernel {
	k := &fakeKernel{links: map[int]link{}, objects: map[uint32]kernelObject{}, woken: make(chan struct{}, 1)}
	for i, name := range []string{"lo", "gw0", "gw1", "gwpod0", "gwpod1"} {
		k.links[i+1] = link{index: i + 1, name: name, flags: unix.IFF_UP | unix.IFF_LOWER_UP}
	}
	for dst, oif := range map[string]int{"10.211.55.0/24": 2, "10.212.0.0/24": 3, "fd00:55::/64": 2, "fd00:56::/64": 3} {
		k.routes = append(k.routes, k.connected(dst, oif))
	}
	return k
}

func (k *fakeKernel) connected(dst string, oif int) kernelRoute {
	r := kernelRoute{
		dst: mustPrefix(dst), table: unix.RT_TABLE_MAIN, protocol: unix.RTPROT_KERNEL,
		kind: unix.RTN_UNICAST, paths: []path{{oif: oif}},
	}
	if r.dst.Addr().Is6() {
		r.metric = 256
	}
	return r
}

func (k *fakeKernel) snapshot() (snapshot, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := snapshot{objects: true}
	for _, l := range k.links {
		s.events = append(s.events, event{link: &l})
	}
	for _, o := range k.objects {
		s.events = append(s.events, event{object: &o})
	}
	for _, r := range k.routes {
		s.events = append(s.events, event{route: &r})
	}
	return s, nil
}

func (k *fakeKernel) events() ([]event, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	evs := k.told
	k.told = nil
	return evs, nil
}

func (k *fakeKernel) wait(d time.Duration) error {
	select {
	case <-k.woken:
	case <-time.After(d):
	}
	return nil
}

func (k *fakeKernel) wake() {
	select {
	case k.woken <- struct{}{}:
	default:
	}
}

func (k *fakeKernel) close() error { return nil }

func (k *fakeKernel) write(reqs []request) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range reqs {
		r := &reqs[i]
		if r.route != nil {
			r.err = k.writeRoute(r.mode, *r.route)
		} else {
			r.err = k.writeObject(r.mode, *r.object)
		}
		k.log = append(k.log, k.describe(r))
	}
	return nil
}

func (k *fakeKernel) writeRoute(mode writeMode, r kernelRoute) error {
	if r.metric == 0 {
		r.metric = usualMetric(r.dst)
	}
	at := slices.IndexFunc(k.routes, func(o kernelRoute) bool {
		return o.table == r.table && o.dst == r.dst && o.metric == r.metric && o.tos == r.tos &&
			(mode != modeDelete || o.protocol == r.protocol)
	})
	if mode == modeDelete {
		if at < 0 {
			return unix.ESRCH
		}
		k.routes = slices.Delete(k.routes, at, at+1)
		return nil
	}
	if _, ok := k.objects[r.nhid]; r.nhid != 0 && !ok {
		return unix.EINVAL
	}
	for _, p := range r.paths {
		if !k.links[p.oif].up() {
			return unix.ENETDOWN
		}
	}
	switch {
	case at >= 0 && mode == modeCreate:
		return unix.EEXIST
	case at < 0 && mode == modeReplace:
		return unix.ENOENT
	case at >= 0:
		k.routes[at] = r
	default:
		k.routes = append(k.routes, r)
	}
	return nil
}

func (k *fakeKernel) writeObject(mode writeMode, o kernelObject) error {
	_, exists := k.objects[o.id]
	switch {
	case mode == modeDelete && !exists:
		return unix.ENOENT
	case mode == modeDelete:
		k.drop(o.id)
		return nil
	case mode == modeCreate && exists:
		return unix.EEXIST
	case mode == modeReplace && !exists:
		return unix.ENOENT
	case !o.content.group() && !k.links[o.content.path.oif].running():
		return unix.ENETDOWN
	}
	for _, id := range splitIDs(o.content.members) {
		if _, ok := k.objects[id]; !ok {
			return unix.EINVAL
		}
	}
	k.objects[o.id] = o
	return nil
}

// drop removes an object and what hangs on it.
func (k *fakeKernel) drop(id uint32) {
	delete(k.objects, id)
	k.routes = slices.DeleteFunc(k.routes, func(r kernelRoute) bool { return r.nhid == id })
	for _, o := range k.objects {
		if o.content.has(id) {
			o.content = o.content.without(id)
			k.objects[o.id] = o
			if !o.content.group() {
				k.drop(o.id)
			}
		}
	}
}

// setLink takes a link down or up, with its connected networks.
func (k *fakeKernel) setLink(name string, up bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	defer k.wake()
	for _, l := range k.links {
		if l.name != name {
			continue
		}
		l.flags = 0
		if up {
			l.flags = unix.IFF_UP | unix.IFF_LOWER_UP
		}
		k.links[l.index] = l
		k.told = append(k.told, event{link: &l})
		for dst, oif := range map[string]int{"10.211.55.0/24": 2, "10.212.0.0/24": 3, "fd00:55::/64": 2, "fd00:56::/64": 3} {
			if oif == l.index {
				r := k.connected(dst, oif)
				if up {
					k.routes = append(k.routes, r)
				}
				k.told = append(k.told, event{del: !up, route: &r})
			}
		}
		if up {
			return
		}
		for id, o := range k.objects {
			if o.content.path.oif == l.index && !o.content.group() {
				k.drop(id)
			}
		}
		k.routes = slices.DeleteFunc(k.routes, func(r kernelRoute) bool {
			r.paths = slices.DeleteFunc(slices.Clone(r.paths), func(p path) bool { return p.oif != l.index })
			return len(r.paths) > 0
		})
	}
}

// hand deletes a route as somebody else.
func (k *fakeKernel) hand(dst string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	defer k.wake()
	for i, r := range k.routes {
		if r.dst == mustPrefix(dst) {
			k.routes = slices.Delete(k.routes, i, i+1)
			k.told = append(k.told, event{del: true, route: &r})
			return
		}
	}
}

func (k *fakeKernel) paths(r kernelRoute) []path {
	if r.nhid == 0 {
		return r.paths
	}
	o := k.objects[r.nhid]
	if !o.content.group() {
		return []path{o.content.path}
	}
	var ps []path
	for _, id := range splitIDs(o.content.members) {
		ps = append(ps, k.objects[id].content.path)
	}
	return ps
}

func (k *fakeKernel) line(r kernelRoute) string {
	desired := Route{Dst: r.dst, Blackhole: r.kind == unix.RTN_BLACKHOLE}
	for _, p := range k.paths(r) {
		if !p.gateway.IsValid() {
			desired.Link = k.links[p.oif].name
			continue
		}
		desired.NextHops = append(desired.NextHops, NextHop{Gateway: p.gateway, Link: k.links[p.oif].name, OnLink: p.onlink})
	}
	return render([]Route{desired})
}

// show is what `ip route` would show of ours.
func (k *fakeKernel) show() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var lines []string
	for _, r := range k.routes {
		if r.protocol == Protocol {
			lines = append(lines, k.line(r))
		}
	}
	return tidyAll(strings.Join(lines, "\n"))
}

// describe writes a request and its outcome as one would type it.
func (k *fakeKernel) describe(r *request) string {
	verb := map[writeMode]string{modeCreate: "add", modeReplace: "change", modePut: "replace", modeDelete: "del"}[r.mode]
	var s string
	switch {
	case r.route != nil && r.mode == modeDelete:
		s = fmt.Sprintf("route %s %s", verb, r.route.dst)
	case r.route != nil && r.route.nhid != 0:
		s = fmt.Sprintf("route %s %s nhid %d", verb, r.route.dst, r.route.nhid-firstID)
	case r.route != nil:
		s = fmt.Sprintf("route %s %s", verb, k.line(*r.route))
	case r.mode == modeDelete:
		s = fmt.Sprintf("nexthop del id %d", r.object.id-firstID)
	case r.object.content.group():
		s = fmt.Sprintf("nexthop %s id %d group", verb, r.object.id-firstID)
		for _, id := range splitIDs(r.object.content.members) {
			s += fmt.Sprintf(" %d", id-firstID)
		}
	default:
		p := r.object.content.path
		s = fmt.Sprintf("nexthop %s id %d via %s dev %s", verb, r.object.id-firstID, p.gateway, k.links[p.oif].name)
	}
	if r.err != nil {
		s += ": " + r.err.Error()
	}
	return s
}
