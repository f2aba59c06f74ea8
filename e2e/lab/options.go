package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/topology"
)

// Sessions says over which family the nodes speak with the routers, where there
// are two.
type Sessions string

// Over which families the sessions go. Over one, a session carries the routes of
// both; over both, each carries those of its own.
const (
	SessionsV4   Sessions = "v4"
	SessionsV6   Sessions = "v6"
	SessionsBoth Sessions = "both"
)

// has tells whether sessions go over a family.
func (s Sessions) has(f topology.Family) bool {
	return s == SessionsBoth || (s == SessionsV6) == (f == topology.IPv6)
}

// Options are what may differ from the reference lab. The zero value is the
// reference lab itself.
type Options struct {
	topology.Options
	// Encapsulation is that of the pools. IPIP carries IPv4 alone, so with it an
	// IPv6 pool beside an IPv4 one has the VXLAN of the same kind.
	Encapsulation v1alpha1.Encapsulation `json:"encapsulation,omitempty"`
	// Sessions matter to a dual-stack lab alone. Empty: both.
	Sessions Sessions `json:"sessions,omitempty"`
	// BGP says which sessions nodes have with each other.
	BGP v1alpha1.Topology `json:"bgp,omitempty"`
	// VXLANPort and VNI are those of the tunnels; 0: Godwit's defaults.
	VXLANPort int32 `json:"vxlanPort,omitempty"`
	VNI       int32 `json:"vni,omitempty"`
	// NoGracefulRestart turns graceful restart off in all nodes and routers.
	NoGracefulRestart bool `json:"noGracefulRestart,omitempty"`
}

// WithDefaults fills in what is not given.
func (o Options) WithDefaults() Options {
	o.Options = o.Options.WithDefaults()
	if o.Encapsulation == "" {
		o.Encapsulation = v1alpha1.EncapsulationNone
	}
	switch {
	case o.Family == topology.IPv4:
		o.Sessions = SessionsV4
	case o.Family == topology.IPv6:
		o.Sessions = SessionsV6
	case o.Sessions == "":
		o.Sessions = SessionsBoth
	}
	if o.BGP == "" {
		o.BGP = v1alpha1.TopologyMesh
	}
	return o
}

