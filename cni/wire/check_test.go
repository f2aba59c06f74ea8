package wire

import (
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/godwit-net/godwit/internal/netnstest"
)

func TestCheckTellsWhatDiffers(t *testing.T) {
	host := HostEnd("one", "eth0")
	for _, c := range []struct {
		name string
		on   string // node or pod
		cmd  string
		want string // within a difference; "" for none
	}{
		{"untouched", "pod", "true", ""},
		{"tuned by a later plugin", "pod", "ip link set eth0 mtu 1300", ""},
		{"another address too", "pod", "ip addr add 10.9.9.9/24 dev eth0", ""},
		{"host link gone", "node", "ip link del " + host, "link " + host + " is missing on the node"},
		{"host link down", "node", "ip link set " + host + " down", "on the node is down"},
		{"host MAC", "node", "ip link set " + host + " address 02:00:00:00:00:01", "has MAC address 02:00:00:00:00:01, not ee:ee:ee:ee:ee:ee"},
		{"host MTU", "node", "ip link set " + host + " mtu 1350", "has MTU 1350, not 1400"},
		{"alias", "node", "ip link set " + host + " alias stolen", `has alias "stolen", not "godwit godwit one eth0 172.25.0.130"`},
		{"proxy_arp", "node", "sysctl -qw net.ipv4.conf." + host + ".proxy_arp=0", "has proxy_arp=0, not 1"},
		{"accept_ra", "node", "sysctl -qw net.ipv6.conf." + host + ".accept_ra=1", "accept_ra is 1, not 0"},
		{"host route gone", "node", "ip route del 172.25.0.130", "the node has no route 172.25.0.130/32 over link " + host},
		{"host route covered", "node", "ip route del 172.25.0.130; ip route add 172.25.0.0/24 dev " + host, "the node has no route 172.25.0.130/32"},
		{"host route blackholed", "node", "ip route del 172.25.0.130; ip route add blackhole 172.25.0.128/26", "the node has no route 172.25.0.130/32"},
		{"pod address", "pod", "ip addr del 172.25.0.130/32 dev eth0", "has no address 172.25.0.130/32"},
		{"pod link down", "pod", "ip link set eth0 down", "interface eth0 in the container is down"},
		{"pod interface renamed", "pod", "sh -c 'ip link set eth0 down; ip link set eth0 name eth9'", "interface eth0 is missing in the container"},
		{"default route", "pod", "ip route del default", "has no default route via 169.254.1.1"},
		{"gateway route", "pod", "sh -c 'ip route del default; ip route del 169.254.1.1'", "has no route to the gateway 169.254.1.1"},
		{"neighbour gone", "pod", "ip neigh del 169.254.1.1 dev eth0", "has no permanent neighbour entry"},
		{"neighbour wrong", "pod", "ip neigh replace 169.254.1.1 dev eth0 lladdr 02:00:00:00:00:01 nud permanent", "has no permanent neighbour entry"},
		{"pod MAC", "pod", "ip link set eth0 address 02:00:00:00:00:02", "interface eth0 in the container has MAC address 02:00:00:00:00:02"},
		{"ip_forward", "pod", "sysctl -qw net.ipv4.ip_forward=1", "ip_forward is 1, not 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			node, pod := netnstest.New(t), netnstest.New(t)
			w := newWirer(t, node)
			ns := open(t, w, pod)
			s := spec("one", "172.25.0.130")
			l := attach(t, w, ns, s)
			node.Run("ip", "route", "add", "172.25.0.130", "dev", l.HostEnd, "proto", "71")
			map[string]*netnstest.NS{"node": node, "pod": pod}[c.on].Run("sh", "-c", c.cmd)
			diffs, err := w.Check(t.Context(), ns, s, l.PodMAC)
			if err != nil {
				t.Fatal(err)
			}
			found := slices.ContainsFunc(diffs, func(d string) bool { return strings.Contains(d, c.want) })
			if c.want == "" && len(diffs) > 0 || c.want != "" && !found {
				t.Errorf("differences %q, want %q", diffs, c.want)
			}
		})
	}
}

