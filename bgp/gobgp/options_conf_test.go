package gobgp

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What the rack's routers announce, where i is the number of the router; the
// networks are blackholes there.
const (
	ownPrefix   = "172.25.0.128/26" // is ours
	plainRoute  = "10.9.%d.0/24"
	viaOtherTor = "10.8.%d.0/24" // the other ToR's AS number is in its path
	viaUs       = "10.7.%d.0/24" // 64512 is in its path
	viaPrivate  = "10.6.%d.0/24" // the path is 3356 65100
	manyRoutes  = 6              // 10.5.i.n/32, n from 1 on
	sendsMany   = "10.5.%d.0/24"
	sendsViaUs  = "10.7.%d.0/24"
	sendsAll    = "10.6.%d.0/24 10.7.%d.0/24 10.8.%d.0/24 10.9.%d.0/24" // but the many
)

func (b *rack) birdConf(name string) string {
	seats := b.of(name)
	i := seats[0].i
	var c strings.Builder
	fmt.Fprintf(&c, "log stderr all;\ntimeformat protocol iso long ms;\nrouter id 10.0.%d.2;\nprotocol device {}\nprotocol static {\n ipv4;\n", i)
	fmt.Fprintf(&c, " route 10.9.%d.0/24 blackhole;\n", i)
	fmt.Fprintf(&c, " route 10.8.%d.0/24 blackhole { bgp_path.prepend(%d); };\n", i, 65000+3-i)
	fmt.Fprintf(&c, " route 10.7.%d.0/24 blackhole { bgp_path.prepend(64512); };\n", i)
	fmt.Fprintf(&c, " route 10.6.%d.0/24 blackhole { bgp_path.prepend(65100); bgp_path.prepend(3356); };\n", i)
	for n := range manyRoutes {
		fmt.Fprintf(&c, " route 10.5.%d.%d/32 blackhole;\n", i, n+1)
	}
	c.WriteString("}\nprotocol static static6 {\n ipv6;\n route fd09::/64 blackhole;\n}\n")
	for _, s := range seats {
		o := s.option
		fmt.Fprintf(&c, "protocol bgp s%d {\n local %s", s.k, s.theirs())
		if p := routerPorts[name]; p != 0 {
			fmt.Fprintf(&c, " port %d", p)
		}
		fmt.Fprintf(&c, " as %d;\n neighbor %s as %d;\n strict bind on;\n connect retry time 2;\n error wait time 1, 2;\n", s.asn(), s.ours(), o.remoteAS())
		if !strings.Contains(o.bird, "multihop") {
			c.WriteString(" direct;\n")
		}
		if !o.active {
			c.WriteString(" passive on;\n")
		}
		if s.password != "" {
			fmt.Fprintf(&c, " password %q;\n", s.password)
		}
		for _, line := range strings.Split(o.bird, "\n") {
			fmt.Fprintf(&c, " %s\n", line)
		}
		export := "none"
		if sent := s.sends(); len(sent) > 0 {
			export = "where net ~ [ " + strings.Join(sent, "+, ") + "+ ]"
		}
		fmt.Fprintf(&c, " ipv4 { import all; export %s; next hop self; %s };\n", export, o.channel)
		if o.bothFamilies {
			c.WriteString(" ipv6 { import all; export none; };\n")
		}
		c.WriteString("}\n")
	}
	return c.String()
}

func (b *rack) frrConf(name string) string {
	seats := b.of(name)
	i := seats[0].i
	var c, families strings.Builder
	routeMap := func(n int, set string) {
		fmt.Fprintf(&c, "route-map R%d permit 10\n%sexit\n", n, set)
	}
	routeMap(6, " set as-path prepend 3356 65100\n")
	routeMap(7, " set as-path prepend 64512\n")
	routeMap(8, fmt.Sprintf(" set as-path prepend %d\n", 65000+3-i))
	routeMap(9, "")
	for n := 6; n <= 9; n++ {
		fmt.Fprintf(&families, "  network 10.%d.%d.0/24 route-map R%d\n", n, i, n)
	}
	for n := range manyRoutes {
		fmt.Fprintf(&families, "  network 10.5.%d.%d/32\n", i, n+1)
	}
	fmt.Fprintf(&c, "router bgp %d\n bgp router-id 10.0.%d.2\n no bgp default ipv4-unicast\n no bgp ebgp-requires-policy\n no bgp network import-check\n", seats[0].asn(), i)
	c.WriteString(" bgp graceful-restart\n bgp long-lived-graceful-restart stale-time 600\n")
	var lists strings.Builder
	for _, s := range seats {
		o, n := s.option, s.ours()
		fmt.Fprintf(&c, " neighbor %s remote-as %d\n neighbor %s update-source %s\n neighbor %s timers connect 2\n", n, o.remoteAS(), n, s.theirs(), n)
		if !o.active {
			fmt.Fprintf(&c, " neighbor %s passive\n", n)
		}
		if s.password != "" {
			fmt.Fprintf(&c, " neighbor %s password %s\n", n, s.password)
		}
		for _, line := range strings.Split(o.frr, "\n") {
			if line != "" {
				fmt.Fprintf(&c, " neighbor %s %s\n", n, line)
			}
		}
		list := fmt.Sprint("P", s.k)
		fmt.Fprintf(&families, "  neighbor %s activate\n  neighbor %s prefix-list %s out\n", n, n, list)
		for j, sent := range s.sends() {
			fmt.Fprintf(&lists, "ip prefix-list %s seq %d permit %s le 32\n", list, j+1, sent)
		}
		fmt.Fprintf(&lists, "ip prefix-list %s seq 99 deny any\n", list)
	}
	fmt.Fprintf(&c, " address-family ipv4 unicast\n%s exit-address-family\n address-family ipv6 unicast\n", families.String())
	for _, s := range seats {
		if s.option.bothFamilies {
			fmt.Fprintf(&c, "  neighbor %s activate\n", s.ours())
		}
	}
	return c.String() + " exit-address-family\nexit\n" + lists.String()
}

// configureAll gives the routers their configuration anew, after passwords were
// changed.
func (b *rack) configureAll(t *testing.T) {
	t.Helper()
	for name := range b.routers {
		seats := b.of(name)
		if seats[0].bird() {
			if err := os.WriteFile(filepath.Join(b.dirs[name], "bird.conf"), []byte(b.birdConf(name)), 0o600); err != nil {
				t.Fatal(err)
			}
			seats[0].show(t, "configure")
			continue
		}
		for _, s := range seats {
			if s.password != s.peer.Password+s.option.suffix {
				s.show(t, fmt.Sprintf("configure terminal\nrouter bgp %d\nneighbor %s password %s", s.asn(), s.ours(), s.password))
			}
		}
	}
}
