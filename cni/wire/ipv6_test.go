package wire

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/godwit-net/godwit/internal/netnstest"
)

// hostile are settings of a node and of containers that would leave a pod
// without IPv6, or have it wait.
func hostile(ns *netnstest.NS) {
	ns.Run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1", "net.ipv6.conf.default.accept_dad=2", "net.ipv6.conf.all.accept_dad=2",
		"net.ipv6.conf.default.dad_transmits=3", "net.ipv6.conf.default.addr_gen_mode=3", "net.ipv6.conf.default.accept_ra=2", "net.ipv4.ip_forward=1")
}

func TestPodWithIPv6LooksAsDesigned(t *testing.T) {
	const gw = "fe80::ecee:eeff:feee:eeee"
	for _, c := range []struct {
		name      string
		addresses []string
		hostile   bool
		route4    string
	}{
		{"IPv6 only", []string{"fd00:25::82"}, false, ""},
		{"both families", []string{"172.25.0.130", "fd00:25::82"}, false, "default via 169.254.1.1 dev eth0\n169.254.1.1 dev eth0 scope link"},
		{"against the defaults", []string{"fd00:25::82"}, true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			node, pod := netnstest.New(t), netnstest.New(t)
			pod.Run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
			if c.hostile {
				hostile(node)
				hostile(pod)
			}
			w := newWirer(t, node)
			s := spec("one", c.addresses...)
			l := attach(t, w, open(t, w, pod), s)
			// What shows while it waits for duplicate address detection shows at once or
			// never.
			for ns, link := range map[*netnstest.NS]string{node: l.HostEnd, pod: "eth0"} {
				scope := []string{"ip", "-6", "addr", "show", "dev", link, "tentative"}
				if ns == pod { // its own link-local address may be in doubt: nobody needs it
					scope = append(scope, "scope", "global")
				}
				if got := lines(ns.Run(scope[0], scope[1:]...)); got != "" {
					t.Errorf("tentative addresses:\n%s", got)
				}
			}
			for _, c := range []struct {
				ns   *netnstest.NS
				cmd  string
				want string
			}{
				{pod, "ip route", c.route4},
				{pod, "ip -6 route show default", "default via " + gw + " dev eth0 metric 1024 pref medium"},
				{pod, "ip -6 route show " + gw, gw + " dev eth0 metric 1024 pref medium"},
				{pod, "ip -6 neigh", gw + " dev eth0 lladdr ee:ee:ee:ee:ee:ee PERMANENT"},
				{pod, "sysctl -n net.ipv6.conf.all.forwarding net.ipv6.conf.eth0.accept_ra net.ipv6.conf.eth0.accept_dad net.ipv6.conf.eth0.disable_ipv6", "0\n0\n0\n0"},
				{node, "sysctl -n" + strings.ReplaceAll(" forwarding proxy_ndp accept_ra accept_dad disable_ipv6", " ", " net.ipv6.conf."+l.HostEnd+"."), "1\n1\n0\n0\n0"},
				{node, "sysctl -n net.ipv6.neigh." + l.HostEnd + ".proxy_delay", "0"},
			} {
				words := strings.Fields(c.cmd)
				if got := lines(c.ns.Run(words[0], words[1:]...)); got != c.want {
					t.Errorf("%s:\n%s\nwant:\n%s", c.cmd, got, c.want)
				}
			}
			if got := pod.Run("ip", "-6", "-o", "addr", "show", "dev", "eth0", "scope", "global"); !strings.Contains(got, "fd00:25::82/128") {
				t.Errorf("the container's addresses:\n%s", got)
			}
			if got := node.Run("ip", "-o", "addr", "show", "dev", l.HostEnd); strings.Count(got, "\n") != 1 || !strings.Contains(got, "inet6 "+gw+"/64 scope link") {
				t.Errorf("the host's end has:\n%s", got)
			}
			// The host's end gets its address back when it was down for a while.
			node.Run("ip", "link", "set", l.HostEnd, "down")
			node.Run("ip", "link", "set", l.HostEnd, "up")
			eventually(t, func() string { return node.Run("ip", "-o", "addr", "show", "dev", l.HostEnd) }, "inet6 "+gw+"/64 scope link")
		})
	}
}

