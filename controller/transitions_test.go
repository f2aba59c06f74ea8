package controller

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

func testNetworkConfig(t *testing.T, cfg *rest.Config, a api) {
	start(t, cfg, Options{})
	a.create(node("n1", "10.0.0.1", nil))
	a.planOf("n1", "no network settings", func(s v1alpha1.NodeNetworkSpec) bool { return s.Network == nil })
	config := &v1alpha1.NetworkConfig{
		ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.NetworkConfigName},
		Spec:       v1alpha1.NetworkConfigSpec{MTU: new(int32(1400)), VXLAN: &v1alpha1.VXLANConfig{}, Subnets: []string{"10.0.0.0/16"}},
	}
	a.create(config)
	a.planOf("n1", "the network settings", func(s v1alpha1.NodeNetworkSpec) bool {
		return s.Network != nil && *s.Network.MTU == 1400 && *s.Network.VXLAN == v1alpha1.VXLANConfig{Port: 4789, VNI: 4096} &&
			slices.Equal(s.Network.Subnets, []string{"10.0.0.0/16"})
	})
	change(a, config, func(c *v1alpha1.NetworkConfig) { c.Spec.VXLAN.Port = 8472 })
	a.planOf("n1", "the new port", func(s v1alpha1.NodeNetworkSpec) bool { return s.Network.VXLAN.Port == 8472 })
	a.remove(config)
	a.planOf("n1", "no network settings", func(s v1alpha1.NodeNetworkSpec) bool { return s.Network == nil })
}

// reportPlan writes a node's status as its agent does once it has taken the
// newest plan: all tunnels that the plan asks for but those that fail.
func reportPlan(a api, node string, failing ...v1alpha1.TunnelKind) {
	a.t.Helper()
	nn := network(node)
	if err := a.Get(a.t.Context(), client.ObjectKeyFromObject(nn), nn); err != nil {
		a.t.Fatal(err)
	}
	report(a, node, func(s *v1alpha1.NodeNetworkStatus) {
		*s = v1alpha1.NodeNetworkStatus{ObservedGeneration: nn.Generation, BlocksFromAPI: nn.Spec.BlocksFromAPI, Blocks: s.Blocks}
		for _, kind := range nn.Spec.Tunnels {
			if slices.Contains(failing, kind) {
				s.Conditions = []metav1.Condition{{
					Type: v1alpha1.ConditionTunnelsReady, Status: metav1.ConditionFalse, Reason: "PortInUse",
					Message: "UDP port 4789 is taken", LastTransitionTime: metav1.Now(),
				}}
				continue
			}
			s.Tunnels = append(s.Tunnels, v1alpha1.TunnelStatus{Interface: "godwit." + strings.ToLower(string(kind)), Kind: kind, MTU: 1450})
		}
	})
}

// hasEncapsulation waits until a node's plan has exactly the tunnels, and its one
// pool the encapsulation.
func (a api) hasEncapsulation(node string, want v1alpha1.Encapsulation, tunnels ...v1alpha1.TunnelKind) {
	a.t.Helper()
	a.planOf(node, "encapsulation "+string(want), func(s v1alpha1.NodeNetworkSpec) bool {
		return len(s.Pools) == 1 && s.Pools[0].Encapsulation == want && slices.Equal(s.Tunnels, tunnels)
	})
}

// testEncapsulation changes a pool's encapsulation. Half-way the controller is
// another one, and a node can't have the new tunnel for a while.
func testEncapsulation(t *testing.T, cfg *rest.Config, a api) {
	const ipip, vxlan = v1alpha1.TunnelIPIP, v1alpha1.TunnelVXLAN
	c := start(t, cfg, Options{})
	nodes := []string{"n1", "n2", "n3"}
	p := pool("pods", "172.25.0.0/16")
	p.Spec.Encapsulation = v1alpha1.EncapsulationIPIP
	a.create(node("n1", "10.0.0.1", nil), node("n2", "10.0.0.2", nil), node("n3", "10.0.0.3", nil), p)
	for _, n := range nodes {
		a.hasEncapsulation(n, v1alpha1.EncapsulationIPIP, ipip)
	}
	a.encapsulationIs("pods", "True Applied: the plans of nodes have IPIP")
	a.hasSessions("n1", "n2", "n3")
	a.hasSessions("n2", "n1", "n3")
	a.hasSessions("n3", "n1", "n2")
	for _, n := range nodes {
		reportPlan(a, n)
	}

	change(a, p, func(p *v1alpha1.IPPool) { p.Spec.Encapsulation = v1alpha1.EncapsulationVXLANCrossSubnet })
	for _, n := range nodes {
		a.hasEncapsulation(n, v1alpha1.EncapsulationIPIP, ipip, vxlan)
		reportPlan(a, n, map[string][]v1alpha1.TunnelKind{"n3": {vxlan}}[n]...)
	}
	const waiting = "False WaitingForTunnels: nodes keep to IPIP until all can do VXLANCrossSubnet: n3: PortInUse: UDP port 4789 is taken"
	a.encapsulationIs("pods", waiting)
	a.poolIs("pods", "True Ready: 3 of 3 nodes take blocks of the pool")
	a.hasEvent("IPPool", "pods", "Normal", "WaitingForTunnels")

	// Another controller goes on where this one ended.
	c.stop()
	c = start(t, cfg, Options{})
	change(a, p, func(p *v1alpha1.IPPool) { p.Spec.NATOutgoing = true }) // so that a plan is surely made
	a.planOf("n1", "natOutgoing", natOutgoing)
	a.encapsulationIs("pods", "False WaitingForTunnels: nodes keep to IPIP until all can do VXLANCrossSubnet: "+
		"n3: PortInUse: UDP port 4789 is taken; n1 has not reported godwit.vxlan; n2 has not reported godwit.vxlan")
	for _, n := range nodes {
		a.planOf(n, "natOutgoing", natOutgoing)
		reportPlan(a, n, map[string][]v1alpha1.TunnelKind{"n3": {vxlan}}[n]...)
	}
	a.encapsulationIs("pods", waiting)
	a.hasEncapsulation("n1", v1alpha1.EncapsulationIPIP, ipip, vxlan)

	reportPlan(a, "n3")
	for _, n := range nodes {
		a.hasEncapsulation(n, v1alpha1.EncapsulationVXLANCrossSubnet, ipip, vxlan)
	}
	a.encapsulationIs("pods", "True Applied: the plans of nodes have VXLANCrossSubnet")
	reportPlan(a, "n1")
	reportPlan(a, "n2")

	// The last node is gone for a while: nobody waits for it any more.
	n3 := node("n3", "", nil)
	if err := a.Get(t.Context(), client.ObjectKeyFromObject(n3), n3); err != nil {
		t.Fatal(err)
	}
	n3.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}}
	if err := a.Status().Update(t.Context(), n3); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		a.hasEncapsulation(n, v1alpha1.EncapsulationVXLANCrossSubnet, vxlan)
	}
	before := len(c.written())
	for _, n := range nodes {
		reportPlan(a, n) // nothing waits for these
	}
	change(a, node("n1", "", nil), func(n *corev1.Node) { n.Labels = map[string]string{"unrelated": "label"} })
	a.hasEncapsulation("n1", v1alpha1.EncapsulationVXLANCrossSubnet, vxlan)
	if w := c.written()[before:]; len(w) > 0 {
		t.Errorf("written when all was done: %q", w)
	}
}

