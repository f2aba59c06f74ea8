package tunnel

import (
	"net/netip"
	"strings"
	"testing"
)

// TestPartialKeepsWhatIsOurs starts a table anew on a node whose devices are
// there, as an agent does that has heard of no other node yet.
func TestPartialKeepsWhatIsOurs(t *testing.T) {
	l := newLab(t, 3)
	for _, v := range l.nodes {
		v.set(l.both(v))
		l.route(v, VXLANDevice)
		l.route(v, VXLAN6Device)
	}
	v, far := l.nodes[0], l.nodes[2]
	before := v.dump()
	for _, cmd := range []string{
		"bridge fdb append 00:00:00:00:00:00 dev godwit.vxlan dst 192.0.2.2",
		"bridge fdb add 02:00:00:00:00:09 dev godwit.vxlan dst 192.0.2.9",
		"bridge fdb add 0a:67:c0:00:02:08 dev godwit.vxlan dst 192.0.2.9",
		"bridge fdb add 02:00:00:00:00:09 dev godwit.vxlan6 dst 2001:db8::9",
		"ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev godwit.vxlan nud permanent",
		"ip neigh add fe80::9 lladdr 02:00:00:00:00:09 dev godwit.vxlan6 nud permanent",
		"ip neigh replace 192.0.2.2 lladdr 02:00:00:00:00:09 dev godwit.vxlan nud permanent",
	} {
		f := strings.Fields(cmd)
		v.Run(f[0], f[1:]...)
	}

	v.table = open(t, v.NS)
	partial := l.both(v)
	partial.Peers, partial.Partial = nil, true
	v.set(partial)
	if got := v.dump(); got != before {
		t.Fatalf("with no peer known yet it is\n%s\nand not\n%s", got, before)
	}
	v.quiet()
	works := func() {
		t.Helper()
		for _, o := range l.nodes[1:] {
			v.ping(o.pod4())
			v.ping(o.pod6())
		}
	}
	works()

	t.Run("what goes is put back", func(t *testing.T) {
		for _, hurt := range []string{
			"bridge fdb del 0a:67:c0:00:02:03 dev godwit.vxlan dst 192.0.2.3",
			"ip neigh del 192.0.2.3 dev godwit.vxlan",
			"ip neigh flush dev godwit.vxlan6 nud permanent",
			"ip link set godwit.vxlan6 down",
			"ip link del godwit.vxlan",
			"bridge fdb add 02:00:00:00:00:09 dev godwit.vxlan dst 192.0.2.9",
		} {
			f := strings.Fields(hurt)
			v.Run(f[0], f[1:]...)
			v.heal(partial)
			if got := v.dump(); got != before {
				t.Fatalf("%s: healed to\n%s\nand not\n%s", hurt, got, before)
			}
			l.route(v, VXLANDevice)
			l.route(v, VXLAN6Device)
			v.quiet()
		}
		works()
	})
	t.Run("a device that is made anew", func(t *testing.T) {
		again := open(t, v.NS)
		other := partial
		other.Devices = append([]Device(nil), partial.Devices...)
		other.Devices[0].VNI = 77
		if _, err := again.Set(t.Context(), other); err != nil {
			t.Fatal(err)
		}
		if got := v.dump(); !strings.Contains(got, "0a:67:c0:00:02:03 dst 192.0.2.3 self permanent") || !strings.Contains(got, "vxlan id 77 ") {
			t.Errorf("it knows fewer nodes, or is not anew:\n%s", got)
		}
		v.told()
		v.set(partial)
		if got := v.dump(); got != before {
			t.Errorf("changed back it is\n%s\nand not\n%s", got, before)
		}
		l.route(v, VXLANDevice)
	})
	t.Run("peers that come meanwhile", func(t *testing.T) {
		come := addrf("192.0.2.8")
		if err := v.table.AddPeers([]netip.Addr{come, far.local4()}); err != nil {
			t.Fatal(err)
		}
		v.quiet()
		v.set(partial)
		if got := v.dump(); strings.Count(got, "192.0.2.8 ") != 2 {
			t.Errorf("the peer that came has not its two entries:\n%s", got)
		}
		works()
	})
	t.Run("until all are known", func(t *testing.T) {
		all := partial
		all.Peers, all.Partial = []netip.Addr{far.local4(), far.local6()}, false
		v.set(all)
		got := v.dump()
		for _, gone := range []string{"192.0.2.2 ", "192.0.2.8 ", "2001:db8::2 "} {
			if strings.Contains(got, gone) {
				t.Errorf("there is still %s:\n%s", gone, got)
			}
		}
		v.ping(far.pod4())
		v.ping(far.pod6())
		v.quiet()
	})
}
