package gobgp

import (
	"net/netip"

	"github.com/godwit-net/godwit/bgp"
)

// reflected returns how many prefixes a peer is told of as we reflect them: what
// other nodes announce, to another reflector without what comes from reflectors.
// It is counted from what is learned, in one pass for all peers: GoBGP would walk
// over its table for each. A prefix that a peer has in common with others counts.
func (l *learned) reflected(c bgp.Config) func(bgp.Peer) int {
	if !c.Reflector {
		return func(bgp.Peer) int { return 0 }
	}
	parts := make(map[netip.Addr]bgp.Reflection, len(c.Peers))
	for _, p := range c.Peers {
		if p.Kind == bgp.PeerNode {
			parts[p.Address] = p.Reflection
		}
	}
	all, direct := 0, 0                   // of nodes; of them not from reflectors
	alone := make(map[netip.Addr]int)     // from this peer only
	aloneOut := make(map[netip.Addr]bool) // scratch: the peers of one prefix
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.routes {
		clear(aloneOut)
		straight := false
		for _, w := range r.ways {
			if part, node := parts[w.peer]; node {
				aloneOut[w.peer] = true
				straight = straight || part != bgp.ReflectionServer
			}
		}
		if len(aloneOut) == 0 {
			continue
		}
		all++
		if straight {
			direct++
		}
		if len(aloneOut) == 1 {
			for peer := range aloneOut {
				alone[peer]++
			}
		}
	}
	return func(p bgp.Peer) int {
		switch {
		case p.Kind != bgp.PeerNode || p.Reflection == bgp.ReflectionNone:
			return 0
		case p.Reflection == bgp.ReflectionClient:
			return all - alone[p.Address]
		}
		return direct
	}
}
