package gobgp

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/godwit-net/godwit/bgp"
)

// mostRefused is how many prefixes Session.Refused names at most.
const mostRefused = 8

// refused finds what a node peer announces though it must not: the first of
// those prefixes, sorted, and how many there are. It walks over all routes that
// the peer has sent.
func (s *server) refused(peer bgp.Peer, families bgp.Families, c bgp.Config) ([]netip.Prefix, int) {
	if peer.Kind != bgp.PeerNode || peer.Reflection == bgp.ReflectionServer {
		return nil, 0
	}
	var all []netip.Prefix
	take := c.Importer(peer)
	for _, f := range families.Each() {
		err := s.ListPath(apiutil.ListPathRequest{
			TableType: api.TableType_TABLE_TYPE_ADJ_IN, Name: peer.Address.String(), Family: packetFamily(f),
		}, func(_ packet.NLRI, paths []*apiutil.Path) {
			if len(paths) == 0 {
				return
			}
			a, ok := announcement(paths[0])
			if !ok {
				return
			}
			if _, taken := take(a); !taken {
				all = append(all, a.Prefix)
			}
		})
		if err != nil { // the peer went away in this moment
			return nil, 0
		}
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	return slices.Clone(all[:min(len(all), mostRefused)]), len(all)
}

// advertised counts the prefixes that a peer is sent, which takes the export
// policy a look at all routes.
func (s *server) advertised(peer netip.Addr, families bgp.Families) int {
	n := 0
	for _, f := range families.Each() {
		_ = s.ListPath(apiutil.ListPathRequest{ // an error: the peer went away in this moment
			TableType: api.TableType_TABLE_TYPE_ADJ_OUT, Name: peer.String(), Family: packetFamily(f),
		}, func(_ packet.NLRI, paths []*apiutil.Path) {
			if len(paths) > 0 {
				n++
			}
		})
	}
	return n
}

// announcement is a path as rules see it.
func announcement(path *apiutil.Path) (bgp.Announcement, bool) {
	nlri, ok := path.Nlri.(*packet.IPAddrPrefix)
	if !ok {
		return bgp.Announcement{}, false
	}
	a := bgp.Announcement{Prefix: nlri.Prefix}
	for _, attr := range path.Attrs {
		switch attr := attr.(type) {
		case *packet.PathAttributeAsPath:
			a.ASPath = packet.AsPathString(attr)
		case *packet.PathAttributeCommunities:
			for _, c := range attr.Value {
				a.Communities = append(a.Communities, standardCommunity(c))
			}
		case *packet.PathAttributeLargeCommunities:
			for _, c := range attr.Values {
				a.Communities = append(a.Communities, c.String())
			}
		case *packet.PathAttributeLocalPref:
			a.LocalPref = &attr.Value
		case *packet.PathAttributeMultiExitDisc:
			a.MED = &attr.Value
		}
	}
	a.ASPath = strings.TrimSpace(a.ASPath)
	return a, true
}
