package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// maxNamed bounds how many nodes a message names.
const maxNamed = 3

// planPeers adds sessions with external peers to the nodes. The peers come from
// the oldest to the youngest, so that an older one is never displaced.
func (p *Plan) planPeers(peers []v1alpha1.BGPPeer, filters []v1alpha1.BGPFilter) {
	rules := make(map[string][]v1alpha1.BGPFilterRule, len(filters))
	for i := range filters {
		rules[filters[i].Name] = filters[i].Spec.Rules
	}
	holder := make([]map[netip.Addr]string, len(p.nodes))
	for i := range p.nodes {
		holder[i] = make(map[netip.Addr]string)
	}
	nodeOf := make(map[netip.Addr]string, len(p.nodes))
	for _, n := range p.nodes {
		for _, a := range n.addrs {
			nodeOf[a] = n.name
		}
	}
	for _, obj := range byAge(peers, func(o *v1alpha1.BGPPeer) *metav1.ObjectMeta { return &o.ObjectMeta }) {
		p.planPeer(obj, rules, nodeOf, holder)
	}
	for _, n := range p.nodes {
		slices.SortFunc(n.external, func(a, b v1alpha1.PlannedSession) int { return strings.Compare(a.Name, b.Name) })
	}
}

// planPeer adds the sessions of one peer. nodeOf knows which node has an
// address; holder, for each node, which peer has a session with an address.
func (p *Plan) planPeer(obj *v1alpha1.BGPPeer, rules map[string][]v1alpha1.BGPFilterRule,
	nodeOf map[netip.Addr]string, holder []map[netip.Addr]string,
) {
	addr, ok := parseAddr(obj.Spec.PeerAddress)
	if !ok {
		p.Peers[obj.Name] = peerStatus(0, notReady(ReasonInvalid,
			fmt.Sprintf("peerAddress: %q is not an address that a router can have", obj.Spec.PeerAddress)))
		return
	}
	importRules, missing := importRules(obj, rules)
	selector, selectorErr := parseSelector(obj.Spec.NodeSelector)

	matched, planned := 0, int32(0)
	var conflicts []string
	var rival string
	reserved := nodeOf[addr] != "" && !p.meshed
	for i, n := range p.nodes {
		if selectorErr != nil && !hadPeer(n, obj.Name) || selectorErr == nil && !selector.Matches(n.labels) {
			continue
		}
		if !n.has(addr) || nodeOf[addr] == n.name {
			continue
		}
		matched++
		if other := sessionHolder(n, addr, nodeOf, holder[i]); other != "" {
			conflicts, rival = append(conflicts, n.name), other
			continue
		}
		holder[i][addr] = "BGPPeer " + obj.Name
		n.external = append(n.external, externalSession(obj, addr, importRules))
		planned++
	}

	cond := ready(fmt.Sprintf("in the plan of %d of %d nodes", planned, len(p.nodes)))
	switch {
	case selectorErr != nil:
		cond = notReady(ReasonInvalid, fmt.Sprintf("nodeSelector: %v: nodes keep the sessions they had", selectorErr))
	case matched == 0:
		cond = notReady(ReasonNoNodes, fmt.Sprintf(
			"nodeSelector matches no node that has a plan and another address of the family of %s", addr))
	case len(conflicts) > 0 && reserved:
		cond = notReady(ReasonConflict, fmt.Sprintf(
			"%s is the address of %s: the topology gives nodes no sessions with each other", addr, rival))
	case len(conflicts) > 0:
		cond = notReady(ReasonConflict, fmt.Sprintf(
			"%s has a session with %s already on %s: a node has one session with an address, and the older one stays", rival, addr, names(conflicts)))
	case missing != "":
		cond = notReady(ReasonFilterNotFound, fmt.Sprintf(
			"BGPFilter %s does not exist: only routes that the filters before it accept are taken", missing))
	}
	p.Peers[obj.Name] = peerStatus(planned, cond)
}

// sessionHolder tells who has the session of n with an address already: another
// node, by the mesh, or an older peer; empty when nobody has.
func sessionHolder(n *node, addr netip.Addr, nodeOf, peerOf map[netip.Addr]string) string {
	if peer := peerOf[addr]; peer != "" {
		return peer
	}
	if other := nodeOf[addr]; other != "" && n.name != other {
		return "node " + other
	}
	return ""
}

// hadPeer tells whether the plan so far has a session of the node with the peer.
func hadPeer(n *node, peer string) bool {
	return n.before != nil && slices.ContainsFunc(n.before.Sessions, func(s v1alpha1.PlannedSession) bool {
		return s.Kind == v1alpha1.SessionExternal && s.Name == peer
	})
}

// importRules joins the rules of a peer's filters. It stops at the first that is
// not there and returns its name: since nothing is taken that no rule accepts,
// what that filter might have rejected stays out.
func importRules(obj *v1alpha1.BGPPeer, rules map[string][]v1alpha1.BGPFilterRule) ([]v1alpha1.BGPFilterRule, string) {
	var joined []v1alpha1.BGPFilterRule
	for _, name := range obj.Spec.ImportFilters {
		r, ok := rules[name]
		if !ok {
			return joined, name
		}
		joined = append(joined, r...)
	}
	return joined, ""
}

func externalSession(obj *v1alpha1.BGPPeer, addr netip.Addr, rules []v1alpha1.BGPFilterRule) v1alpha1.PlannedSession {
	s := v1alpha1.PlannedSession{
		Name:              obj.Name,
		Kind:              v1alpha1.SessionExternal,
		PeerAddress:       addr.String(),
		PeerPort:          cmp.Or(obj.Spec.PeerPort, defaultPort),
		PeerASN:           obj.Spec.PeerASN,
		PasswordSecretRef: obj.Spec.PasswordSecretRef,
		ImportRules:       rules,
		MaxPrefixes:       DefaultMaxPrefixes,
		Timers:            obj.Spec.Timers,
		GracefulRestart:   obj.Spec.GracefulRestart,
	}
	if obj.Spec.MaxPrefixes != nil {
		s.MaxPrefixes = *obj.Spec.MaxPrefixes
	}
	return s
}

func peerStatus(nodes int32, cond metav1.Condition) v1alpha1.BGPPeerStatus {
	return v1alpha1.BGPPeerStatus{Nodes: nodes, Conditions: []metav1.Condition{cond}}
}

// names joins names for a message, the first few and how many more.
func names(list []string) string {
	if len(list) <= maxNamed {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:maxNamed], ", "), len(list)-maxNamed)
}