func eventually(t *testing.T, look func() string, want string) {
	t.Helper()
	var got string
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if got = look(); strings.Contains(got, want) {
			return
		}
	}
	t.Errorf("got\n%s\nwant %s", got, want)
}

func TestForwardingPodKeepsItsSettingInIPv6(t *testing.T) {
	node, pod := netnstest.New(t), netnstest.New(t)
	pod.Run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
	w := newWirer(t, node)
	s := spec("one", "fd00:25::82")
	s.Forward = true
	attach(t, w, open(t, w, pod), s)
	if got := lines(pod.Run("sysctl", "-n", "net.ipv6.conf.all.forwarding")); got != "1" {
		t.Errorf("forwarding is %s", got)
	}
}

// host is a network namespace with a socket that answers whatever comes.
type host struct {
	*netnstest.NS
	socket net.PacketConn
}

func newHost(t *testing.T) *host {
	h := &host{NS: netnstest.New(t)}
	h.Do(func() {
		var err error
		if h.socket, err = net.ListenPacket("udp", ":0"); err != nil { // of both families
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { _ = h.socket.Close() })
	return h
}

func (h *host) echo() {
	for buf := make([]byte, 64); ; {
		n, from, err := h.socket.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = h.socket.WriteTo(buf[:n], from)
	}
}

// ask sends one packet and returns after which time the answer came.
func (h *host) ask(t *testing.T, to *host, at netip.Addr) time.Duration {
	t.Helper()
	port := to.socket.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	start := time.Now()
	_ = h.socket.SetReadDeadline(start.Add(5 * time.Second))
	if _, err := h.socket.WriteTo([]byte("?"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, port))); err != nil {
		t.Fatalf("%s: %v", at, err)
	}
	if _, _, err := h.socket.ReadFrom(make([]byte, 64)); err != nil {
		t.Fatalf("the first packet to %s: %v", at, err)
	}
	return time.Since(start)
}

// Once a pod is attached and has its routes, the very first packet passes, in
// each direction and family: nothing waits for duplicate address detection or
// for a link that is not ready.
func TestFirstPacketPasses(t *testing.T) {
	node, other := newHost(t), newHost(t)
	hostile(node.NS)
	node.Run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.lo.disable_ipv6=0")
	own := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00:1::1")}
	node.Run("ip", "addr", "add", "10.0.0.1/32", "dev", "lo")
	node.Run("ip", "addr", "add", "fd00:1::1/128", "dev", "lo", "nodad")
	// A neighbour is asked again after 1 s; duplicate address detection takes 1 s at
	// least, here 3.
	const enough = 900 * time.Millisecond
	w := newWirer(t, node.NS)
	attachTo := func(pod *host, id string, addresses ...string) []netip.Addr {
		s := spec(id, addresses...)
		ns := open(t, w, pod.NS)
		start := time.Now()
		l := attach(t, w, ns, s)
		if took := time.Since(start); took > enough {
			t.Errorf("%s: it took %v to attach it", id, took)
		}
		node.Do(func() {
			link, err := netlink.LinkByName(l.HostEnd)
			for _, a := range s.Addresses {
				if err == nil {
					err = netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: netlink.NewIPNet(a.AsSlice())})
				}
			}
			if err != nil {
				t.Fatal(err)
			}
		})
		return s.Addresses
	}
	others := attachTo(other, "other", "172.25.0.200", "fd00:25::c8")
	go other.echo()
	for i := range 8 {
		for j, direction := range []string{"pod to node", "node to pod", "pod to pod"} {
			pod := newHost(t)
			hostile(pod.NS)
			id := fmt.Sprintf("%s-%d", strings.ReplaceAll(direction, " ", "-"), i)
			n := 3*i + j + 1
			its := attachTo(pod, id, fmt.Sprintf("172.25.0.%d", n), fmt.Sprintf("fd00:25::%x", n))
			for family := range its {
				var took time.Duration
				switch direction {
				case "pod to node":
					took = pod.askOf(t, node, own[family])
				case "pod to pod":
					took = pod.ask(t, other, others[family])
				case "node to pod":
					took = node.askOf(t, pod, its[family])
				}
				if took > enough {
					t.Errorf("%s %s: the answer to the first packet came after %v", direction, its[family], took)
				}
			}
		}
	}
}

