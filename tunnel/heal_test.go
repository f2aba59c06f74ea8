package tunnel

import (
	"context"
	"strings"
	"testing"
	"time"
)

// heal calls Set as it is told to, until all is well.
func (v *node) heal(c Config) {
	v.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		v.told()
		_, err := v.table.Set(context.Background(), c)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			v.t.Fatalf("not healed: %v", err)
		}
	}
}

func TestHealing(t *testing.T) {
	l := newLab(t, 2)
	for _, v := range l.nodes {
		v.set(l.both(v))
		l.route(v, VXLANDevice)
		l.route(v, VXLAN6Device)
	}
	v := l.nodes[0]
	want := v.dump()
	for _, hurt := range []string{
		"ip link del godwit.vxlan",
		"ip link del godwit.vxlan6",
		"ip link set godwit.vxlan down",
		"ip link set godwit.vxlan6 down",
		"ip link set godwit.vxlan mtu 1300",
		"ip link set godwit.vxlan6 mtu 1200", // which takes IPv6 off the device
		"ip link set godwit.vxlan address 02:00:00:00:00:09",
		"ip link set godwit.vxlan alias mine",
		"ip link set godwit.vxlan type vxlan learning",
		"ip link set godwit.vxlan6 addrgenmode eui64",
		"ip link set godwit.vxlan down; ip link set godwit.vxlan name x",
		"ip link set godwit.vxlan6 down; ip link set godwit.vxlan6 name x; ip link add godwit.vxlan6 type vxlan id 3 dstport 3 local 2001:db8::1; ip link del godwit.vxlan6",
		"ip addr del 10.244.1.63/32 dev godwit.vxlan",
		"ip addr del fd00:1::3f/128 dev godwit.vxlan6",
		"ip addr add 198.51.100.1/24 dev godwit.vxlan",
		"ip addr add 10.244.1.63/24 dev godwit.vxlan",
		"ip addr replace 10.244.1.5 peer 10.244.1.6/32 dev godwit.vxlan",
		"ip addr add fe80::1/64 dev godwit.vxlan6 nodad",
		"ip addr del fd00:1::3f/128 dev godwit.vxlan6; ip addr add fd00:1::3f/64 dev godwit.vxlan6",
		"bridge fdb del 0a:67:c0:00:02:02 dev godwit.vxlan dst 192.0.2.2",
		"bridge fdb replace 0a:67:c0:00:02:02 dev godwit.vxlan dst 192.0.2.9",
		"bridge fdb replace 0a:67:c0:00:02:02 dev godwit.vxlan dst 192.0.2.2 port 5000",
		"bridge fdb append 00:00:00:00:00:00 dev godwit.vxlan dst 192.0.2.2",
		"bridge fdb add 02:00:00:00:00:09 dev godwit.vxlan6 dst 2001:db8::9",
		"ip neigh del 192.0.2.2 dev godwit.vxlan",
		"ip neigh replace 192.0.2.2 lladdr 02:00:00:00:00:09 dev godwit.vxlan nud permanent",
		"ip neigh replace 192.0.2.2 lladdr 0a:67:c0:00:02:02 dev godwit.vxlan nud reachable",
		"ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev godwit.vxlan nud permanent",
		"ip neigh flush dev godwit.vxlan6 nud permanent",
		"sysctl -qw net/ipv4/conf/godwit.vxlan/forwarding=0",
		"sysctl -qw net/ipv6/conf/godwit.vxlan6/forwarding=0",
		"sysctl -qw net/ipv6/conf/godwit.vxlan6/disable_ipv6=1",
	} {
		t.Run(hurt, func(t *testing.T) {
			for _, cmd := range strings.Split(hurt, "; ") {
				f := strings.Fields(cmd)
				v.Run(f[0], f[1:]...)
			}
			v.heal(l.both(v))
			if got := v.dump(); got != want {
				t.Fatalf("healed to\n%s\nand not\n%s", got, want)
			}
			l.route(v, VXLANDevice)
			l.route(v, VXLAN6Device)
			v.ping(l.nodes[1].pod4())
			v.ping(l.nodes[1].pod6())
			v.quiet()
		})
	}
}

// TestForeignChangesAreNoNews changes what looks like ours and is not.
func TestForeignChangesAreNoNews(t *testing.T) {
	l := newLab(t, 2)
	v := l.nodes[0]
	v.set(l.both(v))
	for _, cmd := range []string{
		"ip link add other type vxlan id 5 dstport 5555 local 192.0.2.1 dev eth0",
		"ip link set other up mtu 1400",
		"ip addr add 10.244.1.60/32 dev other",
		"bridge fdb add 0a:67:c0:00:02:02 dev other dst 192.0.2.2",
		"ip neigh add 192.0.2.2 lladdr 0a:67:c0:00:02:02 dev other",
		"ip neigh replace 192.0.2.2 lladdr 02:00:00:00:00:02 dev eth0",
		"ip neigh add 192.0.2.77 lladdr 02:00:00:00:00:09 dev godwit.vxlan nud stale", // ends by itself
		"ip link set other mtu 1300",
		"ip link del other",
		"ip link add veth0 type veth peer name veth1",
		"ip link set veth0 up",
	} {
		f := strings.Fields(cmd)
		v.Run(f[0], f[1:]...)
		if news, err := v.table.news(); news || err != nil {
			t.Errorf("%s: news %v, %v", cmd, news, err)
		}
	}
	v.quiet()
}
