package tunnel

import (
	"errors"
	"net/netip"
	"testing"
)

func TestMAC(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1":        "0a:67:c0:00:02:01",
		"10.211.55.101":    "0a:67:0a:d3:37:65",
		"::ffff:192.0.2.1": "0a:67:c0:00:02:01",
		"2001:db8::1":      "1e:03:d7:e1:ca:9d",
	} {
		if got := MAC(netip.MustParseAddr(addr)).String(); got != want {
			t.Errorf("MAC(%s) = %s, not %s", addr, got, want)
		}
	}
	// Whatever the address: for one receiver, and of nobody's making.
	a := netip.MustParseAddr("2001:db8::")
	seen := map[string]netip.Addr{}
	for range 20000 {
		m := MAC(a)
		if m[0]&3 != 2 {
			t.Fatalf("MAC(%s) = %s is multicast or of a maker", a, m)
		}
		if b, ok := seen[m.String()]; ok {
			t.Fatalf("%s and %s have the same", a, b)
		}
		seen[m.String()] = a
		a = a.Next()
	}
}

func TestGateway(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1":        "192.0.2.1",
		"::ffff:192.0.2.1": "192.0.2.1",
		"2001:db8::1":      "fe80::1c03:d7ff:fee1:ca9d",
	} {
		if got := Gateway(netip.MustParseAddr(addr)); got != netip.MustParseAddr(want) {
			t.Errorf("Gateway(%s) = %s, not %s", addr, got, want)
		}
	}
}

func TestValidation(t *testing.T) {
	addrs := func(list ...string) []netip.Addr {
		var all []netip.Addr
		for _, s := range list {
			all = append(all, netip.MustParseAddr(s))
		}
		return all
	}
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for _, c := range []struct {
		name string
		d    Device
		want error
	}{
		{"IPIP", Device{Kind: IPIP, Local: v4, MTU: 1480, Addresses: addrs("10.0.0.1")}, nil},
		{"IPIP without an address", Device{Kind: IPIP, Local: v4, MTU: 68}, nil},
		{"VXLAN", Device{Kind: VXLAN, Local: v4, MTU: 1450, Addresses: addrs("10.0.0.1", "fd00::1")}, nil},
		{"VXLAN over IPv6", Device{Kind: VXLAN, Local: v6, MTU: 1280, Addresses: addrs("fd00::1"), VNI: 1<<24 - 1}, nil},
		{"an address twice", Device{Kind: VXLAN, Local: v4, MTU: 1450, Addresses: addrs("10.0.0.1", "::ffff:10.0.0.1")}, nil},
		{"a mapped address", Device{Kind: IPIP, Local: netip.MustParseAddr("::ffff:192.0.2.1"), MTU: 1480}, nil},

		{"no kind", Device{Kind: 7, Local: v4, MTU: 1450}, ErrInvalid},
		{"nothing", Device{}, ErrInvalid},
		{"unspecified", Device{Kind: VXLAN, Local: netip.IPv6Unspecified(), MTU: 1450}, ErrInvalid},
		{"multicast", Device{Kind: VXLAN, Local: netip.MustParseAddr("239.1.1.1"), MTU: 1450}, ErrInvalid},
		{"link-local", Device{Kind: VXLAN, Local: netip.MustParseAddr("fe80::1%eth0"), MTU: 1430}, ErrInvalid},
		{"IPIP over IPv6", Device{Kind: IPIP, Local: v6, MTU: 1460}, ErrInvalid},
		{"IPv6 in IPIP", Device{Kind: IPIP, Local: v4, MTU: 1480, Addresses: addrs("fd00::1")}, ErrInvalid},
		{"two addresses", Device{Kind: VXLAN, Local: v4, MTU: 1450, Addresses: addrs("fd00::1", "10.0.0.2", "10.0.0.1")}, ErrInvalid},
		{"no address", Device{Kind: VXLAN, Local: v4, MTU: 1450, Addresses: []netip.Addr{{}}}, ErrInvalid},
		{"a long VNI", Device{Kind: VXLAN, Local: v4, MTU: 1450, VNI: 1 << 24}, ErrInvalid},
		{"an MTU that is not known", Device{Kind: IPIP, Local: v4}, nil},
		{"less than no MTU", Device{Kind: IPIP, Local: v4, MTU: -20}, ErrMTUTooSmall},
		{"a small MTU", Device{Kind: IPIP, Local: v4, MTU: 67}, ErrMTUTooSmall},
		{"a small MTU over IPv6", Device{Kind: VXLAN, Local: v6, MTU: 1279}, ErrMTUTooSmall},
		{"a small MTU for IPv6", Device{Kind: VXLAN, Local: v4, MTU: 1279, Addresses: addrs("fd00::1")}, ErrMTUTooSmall},
		{"a large MTU", Device{Kind: IPIP, Local: v4, MTU: 65536}, ErrMTUTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := canonical(c.d).err; !errors.Is(err, c.want) {
				t.Errorf("%v, not %v", err, c.want)
			}
		})
	}
}

func TestNames(t *testing.T) {
	for want, d := range map[string]Device{
		IPIPDevice:   {Kind: IPIP, Local: netip.MustParseAddr("192.0.2.1")},
		VXLANDevice:  {Kind: VXLAN, Local: netip.MustParseAddr("::ffff:192.0.2.1")},
		VXLAN6Device: {Kind: VXLAN, Local: netip.MustParseAddr("2001:db8::1")},
	} {
		if got := d.Name(); got != want || len(got) > 15 {
			t.Errorf("the name of %v is %s, not %s", d, got, want)
		}
	}
}

func TestOldOffload(t *testing.T) {
	for release, want := range map[string]bool{
		"4.18.0-553.el8.x86_64": true, "5.7.19": true, "5.7": true, "5.4.0-150-generic": true,
		"5.8.0-rc1": false, "5.10.0-28-amd64": false, "6.1.0": false, "10.0": false, "strange": false,
	} {
		if got := oldOffload(release); got != want {
			t.Errorf("oldOffload(%q) = %v", release, got)
		}
	}
}
