package agent

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/tunnel"
)

// TestWithoutForeign lists whose addresses a pool may not have, and that one in use
// stays.
func TestWithoutForeign(t *testing.T) {
	networks := []v1alpha1.NodeAddress{
		{Address: "10.211.55.101/24", Interface: "eth0"}, {Address: "fd00:10::101/64", Interface: "eth0"},
	}
	for _, c := range []struct {
		cidr, used string
		stays      bool
		says       string
	}{
		{"172.25.0.0/16", "", true, ""},
		{"10.211.56.0/24", "", true, ""},
		{"10.211.55.0/24", "", false, "pool p is not used on this node: 10.211.55.0/24 overlaps 10.211.55.0/24, the network of the node's interface eth0"},
		{"10.0.0.0/8", "", false, "10.0.0.0/8 overlaps 10.211.55.0/24"},
		{"10.211.55.128/26", "", false, "10.211.55.128/26 overlaps"},
		{"10.211.55.128/26", "10.211.55.128/26", true, "the node goes on with it"},
		{"fd00:10::/48", "", false, "fd00:10::/48 overlaps fd00:10::/64"},
		{"10.96.0.0/12", "", false, "has the address 10.96.0.1 in it, at which the API server is reached"},
		{"nonsense", "", true, ""}, // translate says so
	} {
		t.Run(c.cidr+" "+c.used, func(t *testing.T) {
			spec := v1alpha1.NodeNetworkSpec{Pools: []v1alpha1.PlannedPool{{Name: "p", CIDR: c.cidr}, {Name: "other", CIDR: "172.31.0.0/16"}}}
			out, refused := withoutForeign(&spec, networks, netip.MustParseAddr("10.96.0.1"), func(p netip.Prefix) bool { return p.String() == c.used })
			if len(spec.Pools) != 2 {
				t.Fatal("the plan itself was changed")
			}
			if stays := len(out.Pools) == 2; stays != c.stays || out.Pools[len(out.Pools)-1].Name != "other" {
				t.Errorf("the pools are %+v, want the pool to stay: %v", out.Pools, c.stays)
			}
			if said := joined(refused); !strings.Contains(said, c.says) || (c.says == "") != (said == "") {
				t.Errorf("it says %q, want %q", said, c.says)
			}
		})
	}
}

// TestUnsupported finds the pools that need a tunnel which the kernel does not have,
// and no others.
func TestUnsupported(t *testing.T) {
	d := &desired{encapsulated: []desiredEncapsulation{
		{name: "ipip", cidr: netip.MustParsePrefix("172.25.0.0/16"), kind: v1alpha1.TunnelIPIP},
		{name: "vxlan", cidr: netip.MustParsePrefix("172.26.0.0/16"), kind: v1alpha1.TunnelVXLAN},
		{name: "vxlan6", cidr: netip.MustParsePrefix("fd00:25::/48"), kind: v1alpha1.TunnelVXLAN},
	}}
	v4, v6 := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")
	status := func(kind tunnel.Kind, local netip.Addr, err error) tunnel.Status {
		return tunnel.Status{Device: tunnel.Device{Kind: kind, Local: local}, Err: err}
	}
	missing := fmt.Errorf("make it: %w", tunnel.ErrNotSupported)
	for _, c := range []struct {
		name    string
		tunnels []tunnel.Status
		want    string
	}{
		{"all there", []tunnel.Status{status(tunnel.IPIP, v4, nil), status(tunnel.VXLAN, v4, nil)}, ""},
		{"no IPIP", []tunnel.Status{status(tunnel.IPIP, v4, missing), status(tunnel.VXLAN, v4, nil)}, "ipip"},
		{"no VXLAN over IPv6", []tunnel.Status{status(tunnel.VXLAN, v4, nil), status(tunnel.VXLAN, v6, missing)}, "vxlan6"},
		{"a port that is taken", []tunnel.Status{status(tunnel.VXLAN, v4, tunnel.ErrPortInUse)}, ""}, // it may be free in a moment
	} {
		var names []string
		for name := range unsupported(d, c.tunnels) {
			names = append(names, name)
		}
		if got := strings.Join(names, " "); got != c.want {
			t.Errorf("%s: pools that give out nothing: %q, want %q", c.name, got, c.want)
		}
	}
}
