package gobgp

import (
	"slices"

	"github.com/osrg/gobgp/v4/api"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/godwit-net/godwit/bgp"
)

// capabilities are those that both ends of an established session have
// (RFC 5492), in words, sorted. Names and versions, that say nothing of what a
// session can do, are left out.
func capabilities(p *api.Peer) []string {
	ours, theirs := abilities(p.GetState().GetLocalCap()), abilities(p.GetState().GetRemoteCap())
	var both []string
	for what := range theirs {
		if ours[what] {
			both = append(both, what)
		}
	}
	for _, f := range negotiated(p).Each() {
		both = append(both, familyWords(f))
	}
	if i := slices.Index(both, wordRestart); i >= 0 && !restarts(p.GetState().GetRemoteCap()) {
		both[i] = wordHelper
	}
	slices.Sort(both)
	return both
}

// Words for graceful restart (RFC 4724): the peer may restart too, or it only
// keeps our routes while we do.
const (
	wordRestart = "graceful restart"
	wordHelper  = "graceful restart (helper only)"
)

// wordNextHops says that routes of IPv4 may have next hops of IPv6 (RFC 8950).
const wordNextHops = "IPv6 next hops of IPv4"

func familyWords(f bgp.Families) string {
	if f == bgp.IPv4 {
		return "IPv4 unicast"
	}
	return "IPv6 unicast"
}

// abilities puts capabilities into words, but for those that name families to
// carry.
func abilities(caps []*api.Capability) map[string]bool {
	out := make(map[string]bool, len(caps))
	for _, c := range caps {
		if words := ability(c); words != "" {
			out[words] = true
		}
	}
	return out
}

func ability(c *api.Capability) string {
	switch c.GetCap().(type) {
	case *api.Capability_RouteRefresh:
		return "route refresh" // RFC 2918
	case *api.Capability_EnhancedRouteRefresh:
		return "enhanced route refresh" // RFC 7313
	case *api.Capability_ExtendedNexthop:
		for _, t := range c.GetExtendedNexthop().GetTuples() {
			if isFamily(t.GetNlriFamily(), bgp.IPv4) && t.GetNexthopFamily().GetAfi() == api.Family_AFI_IP6 {
				return wordNextHops
			}
		}
	case *api.Capability_ExtendedMessage:
		return "extended message" // RFC 8654
	case *api.Capability_GracefulRestart:
		return wordRestart
	case *api.Capability_LongLivedGracefulRestart:
		return "long-lived graceful restart" // RFC 9494
	case *api.Capability_FourOctetAsn:
		return "4-octet AS" // RFC 6793
	case *api.Capability_AddPath:
		return "additional paths" // RFC 7911
	}
	return ""
}

func isFamily(f *api.Family, want bgp.Families) bool {
	return familyOf(packet.NewFamily(uint16(f.GetAfi()), uint8(f.GetSafi()))) == want
}

// restarts reports whether a peer may restart and have its routes kept: it names
// the families.
func restarts(theirs []*api.Capability) bool {
	return slices.ContainsFunc(theirs, func(c *api.Capability) bool {
		return len(c.GetGracefulRestart().GetTuples()) > 0
	})
}

// peerRestarting reports whether a peer is away and routes of it are kept.
func peerRestarting(p *api.Peer) bool {
	return p.GetGracefulRestart().GetPeerRestarting() && slices.ContainsFunc(p.GetAfiSafis(), func(f *api.AfiSafi) bool {
		return f.GetMpGracefulRestart().GetState().GetRunning() || f.GetLongLivedGracefulRestart().GetState().GetRunning()
	})
}
