// Package others looks for what other pod networks have on a node, or have left
// there, and for what else keeps pods' packets from passing. It changes nothing:
// what is another's a person must take away.
package others

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Reasons of a Find.
const (
	ReasonConfig   = "OtherCNIConfig"   // the container runtime uses another network
	ReasonLinks    = "OtherLinks"       // links of another network
	ReasonRoutes   = "OtherRoutes"      // routes of another network's daemon
	ReasonFirewall = "OtherFirewall"    // chains or tables of another network
	ReasonForward  = "ForwardingDenied" // the firewall drops what the node forwards
)

// Find is something that was found.
type Find struct {
	Reason  string
	Message string // what it is, and what to do
}

// Look looks at the network namespace of the calling thread, and at the folder of
// config, Godwit's CNI configuration; empty: there is none. What could not be looked
// at is told by the error; what was found stands in spite of it. The rules of the old
// iptables (iptables-legacy) can't be seen.
func Look(config string) ([]Find, error) {
	var (
		finds []Find
		errs  []error
	)
	for _, look := range []func() ([]Find, error){
		func() ([]Find, error) { return configs(config) },
		links, routes, firewall,
	} {
		found, err := look()
		finds, errs = append(finds, found...), append(errs, err)
	}
	return finds, errors.Join(errs...)
}

// configs looks for configurations of other networks that the runtime takes in place
// of ours: containerd and CRI-O take the first by name.
func configs(ours string) ([]Find, error) {
	if ours == "" {
		return nil, nil
	}
	dir, own := filepath.Split(ours)
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		if os.IsNotExist(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("look for other CNI configurations: %w", err)
	}
	var before []string
	for _, e := range entries {
		if slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(e.Name())) && e.Name() < own {
			before = append(before, e.Name())
		}
	}
	if len(before) == 0 {
		return nil, nil
	}
	return []Find{{ReasonConfig, fmt.Sprintf("%s in %s comes before Godwit's %s, so that the container runtime attaches pods to that network: "+
		"remove it, unless it hands pods on to Godwit as Multus does", some(before), filepath.Clean(dir), own)}}, nil
}

// networks are other pod networks, by how their links, chains and tables are named.
func networks() []network {
	return []network{
		{name: "Calico", links: []string{"cali*", "vxlan.calico", "vxlan-v6.calico", "wireguard.cali", "wg-v6.cali"}, chains: []string{"cali-*"}, tables: []string{"calico"}},
		{name: "Cilium", links: []string{"cilium_*", "lxc_health"}, chains: []string{"CILIUM_*"}},
		{name: "Flannel", links: []string{"flannel*", "cni0"}, chains: []string{"FLANNEL-*"}, tables: []string{"flannel-ipv4", "flannel-ipv6"}},
		{name: "kube-router", links: []string{"kube-bridge"}, chains: []string{"KUBE-ROUTER-*"}},
		{name: "Weave Net", links: []string{"weave", "vethwe-*"}, chains: []string{"WEAVE*"}},
		{name: "Antrea", links: []string{"antrea-*"}, chains: []string{"ANTREA-*"}},
		{name: "OVN-Kubernetes", links: []string{"ovn-k8s-*"}},
	}
}

type network struct {
	name                  string
	links, chains, tables []string // names, or how names begin, before a *
}

// is tells whether a name is one of some patterns.
func is(name string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		if begin, all := strings.CutSuffix(p, "*"); all {
			return strings.HasPrefix(name, begin)
		}
		return name == p
	})
}

func links() ([]Find, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("look for links of other networks: %w", err)
	}
	var finds []Find
	for _, n := range networks() {
		var names []string
		for _, l := range all {
			if is(l.Name, n.links) {
				names = append(names, l.Name)
			}
		}
		if len(names) > 0 {
			finds = append(finds, Find{ReasonLinks, fmt.Sprintf("there are links of %s: %s. Start its pods anew, so that they get Godwit's network, "+
				"and delete what is left (ip link delete NAME), or reboot the node", n.name, some(names))})
		}
	}
	return finds, nil
}

// daemons are the protocols of routes of daemons that pod networks bring along.
func daemons() map[netlink.RouteProtocol]string {
	return map[netlink.RouteProtocol]string{
		unix.RTPROT_BIRD: "BIRD, as Calico and others bring it along",
		80:               "Calico's Felix",
	}
}

func routes() ([]Find, error) {
	all, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("look for routes of other networks: %w", err)
	}
	by := map[netlink.RouteProtocol][]string{}
	for i := range all {
		to := "default"
		if all[i].Dst != nil {
			to = all[i].Dst.String()
		}
		by[all[i].Protocol] = append(by[all[i].Protocol], to)
	}
	var finds []Find
	for protocol, daemon := range daemons() {
		if to := by[protocol]; len(to) > 0 {
			finds = append(finds, Find{ReasonRoutes, fmt.Sprintf("there are routes of %s (protocol %d): to %s. If no such daemon of yours is to run here, "+
				"end it and remove them (ip route flush proto %d)", daemon, int(protocol), some(to), int(protocol))})
		}
	}
	slices.SortFunc(finds, func(a, b Find) int { return strings.Compare(a.Message, b.Message) })
	return finds, nil
}

func firewall() ([]Find, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("look for firewall rules of other networks: %w", err)
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil, fmt.Errorf("look for firewall rules of other networks: %w", err)
	}
	var finds []Find
	for _, n := range networks() {
		var names []string
		for _, ch := range chains {
			if is(ch.Name, n.chains) || is(ch.Table.Name, n.tables) {
				names = append(names, chainName(ch))
			}
		}
		if len(names) > 0 {
			finds = append(finds, Find{ReasonFirewall, fmt.Sprintf("there are firewall rules of %s: %s. They may drop or change packets of pods: "+
				"remove them as its documentation says, or reboot the node", n.name, some(names))})
		}
	}
	for _, ch := range chains {
		if ch.Hooknum != nil && *ch.Hooknum == *nftables.ChainHookForward && ch.Type == nftables.ChainTypeFilter &&
			ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop {
			finds = append(finds, Find{ReasonForward, fmt.Sprintf("the firewall's %s drops what the node forwards and no rule accepts, "+
				"as packets of pods are: accept the pools' addresses there, or all (iptables -P FORWARD ACCEPT)", chainName(ch))})
		}
	}
	return finds, nil
}

func chainName(ch *nftables.Chain) string {
	family := map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet"}[ch.Table.Family]
	return strings.TrimSpace(fmt.Sprintf("chain %s of table %s %s", ch.Name, family, ch.Table.Name))
}

// some names the first of names, and how many there are.
func some(names []string) string {
	const enough = 3
	if len(names) <= enough {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:enough], ", "), len(names)-enough)
}
