package house

import (
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/godwit-net/godwit/"

// dependencies returns all packages that p depends on, itself left out.
func dependencies(t *testing.T, p string) []string {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", p).Output() // #nosec G204 -- a test's own words
	if err != nil {
		t.Fatalf("go list -deps %s: %v", p, err)
	}
	var deps []string
	for _, d := range strings.Fields(string(out)) {
		if d != p {
			deps = append(deps, d)
		}
	}
	if len(deps) == 0 {
		t.Fatalf("%s depends on nothing: the test would pass whatever is imported", p)
	}
	return deps
}

func TestImportRules(t *testing.T) {
	const (
		kubernetes = "k8s.io/"
		runtimes   = "sigs.k8s.io/"
		gobgp      = "github.com/osrg/gobgp"
		netlink    = "github.com/vishvananda/netlink"
		nftables   = "github.com/google/nftables"
	)
	leaf := func(others ...string) []string {
		deny := []string{kubernetes, runtimes, module + "agent", module + "controller", module + "cni", module + "api/v1alpha1"}
		for _, o := range others {
			deny = append(deny, module+o)
		}
		return deny
	}
	for _, rule := range []struct {
		pkg  string
		deny []string
	}{
		{"bgp", append(leaf("routes", "ipam", "nat", "tunnel"), gobgp, netlink, nftables)},
		{"bgp/gobgp", append(leaf("routes", "ipam", "nat", "tunnel"), nftables)},
		{"bgp/unnumbered", append(leaf("bgp", "routes", "ipam", "nat", "tunnel"), gobgp, nftables)},
		{"routes", append(leaf("bgp", "ipam", "nat", "tunnel"), gobgp, nftables)},
		{"ipam", append(leaf("bgp", "routes", "nat", "tunnel"), gobgp, netlink, nftables)},
		{"nat", append(leaf("bgp", "routes", "ipam", "tunnel"), gobgp)},
		{"tunnel", append(leaf("bgp", "routes", "ipam", "nat"), gobgp, netlink, nftables)},
		{"cni", []string{kubernetes, runtimes, gobgp, module + "agent", module + "controller"}},
		{"controller", []string{gobgp, netlink, nftables, module + "agent", module + "bgp", module + "routes", module + "tunnel", module + "cni"}},
		{"ctl", []string{gobgp, netlink, nftables, module + "agent", module + "bgp", module + "routes", module + "tunnel", module + "cni"}},
		{"cmd/godwit-cni", []string{kubernetes, runtimes, gobgp, netlink, nftables, module + "ipam", module + "routes", module + "tunnel", module + "bgp", module + "agent"}},
	} {
		t.Run(rule.pkg, func(t *testing.T) {
			for _, d := range dependencies(t, module+rule.pkg) {
				for _, prefix := range rule.deny {
					if d == strings.TrimSuffix(prefix, "/") || strings.HasPrefix(d, strings.TrimSuffix(prefix, "/")+"/") {
						t.Errorf("%s depends on %s, which it must not", rule.pkg, d)
					}
				}
			}
		})
	}
}
