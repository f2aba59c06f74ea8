package gobgp

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/godwit-net/godwit/bgp"
)

// own is a prefix of ours, and the next hop that it is announced with where the
// session has no better: the node's address of the family. Without one it is
// the unspecified address, which GoBGP replaces, for internal and external peers
// alike, by the local address of each session.
//
// GoBGP would do so on a session of the other family as well, and announce IPv6
// prefixes by way of an IPv4-mapped address; so an unspecified next hop must
// only be where sessions carry their own family alone. The export policy puts
// the session's address in place of a specified one, see policy.
//
// What it is announced with besides goes to all peers alike; GoBGP takes the
// local preference away for external ones.
type own struct {
	prefix      netip.Prefix
	hop         netip.Addr
	communities string // separated by spaces
	localPref   uint32
}

// defaultLocalPref is that of own prefixes where nothing else is said, as with
// most routers.
const defaultLocalPref = 100

func ownOf(c bgp.Config, p netip.Prefix) own {
	hop, given := c.NextHop(bgp.FamilyOf(p.Addr()))
	switch {
	case given:
	case p.Addr().Is4():
		hop = netip.IPv4Unspecified()
	default:
		hop = netip.IPv6Unspecified()
	}
	a := c.Originated(p)
	o := own{prefix: p, hop: hop, communities: strings.Join(a.Communities, " "), localPref: defaultLocalPref}
	if a.LocalPref != nil {
		o.localPref = *a.LocalPref
	}
	return o
}

// announce originates routes, or changes their next hops and attributes.
func (s *server) announce(prefixes []own) error {
	paths, err := ownPaths(prefixes)
	if err != nil || len(paths) == 0 {
		return err
	}
	if _, err := s.AddPath(apiutil.AddPathRequest{Paths: paths}); err != nil {
		return fmt.Errorf("announce %v: %w", prefixes, err)
	}
	return nil
}

func (s *server) withdraw(prefixes []own) error {
	paths, err := ownPaths(prefixes)
	if err != nil || len(paths) == 0 {
		return err
	}
	if err := s.DeletePath(apiutil.DeletePathRequest{Paths: paths}); err != nil {
		return fmt.Errorf("withdraw %v: %w", prefixes, err)
	}
	return nil
}

func ownPaths(prefixes []own) ([]*apiutil.Path, error) {
	paths := make([]*apiutil.Path, 0, len(prefixes))
	for _, o := range prefixes {
		nlri, err := packet.NewIPAddrPrefix(o.prefix)
		if err != nil {
			return nil, fmt.Errorf("announce %v: %w", o.prefix, err)
		}
		path := &apiutil.Path{
			Family: packetFamily(bgp.FamilyOf(o.prefix.Addr())),
			Nlri:   nlri,
			Attrs:  []packet.PathAttributeInterface{packet.NewPathAttributeOrigin(packet.BGP_ORIGIN_ATTR_TYPE_IGP)},
			Age:    time.Now().Unix(),
		}
		var hop packet.PathAttributeInterface
		if o.prefix.Addr().Is4() {
			hop, err = packet.NewPathAttributeNextHop(o.hop)
		} else {
			hop, err = packet.NewPathAttributeMpReachNLRI(packet.RF_IPv6_UC, []packet.PathNLRI{{NLRI: nlri}}, o.hop)
		}
		if err != nil {
			return nil, fmt.Errorf("announce %v: %w", o.prefix, err)
		}
		path.Attrs = append(path.Attrs, hop, packet.NewPathAttributeLocalPref(o.localPref))
		if err := addCommunities(path, strings.Fields(o.communities)); err != nil {
			return nil, fmt.Errorf("announce %v: %w", o.prefix, err)
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// addCommunities puts communities, standard and large ones, on a path.
func addCommunities(path *apiutil.Path, all []string) error {
	var (
		standard []uint32
		large    []*packet.LargeCommunity
	)
	for _, s := range all {
		if bgp.IsLargeCommunity(s) {
			c, err := packet.ParseLargeCommunity(s)
			if err != nil {
				return err
			}
			large = append(large, c)
			continue
		}
		high, low, _ := strings.Cut(s, ":")
		h, err1 := strconv.ParseUint(high, 10, 16)
		l, err2 := strconv.ParseUint(low, 10, 16)
		if err1 != nil || err2 != nil {
			return fmt.Errorf("%q is not a community", s)
		}
		standard = append(standard, uint32(h)<<16|uint32(l))
	}
	if len(standard) > 0 {
		path.Attrs = append(path.Attrs, packet.NewPathAttributeCommunities(standard))
	}
	if len(large) > 0 {
		path.Attrs = append(path.Attrs, packet.NewPathAttributeLargeCommunities(large))
	}
	return nil
}

// standardCommunity writes a standard community in decimal (RFC 1997).
func standardCommunity(c uint32) string { return fmt.Sprintf("%d:%d", c>>16, c&0xffff) }
