package gobgp

import (
	"github.com/osrg/gobgp/v4/api"

	"github.com/godwit-net/godwit/bgp"
)

// maxTTL is the TTL that a packet is sent with for TTL security (RFC 5082).
const maxTTL = 255

// setTTL says how far the peer may be. Without a word of it GoBGP sends to an
// external peer with TTL 1, and to an internal one with the kernel's TTL.
//
// GoBGP sets the least TTL on the socket that it dials with before it connects,
// on an accepted one when its state machine takes it up: what came from farther
// away before that is read, what comes after is not.
func setTTL(peer *api.Peer, p bgp.Peer) {
	switch {
	case p.GTSMHops > 0:
		peer.TtlSecurity = &api.TtlSecurity{Enabled: true, TtlMin: maxTTL + 1 - uint32(p.GTSMHops)}
	case p.MultihopTTL > 0:
		peer.EbgpMultihop = &api.EbgpMultihop{Enabled: true, MultihopTtl: uint32(p.MultihopTTL)}
	}
}

func removePrivate(r bgp.RemovePrivateAS) api.RemovePrivate {
	switch r {
	case bgp.PrivateASRemove:
		return api.RemovePrivate_REMOVE_PRIVATE_ALL
	case bgp.PrivateASReplace:
		return api.RemovePrivate_REMOVE_PRIVATE_REPLACE
	}
	return api.RemovePrivate_REMOVE_PRIVATE_UNSPECIFIED
}
