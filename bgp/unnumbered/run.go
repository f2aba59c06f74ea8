package unnumbered

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	lookAgain  = 5 * time.Second // between looks at the interfaces when nothing happens
	retryAfter = time.Second     // after a look that failed, or an interface that could not be used
)

// Run finds routers until ctx ends. It works in the network namespace of the
// thread that it is called in.
func (f *Finder) Run(ctx context.Context) error {
	r := &run{
		Finder: f, links: make(map[string]*link), reported: make(map[string]string),
		heard: make(chan message), stop: make(chan struct{}),
	}
	defer r.end()
	for ctx.Err() == nil {
		if err := r.watch(ctx); err != nil {
			f.log.Warn("can't watch the interfaces; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryAfter):
		}
	}
	return nil
}

// run is the state of a Run.
type run struct {
	*Finder
	links    map[string]*link
	absent   []Neighbor        // the interfaces that can't be used
	reported map[string]string // problems as last logged, by interface
	heard    chan message
	stop     chan struct{}
}

func (r *run) end() {
	close(r.stop)
	for _, l := range r.links {
		l.close()
	}
}

// watch works until ctx ends, or the kernel's messages about links can't be had.
func (r *run) watch(ctx context.Context) error {
	done := make(chan struct{})
	defer close(done)
	broken := make(chan error, 2)
	report := func(err error) {
		select {
		case broken <- err:
		default:
		}
	}
	links, addrs := make(chan netlink.LinkUpdate, 64), make(chan netlink.AddrUpdate, 64)
	if err := netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{ErrorCallback: report}); err != nil {
		return err
	}
	if err := netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{ErrorCallback: report}); err != nil {
		return err
	}
	look := time.NewTimer(0)
	speak := time.NewTimer(0)
	defer look.Stop()
	defer speak.Stop()
	for {
		concerned := false
		select {
		case <-ctx.Done():
			return nil
		case err := <-broken:
			return err
		case <-r.wake:
			concerned = true
		case <-look.C:
			concerned = true
		case u, ok := <-links:
			if !ok {
				return errors.New("the messages about links ended")
			}
			concerned = slices.Contains(r.asked(), u.Attrs().Name)
		case u, ok := <-addrs:
			if !ok {
				return errors.New("the messages about addresses ended")
			}
			concerned = r.mayUse(u)
		case m := <-r.heard:
			r.take(m)
		case <-speak.C:
		}
		if concerned {
			look.Reset(r.look())
		}
		speak.Reset(time.Until(r.speak(time.Now())))
		r.publish()
	}
}

// mayUse reports whether an address may be one that a link waits for or has.
func (r *run) mayUse(u netlink.AddrUpdate) bool {
	a, ok := netip.AddrFromSlice(u.LinkAddress.IP)
	if !ok || !a.Is6() || !a.IsLinkLocalUnicast() {
		return false
	}
	for _, l := range r.links {
		if l.index == u.LinkIndex {
			return true
		}
	}
	return false
}

// take notes what was heard.
func (r *run) take(m message) {
	l := m.link
	if l.conn != m.conn {
		return // it is closed
	}
	switch {
	case m.err != nil:
		l.close()
		l.problem = fmt.Sprintf("can't listen on %s: %v", l.name, m.err)
	case m.asks:
		l.asked(time.Now())
	default:
		l.heard(m.from, time.Now())
	}
}

// look brings the links to what is asked for and what is there, and returns when
// to look again if nothing happens.
func (r *run) look() time.Duration {
	wanted := r.asked()
	for name, l := range r.links {
		if !slices.Contains(wanted, name) {
			l.close()
			delete(r.links, name)
		}
	}
	again := lookAgain
	r.absent = nil
	for _, name := range wanted {
		if err := r.lookAt(name); err != nil {
			again = retryAfter
			if r.links[name] == nil {
				r.absent = append(r.absent, Neighbor{Interface: name, Problem: err.Error()})
			} else {
				r.links[name].problem = err.Error()
			}
		}
	}
	return again
}

// lookAt brings one link to what is there.
func (r *run) lookAt(name string) error {
	found, err := netlink.LinkByName(name)
	if err != nil {
		if l := r.links[name]; l != nil {
			l.close()
			delete(r.links, name)
		}
		var missing netlink.LinkNotFoundError
		if errors.As(err, &missing) {
			return fmt.Errorf("the node has no interface %s", name)
		}
		return fmt.Errorf("look at interface %s: %w", name, err)
	}
	attrs := found.Attrs()
	l := r.links[name]
	if l != nil && l.index != attrs.Index {
		l.close()
		l = nil
	}
	if l == nil {
		l = &link{name: name, index: attrs.Index}
		r.links[name] = l
	}
	l.mac = attrs.HardwareAddr
	if attrs.RawFlags&unix.IFF_UP == 0 || attrs.RawFlags&unix.IFF_RUNNING == 0 {
		l.close()
		return fmt.Errorf("interface %s is down", name)
	}
	address, err := linkLocal(found)
	if err != nil {
		l.close()
		return err
	}
	if l.conn != nil && l.source == address.WithZone(name) {
		return nil
	}
	l.close()
	if err := l.open(address, attrs.MTU, r.heard, r.stop); err != nil {
		return fmt.Errorf("listen for routers on %s: %w", name, err)
	}
	l.begin(time.Now())
	return nil
}

// linkLocal is the first address of a link that routers can be spoken with from.
func linkLocal(on netlink.Link) (netip.Addr, error) {
	name := on.Attrs().Name
	addrs, err := netlink.AddrList(on, netlink.FAMILY_V6)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list the addresses of %s: %w", name, err)
	}
	tentative := false
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		if !ok || !ip.IsLinkLocalUnicast() {
			continue
		}
		if a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
			tentative = true
			continue
		}
		return ip, nil
	}
	if tentative {
		return netip.Addr{}, fmt.Errorf("the kernel still checks that nobody else has the IPv6 link-local address of %s", name)
	}
	return netip.Addr{}, fmt.Errorf("interface %s has no IPv6 link-local address: see that IPv6 is on there (sysctl net.ipv6.conf.%s.disable_ipv6=0)", name, name)
}

// speak sends what is due on each link and returns when something is next.
func (r *run) speak(now time.Time) time.Time {
	next := now.Add(lookAgain)
	for _, l := range r.links {
		if l.conn != nil {
			next = earlier(next, l.speak(now))
		}
	}
	return next
}

// publish makes known what is known, and logs what is new.
func (r *run) publish() {
	known := slices.Clone(r.absent)
	for _, l := range r.links {
		known = append(known, l.neighbor())
	}
	slices.SortFunc(known, func(a, b Neighbor) int { return strings.Compare(a.Interface, b.Interface) })
	reported := make(map[string]string, len(known))
	for _, n := range known {
		said := fmt.Sprint(n.Address, n.Problem)
		reported[n.Interface] = said
		if r.reported[n.Interface] == said {
			continue
		}
		if n.Address.IsValid() && n.Problem == "" {
			r.log.Info("found a router", "interface", n.Interface, "router", n.Address)
		} else {
			r.log.Info("looking for a router", "interface", n.Interface, "router", n.Address, "problem", n.Problem)
		}
	}
	r.reported = reported
	r.tell(known)
}
