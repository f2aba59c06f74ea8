package routes

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// prefixTable holds other people's routes, for lookups by longest prefix.
type prefixTable struct {
	routes map[netip.Prefix][]*kernelRoute
	bits   [2][129]int // number of destinations by length, of IPv4 and IPv6
	over   map[int]int // number of routes by link
}

func newPrefixTable() *prefixTable {
	return &prefixTable{routes: map[netip.Prefix][]*kernelRoute{}, over: map[int]int{}}
}

func (t *prefixTable) count(dst netip.Prefix, n int) {
	if dst.Addr().Is4() {
		t.bits[0][dst.Bits()] += n
		return
	}
	t.bits[1][dst.Bits()] += n
}

func (t *prefixTable) countOver(r *kernelRoute, n int) {
	for _, p := range r.paths {
		if t.over[p.oif] += n; t.over[p.oif] == 0 {
			delete(t.over, p.oif)
		}
	}
}

// apply takes in a change of one route.
func (t *prefixTable) apply(ev event) {
	r := ev.route
	have := t.routes[r.dst]
	at := slices.IndexFunc(have, func(o *kernelRoute) bool {
		if o.tos != r.tos || o.metric != r.metric {
			return false
		}
		return ev.replace && !ev.del || sameRoute(o, r)
	})
	if at >= 0 {
		t.remove(r.dst, at)
	}
	if ev.del {
		return
	}
	have = t.routes[r.dst]
	if len(have) == 0 {
		t.count(r.dst, +1)
	}
	t.routes[r.dst] = append(have, r)
	t.countOver(r, +1)
}

func (t *prefixTable) remove(dst netip.Prefix, at int) {
	have := t.routes[dst]
	t.countOver(have[at], -1)
	if len(have) == 1 {
		delete(t.routes, dst)
		t.count(dst, -1)
		return
	}
	t.routes[dst] = slices.Delete(slices.Clone(have), at, at+1)
}

func sameRoute(a, b *kernelRoute) bool {
	return a.protocol == b.protocol && a.kind == b.kind && a.nhid == b.nhid && slices.Equal(a.paths, b.paths)
}

// dropOver removes the routes over a link that went down, of which the kernel
// does not tell; it says whether there were any.
func (t *prefixTable) dropOver(oif int) bool {
	if t.over[oif] == 0 {
		return false
	}
	for dst, have := range t.routes {
		for at := len(have) - 1; at >= 0; at-- {
			r := have[at]
			if len(r.paths) == 1 && r.paths[0].oif == oif {
				t.remove(dst, at)
				have = t.routes[dst]
			}
		}
	}
	return true
}

// conflict returns the route that stands where ours to dst would.
func (t *prefixTable) conflict(dst netip.Prefix) *kernelRoute {
	for _, r := range t.routes[dst] {
		if r.usual() {
			return r
		}
	}
	return nil
}

// lookup returns the route that takes packets to a, as far as usable says that
// its link is.
func (t *prefixTable) lookup(a netip.Addr, usable func(oif int) error) (best *kernelRoute, p path, err error) {
	family := 0
	if a.Is6() {
		family = 1
	}
	err = errNoRoute
	for bits := a.BitLen(); bits >= 0; bits-- {
		if t.bits[family][bits] == 0 {
			continue
		}
		dst, _ := a.Prefix(bits)
		for _, r := range t.routes[dst] {
			if r.tos != 0 || best != nil && best.metric <= r.metric {
				continue
			}
			way, e := r.way(usable)
			if e != nil {
				err = e
				continue
			}
			best, p = r, way
		}
		if best != nil {
			return best, p, nil
		}
		if err != errNoRoute { //nolint:errorlint // the very value it began with
			return nil, path{}, err
		}
	}
	return nil, path{}, err
}

// way is the first of the route's paths that is usable.
func (r *kernelRoute) way(usable func(oif int) error) (_ path, err error) {
	if r.kind != unix.RTN_UNICAST {
		return path{}, nil
	}
	err = errNoRoute
	for _, p := range r.paths {
		if err = usable(p.oif); err == nil {
			return p, nil
		}
	}
	return path{}, err
}

var errNoRoute = errors.New("no route leads to it")

// resolve finds the way to a gateway: the link that its user names, or that of
// the kernel's route to it. Our own routes don't count, so that none can hold
// itself up.
func (m *mirror) resolve(nh NextHop) (path, error) {
	p, err := m.resolveLink(nh)
	if err != nil {
		return path{}, fmt.Errorf("gateway %s: %w", nh.Gateway, err)
	}
	return p, nil
}

func (m *mirror) resolveLink(nh NextHop) (path, error) {
	p := path{gateway: nh.Gateway, onlink: nh.OnLink}
	if nh.Link != "" {
		oif, ok := m.names[nh.Link]
		if !ok {
			return path{}, fmt.Errorf("link %s does not exist", nh.Link)
		}
		p.oif = oif
		return p, m.usable(oif)
	}
	if nh.Gateway.IsLinkLocalUnicast() && nh.Gateway.Is6() {
		return path{}, errors.New("a link-local gateway needs a link")
	}
	r, way, err := m.main.lookup(nh.Gateway, m.usable)
	if err != nil {
		return path{}, err
	}
	if r.kind != unix.RTN_UNICAST {
		return path{}, fmt.Errorf("the host's own route %s drops what goes there", r.dst)
	}
	p.oif = way.oif
	if way.gateway.IsValid() && !nh.OnLink {
		return way, nil
	}
	return p, nil
}

// overLink says whether a joined list of paths has one over the link that the
// needle ("%index") names.
func overLink(paths, needle string) bool {
	for line := range strings.Lines(paths) {
		line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), " onlink")
		if strings.HasSuffix(line, needle) {
			return true
		}
	}
	return false
}
