package unnumbered

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-net/godwit/internal/netnstest"
)

const patience = 30 * time.Second

// start runs a Finder in a namespace.
func start(t *testing.T, ns *netnstest.NS, interfaces ...string) *Finder {
	t.Helper()
	f := New(Options{})
	f.Set(interfaces)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		ns.Do(func() {
			if err := f.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return f
}

// wait waits until a finder's only neighbour is as it should be.
func wait(t *testing.T, f *Finder, what string, is func(Neighbor) bool) Neighbor {
	t.Helper()
	began := time.Now()
	for {
		all := f.Neighbors()
		if len(all) == 1 && is(all[0]) {
			t.Logf("%s after %v: %v", what, time.Since(began).Round(time.Millisecond), all[0])
			return all[0]
		}
		select {
		case <-f.Changed():
		case <-time.After(patience - time.Since(began)):
			t.Fatalf("%s: not so after %v: %+v", what, patience, all)
		}
	}
}

func waitRouter(t *testing.T, f *Finder, router string) Neighbor {
	t.Helper()
	return wait(t, f, "the router "+router, func(n Neighbor) bool {
		return n.Address == netip.MustParseAddr(router) && n.Problem == ""
	})
}

func waitProblem(t *testing.T, f *Finder, words string) Neighbor {
	t.Helper()
	return wait(t, f, words, func(n Neighbor) bool { return strings.Contains(n.Problem, words) })
}

// addLink links two namespaces; each end has one link-local address, at once.
func addLink(a *netnstest.NS, nameA, addrA string, b *netnstest.NS, nameB, addrB string) {
	a.Run("ip", "link", "add", nameA, "type", "veth", "peer", "name", nameB, "netns", b.Name)
	for _, end := range []struct {
		ns         *netnstest.NS
		name, addr string
	}{{a, nameA, addrA}, {b, nameB, addrB}} {
		end.ns.Run("ip", "link", "set", end.name, "addrgenmode", "none")
		end.ns.Run("ip", "addr", "add", end.addr+"/64", "dev", end.name, "nodad")
	}
	a.Run("ip", "link", "set", nameA, "up")
	b.Run("ip", "link", "set", nameB, "up")
}

// Two that look for each other find each other, whichever of the two ends of the
// link is there first; the link may go, come back, and be another then.
func TestFindEachOther(t *testing.T) {
	t.Parallel()
	node, tor := netnstest.New(t), netnstest.New(t)
	here, there := start(t, node, "eth1"), start(t, tor, "swp1")
	waitProblem(t, here, "the node has no interface eth1")

	addLink(node, "eth1", "fe80::a", tor, "swp1", "fe80::1")
	n := waitRouter(t, here, "fe80::1%eth1")
	if n.Source != netip.MustParseAddr("fe80::a%eth1") {
		t.Errorf("the node's end is %v", n.Source)
	}
	waitRouter(t, there, "fe80::a%swp1")

	// Down it keeps its neighbour, which it finds again.
	tor.Run("ip", "link", "set", "swp1", "down")
	if n := waitProblem(t, here, "interface eth1 is down"); n.Address != netip.MustParseAddr("fe80::1%eth1") {
		t.Errorf("the neighbour of a link that is down: %v", n)
	}
	tor.Run("ip", "link", "set", "swp1", "up")
	tor.Run("ip", "addr", "replace", "fe80::1/64", "dev", "swp1", "nodad")
	waitRouter(t, here, "fe80::1%eth1")

	node.Run("ip", "link", "del", "eth1")
	if n := waitProblem(t, here, "the node has no interface eth1"); n.Address.IsValid() {
		t.Errorf("the neighbour of a link that is gone: %v", n)
	}
	addLink(node, "eth1", "fe80::b", tor, "swp1", "fe80::2")
	waitRouter(t, here, "fe80::2%eth1")
	waitRouter(t, there, "fe80::b%swp1")

	here.Set(nil)
	if all := here.Neighbors(); len(all) != 0 {
		t.Errorf("with no interface asked for: %v", all)
	}
	here.Set([]string{"eth1"})
	waitRouter(t, here, "fe80::2%eth1")
}

// The link comes up while the kernel still checks its address.
func TestAddressIsChecked(t *testing.T) {
	t.Parallel()
	node, tor := netnstest.New(t), netnstest.New(t)
	here, there := start(t, node, "eth1"), start(t, tor, "swp1")
	node.Run("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "swp1", "netns", tor.Name)
	node.Run("ip", "link", "set", "eth1", "up")
	waitProblem(t, here, "interface eth1 is down")
	tor.Run("ip", "link", "set", "swp1", "up")
	found := func(n Neighbor) bool { return n.Address.IsValid() && n.Problem == "" }
	a, b := wait(t, here, "a router", found), wait(t, there, "a router", found)
	if a.Address.WithZone("") != b.Source.WithZone("") || b.Address.WithZone("") != a.Source.WithZone("") {
		t.Errorf("found %v and %v", a, b)
	}
}

// A router that is replaced by another is followed; one beside it is reported.
func TestRouterIsReplaced(t *testing.T) {
	t.Parallel()
	node, tor := netnstest.New(t), netnstest.New(t)
	addLink(node, "eth1", "fe80::a", tor, "swp1", "fe80::1")
	here := start(t, node, "eth1")
	waitProblem(t, here, "no router advertisement has come in on eth1 yet")
	start(t, tor, "swp1")
	waitRouter(t, here, "fe80::1%eth1")
	tor.Run("ip", "addr", "del", "fe80::1/64", "dev", "swp1")
	tor.Run("ip", "addr", "add", "fe80::2/64", "dev", "swp1", "nodad")
	waitRouter(t, here, "fe80::2%eth1")

	// A second router behind the same interface, which is a port of a bridge now.
	other := netnstest.New(t)
	node.Run("ip", "link", "add", "br0", "type", "bridge")
	node.Run("ip", "link", "set", "br0", "addrgenmode", "none")
	node.Run("ip", "addr", "add", "fe80::a/64", "dev", "br0", "nodad")
	node.Run("ip", "link", "set", "br0", "up")
	node.Run("ip", "link", "set", "eth1", "master", "br0")
	here.Set([]string{"br0"})
	waitRouter(t, here, "fe80::2%br0")
	addLink(node, "eth2", "fe80::c", other, "swp1", "fe80::3")
	node.Run("ip", "link", "set", "eth2", "master", "br0")
	start(t, other, "swp1")
	waitProblem(t, here, "there is a second router fe80::3 on br0 beside fe80::2")
}

// What comes from afar, or not from a router's address, is not heard.
func TestHeardOfTheLinkOnly(t *testing.T) {
	t.Parallel()
	node, tor := netnstest.New(t), netnstest.New(t)
	addLink(node, "eth1", "fe80::a", tor, "swp1", "fe80::1")
	node.Run("ip", "addr", "add", "fd00::a/64", "dev", "eth1", "nodad")
	tor.Run("ip", "addr", "add", "fd00::1/64", "dev", "swp1", "nodad")
	tor.Run("ip", "addr", "add", "fe80::2/64", "dev", "swp1", "nodad")
	listens := solicited(t, tor)
	here := start(t, node, "eth1")
	listens()
	waitProblem(t, here, "no router advertisement")
	for name, c := range map[string]struct {
		from, to string
		hops     int
	}{
		"a router's own address": {"fd00::1", "ff02::1", 255},
		"farther away":           {"fe80::1", "ff02::1", 254},
	} {
		if err := advertise(tor, c.from, c.to, c.hops); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	if err := advertise(tor, "fe80::2", "fe80::a", 255); err != nil {
		t.Fatal(err)
	}
	waitRouter(t, here, "fe80::2%eth1")
}
