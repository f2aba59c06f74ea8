package routes

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

var plainly = cmp.AllowUnexported(kernelRoute{}, kernelObject{}, content{}, path{}, event{}, link{})

func exact() cmp.Options {
	return cmp.Options{
		plainly,
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	}
}

func sampleRoutes() []kernelRoute {
	gw, gw6 := netip.MustParseAddr("10.211.55.116"), netip.MustParseAddr("fd00:55::116")
	return []kernelRoute{
		{dst: mustPrefix("172.25.0.128/26"), table: 254, protocol: 71, kind: unix.RTN_BLACKHOLE},
		{dst: mustPrefix("0.0.0.0/0"), table: 254, protocol: 71, kind: unix.RTN_UNICAST, paths: []path{{gateway: gw, oif: 2}}},
		{dst: mustPrefix("172.25.0.130/32"), table: 254, protocol: 71, kind: unix.RTN_UNICAST, scope: scopeLink, paths: []path{{oif: 7}}},
		{dst: mustPrefix("172.25.0.192/26"), table: 254, protocol: 71, kind: unix.RTN_UNICAST, nhid: 71000001},
		{dst: mustPrefix("172.25.0.192/26"), table: 1000, protocol: 71, kind: unix.RTN_UNICAST, metric: 9, tos: 8, paths: []path{{gateway: gw, oif: 2, onlink: true}}},
		{dst: mustPrefix("172.25.0.192/26"), table: 254, protocol: 71, kind: unix.RTN_UNICAST, paths: []path{{gateway: gw6, oif: 2}}},
		{dst: mustPrefix("172.25.0.192/26"), table: 254, protocol: 71, kind: unix.RTN_UNICAST, paths: []path{{gateway: gw, oif: 2}, {gateway: gw6, oif: 3, onlink: true}}},
		{dst: mustPrefix("fd00:25::/122"), table: 254, protocol: 71, kind: unix.RTN_UNICAST, metric: 1024, paths: []path{{gateway: gw6, oif: 2}, {gateway: netip.MustParseAddr("fe80::1"), oif: 3}}},
	}
}

func sampleObjects() []kernelObject {
	return []kernelObject{
		{id: 71000001, protocol: 71, content: content{path: path{gateway: netip.MustParseAddr("10.211.55.116"), oif: 2}}},
		{id: 71000002, protocol: 71, content: content{path: path{gateway: netip.MustParseAddr("fe80::1"), oif: 2, onlink: true}}},
		{id: 71000003, protocol: 71, content: content{members: joinIDs([]uint32{71000002, 71000001})}},
	}
}

// TestWireRoundTrip reads what is written.
func TestWireRoundTrip(t *testing.T) {
	var e encoder
	var want []event
	for _, r := range sampleRoutes() {
		encodeRoute(&e, unix.RTM_NEWROUTE, 0, 1, &r)
		want = append(want, event{route: &r})
	}
	for _, o := range sampleObjects() {
		encodeObject(&e, unix.RTM_NEWNEXTHOP, unix.NLM_F_REPLACE, 1, &o)
		want = append(want, event{object: &o, replace: true})
	}
	if got := decodeAll(t, e.b); !cmp.Equal(got, want, exact()) {
		t.Error(cmp.Diff(want, got, exact()))
	}
}

