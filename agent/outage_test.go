package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/ipam"
)

// testRestoredClaims: the API server lost a node's last 20 claims, of which
// another node made one since. The others are claimed again by creation; from that
// one nothing is given out, until the other node lets go of it.
func testRestoredClaims(t *testing.T, c client.WithWatch) {
	ctx, cancel := context.WithCancel(t.Context())
	pool := ipam.Pool{Name: "small", CIDR: netip.MustParsePrefix("172.25.0.0/20"), BlockLen: 30, Allocate: true}
	n, err := ipam.Open(ipam.Options{Node: "n1", Store: BlockStore{Client: c}, Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	n.SetPools([]ipam.Pool{pool})
	done := make(chan struct{})
	go func() { defer close(done); _ = n.Run(ctx) }()
	defer func() { cancel(); <-done }()
	used := map[netip.Addr]bool{}
	add := func(name string) {
		t.Helper()
		got, err := n.Allocate(ctx, ipam.Request{Owner: ipam.Owner{ContainerID: name, Interface: "eth0"}, Pools: []string{"small"}})
		if err != nil {
			t.Fatal(err)
		}
		if used[got[0].Address] {
			t.Fatalf("%s was given out twice", got[0].Address)
		}
		used[got[0].Address] = true
	}
	for i := range 84 {
		add(fmt.Sprint("pod", i))
	}
	var all v1alpha1.IPBlockList
	if err := c.List(ctx, &all); err != nil {
		t.Fatal(err)
	}
	if len(all.Items) < 21 {
		t.Fatalf("%d blocks are claimed for 84 pods, of 4 addresses each", len(all.Items))
	}
	lost := all.Items[len(all.Items)-20:]
	for i := range lost {
		if err := c.Delete(ctx, &lost[i]); err != nil {
			t.Fatal(err)
		}
	}
	theirs := ipam.Block{CIDR: netip.MustParsePrefix(lost[0].Spec.CIDR), Pool: "small", Node: "n2"}
	if err := (BlockStore{Client: c}).Create(ctx, theirs); err != nil {
		t.Fatal(err)
	}
	before := n.Blocks()

	owners := func() map[string]string {
		var now v1alpha1.IPBlockList
		if err := c.List(ctx, &now); err != nil {
			t.Fatal(err)
		}
		out := map[string]string{}
		for i := range now.Items {
			out[now.Items[i].Spec.CIDR] = now.Items[i].Spec.NodeName
		}
		return out
	}
	until := func(what string, good func() bool) {
		t.Helper()
		for end := time.Now().Add(60 * time.Second); !good(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: not in time; by the API: %v; by the node: %v", what, owners(), n.Blocks())
			}
		}
	}
	n.Recheck()
	until("19 blocks are claimed again", func() bool {
		o, mine := owners(), 0
		for i := range lost {
			if o[lost[i].Spec.CIDR] == "n1" {
				mine++
			}
		}
		return mine == 19
	})
	until("one is lost", func() bool { return len(n.Lost()) == 1 && n.Lost()[0].CIDR == theirs.CIDR })
	if owners()[theirs.CIDR.String()] != "n2" {
		t.Errorf("%v is not the other node's any more", theirs.CIDR)
	}
	if slices.ContainsFunc(n.Blocks(), func(u ipam.BlockUsage) bool { return u.CIDR == theirs.CIDR }) || len(n.Blocks()) < len(before)-1 {
		t.Errorf("the node has %v; want all that it had but %v", n.Blocks(), theirs.CIDR)
	}
	for i := range 20 {
		add(fmt.Sprint("later", i))
	}
	for _, r := range n.Records() {
		if strings.HasPrefix(r.Owner.ContainerID, "later") && theirs.CIDR.Contains(r.Address) {
			t.Errorf("%s is of the other node's block", r.Address)
		}
	}
	if err := (BlockStore{Client: c}).Delete(ctx, theirs); err != nil {
		t.Fatal(err)
	}
	n.Recheck()
	until("the block is the node's again", func() bool { return owners()[theirs.CIDR.String()] == "n1" && len(n.Lost()) == 0 })
}

// A block that was given back and is there again, the very same object, was
// restored from a snapshot: it is given back again. One that somebody made anew is
// the node's.
func TestReturnedBlocksStayReturned(t *testing.T) {
	s := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	c := fake.NewClientBuilder().WithScheme(s).Build()
	file := filepath.Join(t.TempDir(), "returned.json")
	store := func() BlockStore {
		r, err := openReturned(file, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return BlockStore{Client: c, Returned: r}
	}
	b := ipam.Block{CIDR: netip.MustParsePrefix("172.25.0.0/26"), Pool: "p", Node: "n1"}
	put := func(uid types.UID) {
		t.Helper()
		err := c.Create(t.Context(), &v1alpha1.IPBlock{
			ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.IPBlockName(b.CIDR), UID: uid, Labels: map[string]string{v1alpha1.NodeLabel: "n1"}},
			Spec:       v1alpha1.IPBlockSpec{CIDR: b.CIDR.String(), Pool: b.Pool, NodeName: b.Node},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	listed := func(want int) {
		t.Helper()
		inPool, err := store().List(t.Context(), "p")
		if err != nil || len(inPool) != 1 || (inPool[0].Node == "n1") != (want == 1) {
			t.Errorf("the pool has %v, %v", inPool, err)
		}
		own, err := store().ListNode(t.Context(), "n1")
		if err != nil || len(own) != want {
			t.Errorf("the node has %v, %v; want %d", own, err, want)
		}
		if all, err := store().List(t.Context(), "p"); err != nil || len(all) != want {
			t.Errorf("then the pool has %v, %v; want %d", all, err, want)
		}
	}
	put("first")
	listed(1)
	if err := store().Delete(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	put("first")
	listed(0)
	put("second")
	listed(1)

	r := store().Returned
	for i := range mostReturned {
		r.uids = append(r.uids, types.UID(fmt.Sprint("filler", i)))
	}
	for i := range 8 {
		r.add(types.UID(fmt.Sprint(i)))
	}
	if len(r.uids) != mostReturned || r.has("first") || !r.has(types.UID(fmt.Sprint(7))) {
		t.Errorf("%d are remembered, want the last %d", len(r.uids), mostReturned)
	}
}

// Where the state folder can't be written a block is given back all the same, and
// that is known until the agent ends; what can be written later is complete.
func TestBlocksReturnWithoutAFile(t *testing.T) {
	s := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	c := fake.NewClientBuilder().WithScheme(s).Build()
	dir := filepath.Join(t.TempDir(), "state")
	open := func() *returned {
		r, err := openReturned(filepath.Join(dir, "returned.json"), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	store := BlockStore{Client: c, Returned: open()}
	giveBack := func(cidr string, uid types.UID) {
		t.Helper()
		b := ipam.Block{CIDR: netip.MustParsePrefix(cidr), Pool: "p", Node: "n1"}
		err := c.Create(t.Context(), &v1alpha1.IPBlock{
			ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.IPBlockName(b.CIDR), UID: uid},
			Spec:       v1alpha1.IPBlockSpec{CIDR: cidr, Pool: b.Pool, NodeName: b.Node},
		})
		if err == nil {
			err = store.Delete(t.Context(), b)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, found, err := store.Get(t.Context(), b.CIDR); found || err != nil {
			t.Errorf("%s is there still: %t, %v", cidr, found, err)
		}
	}
	giveBack("172.25.0.0/26", "first") // there is no folder yet
	if !store.Returned.has("first") {
		t.Error("the block that was given back is not remembered")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	giveBack("172.25.0.64/26", "second")
	if next := open(); !next.has("first") || !next.has("second") {
		t.Errorf("the next agent knows of %v, want both blocks", next.uids)
	}
}