// testTopology changes the topology there and back, with a node that joins in
// between and a controller that is replaced.
func testTopology(t *testing.T, cfg *rest.Config, a api) {
	c := start(t, cfg, Options{})
	config := &v1alpha1.BGPConfig{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.BGPConfigName}}
	a.create(node("n1", "10.0.0.1", nil), node("n2", "10.0.0.2", nil), pool("pods", "172.25.0.0/16"), peer("tor", "10.0.9.1"), config)
	a.hasSessions("n1", "n2", "tor")
	a.hasSessions("n2", "n1", "tor")
	reportPlan(a, "n1")
	reportPlan(a, "n2")
	fromAPI := func(node string, others ...string) {
		t.Helper()
		a.planOf(node, "blocks from the API", func(s v1alpha1.NodeNetworkSpec) bool {
			var names []string
			for _, n := range s.Nodes {
				names = append(names, n.Name)
			}
			return s.BlocksFromAPI == (len(others) > 0) && slices.Equal(names, others)
		})
	}

	change(a, config, func(c *v1alpha1.BGPConfig) { c.Spec.Topology = v1alpha1.TopologyNone })
	fromAPI("n1", "n2")
	fromAPI("n2", "n1")
	reportPlan(a, "n1")
	a.create(node("n3", "10.0.0.3", nil))
	for node, others := range map[string][]string{"n1": {"n2", "n3"}, "n2": {"n1", "n3"}, "n3": {"n1", "n2"}} {
		fromAPI(node, others...)
		a.hasSessions(node, append(others, "tor")...)
	}
	reportPlan(a, "n1")
	reportPlan(a, "n3")
	c.stop()
	start(t, cfg, Options{})
	reportPlan(a, "n2")
	for _, n := range []string{"n1", "n2", "n3"} {
		a.hasSessions(n, "tor")
	}
	fromAPI("n1", "n2", "n3")

	// Back: n2 has a block, which the others have yet to take from it.
	change(a, config, func(c *v1alpha1.BGPConfig) { c.Spec.Topology = v1alpha1.TopologyMesh })
	addresses := map[string]string{"n1": "10.0.0.1", "n2": "10.0.0.2", "n3": "10.0.0.3"}
	established := func(node string, accepted int32) {
		t.Helper()
		reportPlan(a, node)
		report(a, node, func(s *v1alpha1.NodeNetworkStatus) {
			s.Blocks = nil
			if node == "n2" {
				s.Blocks = []v1alpha1.BlockStatus{{CIDR: "172.25.0.0/26", Pool: "pods"}}
			}
			for other, address := range addresses {
				if other != node {
					st := v1alpha1.SessionStatus{Name: other, Kind: v1alpha1.SessionNode, PeerAddress: address, PeerASN: 64512, State: "Established"}
					if other == "n2" {
						st.Accepted = accepted
					}
					s.Sessions = append(s.Sessions, st)
				}
			}
		})
	}
	a.hasSessions("n1", "n2", "n3", "tor")
	a.hasSessions("n2", "n1", "n3", "tor")
	a.hasSessions("n3", "n1", "n2", "tor")
	established("n1", 0)
	established("n2", 0)
	established("n3", 1)
	change(a, pool("pods", ""), func(p *v1alpha1.IPPool) { p.Spec.NATOutgoing = true }) // so that a plan is surely made
	for n := range addresses {
		a.planOf(n, "natOutgoing", natOutgoing)
	}
	fromAPI("n1", "n2", "n3")
	established("n2", 0)
	established("n3", 1)
	established("n1", 1)
	for n := range addresses {
		fromAPI(n)
	}
	a.hasSessions("n1", "n2", "n3", "tor")
}
