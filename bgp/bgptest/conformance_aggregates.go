package bgptest

import (
	"testing"

	"github.com/godwit-net/godwit/bgp"
)

// testAggregates announces ranges that own blocks are in: outside only, and
// without refusing the blocks of others.
func testAggregates(t *testing.T, f *fixture) {
	const own, whole = "172.25.0.128/26", "172.25.0.0/16"
	node := f.add(1, bgp.PeerNode, 0)
	rack := f.add(2, bgp.PeerExternal, 65001, f.accept(whole, 16, 16), bgp.Rule{Accept: true})
	far := f.add(3, bgp.PeerExternal, 65002)
	f.change(2, func(p *bgp.Peer) {
		onlyOwn := f.accept(whole, 16, 16)
		onlyOwn.Source = bgp.SourceOwn
		p.Export = []bgp.Rule{onlyOwn, {Match: bgp.Match{Source: bgp.SourceOwn}}}
	})
	f.Config.Aggregates = f.prefixes(whole)
	f.set()
	routers := []Router{node, rack, far}
	for _, r := range routers {
		r.Connect()
	}
	f.waitOwn(rack, own, whole)
	f.waitOwn(far, whole)
	f.waitOwn(node, own)

	// The block of a node is taken, the aggregate from nobody.
	f.announce(node, 0, "172.25.3.0/26")
	f.announce(rack, 1, whole, "10.9.1.0/24")
	f.sink.WaitRoutes(t, f.via("172.25.3.0/26", node), f.via("10.9.1.0/24", rack))

	f.Config.Aggregates = nil
	f.set()
	f.waitOwn(rack, own)
	f.waitOwn(far)
	f.sink.WaitRoutes(t, f.via("172.25.3.0/26", node), f.via("10.9.1.0/24", rack), f.via(whole, rack))
	f.Config.Aggregates = f.prefixes(whole)
	f.set()
	f.waitOwn(rack, own, whole)
	f.waitOwn(node, own)
	f.sink.WaitRoutes(t, f.via("172.25.3.0/26", node), f.via("10.9.1.0/24", rack))
	f.mustBeUp(routers...)
}
