package bgp

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func callersConfig() Config {
	c := optionsConfig()
	racks := func(name, prefix string, most int) Callers {
		return Callers{Prefix: netip.MustParsePrefix(prefix), Most: most, Peer: Peer{Name: name, Kind: PeerExternal, ASN: 65001}}
	}
	c.Callers = []Callers{racks("wide", "10.9.0.0/16", 0), racks("narrow", "10.9.1.0/24", 2), racks("six", "fd09::/64", 1)}
	c.Peers = []Peer{{Name: "known", Kind: PeerExternal, Address: netip.MustParseAddr("10.9.0.1"), ASN: 65001}}
	c.Barred = []netip.Addr{netip.MustParseAddr("10.9.0.2")}
	return c
}

func TestCaller(t *testing.T) {
	c := callersConfig()
	for address, want := range map[string]string{
		"10.9.0.1":  "", // is a peer
		"10.9.0.2":  "", // is barred
		"10.9.0.3":  "wide/10.9.0.3",
		"10.9.1.3":  "narrow/10.9.1.3",
		"fd09::3":   "six/fd09::3",
		"10.10.0.1": "",
		"fd0a::1":   "",
	} {
		p, ok := c.Caller(netip.MustParseAddr(address))
		if ok != (want != "") || p.Name != want {
			t.Errorf("%s becomes %q, %v, want %q", address, p.Name, ok, want)
		}
		if ok && (!p.Passive || p.Address.String() != address || p.ASN != 65001) {
			t.Errorf("%s becomes %+v", address, p)
		}
	}
}

func TestMayCall(t *testing.T) {
	c := callersConfig()
	a := netip.MustParseAddr
	have := []netip.Addr{a("10.9.0.3"), a("10.9.1.3"), a("fd09::3")}
	for address, want := range map[string]bool{"10.9.0.4": true, "10.9.1.4": true, "fd09::4": false, "fd09::3": true, "10.10.0.1": false} {
		if got := c.MayCall(a(address), have); got != want {
			t.Errorf("%s may call: %v", address, got)
		}
	}
	if c.MayCall(a("10.9.1.5"), append(have, a("10.9.1.4"))) {
		t.Error("a third may call where there may be two")
	}
}

func TestUnusableCallers(t *testing.T) {
	for _, tc := range []struct {
		want  string
		spoil func(*Callers)
	}{
		{"is everybody", func(r *Callers) { r.Prefix = netip.MustParsePrefix("0.0.0.0/0") }},
		{"10.9.1.1/24", func(r *Callers) { r.Prefix = netip.MustParsePrefix("10.9.1.1/24") }},
		{"has the range 10.9.0.0/16 of wide", func(r *Callers) { r.Prefix = netip.MustParsePrefix("10.9.0.0/16") }},
		{"must not be negative", func(r *Callers) { r.Most = -1 }},
		{"callers are routers", func(r *Callers) { r.Peer.Kind = PeerNode }},
		{"TCP MD5 needs the address", func(r *Callers) { r.Peer.Password = "secret" }},
		{"must be at least 2s", func(r *Callers) { r.Peer.ConnectRetry = time.Second }},
	} {
		c := callersConfig()
		tc.spoil(&c.Callers[1])
		usable, err := c.Usable()
		var pe *PeerError
		if !errors.As(err, &pe) || pe.Peer != "narrow" || !strings.Contains(err.Error(), tc.want) || len(usable.Callers) != 2 {
			t.Errorf("want an error about %q, got %v and %d ranges", tc.want, err, len(usable.Callers))
		}
	}
}

// Who can't be a peer as it is configured must not come in by a range.
func TestUnusablePeersAreBarred(t *testing.T) {
	c := callersConfig()
	c.Peers[0].ConnectRetry = time.Second
	usable, err := c.Usable()
	if err == nil || len(usable.Peers) != 0 {
		t.Fatalf("peers %v, %v", usable.Peers, err)
	}
	for _, a := range []string{"10.9.0.1", "10.9.0.2"} {
		if p, ok := usable.Caller(netip.MustParseAddr(a)); ok {
			t.Errorf("%s may call and becomes %v", a, p)
		}
	}
}
