package lab

import (
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
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
	echo := func(typ icmp.Type, id, seq int) []byte {
		raw, err := (&icmp.Message{Type: typ, Body: &icmp.Echo{ID: id, Seq: seq}}).Marshal(nil)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	about := func(request []byte) []byte {
		header := make([]byte, 20)
		header[0], header[8], header[9] = 4<<4|5, 1, icmpProtocol
		raw, err := (&icmp.Message{
			Type: ipv4.ICMPTypeTimeExceeded, Body: &icmp.TimeExceeded{Data: append(header, request...)},
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
		"our reply":          {echo(ipv4.ICMPTypeEchoReply, 7, 2), true},
		"an older reply":     {echo(ipv4.ICMPTypeEchoReply, 7, 1), false},
		"somebody's reply":   {echo(ipv4.ICMPTypeEchoReply, 8, 2), false},
		"our request":        {echo(ipv4.ICMPTypeEcho, 7, 2), false},
		"about our request":  {about(echo(ipv4.ICMPTypeEcho, 7, 2)), true},
		"about another's":    {about(echo(ipv4.ICMPTypeEcho, 9, 2)), false},
		"about half a one":   {about([]byte{8}), false},
		"nothing":            {nil, false},
		"a complaint of air": {about(nil), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := answers(tt.raw, 7, 2); got != tt.want {
				t.Errorf("answers = %t, want %t", got, tt.want)
			}
		})
	}
}
