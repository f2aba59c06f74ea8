package cni

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/godwit-net/godwit/cni/wire"
	"github.com/godwit-net/godwit/ipam"
)

func TestRecover(t *testing.T) {
	b := newBench(t, 8, Options{ReapDelay: time.Hour})
	for _, id := range []string{"live", "vanished", "unrecorded", "deleted", "stolen", "misrecorded"} {
		b.must(b.Add, request(id))
	}
	b.must(b.Del, request("deleted"))
	b.stop()
	b.node.vanish("vanished")
	address := map[string]netip.Addr{}
	for _, r := range b.allocator.Records() {
		id := r.Owner.ContainerID
		address[id] = r.Address
		if id == "unrecorded" || id == "stolen" || id == "misrecorded" {
			if err := b.allocator.Release(t.Context(), r.Owner); err != nil {
				t.Fatal(err)
			}
		}
	}
	record := func(id string, a netip.Addr) {
		t.Helper()
		if err := b.allocator.Adopt(ipam.Record{Address: a, Owner: ipam.Owner{ContainerID: id, Interface: "eth0"}}); err != nil {
			t.Fatal(err)
		}
	}
	record("misrecorded", netip.MustParseAddr("172.25.0.200"))
	b.node.links["thief"] = wire.Link{HostEnd: "thief", Identity: wire.Identity{Network: "godwit", ContainerID: "thief", Interface: "eth0", Addresses: []netip.Addr{address["stolen"]}}}
	record("thief", address["stolen"])

	attached := b.start(Options{ReapDelay: time.Hour})
	got := map[string]netip.Addr{}
	for _, a := range attached {
		got[a.Owner.ContainerID] = a.Addresses[0]
		if a.Network != "godwit" || a.HostLink == "" {
			t.Errorf("%+v", a)
		}
	}
	want := map[string]netip.Addr{
		"live": address["live"], "unrecorded": address["unrecorded"], "misrecorded": address["misrecorded"], "thief": address["stolen"],
	}
	compare := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if d := cmp.Diff(want, got, compare); d != "" {
		t.Errorf("attached (-want +got):\n%s", d)
	}
	recorded := map[string]netip.Addr{}
	for _, r := range b.allocator.Records() {
		recorded[r.Owner.ContainerID] = r.Address
	}
	if d := cmp.Diff(want, recorded, compare); d != "" {
		t.Errorf("recorded (-want +got):\n%s", d)
	}
	if len(b.node.links) != 4 {
		t.Errorf("links: %v", b.node.links)
	}
}

// What is recorded and not among the links that were listed is looked for once
// more before its address is freed: an agent that was about to end may have
// attached it in between.
func TestRecoverLooksOnceMore(t *testing.T) {
	b := newBench(t, 8, Options{ReapDelay: time.Millisecond})
	b.must(b.Add, request("late"))
	b.must(b.Add, request("gone"))
	b.stop()
	b.node.vanish("gone")
	b.node.late = "late"
	if attached := b.start(Options{ReapDelay: time.Millisecond}); len(attached) != 1 || attached[0].Owner.ContainerID != "late" {
		t.Errorf("attached: %+v", attached)
	}
	b.eventually("1 links, 1 routes, 1 records")
}

// The addresses of the node's own have no link, and no pod that could have gone.
func TestNodesOwnAddressesStay(t *testing.T) {
	b := newBench(t, 8, Options{ReapDelay: time.Millisecond})
	own, err := b.allocator.Allocate(t.Context(), ipam.NodeOwner("godwit.ipip"), Pod{})
	if err != nil {
		t.Fatal(err)
	}
	b.must(b.Add, request("c"))
	b.must(b.Add, request("d"))
	b.stop()
	b.node.vanish("c")
	if attached := b.start(Options{ReapDelay: time.Millisecond}); len(attached) != 1 {
		t.Errorf("attached: %v", attached)
	}
	b.must(b.GC, request("gc"))
	b.eventually("0 links, 0 routes, 1 records")
	if got := b.allocator.Records(); got[0] != own[0] {
		t.Errorf("record %v, want the node's own %v", got[0], own[0])
	}
	// Nor can a runtime name them.
	r := request(ipam.NodeOwner("").ContainerID)
	r.IfName = "godwit.ipip"
	if code := b.code(b.Del, r); code != CodeEnvironment {
		t.Errorf("DEL of the node's own: code %d", code)
	}
}

// A dual-stack pod of which one address lost its record gets it back; one that
// went is freed of both.
func TestRecoverOfBothFamilies(t *testing.T) {
	b := newBenchOf(t, newMemoryAllocator(8, "172.25.0.128", "fd00:25::80"), Options{ReapDelay: time.Hour})
	for _, id := range []string{"half", "vanished", "deleted"} {
		b.must(b.Add, request(id))
	}
	b.must(b.Del, request("deleted"))
	b.stop()
	b.node.vanish("vanished")
	half := netip.MustParseAddr("fd00:25::80")
	b.node.set(func() { delete(b.allocator.records, half) })
	attached := b.start(Options{ReapDelay: time.Hour})
	if len(attached) != 1 || len(attached[0].Addresses) != 2 || attached[0].Owner.ContainerID != "half" {
		t.Errorf("attached: %v", attached)
	}
	var got []string
	for _, r := range b.allocator.Records() {
		got = append(got, r.Owner.ContainerID+" "+r.Address.String())
	}
	if d := cmp.Diff([]string{"half 172.25.0.128", "half fd00:25::80"}, got); d != "" {
		t.Errorf("records (-want +got):\n%s", d)
	}
}

func TestRecoverLetsPodsWork(t *testing.T) {
	b := newBench(t, 8, Options{})
	b.must(b.Add, request("c"))
	b.stop()
	if err := b.allocator.Release(t.Context(), ipam.Owner{ContainerID: "c", Interface: "eth0"}); err != nil {
		t.Fatal(err)
	}
	b.allocator.broken = true
	if attached := b.start(Options{}); len(attached) != 1 {
		t.Errorf("attached: %v", attached)
	}
	b.expectLeft("1 links, 1 routes, 0 records")
}
