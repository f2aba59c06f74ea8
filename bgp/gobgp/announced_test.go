package gobgp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/bgptest/sender"
)

// A router sends one node's blocks to the others with the nodes' own AS in the
// path, for which these don't take them. That they are announced is known.
func TestAnnouncedThroughOurAS(t *testing.T) {
	s := newSink()
	sp := start(t, Options{Sink: s})
	c := baseConfig(t)
	c.Peers = []bgp.Peer{{Name: "rack", Kind: bgp.PeerExternal, Address: addr("127.0.0.2"), Port: 1, ASN: 65001}}
	rack := newPeerAt(t, speakerAddr(c), external("127.0.0.2", 65001))
	set(t, sp, c)
	rack.connect()
	block := pfx("172.25.0.64/26")
	rack.send(sender.Update(sender.Route{NextHop: addr("127.0.0.2"), ASPath: []uint32{65001, c.ASN}}, block))
	eventually(t, func() string {
		got, err := sp.Announced(context.Background(), []netip.Prefix{pfx("172.25.0.0/26"), block})
		if err != nil || !slices.Equal(got, []netip.Prefix{block}) {
			return fmt.Sprintf("said to be announced: %v, %v; want %v", got, err, block)
		}
		return ""
	})
	s.waitRoutes(t)
}
