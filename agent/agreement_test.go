package agent

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/cni/wire"
	"github.com/godwit-net/godwit/ipam"
)

// soundNode is a node on which all agrees: the containers a, b and c have
// 172.25.0.1, .2 and .3, and the node itself .0.
func soundNode() *local {
	block := ipam.BlockUsage{Block: ipam.Block{CIDR: netip.MustParsePrefix("172.25.0.0/26"), Pool: "p", Node: "n1"}, Allocated: 3, Own: 1}
	l := &local{blocks: []ipam.BlockUsage{block}, ways: map[netip.Addr]string{}}
	l.record("172.25.0.0", ipam.NodeOwner("godwit.vxlan"))
	for i, id := range []string{"a", "b", "c"} {
		addr := netip.AddrFrom4([4]byte{172, 25, 0, byte(i + 1)})
		l.record(addr.String(), ipam.Owner{ContainerID: id, Interface: "eth0"})
		l.links = append(l.links, wire.Link{Identity: wire.Identity{ContainerID: id, Interface: "eth0", Addresses: []netip.Addr{addr}}, HostEnd: "gw" + id})
		l.ways[addr] = "gw" + id
	}
	return l
}

func (l *local) record(addr string, o ipam.Owner) {
	l.records = append(l.records, ipam.Record{Address: netip.MustParseAddr(addr), Pool: "p", Owner: o, Pod: "default/" + o.ContainerID})
}

func TestLocalCompare(t *testing.T) {
	if d := soundNode().compare(); len(d) > 0 {
		t.Fatalf("a node on which all agrees: %+v", d)
	}
	one := netip.MustParseAddr("172.25.0.1")
	for _, tt := range []struct {
		name string
		do   func(l *local)
		want map[string]string // object: some of the message
	}{
		{"a link is gone", func(l *local) { l.links = l.links[1:] }, map[string]string{"172.25.0.1": "(default/a), which has no link"}},
		{"a record is gone", func(l *local) { l.records = append(l.records[:1:1], l.records[2:]...) }, map[string]string{"172.25.0.1": "there is no record of it"}},
		{"a record is another's", func(l *local) {
			l.records[1].Owner.ContainerID = "d"
			l.links = append(l.links, wire.Link{Identity: wire.Identity{ContainerID: "d", Interface: "eth0"}, HostEnd: "gwd"})
		}, map[string]string{"172.25.0.1": "on record as that of container d"}},
		{"the route is gone", func(l *local) { l.ways[one] = "" }, map[string]string{"172.25.0.1": "leave by no link and not by its pod's link gwa"}},
		{"the route goes elsewhere", func(l *local) { l.ways[one] = "eth0" }, map[string]string{"172.25.0.1": "leave by eth0 and not by its pod's link gwa"}},
		{"two links have an address", func(l *local) {
			l.links = append(l.links, wire.Link{Identity: wire.Identity{ContainerID: "d", Interface: "eth0", Addresses: []netip.Addr{one}}, HostEnd: "gwd"})
		}, map[string]string{"172.25.0.1": "the links gwa and gwd both have it"}},
		{"a link that was given up stays", func(l *local) { l.links[0].Doomed = true }, map[string]string{"gwa": "given up and is still there"}},
		{"the block is gone", func(l *local) { l.blocks, l.records, l.links = nil, l.records[:2], l.links[:1] }, map[string]string{"172.25.0.1": "in none of the node's blocks"}},
		{"the block is another's", func(l *local) { l.blocks, l.lost = nil, l.blocks }, map[string]string{
			"172.25.0.0/26": "3 addresses of it to pods, but by its IPBlock it is another node's: it is neither announced nor given out here. " +
				"Delete these pods; or, if the other node does not use it, `kubectl delete ipblock 172-25-0-0-26`",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := soundNode()
			tt.do(l)
			found := l.compare()
			for _, d := range found {
				if want, ok := tt.want[d.Object]; !ok || !strings.Contains(d.Message, want) {
					t.Errorf("found %+v", d)
				}
			}
			if len(found) != len(tt.want) {
				t.Errorf("%d differences, want %d: %+v", len(found), len(tt.want), found)
			}
		})
	}
}

// What is found once may be a pod that comes or goes; what is found twice is told.
func TestAgreementTellsWhatStays(t *testing.T) {
	l, failing := soundNode(), error(nil)
	looks := 0
	g := agreement{look: func(context.Context) (*local, error) { looks++; return l, failing }}
	now := time.Now()
	ask := func(after time.Duration, want ...string) {
		t.Helper()
		now = now.Add(after)
		var got []string
		for _, d := range g.differences(t.Context(), now) {
			got = append(got, d.Object)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	ask(0)
	l.ways[netip.MustParseAddr("172.25.0.1")] = ""
	ask(agreementInterval)
	l.ways[netip.MustParseAddr("172.25.0.2")] = ""
	ask(agreementInterval, "172.25.0.1")
	ask(agreementInterval/2, "172.25.0.1")
	failing = errors.New("no")
	ask(agreementInterval, "172.25.0.1")
	failing = nil
	ask(agreementInterval, "172.25.0.1", "172.25.0.2")
	l = soundNode()
	ask(agreementInterval)
	if looks != 6 {
		t.Errorf("looked %d times, want 6", looks)
	}
	many := make([]v1alpha1.Difference, 20)
	if s := status(&observation{differ: many}, &v1alpha1.NodeNetworkStatus{}, metav1.Now()); len(s.Differences) != maxDifferences {
		t.Errorf("%d differences in a status, want %d", len(s.Differences), maxDifferences)
	}
}