// Check tells what is wrong with options that have their defaults.
func (o Options) Check() error {
	errs := []error{o.Options.Check()}
	complain := func(when bool, format string, args ...any) {
		if when {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	_, known := encapsulationNames()[o.Encapsulation]
	complain(!known, "encapsulation %q is none that there is", o.Encapsulation)
	complain(o.Family == topology.IPv6 && o.Encapsulation.Tunnel() == v1alpha1.TunnelIPIP,
		"IPIP carries IPv4 only: with IPv6 choose vxlan, vxlan-crosssubnet or none")
	complain(o.Subnets == 2 && o.Encapsulation == v1alpha1.EncapsulationNone,
		"with 2 subnets choose an encapsulation: the router between them knows nothing of pods")
	complain(!slices.Contains([]Sessions{SessionsV4, SessionsV6, SessionsBoth}, o.Sessions),
		"sessions %q: choose %s, %s or %s", o.Sessions, SessionsV4, SessionsV6, SessionsBoth)
	complain(o.BGP != v1alpha1.TopologyMesh && o.BGP != v1alpha1.TopologyNone, "topology %q: choose mesh or none", o.BGP)
	complain(o.VXLANPort < 0 || o.VXLANPort > 65535, "VXLAN port %d: choose 1 to 65535", o.VXLANPort)
	complain(o.VNI < 0 || o.VNI > 1<<24-1, "VNI %d: choose 1 to %d", o.VNI, 1<<24-1)
	return errors.Join(errs...)
}

// encapsulationNames are the encapsulations as a person types them.
func encapsulationNames() map[v1alpha1.Encapsulation]string {
	return map[v1alpha1.Encapsulation]string{
		v1alpha1.EncapsulationNone:             "none",
		v1alpha1.EncapsulationIPIP:             "ipip",
		v1alpha1.EncapsulationIPIPCrossSubnet:  "ipip-crosssubnet",
		v1alpha1.EncapsulationVXLAN:            "vxlan",
		v1alpha1.EncapsulationVXLANCrossSubnet: "vxlan-crosssubnet",
	}
}

// ParseEncapsulation reads an encapsulation as a person types it.
func ParseEncapsulation(name string) (v1alpha1.Encapsulation, error) {
	var names []string
	for e, n := range encapsulationNames() {
		if strings.EqualFold(n, name) {
			return e, nil
		}
		names = append(names, n)
	}
	slices.Sort(names)
	return "", fmt.Errorf("encapsulation %q: choose one of %s", name, strings.Join(names, ", "))
}

// ParseTopology reads which sessions nodes have with each other.
func ParseTopology(name string) (v1alpha1.Topology, error) {
	for _, t := range []v1alpha1.Topology{v1alpha1.TopologyMesh, v1alpha1.TopologyNone} {
		if strings.EqualFold(string(t), name) {
			return t, nil
		}
	}
	return "", fmt.Errorf("topology %q: choose mesh or none", name)
}

// EncapsulationOf is that of the pool of a family.
func (o Options) EncapsulationOf(f topology.Family) v1alpha1.Encapsulation {
	switch {
	case f == topology.IPv4:
		return o.Encapsulation
	case o.Encapsulation == v1alpha1.EncapsulationIPIP:
		return v1alpha1.EncapsulationVXLAN
	case o.Encapsulation == v1alpha1.EncapsulationIPIPCrossSubnet:
		return v1alpha1.EncapsulationVXLANCrossSubnet
	}
	return o.Encapsulation
}

// String says in one line what the lab is like.
func (o Options) String() string {
	parts := []string{"encapsulation " + encapsulationNames()[o.Encapsulation], string(o.Family)}
	if o.Family == topology.Dual {
		parts = append(parts, "sessions with routers over "+string(o.Sessions))
	}
	if o.Subnets > 1 {
		parts = append(parts, fmt.Sprintf("%d subnets", o.Subnets))
	}
	if o.ToRs > 2 {
		parts = append(parts, fmt.Sprintf("%d top-of-rack routers", o.ToRs))
	}
	parts = append(parts, "topology "+strings.ToLower(string(o.BGP)))
	if o.MTU != topology.DefaultMTU {
		parts = append(parts, fmt.Sprintf("MTU %d", o.MTU))
	}
	if o.VXLANPort != 0 || o.VNI != 0 {
		parts = append(parts, fmt.Sprintf("VXLAN port %d, VNI %d", o.port(), o.vni()))
	}
	if o.NoGracefulRestart {
		parts = append(parts, "no graceful restart")
	}
	if o.StrictReversePath {
		parts = append(parts, "strict reverse path")
	}
	return strings.Join(parts, ", ")
}

func (o Options) port() int32 {
	if o.VXLANPort == 0 {
		return v1alpha1.DefaultVXLANPort
	}
	return o.VXLANPort
}

func (o Options) vni() int32 {
	if o.VNI == 0 {
		return v1alpha1.DefaultVXLANVNI
	}
	return o.VNI
}

func optionsFile(dir string) string { return filepath.Join(dir, "options.json") }

// readOptions reads what the lab in a directory was built with; where there is
// none, those are the reference lab's.
func readOptions(dir string) (Options, error) {
	var o Options
	raw, err := os.ReadFile(optionsFile(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return o, nil
	}
	if err != nil {
		return o, err
	}
	if err := json.Unmarshal(raw, &o); err != nil {
		return o, fmt.Errorf("%s: %w", optionsFile(dir), err)
	}
	return o, nil
}

func (o Options) write(dir string) error {
	raw, err := json.Marshal(o)
	if err != nil {
		return err
	}
	return os.WriteFile(optionsFile(dir), raw, 0o600)
}
