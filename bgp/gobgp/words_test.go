package gobgp

import (
	"slices"
	"testing"

	"github.com/osrg/gobgp/v4/api"

	"github.com/godwit-net/godwit/bgp"
)

func TestNotificationsInWords(t *testing.T) {
	for _, tt := range []struct {
		code, sub int
		want      string
	}{
		{1, 2, "error in a message header: bad length"},
		{2, 2, "error in OPEN: unexpected AS number"},
		{2, 11, "error in OPEN: the two ends' roles do not fit together"},
		{2, 99, "error in OPEN (subcode 99)"},
		{3, 0, "error in UPDATE"},
		{3, 11, "error in UPDATE: malformed AS_PATH"},
		{4, 0, "hold time over without a keepalive"},
		{5, 3, "message out of turn: in Established"},
		{6, 1, "maximum number of prefixes reached"},
		{6, 2, "administrative shutdown"},
		{6, 0, "cease"},
		{6, 99, "cease (subcode 99)"},
		{7, 1, "error in ROUTE-REFRESH: bad length"},
		{8, 0, "nothing could be sent for too long"},
		{42, 7, "notification 42/7"},
	} {
		if got := notification(tt.code, tt.sub); got != tt.want {
			t.Errorf("notification %d/%d: %q, want %q", tt.code, tt.sub, got, tt.want)
		}
	}
}

func TestCapabilitiesInWords(t *testing.T) {
	family := func(f bgp.Families) *api.Capability {
		return &api.Capability{Cap: &api.Capability_MultiProtocol{MultiProtocol: &api.MultiProtocolCapability{Family: apiFamily(f)}}}
	}
	refresh := &api.Capability{Cap: &api.Capability_RouteRefresh{}}
	enhanced := &api.Capability{Cap: &api.Capability_EnhancedRouteRefresh{}}
	as4 := &api.Capability{Cap: &api.Capability_FourOctetAsn{FourOctetAsn: &api.FourOctetASNCapability{Asn: 1}}}
	fqdn := &api.Capability{Cap: &api.Capability_Fqdn{Fqdn: &api.FqdnCapability{HostName: "n1"}}}
	unknown := &api.Capability{Cap: &api.Capability_Unknown{Unknown: &api.UnknownCapability{Code: 200}}}
	restart := func(families ...bgp.Families) *api.Capability {
		gr := &api.GracefulRestartCapability{Time: 120}
		for _, f := range families {
			gr.Tuples = append(gr.Tuples, &api.GracefulRestartCapabilityTuple{Family: apiFamily(f)})
		}
		return &api.Capability{Cap: &api.Capability_GracefulRestart{GracefulRestart: gr}}
	}
	hops := func(f bgp.Families) *api.Capability {
		return &api.Capability{Cap: &api.Capability_ExtendedNexthop{ExtendedNexthop: &api.ExtendedNexthopCapability{
			Tuples: []*api.ExtendedNexthopCapabilityTuple{{NlriFamily: apiFamily(f), NexthopFamily: apiFamily(bgp.IPv6)}},
		}}}
	}
	ours := []*api.Capability{refresh, enhanced, fqdn, as4, family(bgp.IPv4), family(bgp.IPv6), restart(bgp.IPv4, bgp.IPv6), hops(bgp.IPv4)}
	for _, tt := range []struct {
		name   string
		theirs []*api.Capability
		want   []string
	}{
		{"nothing is said", nil, []string{"IPv4 unicast"}},
		{"one family", []*api.Capability{family(bgp.IPv6)}, []string{"IPv6 unicast"}},
		{
			"all", ours,
			[]string{"4-octet AS", "IPv4 unicast", "IPv6 next hops of IPv4", "IPv6 unicast", "enhanced route refresh", "graceful restart", "route refresh"},
		},
		{"what we do not know", []*api.Capability{unknown, fqdn, family(bgp.IPv4)}, []string{"IPv4 unicast"}},
		{"a helper", []*api.Capability{restart(), refresh}, []string{"IPv4 unicast", "graceful restart (helper only)", "route refresh"}},
		{"next hops of another family", []*api.Capability{hops(bgp.IPv6)}, []string{"IPv4 unicast"}},
	} {
		p := &api.Peer{State: &api.PeerState{LocalCap: ours, RemoteCap: tt.theirs}}
		for _, f := range (bgp.IPv4 | bgp.IPv6).Each() {
			p.AfiSafis = append(p.AfiSafis, &api.AfiSafi{Config: &api.AfiSafiConfig{Family: apiFamily(f)}})
		}
		if got := capabilities(p); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	bare := &api.Peer{State: &api.PeerState{RemoteCap: ours}, AfiSafis: []*api.AfiSafi{{Config: &api.AfiSafiConfig{Family: apiFamily(bgp.IPv4)}}}}
	if got := capabilities(bare); !slices.Equal(got, []string{"IPv4 unicast"}) {
		t.Errorf("capabilities that only the peer has: %q", got)
	}
}

func TestNearLimit(t *testing.T) {
	for _, tt := range []struct {
		warn, limit, received int
		want                  string
	}{
		{0, 10, 9, ""},
		{8, 10, 7, ""},
		{8, 10, 8, "it sends 8 of at most 10 prefixes; with more its session ends"},
		{8, 0, 9, "it sends 9 prefixes, at least the 8 to warn at"},
	} {
		if got := nearLimit(bgp.Peer{WarnPrefixes: tt.warn, MaxPrefixes: tt.limit}, tt.received); got != tt.want {
			t.Errorf("%d prefixes, warning at %d, limit %d: %q, want %q", tt.received, tt.warn, tt.limit, got, tt.want)
		}
	}
}
