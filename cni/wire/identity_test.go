package wire

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAliasBearsTheIdentity(t *testing.T) {
	id := Identity{
		Network: "k8s-pod-network", ContainerID: strings.Repeat("0123456789abcdef", 4), Interface: "eth0",
		Addresses: []netip.Addr{netip.MustParseAddr("172.25.0.130"), netip.MustParseAddr("fd00:1234:5678:9abc:def0:1234:5678:9abc")},
	}
	for _, doomed := range []bool{false, true} {
		s, err := id.alias(doomed)
		if err != nil {
			t.Fatal(err)
		}
		got, gotDoomed, err := parseAlias(s)
		if err != nil || gotDoomed != doomed {
			t.Fatalf("%q: doomed %v, %v", s, gotDoomed, err)
		}
		if d := cmp.Diff(id, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
			t.Errorf("%q (-want +got):\n%s", s, d)
		}
	}
}

func TestIdentityThatCantBeKept(t *testing.T) {
	for name, id := range map[string]Identity{
		"too long":     {Network: "n", ContainerID: strings.Repeat("x", 240), Interface: "eth0"},
		"too long yet": {Network: "n", ContainerID: strings.Repeat("x", 255-len("godwit-gone n  eth0")+1), Interface: "eth0"},
		"blank":        {Network: "n", ContainerID: "a b", Interface: "eth0"},
		"empty":        {Network: "n", ContainerID: "", Interface: "eth0"},
	} {
		if err := id.Valid(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestForeignAliases(t *testing.T) {
	for _, s := range []string{
		"", "godwit", "godwit n c", "godwitx n c eth0", "godwit n c eth0 nonsense", "godwit n c eth0 fe80::1%eth0",
		"godwit  c eth0", "godwit n c eth0 ", "godwit n c eth0 172.25.0.130 ", "Godwit n c eth0",
	} {
		if id, _, err := parseAlias(s); err == nil {
			t.Errorf("%q is taken for %+v", s, id)
		}
	}
}

func TestNamesAreOfTheKernel(t *testing.T) {
	if a, b := HostEnd("c", "eth0"), HostEnd("c", "eth1"); len(a) > 15 || a == b || !strings.HasPrefix(a, "gw") {
		t.Errorf("%s, %s", a, b)
	}
	for _, id := range []string{"a", "b", "c", "d", "e", "f"} {
		if mac := macOf(id, "eth0"); mac[0]&3 != 2 {
			t.Errorf("%s is not a local unicast address", mac)
		}
	}
}

func FuzzParseAlias(f *testing.F) {
	f.Add("godwit k8s-pod-network 4fe1 eth0 172.25.0.130")
	f.Add("godwit-gone n c eth0 172.25.0.130 fd00::1")
	f.Fuzz(func(t *testing.T, s string) {
		id, doomed, err := parseAlias(s)
		if err != nil {
			return
		}
		back, err := id.alias(doomed)
		if err != nil || back != s {
			t.Errorf("%q comes back as %q, %v", s, back, err)
		}
	})
}

func FuzzAttrs(f *testing.F) {
	f.Add([]byte{8, 0, 3, 0, 'g', 'w', 0, 0})
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = parseLink(reply{typ: 16, data: b})
		_ = ctOf(b, nil)
	})
}
