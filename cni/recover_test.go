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