func TestCheckTellsWhatDiffersInIPv6(t *testing.T) {
	host := HostEnd("one", "eth0")
	gw := "fe80::ecee:eeff:feee:eeee"
	for _, c := range []struct {
		name string
		on   string // node or pod
		cmd  string
		want string // within a difference; "" for none
	}{
		{"untouched", "pod", "true", ""},
		{"another address too", "pod", "ip addr add fd09::9/64 dev eth0", ""},
		{"accept_dad", "node", "sysctl -qw net.ipv6.conf." + host + ".accept_dad=1", "accept_dad is 1, not 0"},
		{"forwarding", "node", "sysctl -qw net.ipv6.conf." + host + ".forwarding=0", "forwarding is 0, not 1"},
		{"proxy_ndp", "node", "sysctl -qw net.ipv6.conf." + host + ".proxy_ndp=0", "proxy_ndp is 0, not 1"},
		{"disable_ipv6", "node", "sysctl -qw net.ipv6.conf." + host + ".disable_ipv6=1", "disable_ipv6 is 1, not 0"},
		{"host link-local", "node", "ip addr del " + gw + "/64 dev " + host, "on the node has no address " + gw},
		{"host route gone", "node", "ip route del fd00:25::82", "the node has no route fd00:25::82/128 over link " + host},
		{"host route covered", "node", "ip route del fd00:25::82; ip route add fd00:25::/64 dev " + host, "the node has no route fd00:25::82/128"},
		{"host route blackholed", "node", "ip route del fd00:25::82; ip route add blackhole fd00:25::80/122", "the node has no route fd00:25::82/128"},
		{"pod address", "pod", "ip addr del fd00:25::82/128 dev eth0", "has no address fd00:25::82/128"},
		{"default route", "pod", "ip -6 route del default", "has no default route via " + gw},
		{"gateway route", "pod", "ip -6 route del " + gw, "has no route to the gateway " + gw},
		{"neighbour gone", "pod", "ip neigh del " + gw + " dev eth0", "has no permanent neighbour entry"},
		{"pod forwards", "pod", "sysctl -qw net.ipv6.conf.all.forwarding=1", "forwarding is 1, not 0"},
		{"pod takes routers' word", "pod", "sysctl -qw net.ipv6.conf.eth0.accept_ra=1", "accept_ra is 1, not 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			node, pod := netnstest.New(t), netnstest.New(t)
			w := newWirer(t, node)
			ns := open(t, w, pod)
			s := spec("one", "172.25.0.130", "fd00:25::82")
			l := attach(t, w, ns, s)
			for _, a := range s.Addresses {
				node.Run("ip", "route", "add", a.String(), "dev", l.HostEnd, "proto", "71")
			}
			map[string]*netnstest.NS{"node": node, "pod": pod}[c.on].Run("sh", "-c", c.cmd)
			s.MTU = 0 // as CHECK asks
			diffs, err := w.Check(t.Context(), ns, s, l.PodMAC)
			if err != nil {
				t.Fatal(err)
			}
			found := slices.ContainsFunc(diffs, func(d string) bool { return strings.Contains(d, c.want) })
			if c.want == "" && len(diffs) > 0 || c.want != "" && !found {
				t.Errorf("differences %q, want %q", diffs, c.want)
			}
		})
	}
}

func TestCheckTakesTheChainsMAC(t *testing.T) {
	node, pod := netnstest.New(t), netnstest.New(t)
	w := newWirer(t, node)
	ns := open(t, w, pod)
	s := spec("one", "172.25.0.130", "fd00:25::82")
	l := attach(t, w, ns, s)
	node.Run("ip", "route", "add", "172.25.0.130", "dev", l.HostEnd)
	node.Run("ip", "route", "add", "fd00:25::82", "dev", l.HostEnd)
	tuned, _ := net.ParseMAC("02:00:00:00:00:02")
	pod.Run("ip", "link", "set", "eth0", "address", tuned.String())
	if diffs, err := w.Check(t.Context(), ns, s, tuned); err != nil || len(diffs) > 0 {
		t.Errorf("differences %q, %v", diffs, err)
	}
}
