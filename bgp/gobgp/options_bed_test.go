package gobgp

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/bgptest/router"
	"github.com/godwit-net/godwit/internal/netnstest"
)

// rack is a node whose routers have many sessions with it each, one for each
// option, told apart by addresses at both ends:
//
//	node .1xx ── 10.0.1.0/24 ── .xx tor1,  BIRD, AS 65001
//	     .1xx ── 10.0.2.0/24 ── .xx tor2,  FRR,  AS 65002, at port 1179
//	     .1xx ── 10.0.3.0/24 ── .xx node3, BIRD, our AS 64512, at port 1179
//	     .1xx ── 10.0.4.0/24 ── .xx node4, FRR,  our AS 64512
//	     .1xx ── 10.0.5.0/24 ── .254 mid, a hop farther: tor1 at 10.1.1.xx, tor2 at 10.1.2.xx
type rack struct {
	node    *netnstest.NS
	config  bgp.Config
	seats   []*seat
	spaces  map[string]*netnstest.NS // the routers' namespaces
	routers map[string]*router.Router
	dirs    map[string]string // of their files
}

// seat is one session of a router.
type seat struct {
	rack   *rack
	router string
	i      int // the router's number, from 1 on
	k      int // the session's number
	option *option
	peer   bgp.Peer // as it is at first
	// password is what the router has, which may differ.
	password string
}

// routerPorts are the TCP ports of the routers.
var routerPorts = map[string]uint16{"tor1": 0, "tor2": 1179, "node3": 1179, "node4": 0}

func (s *seat) bird() bool     { return s.i%2 == 1 }
func (s *seat) internal() bool { return s.i > 2 }

func (s *seat) asn() uint32 {
	if s.internal() {
		return 64512
	}
	return uint32(65000 + s.i)
}

// ours and theirs are the ends of the session.
func (s *seat) ours() string {
	if s.option.far {
		return fmt.Sprintf("10.0.5.%d", 100+10*s.i+s.k%10)
	}
	return fmt.Sprintf("10.0.%d.%d", s.i, 100+s.k)
}

func (s *seat) theirs() string {
	if s.option.far {
		return fmt.Sprintf("10.1.%d.%d", s.i, 10+s.k)
	}
	return fmt.Sprintf("10.0.%d.%d", s.i, 10+s.k)
}

// sends lists what the router announces in this session.
func (s *seat) sends() []string {
	ranges := strings.Fields(s.option.sends)
	for j := range ranges {
		ranges[j] = fmt.Sprintf(ranges[j], s.i)
	}
	return ranges
}

func (s *seat) name() string { return fmt.Sprintf("%s-%d", s.router, s.k) }

