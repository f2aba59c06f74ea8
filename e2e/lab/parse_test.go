package lab

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/topology"
)

func TestParsePing(t *testing.T) {
	const ok = "--- 1.2.3.4 ping statistics ---\n3 packets transmitted, 3 received, 0% packet loss, time 20ms\n" +
		"rtt min/avg/max/mdev = 0.036/0.048/0.060/0.010 ms\n"
	got, err := parsePing(ok)
	if err != nil || got != 36*time.Microsecond {
		t.Errorf("parsePing = %v, %v; want 36µs", got, err)
	}
	if got, err := parsePing("3 packets transmitted, 0 received, 100% packet loss"); err == nil {
		t.Errorf("parsePing of lost packets = %v, want an error", got)
	}
}

func TestAnswers(t *testing.T) {
	t.Run("IPv4", func(t *testing.T) {
		header := make([]byte, ipv4.HeaderLen)
		header[0], header[8], header[9] = 4<<4|5, 1, 1
		testAnswers(t, netip.IPv4Unspecified(), header, ipv4.ICMPTypeTimeExceeded)
	})
	t.Run("IPv6", func(t *testing.T) {
		header := make([]byte, ipv6.HeaderLen)
		header[0], header[6], header[7] = 6<<4, 58, 1
		testAnswers(t, netip.IPv6Unspecified(), header, ipv6.ICMPTypeTimeExceeded)
	})
}

func testAnswers(t *testing.T, of netip.Addr, header []byte, exceeded icmp.Type) {
	t.Helper()
	p := protocolOf(of)
	echo := func(typ icmp.Type, id, seq int) []byte {
		raw, err := (&icmp.Message{Type: typ, Body: &icmp.Echo{ID: id, Seq: seq}}).Marshal(nil)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	about := func(request []byte) []byte {
		raw, err := (&icmp.Message{
			Type: exceeded, Body: &icmp.TimeExceeded{Data: append(slices.Clone(header), request...)},
		}).Marshal(nil)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	for name, tt := range map[string]struct {
		raw  []byte
		want bool
	}{
		"our reply":          {echo(p.reply, 7, 2), true},
		"an older reply":     {echo(p.reply, 7, 1), false},
		"somebody's reply":   {echo(p.reply, 8, 2), false},
		"our request":        {echo(p.request, 7, 2), false},
		"about our request":  {about(echo(p.request, 7, 2)), true},
		"about another's":    {about(echo(p.request, 9, 2)), false},
		"about half a one":   {about([]byte{8}), false},
		"nothing":            {nil, false},
		"a complaint of air": {about(nil), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := p.answers(tt.raw, 7, 2); got != tt.want {
				t.Errorf("answers = %t, want %t", got, tt.want)
			}
		})
	}
}

// TestOptions checks what can be asked for, and what is remembered.
func TestOptions(t *testing.T) {
	for name, tt := range map[string]struct {
		o    Options
		want string // in the error; empty: none
	}{
		"reference":               {Options{}, ""},
		"IPIP":                    {Options{Encapsulation: v1alpha1.EncapsulationIPIP}, ""},
		"IPIP beside IPv6":        {Options{Options: topology.Options{Family: topology.Dual}, Encapsulation: v1alpha1.EncapsulationIPIP}, ""},
		"IPIP for IPv6":           {Options{Options: topology.Options{Family: topology.IPv6}, Encapsulation: v1alpha1.EncapsulationIPIP}, "IPv4 only"},
		"bare over 2 subnets":     {Options{Options: topology.Options{Subnets: 2}}, "encapsulation"},
		"no such encapsulation":   {Options{Encapsulation: "GRE"}, "GRE"},
		"no such sessions":        {Options{Options: topology.Options{Family: topology.Dual}, Sessions: "none"}, "sessions"},
		"no such topology":        {Options{BGP: "Star"}, "topology"},
		"port":                    {Options{VXLANPort: 70000}, "port"},
		"VNI":                     {Options{VNI: 1 << 24}, "VNI"},
		"of the network: subnets": {Options{Options: topology.Options{Subnets: 4}}, "subnets"},
	} {
		t.Run(name, func(t *testing.T) {
			o := tt.o.WithDefaults()
			err := o.Check()
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("Check = %v, want one about %q", err, tt.want)
			}
			dir := t.TempDir()
			if err := o.write(dir); err != nil {
				t.Fatal(err)
			}
			if got, err := readOptions(dir); err != nil || got != o {
				t.Errorf("remembered %+v (%v), want %+v", got, err, o)
			}
		})
	}
	for e, name := range encapsulationNames() {
		if got, err := ParseEncapsulation(strings.ToUpper(name)); got != e || err != nil {
			t.Errorf("ParseEncapsulation(%s) = %s, %v; want %s", name, got, err, e)
		}
	}
	if got, err := ParseEncapsulation("gre"); err == nil {
		t.Errorf("ParseEncapsulation(gre) = %s, want an error", got)
	}
}
