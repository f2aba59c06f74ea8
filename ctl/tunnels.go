package ctl

import (
	"fmt"
	"slices"
	"strings"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// Tunnel is a tunnel that a node has, or is to have.
type Tunnel struct {
	Node      string `json:"node"`
	Interface string `json:"interface"`
	Kind      string `json:"kind"`    // IPIP or VXLAN
	Address   string `json:"address"` // the tunnel's own; empty: no pool uses it
	MTU       int32  `json:"mtu"`     // 0: not reported
	Ready     bool   `json:"ready"`   // the node reports that it carries packets
	Reason    string `json:"reason"`
}

// addTunnels adds the tunnels that a node reports, and those that its plan has
// and that it does not report.
func (r *Report) addTunnels(nn *v1alpha1.NodeNetwork) {
	reported := make(map[string]bool, len(nn.Status.Tunnels))
	for _, t := range nn.Status.Tunnels {
		reported[t.Interface] = true
		r.Tunnels = append(r.Tunnels, Tunnel{
			Node: nn.Name, Interface: t.Interface, Kind: string(t.Kind), Address: t.Address, MTU: t.MTU, Ready: true, Reason: "Ready",
		})
	}
	reason, told := reasonNoTunnel, len(nn.Status.Conditions) == 0
	if c := apimeta.FindStatusCondition(nn.Status.Conditions, v1alpha1.ConditionTunnelsReady); c != nil && c.Status != metav1.ConditionTrue {
		reason, told = c.Reason, true
	}
	for _, kind := range nn.Spec.Tunnels {
		for _, v6 := range []bool{false, true} {
			device := kind.Interface(v6)
			if device == "" || reported[device] || !hasFamily(nn.Spec.Addresses, v6) {
				continue
			}
			r.Tunnels = append(r.Tunnels, Tunnel{Node: nn.Name, Interface: device, Kind: string(kind), Reason: reason})
			if !told {
				r.problem("Node", nn.Name, reasonNoTunnel, "the agent does not report the tunnel "+device+" of its plan")
			}
		}
	}
}

// hasFamily tells whether one of the addresses is of the family.
func hasFamily(addrs []string, v6 bool) bool {
	return slices.ContainsFunc(addrs, func(a string) bool { return strings.Contains(a, ":") == v6 })
}

// tunnels shows the tunnels of nodes, and nothing where there are none.
func (s *screen) tunnels(tunnels []Tunnel) {
	if len(tunnels) == 0 {
		return
	}
	t := table{columns: []column{
		{title: "NODE"},
		{title: "INTERFACE"},
		{title: "KIND"},
		{title: "ADDRESS"},
		{title: "MTU", number: true},
		{title: "STATUS"},
	}}
	ready, hidden := 0, 0
	for _, n := range tunnels {
		if n.Ready {
			ready++
			if !s.all && len(tunnels) > maxRows {
				hidden++
				continue
			}
		}
		t.add(text(n.Node), text(n.Interface), text(n.Kind), text(orDash(n.Address)), text(orDash(number(int64(n.MTU)))), state(n.Ready, n.Reason))
	}
	s.section("Tunnels", fmt.Sprintf("%d of %d ready%s", ready, len(tunnels), hint(hidden, "those are")), ready == len(tunnels), t)
}
