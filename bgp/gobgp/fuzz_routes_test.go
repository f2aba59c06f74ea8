package gobgp

import (
	"net/netip"
	"testing"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/bgptest/sender"
)

// FuzzRoutes takes messages apart as GoBGP does, and gives what is in them to all
// that we make of it. GoBGP checks more before it hands anything over.
func FuzzRoutes(f *testing.F) {
	for _, m := range append(malformedMessages(), malformedOpens()...) {
		if len(m.message) >= 19 {
			f.Add(m.message[18], m.message[19:])
		}
	}
	hop := sender.Route{NextHop: rogueHop, ASPath: []uint32{rogueASN}, MED: 1, LocalPref: 1, Communities: []uint32{1}, LargeCommunities: [][3]uint32{{1, 2, 3}}}
	f.Add(byte(messageUpdate), sender.Update(hop, rogueRoute)[19:])
	hop.NextHop = addr("fe80::1")
	f.Add(byte(messageUpdate), sender.Update(hop, rogueRoute6)[19:])
	c := arenaConfig(f, 1)
	c.Advertise = nil
	peer := c.Peers[1]
	options := &packet.MarshallingOption{AddPath: map[packet.Family]packet.BGPAddPathMode{packet.RF_IPv4_UC: 0, packet.RF_IPv6_UC: 0}}
	f.Fuzz(func(t *testing.T, kind byte, body []byte) {
		if len(body) > 4096-19 {
			return // longer ones may not be sent
		}
		m, err := packet.ParseBGPBody(&packet.BGPHeader{Len: uint16(19 + len(body)), Type: kind}, body, options)
		if _, ok := err.(*packet.MessageError); err != nil && !ok { //nolint:errorlint // GoBGP asks like this
			t.Fatalf("GoBGP falls over an error that is none of its own: %v", err)
		}
		if m == nil {
			return
		}
		switch b := m.Body.(type) {
		case *packet.BGPNotification:
			if notification(int(b.ErrorCode), int(b.ErrorSubcode)) == "" {
				t.Error("a notification has no words")
			}
		case *packet.BGPOpen:
			for _, p := range b.OptParams {
				if caps, ok := p.(*packet.OptionParameterCapability); ok {
					offered(caps.Capability)
					hasGracefulRestart(caps.Capability)
					if said, err := apiutil.MarshalCapabilities(caps.Capability); err == nil {
						capabilities(&api.Peer{State: &api.PeerState{LocalCap: said, RemoteCap: said}})
					}
				}
			}
		case *packet.BGPUpdate:
			learn(t, c, peer, b)
		}
	})
}

// learn has routes learned of an UPDATE, as far as the peer's policy goes.
func learn(t *testing.T, c bgp.Config, peer bgp.Peer, u *packet.BGPUpdate) {
	l := &learned{
		wake: make(chan struct{}, 1), routes: make(map[netip.Prefix]*route), peers: make(map[netip.Addr]*source),
	}
	l.setPeers(c, map[netip.Addr]bgp.Peer{peer.Address: peer})
	var paths []*apiutil.Path
	add := func(n packet.NLRI) {
		p := &apiutil.Path{Nlri: n, PeerAddress: peer.Address, Attrs: u.PathAttributes}
		if a, ok := announcement(p); ok && !throughUs(c, peer, p) && c.Accepts(peer, a) {
			paths = append(paths, p)
		}
	}
	for _, n := range u.NLRI {
		add(n.NLRI)
	}
	for _, a := range u.PathAttributes {
		if reach, ok := a.(*packet.PathAttributeMpReachNLRI); ok {
			for _, n := range reach.Value {
				add(n.NLRI)
			}
		}
	}
	l.paths(0, paths)
	changed, gone, _ := l.take()
	if len(gone) > 0 {
		t.Errorf("%v went away, which never came", gone)
	}
	for _, r := range changed {
		ok := false
		for _, rule := range peer.Import {
			ok = ok || rule.Ranges[0].Contains(r.Prefix)
		}
		if !ok {
			t.Errorf("%v was learned against the policy", r)
		}
		for _, h := range r.NextHops {
			if bgp.NextHopOf(netip.Addr{}, r.Prefix, h) != h {
				t.Errorf("%v was learned by a next hop that makes no sense", r)
			}
		}
	}
}
