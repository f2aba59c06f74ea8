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

// callers has the router's network, in which all others are known by address.
func (s *seat) callers() bgp.Callers {
	p := s.peer
	p.Name, p.Address, p.SourceAddress = "racks", netip.Addr{}, netip.Addr{}
	return bgp.Callers{Prefix: pfx(fmt.Sprintf("10.0.%d.0/24", s.i)), Most: 1, Peer: p}
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
			if s.option.ranged {
				b.config.Callers = append(b.config.Callers, s.callers())
				continue
			}
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
	peers := b.config.Peers
	for _, s := range b.seats {
		if i := slices.IndexFunc(peers, func(p bgp.Peer) bool { return p.Address == s.peer.Address }); i >= 0 && which(s) {
			how(&peers[i])
		}
	}
	return b.config
}
