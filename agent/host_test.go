package agent

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/internal/netnstest"
)

func TestFindAddresses(t *testing.T) {
	ns := netnstest.New(t)
	ns.Run("ip", "link", "add", "gwa", "mtu", "1400", "type", "veth", "peer", "name", "gwb")
	ns.Run("ip", "addr", "add", "10.0.0.1/24", "dev", "gwa")
	ns.Run("ip", "addr", "add", "10.0.0.7", "peer", "10.0.0.8/32", "dev", "gwb")
	ns.Run("ip", "addr", "add", "fd00::1/64", "dev", "gwb")
	var got []v1alpha1.NodeAddress
	var err error
	ns.Do(func() {
		got, err = findAddresses([]netip.Addr{
			netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("10.0.0.8"),
			netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("fd00::1"),
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	// As the kernel lists them, by link; the peer is made first.
	want := []v1alpha1.NodeAddress{
		{Address: "10.0.0.7/32", Interface: "gwb", MTU: 1500},
		{Address: "10.0.0.1/24", Interface: "gwa", MTU: 1400},
		{Address: "fd00::1/64", Interface: "gwb", MTU: 1500},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// The loopback interface takes packets of 65536 bytes, which no network does: what
// counts for an address on it is the way out.
func TestFindAddressesOnLoopback(t *testing.T) {
	ns := netnstest.New(t)
	ns.Run("ip", "link", "set", "lo", "up")
	for _, a := range []string{"10.9.0.1/32", "10.9.0.2/32", "fd00:9::1/128"} {
		ns.Run("ip", "addr", "add", a, "dev", "lo")
	}
	ns.Run("ip", "link", "add", "gwa", "mtu", "1400", "type", "veth", "peer", "name", "gwb")
	ns.Run("ip", "addr", "add", "10.9.0.2/24", "dev", "gwa")
	ns.Run("ip", "link", "set", "gwa", "up")
	ns.Run("ip", "link", "set", "gwb", "up")
	look := func(want ...v1alpha1.NodeAddress) {
		t.Helper()
		var got []v1alpha1.NodeAddress
		var err error
		ns.Do(func() {
			got, err = findAddresses([]netip.Addr{
				netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.2"), netip.MustParseAddr("fd00:9::1"),
			})
		})
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, d)
		}
	}
	uplink := v1alpha1.NodeAddress{Address: "10.9.0.2/24", Interface: "gwa", MTU: 1400}
	v6 := v1alpha1.NodeAddress{Address: "fd00:9::1/128", Interface: "lo", MTU: 1500}
	look(uplink, v1alpha1.NodeAddress{Address: "10.9.0.1/32", Interface: "lo", MTU: 1500}, v6)
	ns.Run("ip", "route", "add", "default", "via", "10.9.0.3")
	look(uplink, v1alpha1.NodeAddress{Address: "10.9.0.1/32", Interface: "lo", MTU: 1400}, v6)
}