// newRack makes a rack with a session at each router for each option that it
// is for. The config has the peers.
func newRack(t *testing.T, options []option) *rack {
	t.Helper()
	b := &rack{
		node: netnstest.New(t), spaces: make(map[string]*netnstest.NS),
		routers: make(map[string]*router.Router), dirs: make(map[string]string),
	}
	b.config = bgp.Config{
		ASN: 64512, RouterID: addr("10.0.0.1"), NextHops: []netip.Addr{addr("10.0.0.1"), addr("fd00::1")},
		Blocks:    []bgp.Range{rng("172.25.0.0/16", 26)},
		Advertise: []netip.Prefix{pfx(ownPrefix), pfx("fd01::80/122")},
	}
	names := []string{"tor1", "tor2", "node3", "node4"}
	for i, name := range names {
		for k := range options {
			s := &seat{rack: b, router: name, i: i + 1, k: k, option: &options[k]}
			if s.internal() && !s.option.internal || s.bird() && s.option.onlyFRR {
				continue
			}
			s.peer = bgp.Peer{
				Name: s.name(), Kind: bgp.PeerExternal, Address: addr(s.theirs()), Port: routerPorts[name],
				ASN: s.asn(), SourceAddress: addr(s.ours()),
			}
			if s.option.peer != nil {
				s.option.peer(&s.peer)
			}
			s.password = s.peer.Password + s.option.suffix
			b.seats = append(b.seats, s)
			b.config.Peers = append(b.config.Peers, s.peer)
		}
	}
	b.wire(t, names)
	for i, name := range names {
		dir := routerDir(t)
		b.dirs[name] = dir
		ns := b.spaces[name].Name
		var r *router.Router
		var err error
		if i%2 == 0 {
			r, err = router.StartBIRD(context.Background(), ns, dir, b.birdConf(name))
		} else {
			r, err = router.StartFRRAt(context.Background(), ns, dir, routerPorts[name], b.frrConf(name))
		}
		if err != nil {
			t.Fatal(err)
		}
		b.routers[name] = r
		t.Cleanup(func() {
			if err := r.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
	return b
}

func (b *rack) wire(t *testing.T, names []string) {
	t.Helper()
	link := func(at, to *netnstest.NS, here, there string) {
		at.Run("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", to.Name)
		at.Run("ip", "link", "set", here, "up")
		to.Run("ip", "link", "set", there, "up")
	}
	mid := netnstest.New(t)
	mid.Run("sysctl", "-qw", "net.ipv4.ip_forward=1")
	link(b.node, mid, "gw5", "down0")
	mid.Run("ip", "addr", "add", "10.0.5.254/24", "dev", "down0")
	b.node.Run("ip", "addr", "add", "10.0.5.1/24", "dev", "gw5")
	b.node.Run("ip", "route", "add", "10.1.0.0/16", "via", "10.0.5.254")
	for i, name := range names {
		ns := netnstest.New(t)
		b.spaces[name] = ns
		link(b.node, ns, fmt.Sprint("gw", i+1), "up0")
		b.node.Run("ip", "addr", "add", fmt.Sprintf("10.0.%d.1/24", i+1), "dev", fmt.Sprint("gw", i+1))
		ns.Run("ip", "route", "add", "10.0.0.0/24", "dev", "up0")
		if i < 2 {
			link(mid, ns, fmt.Sprint("up", i+1), "mid0")
			mid.Run("ip", "addr", "add", fmt.Sprintf("10.1.%d.254/24", i+1), "dev", fmt.Sprint("up", i+1))
			ns.Run("ip", "addr", "add", fmt.Sprintf("10.1.%d.1/24", i+1), "dev", "mid0")
			ns.Run("ip", "route", "add", "10.0.5.0/24", "via", fmt.Sprintf("10.1.%d.254", i+1))
		}
		var here, there strings.Builder
		for _, s := range b.of(name) {
			near, far := fmt.Sprint("gw", i+1), "up0"
			if s.option.far {
				near, far = "gw5", "mid0"
			}
			if !s.option.late {
				fmt.Fprintf(&here, "addr add %s/24 dev %s\n", s.ours(), near)
			}
			fmt.Fprintf(&there, "addr add %s/24 dev %s\n", s.theirs(), far)
		}
		batch(t, b.node, here.String())
		batch(t, ns, there.String())
	}
}

// batch runs commands of ip in a namespace.
func batch(t *testing.T, ns *netnstest.NS, commands string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "batch")
	if err := os.WriteFile(file, []byte(commands), 0o600); err != nil {
		t.Fatal(err)
	}
	ns.Run("ip", "-batch", file)
}

// of lists the sessions of a router.
func (b *rack) of(name string) []*seat {
	return slices.DeleteFunc(slices.Clone(b.seats), func(s *seat) bool { return s.router != name })
}

// change returns the config with some sessions' peers changed.
func (b *rack) change(which func(*seat) bool, how func(*bgp.Peer)) bgp.Config {
	b.config = copyOf(b.config)
	for i, s := range b.seats {
		if which(s) {
			how(&b.config.Peers[i])
		}
	}
	return b.config
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

// uptimes is since when sessions are up, in the routers' words.
func (b *rack) uptimes(t *testing.T, which func(*seat) bool) map[string]string {
	t.Helper()
	out := make(map[string]string)
	for _, s := range b.seats {
		if which(s) {
			out[s.name()] = s.look(t).since
		}
	}
	return out
}

// mustHaveStayed compares since when sessions are up with how it was, in the
// routers' words and, of all sessions, in ours; those that were touched must have
// gone down.
func (b *rack) mustHaveStayed(t *testing.T, sp bgp.Speaker, before map[string]string, ours map[string]time.Time, touched func(*seat) bool) {
	t.Helper()
	now := b.upSince(t, sp)
	for _, s := range b.seats {
		reset := touched(s)
		if was, ok := ours[s.name()]; ok && now[s.name()].Equal(was) == reset {
			t.Errorf("the session %s is up since %v, and was since %v", s.name(), now[s.name()], was)
		}
		if was, ok := before[s.name()]; ok {
			if l := s.look(t); !l.established || l.since == was == reset {
				t.Errorf("the session %s was up since %s: %s", s.name(), was, l.text)
			}
		}
	}
}

// sessions are what we report of the sessions.
func (b *rack) sessions(t *testing.T, sp bgp.Speaker) map[*seat]bgp.Session {
	t.Helper()
	all, err := sp.Sessions(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[*seat]bgp.Session)
	for _, s := range b.seats {
		i := slices.IndexFunc(all, func(session bgp.Session) bool { return session.Address == s.peer.Address })
		if i < 0 {
			t.Fatalf("there is no session with %v", s.peer.Address)
		}
		out[s] = all[i]
	}
	return out
}

// upSince is since when the sessions are up that are.
func (b *rack) upSince(t *testing.T, sp bgp.Speaker) map[string]time.Time {
	t.Helper()
	out := make(map[string]time.Time)
	for s, session := range b.sessions(t, sp) {
		if session.State == bgp.StateEstablished {
			out[s.name()] = session.Since
		}
	}
	return out
}

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
