package e2e

import (
	"testing"
	"time"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/lab"
	"github.com/godwit-net/godwit/e2e/topology"
	"github.com/godwit-net/godwit/internal/netnstest"
)

// encapsulationCase is a lab to bring up and to look at.
type encapsulationCase struct {
	name    string
	options lab.Options
	goldens string // folder in testdata of its route tables; empty: they are not compared
}

// TestEncapsulations brings up a lab for each way in which packets between
// pods may go that every kernel has, and for combinations of address families,
// sessions and sources of routes. All labs get the same checks, which know from
// the lab's options what is to be seen.
func TestEncapsulations(t *testing.T) {
	runEncapsulations(t, []encapsulationCase{
		{"vxlan with a port and an identifier of its own", lab.Options{
			Options:       topology.Options{StrictReversePath: true},
			Encapsulation: v1alpha1.EncapsulationVXLAN, VXLANPort: 8472, VNI: 77,
		}, "vxlan"},
		{"vxlan-crosssubnet for both families, sessions over IPv4", lab.Options{
			Options:       topology.Options{Family: topology.Dual, Subnets: 2, StrictReversePath: true},
			Encapsulation: v1alpha1.EncapsulationVXLANCrossSubnet, Sessions: lab.SessionsV4,
		}, ""},
		{"vxlan for IPv6 alone", lab.Options{
			Options:       topology.Options{Family: topology.IPv6},
			Encapsulation: v1alpha1.EncapsulationVXLAN,
		}, ""},
		{"none for both families, sessions over both", lab.Options{
			Options:  topology.Options{Family: topology.Dual},
			Sessions: lab.SessionsBoth,
		}, ""},
		{"none for both families, sessions over IPv6", lab.Options{
			Options:  topology.Options{Family: topology.Dual},
			Sessions: lab.SessionsV6,
		}, ""},
		{"none for IPv6 alone, blocks from the API", lab.Options{
			Options: topology.Options{Family: topology.IPv6},
			BGP:     v1alpha1.TopologyNone,
		}, ""},
	})
}

// TestIPIP is TestEncapsulations for what only a kernel with the module ipip
// can show; without it the labs don't come up, and the test fails.
func TestIPIP(t *testing.T) {
	runEncapsulations(t, []encapsulationCase{
		{"ipip", lab.Options{
			Options:       topology.Options{StrictReversePath: true},
			Encapsulation: v1alpha1.EncapsulationIPIP,
		}, "ipip"},
		{"ipip-crosssubnet", lab.Options{
			Options:       topology.Options{Subnets: 2, StrictReversePath: true},
			Encapsulation: v1alpha1.EncapsulationIPIPCrossSubnet,
		}, ""},
		// On the same kernel, so that what the first case sees is the tunnel's doing.
		{"none", lab.Options{
			Options: topology.Options{StrictReversePath: true},
		}, ""},
	})
}

func runEncapsulations(t *testing.T, cases []encapsulationCase) {
	t.Helper()
	netnstest.RequireRoot(t)
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			l := bringUp(deadline(t, 5*time.Minute), t, tt.options)
			if tt.goldens != "" {
				t.Run("goldens", func(t *testing.T) { testTunnelGoldens(t, l, tt.goldens) })
			}
			t.Run("reach", func(t *testing.T) { testReach(t, l) })
			for _, f := range l.Options.Family.Each() {
				t.Run(string(f), func(t *testing.T) {
					t.Run("wire", func(t *testing.T) { testWire(t, l, f) })
					t.Run("sources", func(t *testing.T) { testSources(t, l, f) })
					t.Run("mtu", func(t *testing.T) { testMTU(t, l, f) })
					t.Run("bulk", func(t *testing.T) { testBulk(t, l, f) })
				})
			}
			t.Run("restart", func(t *testing.T) { testEncapRestart(t, l) })
		})
	}
}