func decodeAll(t testing.TB, b []byte) []event {
	t.Helper()
	var evs []event
	err := eachMessage(b, func(h header, payload []byte) error {
		ev, ok, err := decodeEvent(h, payload)
		if ok {
			evs = append(evs, ev)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return evs
}

// TestWireBytes pins the bytes of one message of each kind, on a little-endian
// machine, against the layouts of the kernel's headers.
func TestWireBytes(t *testing.T) {
	if unix.AF_INET != 2 || hex.EncodeToString(func() []byte { var e encoder; e.attr32(1, 1); return e.b }()) != "0800010001000000" {
		t.Log("big-endian: the layouts are pinned on little-endian machines")
		return
	}
	var e encoder
	encodeRoute(&e, unix.RTM_NEWROUTE, 0x501, 5, &sampleRoutes()[3])
	const route = "2c000000" + "1800" + "0105" + "05000000" + "00000000" +
		"02" + "1a" + "00" + "00" + "fe" + "47" + "00" + "01" + "00000000" +
		"08000100" + "ac1900c0" + "08001e00" + "c15f3b04"
	if got := hex.EncodeToString(e.b); got != route {
		t.Errorf("route:\n%s, not\n%s", got, route)
	}
	e.b = nil
	encodeObject(&e, unix.RTM_NEWNEXTHOP, 0x601, 6, &sampleObjects()[2])
	const group = "34000000" + "6800" + "0106" + "06000000" + "00000000" +
		"00" + "00" + "47" + "00" + "00000000" +
		"08000100" + "c35f3b04" + "14000200" + "c15f3b04" + "00000000" + "c25f3b04" + "00000000"
	if got := hex.EncodeToString(e.b); got != group {
		t.Errorf("group:\n%s, not\n%s", got, group)
	}
}

// TestWireMalformed has lengths that lie.
func TestWireMalformed(t *testing.T) {
	var e encoder
	encodeRoute(&e, unix.RTM_NEWROUTE, 0, 1, &sampleRoutes()[6])
	for cut := 1; cut < len(e.b); cut++ {
		err := eachMessage(e.b[:cut], func(header, []byte) error { return nil })
		if !errors.Is(err, errMalformed) {
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
	for i := sizeofHeader + sizeofRtmsg; i < len(e.b); i++ {
		b := slices.Clone(e.b)
		b[i] = 0xff
		_ = eachMessage(b, func(h header, p []byte) error {
			_, _, err := decodeEvent(h, p) // must not panic
			return err
		})
	}
}

// TestAnswer reads the kernel's refusals.
func TestAnswer(t *testing.T) {
	var e encoder
	e.begin(unix.NLMSG_ERROR, unix.NLM_F_CAPPED|unix.NLM_F_ACK_TLVS, 3)
	e.b = binary.NativeEndian.AppendUint32(e.b, ^uint32(unix.EINVAL)+1)
	e.b = append(e.b, make([]byte, sizeofHeader)...)
	e.attr(unix.NLMSGERR_ATTR_MSG, []byte("Nexthop id does not exist\x00"))
	e.end()
	err := eachMessage(e.b, answer)
	if !errors.Is(err, unix.EINVAL) || err.Error() != "Nexthop id does not exist (invalid argument)" {
		t.Errorf("%v", err)
	}
}

// FuzzDecode feeds the decoder with anything; what it takes, it must be able to
// write and read again.
func FuzzDecode(f *testing.F) {
	var e encoder
	for _, r := range sampleRoutes() {
		e.b = nil
		encodeRoute(&e, unix.RTM_NEWROUTE, 0, 1, &r)
		f.Add(slices.Clone(e.b))
	}
	for _, o := range sampleObjects() {
		e.b = nil
		encodeObject(&e, unix.RTM_NEWNEXTHOP, 0, 1, &o)
		f.Add(slices.Clone(e.b))
	}
	e.b = nil
	e.begin(unix.RTM_NEWLINK, 0, 0)
	e.b = append(e.b, make([]byte, sizeofIfinfo)...)
	e.attr(unix.IFLA_IFNAME, []byte("gw0\x00"))
	e.end()
	f.Add(slices.Clone(e.b))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := newMirror(Protocol, unix.RT_TABLE_MAIN)
		var eff effect
		_ = eachMessage(b, func(h header, payload []byte) error {
			if h.typ == unix.NLMSG_ERROR || h.typ == unix.NLMSG_DONE {
				_ = answer(h, payload)
				return nil
			}
			ev, ok, err := decodeEvent(h, payload)
			if !ok {
				return err
			}
			m.apply(ev, &eff)
			if r := ev.route; r != nil && !r.odd && r.nhid == 0 && !ev.del {
				again(t, r)
			}
			return nil
		})
	})
}

func again(t *testing.T, r *kernelRoute) {
	var e encoder
	encodeRoute(&e, unix.RTM_NEWROUTE, 0, 0, r)
	evs := decodeAll(t, e.b)
	if len(evs) != 1 || evs[0].route.dst != r.dst || evs[0].route.table != r.table || evs[0].route.metric != r.metric {
		t.Fatalf("%+v became %+v", r, evs)
	}
}
