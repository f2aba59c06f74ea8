package nat

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/internal/netnstest"
)

const patience = 5 * time.Second

// site is a pod, its node, and a host beyond it that has a second address, which
// is exempt:
//
//	pod 172.25.0.130 ── node 192.0.2.1 ── outside 192.0.2.2, 198.51.100.9
//	    fd00:25::82          2001:db8::1          2001:db8::2, 2001:db8:9::9
//
// The host knows the way to the pod, so that packets come back either way.
type site struct {
	t                  *testing.T
	pod, node, outside *netnstest.NS
	table              *Table
}

func newSite(t *testing.T) *site {
	s := &site{t: t, pod: netnstest.New(t), node: netnstest.New(t), outside: netnstest.New(t)}
	s.node.Run("ip", "link", "add", "gwpod", "type", "veth", "peer", "name", "eth0", "netns", s.pod.Name)
	s.node.Run("ip", "link", "add", "gwout", "type", "veth", "peer", "name", "eth0", "netns", s.outside.Name)
	for ns, script := range map[*netnstest.NS]string{
		s.node: `echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
			ip link set gwpod up; ip link set gwout up
			ip addr add 169.254.1.1/32 dev gwpod; ip addr add fe80::1/64 dev gwpod nodad
			ip addr add 192.0.2.1/24 dev gwout; ip addr add 2001:db8::1/64 dev gwout nodad
			ip route add 172.25.0.130/32 dev gwpod; ip route add fd00:25::82/128 dev gwpod
			ip route add 198.51.100.9/32 via 192.0.2.2; ip route add 2001:db8:9::9/128 via 2001:db8::2`,
		s.pod: `ip link set eth0 up
			ip addr add 172.25.0.130/32 dev eth0; ip addr add fd00:25::82/128 dev eth0 nodad
			ip route add 169.254.1.1 dev eth0; ip route add default via 169.254.1.1; ip route add default via fe80::1 dev eth0`,
		s.outside: `ip link set eth0 up
			ip addr add 192.0.2.2/24 dev eth0; ip addr add 2001:db8::2/64 dev eth0 nodad
			ip addr add 198.51.100.9/32 dev eth0; ip addr add 2001:db8:9::9/128 dev eth0 nodad preferred_lft 0
			ip route add 172.25.0.0/16 via 192.0.2.1; ip route add fd00:25::/48 via 2001:db8::1`,
	} {
		ns.Run("sh", "-ec", script)
	}
	s.table = in(t, s.node)
	return s
}

func (s *site) rules() Rules {
	return Rules{
		Masquerade: prefixes("172.25.0.0/16", "fd00:25::/48"),
		Exempt: prefixes("172.25.0.0/16", "fd00:25::/48", "192.0.2.1/32", "2001:db8::1/128",
			"198.51.100.9/32", "2001:db8:9::9/128"),
	}
}

// serve answers each line that a client sends with the client's address as seen
// here.
func (s *site) serve(ns *netnstest.NS, at string) (address string) {
	s.t.Helper()
	var l net.Listener
	ns.Do(func() {
		var err error
		if l, err = net.Listen("tcp", net.JoinHostPort(at, "0")); err != nil {
			s.t.Fatal(err)
		}
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			from := netip.MustParseAddrPort(c.RemoteAddr().String()).Addr()
			go func() {
				defer func() { _ = c.Close() }()
				for in := bufio.NewScanner(c); in.Scan(); {
					if _, err := fmt.Fprintln(c, from); err != nil {
						return
					}
				}
			}()
		}
	}()
	s.t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

func (s *site) dial(ns *netnstest.NS, address string) net.Conn {
	s.t.Helper()
	return s.dialFrom(ns, "", address)
}

// dialFrom dials from an address, which the kernel chooses if it is empty.
func (s *site) dialFrom(ns *netnstest.NS, source, address string) net.Conn {
	s.t.Helper()
	d := net.Dialer{Timeout: patience}
	if source != "" {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(source), 0))
	}
	var c net.Conn
	ns.Do(func() {
		var err error
		if c, err = d.Dial("tcp", address); err != nil {
			s.t.Fatalf("from %s: %v\n%s", ns.Name, err, s.node.Run("nft", "list", "ruleset"))
		}
	})
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// ask returns the address under which the server sees a connection.
func (s *site) ask(c net.Conn) string {
	s.t.Helper()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintln(c, "who am I?"); err != nil {
		s.t.Fatal(err)
	}
	answer, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(answer)
}

func TestWhoIsSeen(t *testing.T) {
	s := newSite(t)
	set(t, s.table, s.rules())
	for _, c := range []struct {
		name     string
		from, to *netnstest.NS
		at, want string
	}{
		{"pod to outside", s.pod, s.outside, "192.0.2.2", "192.0.2.1"},
		{"pod to outside, IPv6", s.pod, s.outside, "2001:db8::2", "2001:db8::1"},
		{"pod to an exempt destination", s.pod, s.outside, "198.51.100.9", "172.25.0.130"},
		{"pod to an exempt destination, IPv6", s.pod, s.outside, "2001:db8:9::9", "fd00:25::82"},
		{"pod to its node", s.pod, s.node, "192.0.2.1", "172.25.0.130"},
		{"pod to its node, IPv6", s.pod, s.node, "2001:db8::1", "fd00:25::82"},
		{"outside to pod", s.outside, s.pod, "172.25.0.130", "192.0.2.2"},
		{"outside to pod, IPv6", s.outside, s.pod, "fd00:25::82", "2001:db8::2"},
		{"node to outside", s.node, s.outside, "192.0.2.2", "192.0.2.1"},
		{"node to pod", s.node, s.pod, "172.25.0.130", "169.254.1.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := s.ask(s.dial(c.from, s.serve(c.to, c.at))); got != c.want {
				t.Errorf("seen as %s, want %s", got, c.want)
			}
		})
	}
}

