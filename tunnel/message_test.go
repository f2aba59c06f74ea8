package tunnel

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// fakeSeen is a table that was never opened, but judges notifications.
func fakeSeen() *Table {
	d := Device{Kind: VXLAN, Local: netip.MustParseAddr("192.0.2.1"), MTU: 1450}
	w := canonical(d)
	t := &Table{wants: []*want{w}, peers: newPeers()}
	t.peers.add([]netip.Addr{netip.MustParseAddr("192.0.2.2")})
	t.seen = seen{devices: map[int]*work{7: {w: w, p: w.params(2)}}, inWay: map[int]bool{}, locals: map[ifaddrKey]bool{}}
	return t
}

// FuzzNotifications feeds what is no message to what reads them.
func FuzzNotifications(f *testing.F) {
	w := canonical(Device{Kind: VXLAN, Local: netip.MustParseAddr("192.0.2.1"), MTU: 1450})
	var m batch
	m.createLink(w, w.params(2))
	m.setLink(w, 7, linkChange{mark: true, mtu: true, mac: true, forward4: true, genMode: true})
	m.putFDB(7, fdbEntry{mac: w.mac, dst: w.Local})
	m.putNeighbour(7, neighbour{mac: w.mac, addr: w.Local})
	m.address(stepAddAddr, unix.RTM_NEWADDR, 0, ifaddr{index: 7, addr: w.Local, other: w.Local, bits: 32})
	f.Add(m.b)
	var i batch
	i.createLink(w, params{kind: IPIP.String(), local: w.Local})
	f.Add(i.b)
	f.Fuzz(func(_ *testing.T, b []byte) {
		t := fakeSeen()
		_ = eachMessage(b, func(h header, payload []byte) error {
			for _, typ := range []uint16{
				h.typ, unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_NEWADDR, unix.RTM_DELADDR,
				unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH, unix.RTM_NEWNETCONF,
			} {
				h.typ = typ
				t.concerns(h, payload)
			}
			h.typ = unix.NLMSG_ERROR
			answer(h, payload)
			return nil
		})
	})
}

// TestMessagesReadBack writes messages and reads them as the kernel's.
func TestMessagesReadBack(t *testing.T) {
	p := params{kind: VXLAN.String(), local: netip.MustParseAddr("2001:db8::1"), underlay: 2, vni: 77, port: 8472}
	w := canonical(Device{Kind: VXLAN, Local: p.local, MTU: 1430})
	e := fdbEntry{mac: w.mac, dst: p.local}
	n := neighbour{mac: w.mac, addr: p.local, state: unix.NUD_PERMANENT}
	a := ifaddr{index: 7, addr: p.local, other: p.local, bits: 128}
	var m batch
	m.createLink(w, p)
	m.putFDB(7, e)
	m.putNeighbour(7, n)
	m.address(stepAddAddr, unix.RTM_NEWADDR, 0, a)
	seen := 0
	err := eachMessage(m.b, func(h header, b []byte) error {
		switch {
		case h.typ == unix.RTM_NEWLINK:
			l, ok := parseLink(b)
			if !ok || l.params != p || l.name != VXLAN6Device || l.mac != w.mac || l.mtu != 1430 {
				t.Errorf("link %+v", l)
			}
		case h.typ == unix.RTM_NEWNEIGH && b[0] == unix.AF_BRIDGE:
			if index, got, ok := parseFDB(b); !ok || index != 7 || got != e {
				t.Errorf("forwarding entry %+v", got)
			}
		case h.typ == unix.RTM_NEWNEIGH:
			if index, got, ok := parseNeighbour(b); !ok || index != 7 || got != n {
				t.Errorf("neighbour %+v", got)
			}
		case h.typ == unix.RTM_NEWADDR:
			if got, ok := parseAddr(b); !ok || got != a {
				t.Errorf("address %+v", got)
			}
		default:
			return nil
		}
		seen++
		return nil
	})
	if err != nil || seen != 4 {
		t.Errorf("read %d messages: %v", seen, err)
	}
}

func TestParamsInWords(t *testing.T) {
	local := netip.MustParseAddr("192.0.2.1")
	for want, p := range map[string]params{
		"vxlan id 4096 local 192.0.2.1 dev #2 dstport 4789 nolearning": (&want{Device: Device{Kind: VXLAN, Local: local, VNI: 4096, Port: 4789}}).params(2),
		"ipip local 192.0.2.1 ttl 64":                                  (&want{Device: Device{Kind: IPIP, Local: local}}).params(2),
		"vxlan id 0 dstport 4789 external with extensions":             {kind: "vxlan", port: 4789, learning: true, external: true, special: true},
		"ipip remote 192.0.2.1 ttl 0 nopmtudisc":                       {kind: "ipip", remote: local},
		"bridge":                                                       {kind: "bridge"},
	} {
		if got := p.String(); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}
