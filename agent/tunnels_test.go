package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/tunnel"
)

func TestTunnelDevices(t *testing.T) {
	a := &Agent{underlay: newUnderlay(slog.New(slog.DiscardHandler))}
	a.underlay.found = []v1alpha1.NodeAddress{{Address: "10.211.55.101/24", Interface: "eth0", MTU: 1500}, {Address: "fd00:55::101/64", Interface: "eth0", MTU: 1500}}
	w := &worker{Agent: a}
	for _, tt := range []struct {
		plan string
		want []string
	}{
		{encapsulatedPlan, []string{
			"godwit.ipip from 10.211.55.101 mtu 1480",
			"godwit.vxlan from 10.211.55.101 mtu 1450 port 4789 vni 4096",
			"godwit.vxlan6 from fd00:55::101 mtu 1430 port 4789 vni 4096",
		}},
		{`{addresses: [10.211.55.101], routerID: 10.211.55.101, pools: [{name: a, cidr: 172.20.0.0/16, blockSize: 26, encapsulation: IPIP}]}`, nil},
		{
			`{addresses: [10.211.55.101, "fd00:55::101"], routerID: 10.211.55.101, tunnels: [VXLAN], network: {mtu: 9000, vxlan: {port: 8472, vni: 1}},
		   pools: [{name: a, cidr: 172.20.0.0/16, blockSize: 26, encapsulation: None}]}`,
			[]string{"godwit.vxlan from 10.211.55.101 mtu 8950 port 8472 vni 1"},
		}, // no IPv6 pool, no IPv6 tunnel
		{
			`{addresses: ["fd00:55::101"], routerID: 1.2.3.4, tunnels: [IPIP, VXLAN], pools: [{name: a, cidr: "fd00:20::/48", blockSize: 122, encapsulation: None}]}`,
			[]string{"godwit.vxlan6 from fd00:55::101 mtu 1430 port 4789 vni 4096"},
		},
	} {
		d := translated(t, tt.plan)
		var got []string
		for _, dev := range w.tunnelDevices(&d) {
			s := fmt.Sprintf("%s from %s mtu %d", dev.Name(), dev.Local, dev.MTU)
			if dev.Kind == tunnel.VXLAN {
				s += fmt.Sprintf(" port %d vni %d", dev.Port, dev.VNI)
			}
			got = append(got, s)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.plan, diff)
		}
	}
}

func TestTunnelTrouble(t *testing.T) {
	d := translated(t, encapsulatedPlan)
	v6 := translated(t, `{addresses: ["fd00:55::101"], routerID: 1.2.3.4, tunnels: [IPIP]}`)
	up := tunnel.Status{Device: tunnel.Device{Kind: tunnel.IPIP}, Up: true}
	for _, tt := range []struct {
		o            observation
		reason, text string
	}{
		{observation{desired: d, tunnels: []tunnel.Status{up}}, "", ""},
		{observation{desired: v6}, "NoAddress", "no address that IPIP can go over"},
		{observation{desired: d, tunnels: []tunnel.Status{up, {Device: tunnel.Device{Kind: tunnel.VXLAN}, Err: fmt.Errorf("make it: %w", tunnel.ErrPortInUse)}}}, "PortInUse", "godwit.vxlan: make it"},
		{observation{desired: d, tunnels: []tunnel.Status{{Err: tunnel.ErrDeviceConflict}}}, "DeviceConflict", "godwit.ipip"},
		{observation{desired: d, tunnelErr: errors.New("odd")}, "Failed", "odd"},
	} {
		reason, err := tunnelTrouble(&tt.o)
		if reason != tt.reason || !strings.Contains(text(err), tt.text) || (err == nil) != (tt.text == "") {
			t.Errorf("%q, %v; want %q, %q", reason, err, tt.reason, tt.text)
		}
	}
}
