package gobgp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/godwit-net/godwit/bgp"
)

// Announced implements bgp.Speaker. It looks at what peers have sent, before any
// policy, and at the prefixes in question only.
func (s *Speaker) Announced(_ context.Context, prefixes []netip.Prefix) ([]netip.Prefix, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server == nil {
		return nil, nil
	}
	asked := make(map[bgp.Families][]*apiutil.LookupPrefix)
	for _, p := range prefixes {
		f := bgp.FamilyOf(p.Addr())
		asked[f] = append(asked[f], &apiutil.LookupPrefix{Prefix: p.String()})
	}
	var found []netip.Prefix
	for addr, peer := range s.applied.peers {
		if peer.Kind != bgp.PeerExternal {
			continue
		}
		for f, lookups := range asked {
			if !s.applied.families[addr].Has(f) {
				continue
			}
			err := s.server.ListPath(apiutil.ListPathRequest{
				TableType: api.TableType_TABLE_TYPE_ADJ_IN, Name: addr.String(), Family: packetFamily(f), Prefixes: lookups,
			}, func(nlri packet.NLRI, paths []*apiutil.Path) {
				if p, ok := nlri.(*packet.IPAddrPrefix); ok && len(paths) > 0 {
					found = append(found, p.Prefix)
				}
			})
			if err != nil {
				return nil, fmt.Errorf("look for prefixes among those of BGP peer %s: %w", peer.Name, err)
			}
		}
	}
	slices.SortFunc(found, netip.Prefix.Compare)
	return slices.Compact(found), nil
}
