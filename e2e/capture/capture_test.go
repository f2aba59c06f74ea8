package capture

import (
	"context"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/internal/netnstest"
)

// unhex reads a packet from hexadecimal digits with spaces.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	raw, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

const (
	echoV4 = "4500001c 00014000 40010000 ac190082 ac1900c3" + "08000000 00010001"
	echoV6 = "60000000 00083a40 fd0000250000000000000000 00000082 fd0000250000000000000000 000000c3" + "80000000 00010001"
	udpV4  = "45000020 00010000 40110000 0ad33765 0ad33774"
	inUDP  = "d4310fff 000c0000" // to port 4095
	vxlan  = "d43112b5 00000000" + "08000000 00100000" + "020000000002 020000000001 "
	udpV6  = "60000000 00081140 fd0010020000000000000000 00000001 fd0010020000000000000000 00000002"
)

func TestDecode(t *testing.T) {
	for name, tt := range map[string]struct {
		raw, want string
	}{
		"ICMP":                {echoV4, "172.25.0.130 > 172.25.0.195 ICMP, 28 bytes"},
		"ICMPv6":              {echoV6, "fd00:25::82 > fd00:25::c3 ICMPv6, 48 bytes"},
		"UDP":                 {udpV4 + inUDP, "10.211.55.101 > 10.211.55.116 UDP port 4095, 32 bytes"},
		"IPIP":                {strings.Replace(udpV4, "4011", "4004", 1) + echoV4, "10.211.55.101 > 10.211.55.116 IPIP (protocol 4) [ 172.25.0.130 > 172.25.0.195 ICMP, 28 bytes ]"},
		"VXLAN":               {udpV4 + vxlan + "0800" + echoV4, "10.211.55.101 > 10.211.55.116 VXLAN (UDP port 4789, VNI 4096) [ 172.25.0.130 > 172.25.0.195 ICMP, 28 bytes ]"},
		"VXLAN over IPv6":     {udpV6 + vxlan + "86dd" + echoV6, "fd00:1002::1 > fd00:1002::2 VXLAN (UDP port 4789, VNI 4096) [ fd00:25::82 > fd00:25::c3 ICMPv6, 48 bytes ]"},
		"VXLAN with ARP":      {udpV4 + vxlan + "0806 0001", "10.211.55.101 > 10.211.55.116 VXLAN (UDP port 4789, VNI 4096), 32 bytes"},
		"first fragment":      {strings.Replace(udpV4, "00010000", "00012000", 1) + inUDP, "10.211.55.101 > 10.211.55.116 UDP port 4095 (fragment), 32 bytes"},
		"later fragment":      {strings.Replace(udpV4, "00010000", "00010010", 1) + inUDP, "10.211.55.101 > 10.211.55.116 UDP port 0 (fragment), 32 bytes"},
		"fragment of IPv6":    {strings.Replace(udpV6, "1140", "2c40", 1) + "11000010 00000001 ffff", "fd00:1002::1 > fd00:1002::2 UDP port 0 (fragment), 48 bytes"},
		"nothing":             {"", ""},
		"half a header":       {udpV4[:20], ""},
		"half a v6 header":    {udpV6[:40], ""},
		"half of UDP":         {udpV4 + "d431", ""},
		"half of VXLAN":       {udpV4 + "d43112b5 00000000 08000000", ""},
		"tunnel with nothing": {strings.Replace(udpV4, "4011", "4004", 1), ""},
		"of another version":  {"70000000", ""},
		"header of no length": {strings.Replace(udpV4, "45", "40", 1), ""},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := decode(unhex(t, tt.raw), 4789)
			if tt.want == "" {
				if err == nil {
					t.Errorf("decode = %s, want an error", p)
				}
				return
			}
			if err != nil || p.String() != tt.want {
				t.Errorf("decode = %s, %v\nwant     %s", p, err, tt.want)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{echoV4, echoV6, udpV4 + vxlan + "0800" + echoV4, udpV6 + vxlan + "86dd" + echoV6} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(_ *testing.T, raw []byte) {
		if p, err := decode(raw, 4789); err == nil {
			_ = p.String()
		}
	})
}

// TestCapture records real packets: bare, through VXLAN, and in fragments.
func TestCapture(t *testing.T) {
	netnstest.RequireRoot(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	const a, b = "godwit-capture-a", "godwit-capture-b"
	command := func(line string) error {
		_, err := namespace.Run(ctx, "", strings.Fields(line)...)
		return err
	}
	for _, ns := range []string{a, b} {
		if err := namespace.Add(ctx, ns); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = namespace.Delete(ns) })
	}
	lines := []string{"ip -n " + a + " link add eth0 type veth peer name eth0 netns " + b}
	for ns, n := range map[string]string{a: "1", b: "2"} {
		lines = append(lines,
			"ip -n "+ns+" addr add 192.0.2."+n+"/24 dev eth0", "ip -n "+ns+" link set eth0 up",
			"ip -n "+ns+" link add vx type vxlan id 7 dstport 8472 remote 192.0.2."+map[string]string{"1": "2", "2": "1"}[n]+" dev eth0",
			"ip -n "+ns+" addr add 198.51.100."+n+"/24 dev vx", "ip -n "+ns+" link set vx up")
	}
	for _, line := range lines {
		if err := command(line); err != nil {
			t.Fatal(err)
		}
	}
	ping := func(args string) func() error {
		return func() error { return command("ip netns exec " + a + " ping -n -c 1 -W 5 " + args) }
	}
	for _, tt := range []struct {
		name  string
		c     Config
		do    func() error
		want  string // one of the packets
		count int    // at least
	}{
		{"bare", Config{Netns: b, Interface: "eth0"}, ping("192.0.2.2"), "192.0.2.1 > 192.0.2.2 ICMP, 84 bytes", 2},
		{
			"tunnel",
			Config{Netns: b, Interface: "eth0", VXLANPort: 8472},
			ping("198.51.100.2"),
			"192.0.2.1 > 192.0.2.2 VXLAN (UDP port 8472, VNI 7) [ 198.51.100.1 > 198.51.100.2 ICMP, 84 bytes ]", 2,
		},
		{
			"fragments",
			Config{Netns: b, Interface: "eth0", Fragments: true},
			ping("-s 3000 192.0.2.2"),
			"192.0.2.1 > 192.0.2.2 ICMP (fragment), 1500 bytes", 6,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			packets, err := During(tt.c, tt.do)
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, p := range packets {
				found = found || p.String() == tt.want
			}
			if !found || len(packets) < tt.count {
				t.Errorf("%d packets, want at least %d, and among them %s:\n%v", len(packets), tt.count, tt.want, packets)
			}
		})
	}
	none, err := During(Config{Netns: b, Interface: "eth0", Fragments: true}, ping("192.0.2.2"))
	if err != nil || len(none) > 0 {
		t.Errorf("fragments of what needs none: %v, %v", none, err)
	}
	if _, err := Start(Config{Netns: b, Interface: "eth7"}); err == nil {
		t.Error("a capture on an interface that is not there began")
	}
}
