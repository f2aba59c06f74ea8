package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
)

// conflict says who has some of a pool's addresses already, Services or nodes, and
// by which reason a condition says so; empty: nobody. What pods send to such
// addresses would go to Services or pods at one time, and to nodes at another; and
// a node whose address is a pod's, too, is cut off.
func (p *Plan) conflict(pl *pool, services []networkingv1.ServiceCIDR) (reason, message string) {
	if ranges := overlapping(pl.cidr, services); len(ranges) > 0 {
		return ReasonServices, fmt.Sprintf("%s overlaps %s, from which Services get their addresses", pl.cidr, strings.Join(ranges, " and "))
	}
	for _, n := range p.nodes { // sorted, so that the message is always the same
		if i := slices.IndexFunc(n.addrs, pl.cidr.Contains); i >= 0 {
			return ReasonNodes, fmt.Sprintf("%s has the address %s of node %s in it", pl.cidr, n.addrs[i], n.name)
		}
	}
	return "", ""
}

// overlapping returns the ranges of Services that overlap a network, sorted.
func overlapping(network netip.Prefix, services []networkingv1.ServiceCIDR) []string {
	var out []string
	for i := range services {
		for _, s := range services[i].Spec.CIDRs {
			if r, err := netip.ParsePrefix(s); err == nil && r.Overlaps(network) {
				out = append(out, s)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
