package agent

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/bgp/unnumbered"
)

const unnumberedPlan = `
addresses: [10.211.55.101]
asn: 64512
routerID: 10.211.55.101
sessions:
- {name: leaf1, kind: External, peerInterface: eth1, peerASN: 65001, passwordSecretRef: {name: leaf, key: password}}
- {name: leaf2, kind: External, peerInterface: eth2, peerASN: 65001, gracefulRestart: {disabled: true}}
- {name: tor1, kind: External, peerAddress: 10.211.55.1, peerASN: 65001}
`

func TestPeersAtInterfaces(t *testing.T) {
	d, problems := translate(parsePlan(t, unnumberedPlan))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if got := d.interfaces(); !reflect.DeepEqual(got, []string{"eth1", "eth2"}) {
		t.Errorf("interfaces: %v", got)
	}
	if got := d.passwords[atInterface("eth1")].Name; got != "leaf" {
		t.Errorf("the password of eth1 is in %q", got)
	}
	router, own := netip.MustParseAddr("fe80::1%eth1"), netip.MustParseAddr("fe80::a%eth1")
	neighbors := []unnumbered.Neighbor{{Interface: "eth1", Address: router, Source: own}, {Interface: "eth2", Problem: "nobody is there"}}
	var located []bgp.Peer
	for _, p := range d.speaker.Peers {
		if locate(&p, neighbors) {
			located = append(located, p)
		}
	}
	if len(located) != 2 || located[0].Address != router || located[0].SourceAddress != own ||
		located[1].Address != netip.MustParseAddr("10.211.55.1") || located[1].SourceAddress.IsValid() {
		t.Errorf("located %+v", located)
	}
	if !missesNeighbor(neighbors) || missesNeighbor(neighbors[:1]) {
		t.Error("one neighbour is missing, and only with the second")
	}
	restarts := d.restarts(nil)
	if !restarts[peerKey(router)] || restarts[peerKey(netip.MustParseAddr("fe80::2%eth2"))] {
		t.Errorf("those that restart gracefully: %v", restarts)
	}
}

func TestSessionsAtInterfaces(t *testing.T) {
	at := func(name string) bgp.Peer {
		return bgp.Peer{Name: "leaf-" + name, Kind: bgp.PeerExternal, Address: atInterface(name), ASN: 65001}
	}
	peers := []bgp.Peer{at("eth1"), at("eth2"), at("eth3"), {Name: "a-tor", Address: netip.MustParseAddr("10.0.0.1")}}
	session := func(peer, name string, state bgp.State) bgp.Session {
		return bgp.Session{Name: name, Kind: bgp.PeerExternal, Address: netip.MustParseAddr(peer), ASN: 65001, State: state}
	}
	neighbors := []unnumbered.Neighbor{
		{Interface: "eth1", Address: netip.MustParseAddr("fe80::1%eth1"), Problem: "two are there"},
		{Interface: "eth2", Problem: "nobody is there"},
		{Interface: "eth3", Address: netip.MustParseAddr("fe80::1%eth3"), Problem: "it is down"},
	}
	down := session("fe80::1%eth3", "leaf-eth3", bgp.StateActive)
	down.Message = "can't connect"
	got := withNeighbors([]bgp.Session{
		session("10.0.0.1", "a-tor", bgp.StateEstablished), session("fe80::1%eth1", "leaf-eth1", bgp.StateEstablished), down,
	}, peers, neighbors)
	var all []v1alpha1.SessionStatus
	for i := range got {
		all = append(all, sessionStatus(&got[i], false))
	}
	want := []v1alpha1.SessionStatus{
		{Name: "a-tor", PeerAddress: "10.0.0.1", State: "Established"},
		{Name: "leaf-eth1", PeerAddress: "fe80::1%eth1", PeerInterface: "eth1", State: "Established", Warning: "two are there"},
		{Name: "leaf-eth2", PeerAddress: "%eth2", PeerInterface: "eth2", State: "Idle", Message: "nobody is there"},
		{Name: "leaf-eth3", PeerAddress: "fe80::1%eth3", PeerInterface: "eth3", State: "Active", Message: "it is down; can't connect"},
	}
	for i := range want {
		want[i].Kind, want[i].PeerASN = v1alpha1.SessionExternal, 65001
	}
	if diff := cmp.Diff(want, all); diff != "" {
		t.Errorf("sessions (-want +got):\n%s", diff)
	}
}
