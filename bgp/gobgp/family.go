package gobgp

import (
	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/godwit-net/godwit/bgp"
)

// Each family in GoBGP's words, of which it has two sets.

func apiFamily(f bgp.Families) *api.Family {
	if f == bgp.IPv4 {
		return &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}
	}
	return &api.Family{Afi: api.Family_AFI_IP6, Safi: api.Family_SAFI_UNICAST}
}

func packetFamily(f bgp.Families) packet.Family {
	if f == bgp.IPv4 {
		return packet.RF_IPv4_UC
	}
	return packet.RF_IPv6_UC
}

// familyOf is the reverse of packetFamily; zero for what we do not speak.
func familyOf(f packet.Family) bgp.Families {
	switch f {
	case packet.RF_IPv4_UC:
		return bgp.IPv4
	case packet.RF_IPv6_UC:
		return bgp.IPv6
	}
	return 0
}

// offered are the families that a peer's OPEN names: without a word of any,
// IPv4 (RFC 4760, section 8).
func offered(caps []packet.ParameterCapabilityInterface) bgp.Families {
	var f bgp.Families
	named := false
	for _, c := range caps {
		if mp, ok := c.(*packet.CapMultiProtocol); ok {
			named = true
			f |= familyOf(mp.CapValue)
		}
	}
	if !named {
		return bgp.IPv4
	}
	return f
}

// negotiated are the families that an established session carries.
func negotiated(p *api.Peer) bgp.Families {
	var ours bgp.Families
	for _, f := range p.GetAfiSafis() {
		c := f.GetConfig().GetFamily()
		ours |= familyOf(packet.NewFamily(uint16(c.GetAfi()), uint8(c.GetSafi())))
	}
	caps, err := apiutil.UnmarshalCapabilities(p.GetState().GetRemoteCap())
	if err != nil { // of a capability that we have nothing to do with
		return ours
	}
	return ours & offered(caps)
}
