package gobgp

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/bgptest/sender"
	"github.com/godwit-net/godwit/internal/netnstest"
)

// The kernel knows the password of who calls by the address alone, also where
// routers on two links have the same one: when one of them goes, the other's calls
// are still taken if they are signed, and only then.
func TestPasswordOfTheSameAddressOnTwoLinks(t *testing.T) {
	t.Parallel()
	node := netnstest.New(t)
	c := bgp.Config{ASN: 64512, RouterID: addr("10.0.0.1"), ListenPort: 1179}
	routers := make([]*remote, 2)
	for i := range routers {
		ns, link := netnstest.New(t), fmt.Sprint("gw", i)
		node.Run("ip", "link", "add", link, "type", "veth", "peer", "name", "up0", "netns", ns.Name)
		setLinkLocal(node, link, "fe80::a/64")
		setLinkLocal(ns, "up0", "fe80::1/64")
		// Go knows names of interfaces from another namespace, perhaps; numbers it takes as they are.
		zone := strings.TrimSpace(ns.Run("cat", "/sys/class/net/up0/ifindex"))
		o := external("fe80::1%"+zone, 65001)
		o.RouterID, o.Password = addr(fmt.Sprint("10.0.1.", i)), password
		speaker := c
		speaker.ListenAddresses = append(speaker.ListenAddresses, addr("fe80::a%"+zone))
		routers[i] = newPeerAt(t, speakerAddr(speaker), o)
		routers[i].ns = ns
		c.Peers = append(c.Peers, bgp.Peer{
			Name: link, Kind: bgp.PeerExternal, Address: addr("fe80::1%" + link), ASN: 65001, Password: password, Passive: true,
		})
	}
	sp := startChild(t, node.Name, false)
	set(t, sp, c)
	routers[0].connect()
	gone := copyOf(c)
	gone.Peers = gone.Peers[1:]
	set(t, sp, gone)
	r := routers[1]
	unsigned := r.options
	unsigned.Password = ""
	ctx, cancel := context.WithTimeout(context.Background(), 700*time.Millisecond)
	defer cancel()
	r.ns.Do(func() {
		if s, err := sender.Dial(ctx, r.at, unsigned); err == nil {
			t.Error("a session came up without the password")
			s.Close()
		}
	})
	r.connect()

	// Both may get another one.
	both := copyOf(c)
	for i := range both.Peers {
		both.Peers[i].Password = "another"
	}
	set(t, sp, c)
	set(t, sp, both)
	for _, r := range routers {
		r.options.Password = "another"
		r.connect()
	}
}

// setLinkLocal gives an end of a link a link-local address, and no other.
func setLinkLocal(ns *netnstest.NS, link, address string) {
	ns.Run("ip", "link", "set", link, "addrgenmode", "none")
	ns.Run("ip", "addr", "add", address, "dev", link, "nodad")
	ns.Run("ip", "link", "set", link, "up")
}