// A connection that is translated stays so, whatever is done to the rules; one
// that isn't stays so as well.
func TestConnectionsStand(t *testing.T) {
	s := newSite(t)
	set(t, s.table, s.rules())
	address := s.serve(s.outside, "192.0.2.2")
	old := s.dial(s.pod, address)
	plain := s.dial(s.pod, s.serve(s.outside, "198.51.100.9"))
	check := func(when string) {
		t.Helper()
		if got := s.ask(old); got != "192.0.2.1" {
			t.Errorf("%s: the standing connection is seen as %s", when, got)
		}
		if got := s.ask(plain); got != "172.25.0.130" {
			t.Errorf("%s: the connection to an exempt destination is seen as %s", when, got)
		}
	}
	check("before")
	set(t, s.table, s.rules())
	check("after the same rules")
	exempt := s.rules()
	exempt.Exempt = append(exempt.Exempt, netip.MustParsePrefix("192.0.2.0/24"))
	set(t, s.table, exempt)
	check("after the destination became exempt")
	if got := s.ask(s.dial(s.pod, address)); got != "172.25.0.130" {
		t.Errorf("a new connection to what became exempt is seen as %s", got)
	}
	s.node.Run("nft", "add rule inet godwit postrouting drop")
	set(t, s.table, s.rules())
	check("after the table was made anew")
	if got := s.ask(s.dial(s.pod, address)); got != "192.0.2.1" {
		t.Errorf("a new connection is seen as %s", got)
	}
	set(t, s.table, Rules{})
	check("after masquerade was turned off")
	if got := s.ask(s.dial(s.pod, address)); got != "172.25.0.130" {
		t.Errorf("masquerade is off, and a new connection is seen as %s", got)
	}
}

// Pods behind a tunnel reach other nodes under their node's address, though these
// are exempt. Their node itself reaches pods through its tunnel under the
// tunnel's address, whatever address it began with.
func TestTunnels(t *testing.T) {
	s := newSite(t)
	far := netnstest.New(t)
	s.node.Run("ip", "link", "add", TunnelPrefix+"test", "type", "veth", "peer", "name", "eth0", "netns", far.Name)
	s.node.Run("sh", "-ec", `ip link set godwit.test up
		ip addr add 172.25.0.129/32 dev godwit.test; ip addr add fd00:25::81/128 dev godwit.test nodad; ip addr add fe80::2/64 dev godwit.test nodad
		ip route add 172.25.0.192/26 dev godwit.test; ip route add fd00:25::c0/122 dev godwit.test`)
	far.Run("sh", "-ec", `ip link set eth0 up
		ip addr add 172.25.0.195/32 dev eth0; ip addr add fd00:25::c3/128 dev eth0 nodad
		ip route add 172.25.0.128/26 dev eth0; ip route add 192.0.2.1 dev eth0
		ip route add fd00:25::80/122 dev eth0; ip route add 2001:db8::1 via fe80::2 dev eth0`)
	plain := s.rules()
	tunnelled := s.rules()
	tunnelled.Tunnelled = prefixes("172.25.0.0/16", "fd00:25::/48")
	tunnelled.Nodes = prefixes("198.51.100.9/32", "2001:db8:9::9/128")
	tunnelled.Own = prefixes("192.0.2.1/32", "2001:db8::1/128")
	only := tunnelled // with nothing else to masquerade
	only.Masquerade = nil
	for _, c := range []struct {
		name          string
		from, to      *netnstest.NS
		source, at    string
		plain, tunnel string
	}{
		{"pod to node", s.pod, s.outside, "", "198.51.100.9", "172.25.0.130", "192.0.2.1"},
		{"pod to node, IPv6", s.pod, s.outside, "", "2001:db8:9::9", "fd00:25::82", "2001:db8::1"},
		{"pod to its own node", s.pod, s.node, "", "192.0.2.1", "172.25.0.130", "172.25.0.130"},
		{"node to pod", s.node, far, "", "172.25.0.195", "172.25.0.129", "172.25.0.129"},
		{"node's address to pod", s.node, far, "192.0.2.1", "172.25.0.195", "192.0.2.1", "172.25.0.129"},
		{"node's address to pod, IPv6", s.node, far, "2001:db8::1", "fd00:25::c3", "2001:db8::1", "fd00:25::81"},
		{"node's address to outside", s.node, s.outside, "192.0.2.1", "198.51.100.9", "192.0.2.1", "192.0.2.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, r := range []struct {
				Rules

				want string
			}{{plain, c.plain}, {tunnelled, c.tunnel}, {only, c.tunnel}} {
				set(t, s.table, r.Rules)
				if got := s.ask(s.dialFrom(c.from, c.source, s.serve(c.to, c.at))); got != r.want {
					t.Errorf("%+v: seen as %s, want %s", r.Rules, got, r.want)
				}
			}
		})
	}
}