// askOf asks a host that answers only meanwhile.
func (h *host) askOf(t *testing.T, to *host, at netip.Addr) time.Duration {
	t.Helper()
	_ = to.socket.SetReadDeadline(time.Time{})
	done := make(chan struct{})
	go func() { defer close(done); to.echo() }()
	took := h.ask(t, to, at)
	_ = to.socket.SetReadDeadline(time.Unix(0, 1))
	<-done
	return took
}

// A pod whose MAC address a later plugin changed has forgotten its gateway's,
// and finds it by neighbour discovery.
func TestGatewayAnswersNeighbourDiscovery(t *testing.T) {
	node, pod := netnstest.New(t), netnstest.New(t)
	hostile(node)
	node.Run("sh", "-c", "sysctl -qw net.ipv6.conf.lo.disable_ipv6=0; ip addr add fd00:1::1/128 dev lo nodad")
	w := newWirer(t, node)
	l := attach(t, w, open(t, w, pod), spec("one", "fd00:25::82"))
	node.Run("ip", "route", "add", "fd00:25::82", "dev", l.HostEnd)
	pod.Run("ip", "link", "set", "eth0", "address", "02:00:00:00:00:02")
	pod.Run("ip", "neigh", "flush", "dev", "eth0", "nud", "all")
	pod.Run("ping", "-c", "1", "-W", "3", "fd00:1::1")
}

// The kernel has no IPv6 on links with a small MTU: IPv4 works there all the
// same, and IPv6 is refused in plain words.
func TestSmallMTU(t *testing.T) {
	node := netnstest.New(t)
	w := newWirer(t, node)
	for _, c := range []struct {
		mtu       int
		addresses []string
		want      error
	}{
		{1279, []string{"172.25.0.130"}, nil},
		{576, []string{"172.25.0.130"}, nil},
		{1279, []string{"fd00:25::82"}, ErrNoIPv6},
		{1280, []string{"172.25.0.130", "fd00:25::82"}, nil},
		{0, []string{"fd00:25::82"}, nil},
	} {
		s := spec("one", c.addresses...)
		s.MTU = c.mtu
		ns := open(t, w, netnstest.New(t))
		l, err := w.Attach(t.Context(), ns, s)
		if !errors.Is(err, c.want) {
			t.Errorf("MTU %d, %v: %v, want %v", c.mtu, c.addresses, err, c.want)
		}
		if err != nil {
			continue
		}
		if want := max(c.mtu, 0); want > 0 && l.MTU != want || want == 0 && l.MTU != 1500 {
			t.Errorf("MTU %d was asked for, and there is %d", c.mtu, l.MTU)
		}
		for _, a := range s.Addresses {
			node.Run("ip", "route", "replace", a.String(), "dev", l.HostEnd)
		}
		s.MTU = 0 // as CHECK asks
		if diffs, err := w.Check(t.Context(), ns, s, nil); err != nil || len(diffs) > 0 {
			t.Errorf("MTU %d: differences %q, %v", c.mtu, diffs, err)
		}
		if _, _, err := w.Doom(t.Context(), "one", "eth0"); err != nil {
			t.Fatal(err)
		}
		if err := w.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
