package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/bgp/unnumbered"
	"github.com/godwit-net/godwit/ipam"
	"github.com/godwit-net/godwit/ipam/ipamtest"
)

// A node was cut off for so long that its plan and blocks were deleted, and one of
// these is another node's by now. When it finds a plan of another UID it makes sure
// which blocks are its own; a change of its plan alone is no reason to.
func TestForgottenNodeChecksItsBlocks(t *testing.T) {
	ctx := t.Context()
	store := &ipamtest.Store{}
	block := func(cidr, node string) ipam.Block {
		return ipam.Block{CIDR: netip.MustParsePrefix(cidr), Pool: "pods", Node: node}
	}
	first, second := block("172.25.0.0/26", "n1"), block("172.25.0.64/26", "n1")
	for _, b := range []ipam.Block{first, second} {
		if err := store.Create(ctx, b); err != nil {
			t.Fatal(err)
		}
	}
	addresses, err := ipam.Open(ipam.Options{
		Node: "n1", Store: store, Dir: filepath.Join(t.TempDir(), "addresses"), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	w := &worker{Agent: &Agent{
		log: slog.New(slog.DiscardHandler), addresses: addresses, neighbors: unnumbered.New(unnumbered.Options{}),
		passwords: newPasswords(nil, "", filepath.Join(t.TempDir(), "passwords.json"), slog.New(slog.DiscardHandler)),
	}}
	spec := v1alpha1.NodeNetworkSpec{
		RouterID: "10.0.0.1",
		Pools:    []v1alpha1.PlannedPool{{Name: "pods", CIDR: "172.25.0.0/16", BlockSize: 26, Allocate: true}},
	}
	w.take(ctx, plan{spec: spec}) // of the checkpoint
	addresses.SetBlocks([]ipam.Block{first, second})
	w.take(ctx, plan{uid: "a", spec: spec})
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- addresses.Run(running) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	has := func(want string) func() bool {
		return func() bool {
			var got []string
			for _, b := range addresses.Blocks() {
				got = append(got, b.CIDR.String())
			}
			return fmt.Sprint(got) == want
		}
	}
	until(t, "the node has both blocks", has("[172.25.0.0/26 172.25.0.64/26]"))
	until(t, "they are checked", func() bool { return store.Count(ipamtest.ListNode) > 0 })

	if err := store.Delete(ctx, first); err != nil {
		t.Fatal(err)
	}
	if err := store.Create(ctx, block("172.25.0.0/26", "n2")); err != nil {
		t.Fatal(err)
	}
	lists := store.Count(ipamtest.ListNode)
	w.take(ctx, plan{uid: "a", generation: 2, spec: spec})
	if !has("[172.25.0.0/26 172.25.0.64/26]")() || store.Count(ipamtest.ListNode) != lists {
		t.Error("a change of the plan makes the node check its blocks")
	}
	w.take(ctx, plan{uid: "b", generation: 1, spec: spec})
	until(t, "the node gives up the block that is n2's", has("[172.25.0.64/26]"))
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("in vain: " + what)
		}
	}
}
