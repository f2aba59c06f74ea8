package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// maxNamed bounds how many nodes a message names.
const maxNamed = 3

// planPeers adds sessions with external peers to the nodes. The peers come from
// the oldest to the youngest, so that an older one is never displaced.
func (p *Plan) planPeers(peers []v1alpha1.BGPPeer, objects []v1alpha1.BGPFilter) {
	f := newFilters(objects, p.communities)
	nodeOf := make(map[netip.Addr]string, len(p.nodes))
	for _, n := range p.nodes {
		n.peers = make(map[place]string)
		for _, a := range n.addrs {
			nodeOf[a] = n.name
		}
	}
	for _, obj := range byAge(peers, func(o *v1alpha1.BGPPeer) *metav1.ObjectMeta { return &o.ObjectMeta }) {
		at, err := placeOf(&obj.Spec)
		if err != nil {
			p.Peers[obj.Name] = peerStatus(0, notReady(ReasonInvalid, err.Error()))
			continue
		}
		p.planPeer(p.newPeering(obj, at, f), nodeOf)
	}
	for _, n := range p.nodes {
		slices.SortFunc(n.external, func(a, b v1alpha1.PlannedSession) int { return strings.Compare(a.Name, b.Name) })
	}
}

// peering is a peer on its way into the plan.
type peering struct {
	obj      *v1alpha1.BGPPeer
	at       place
	internal bool // the router is of the nodes' own AS

	selector    labels.Selector
	selectorErr error // nodes keep the sessions they had, and no more have one

	imports, exports         []v1alpha1.BGPFilterRule
	importFault, exportFault *fault

	// invalid is what is wrong with the options: nodes keep the sessions they had, as
	// they were.
	invalid error
}

func (p *Plan) newPeering(obj *v1alpha1.BGPPeer, at place, f *filters) *peering {
	pe := &peering{obj: obj, at: at, internal: obj.Spec.PeerASN == p.asn}
	pe.imports, pe.importFault = f.join(obj.Spec.ImportFilters, purpose{internal: pe.internal})
	pe.exports, pe.exportFault = f.join(obj.Spec.ExportFilters, purpose{export: true, internal: pe.internal, rewrites: rewrites(obj.Spec.ASOverride, obj.Spec.RemovePrivateASN)})
	pe.selector, pe.selectorErr = parseSelector(obj.Spec.NodeSelector)
	return pe
}

// rewrites names the option by which AS paths are changed before export filters see
// them; empty: none.
func rewrites(override bool, private v1alpha1.PrivateASN) string {
	switch {
	case override:
		return "asOverride"
	case private == v1alpha1.PrivateASNRemove, private == v1alpha1.PrivateASNReplace:
		return "removePrivateASN"
	}
	return ""
}

// planPeer adds the sessions of one peer. nodeOf knows which node has an address.
func (p *Plan) planPeer(pe *peering, nodeOf map[netip.Addr]string) {
	matched, lacking := p.matched(pe, nodeOf)
	pe.invalid = p.checkOptions(pe, matched, nodeOf)

	planned := int32(0)
	var conflicts []string
	var rival string
	for _, n := range matched {
		s, ok := pe.session(n)
		if !ok {
			continue
		}
		// A session that is kept as it was may be elsewhere.
		at, ok := placeOfSession(&s)
		if !ok || nodeOf[at.addr] == n.name {
			continue
		}
		if other := sessionHolder(n, at, nodeOf); other != "" {
			conflicts, rival = append(conflicts, n.name), other
			continue
		}
		n.peers[at] = "BGPPeer " + pe.obj.Name
		n.external = append(n.external, s)
		planned++
	}

	cond := ready(fmt.Sprintf("in the plan of %d of %d nodes", planned, len(p.nodes)))
	switch {
	case pe.selectorErr != nil:
		cond = notReady(ReasonInvalid, fmt.Sprintf("nodeSelector: %v: nodes keep the sessions they had", pe.selectorErr))
	case pe.invalid != nil:
		cond = notReady(ReasonInvalid, fmt.Sprintf("%v: nodes keep the sessions they had", pe.invalid))
	case len(matched) == 0 && lacking > 0:
		cond = notReady(ReasonNoNodes, "families: no node that nodeSelector matches has an address of one of them")
	case len(matched) == 0 && pe.at.link != "":
		cond = notReady(ReasonNoNodes, "nodeSelector matches no node that has a plan")
	case len(matched) == 0:
		cond = notReady(ReasonNoNodes, fmt.Sprintf(
			"nodeSelector matches no node that has a plan and another address of the family of %s", pe.at))
	case len(conflicts) > 0 && nodeOf[pe.at.addr] != "" && !p.meshed:
		cond = notReady(ReasonConflict, fmt.Sprintf(
			"%s is the address of %s: the topology gives nodes no sessions with each other", pe.at, rival))
	case len(conflicts) > 0 && pe.at.link != "":
		cond = notReady(ReasonConflict, fmt.Sprintf(
			"%s has a session at interface %s already on %s: a node has one session at an interface, and the older one stays", rival, pe.at, names(conflicts)))
	case len(conflicts) > 0:
		cond = notReady(ReasonConflict, fmt.Sprintf(
			"%s has a session with %s already on %s: a node has one session with an address, and the older one stays", rival, pe.at, names(conflicts)))
	case pe.importFault != nil || pe.exportFault != nil:
		cond = pe.filterCondition()
	}
	p.Peers[pe.obj.Name] = peerStatus(planned, cond)
}

// matched returns the nodes that are to have a session with the peer, and how
// many more would be if they had an address of a family that the peer wants.
func (p *Plan) matched(pe *peering, nodeOf map[netip.Addr]string) (matched []*node, lacking int) {
	for _, n := range p.nodes {
		if !pe.selects(n) {
			continue
		}
		if !pe.at.fits(n) || nodeOf[pe.at.addr] == n.name {
			continue
		}
		wanted := pe.obj.Spec.Families
		if len(wanted) > 0 && !slices.ContainsFunc(wanted, func(f v1alpha1.AddressFamily) bool { return n.hasFamily(f == v1alpha1.FamilyIPv6) }) {
			lacking++
			continue
		}
		matched = append(matched, n)
	}
	return matched, lacking
}

// selects tells whether a node is to have a session with the peer. Where that
// can't be told, as the selector can't be read or the node's labels went with its
// Node, it is when it had one.
func (pe *peering) selects(n *node) bool {
	if pe.selectorErr != nil || n.departed {
		return sessionBefore(n, pe.obj.Name) != nil
	}
	return pe.selector.Matches(n.labels)
}

// checkOptions reports what is wrong with the options of a peer that only who
// knows the cluster can tell.
func (p *Plan) checkOptions(pe *peering, matched []*node, nodeOf map[netip.Addr]string) error {
	spec := &pe.obj.Spec
	external := ""
	switch {
	case spec.LocalASN != nil && *spec.LocalASN == p.asn:
		return fmt.Errorf("localASN: %d is the AS number of the nodes anyway: leave it out", p.asn)
	case spec.LocalASN != nil:
		external = "localASN"
	case spec.EBGPMultihop != nil:
		external = "ebgpMultihop"
	default:
		external = rewrites(spec.ASOverride, spec.RemovePrivateASN)
	}
	if external != "" && pe.internal {
		return fmt.Errorf("%s: it is for routers of another AS, and peerASN %d is that of the nodes: leave it out", external, p.asn)
	}
	if err := p.checkCallers(pe.at.prefix); err != nil {
		return err
	}
	if spec.SourceAddress == "" || spec.SourceAddress == v1alpha1.SourceNodeAddress {
		return nil
	}
	src, ok := parseAddr(spec.SourceAddress)
	if !ok || src.Is6() != pe.at.is6() {
		return fmt.Errorf("sourceAddress: %q is not an address that a node can have towards %s", spec.SourceAddress, pe.at)
	}
	matched = slices.DeleteFunc(slices.Clone(matched), func(n *node) bool { return n.departed })
	if len(matched) > 1 {
		return fmt.Errorf("sourceAddress: %s is of one node, but nodeSelector matches %d: use NodeAddress, or a nodeSelector of one node", src, len(matched))
	}
	if owner := nodeOf[src]; owner != "" && len(matched) == 1 && matched[0].name != owner {
		return fmt.Errorf("sourceAddress: %s is the address of node %s, but nodeSelector matches %s", src, owner, matched[0].name)
	}
	return nil
}

// session returns the session that a node is to have with the peer; false: none.
// While an export filter can't be used, a session keeps the export rules that it
// had, and AS paths as these look at them; a new one announces only what the filters
// before that one accept.
func (pe *peering) session(n *node) (v1alpha1.PlannedSession, bool) {
	before := sessionBefore(n, pe.obj.Name)
	if pe.invalid != nil {
		if before == nil {
			return v1alpha1.PlannedSession{}, false
		}
		return *before, true
	}
	s := externalSession(pe, n)
	switch {
	case pe.exportFault == nil:
	case before != nil:
		s.ExportRules = before.ExportRules
		if slices.ContainsFunc(s.ExportRules, func(r v1alpha1.BGPFilterRule) bool { return r.ASPathRegex != "" }) {
			s.ASOverride, s.RemovePrivateASN = before.ASOverride, before.RemovePrivateASN
		}
	default:
		s.ExportRules = append(slices.Clone(pe.exports), v1alpha1.BGPFilterRule{Action: v1alpha1.FilterReject})
	}
	return s, true
}

// filterCondition says which filters can't be used, and what that means.
func (pe *peering) filterCondition() metav1.Condition {
	var texts []string
	if f := pe.importFault; f != nil {
		texts = append(texts, f.message+": only routes that the filters before it accept are taken")
	}
	if f := pe.exportFault; f != nil {
		texts = append(texts, f.message+": sessions keep the export rules that they had, "+
			"and new ones announce only what the filters before it accept")
	}
	return notReady(cmp.Or(pe.importFault, pe.exportFault).reason, strings.Join(texts, "; "))
}

// sessionHolder tells who has the session of n at a place already: another node,
// by the mesh, or an older peer; empty when nobody has.
func sessionHolder(n *node, at place, nodeOf map[netip.Addr]string) string {
	if peer := n.peers[at]; peer != "" {
		return peer
	}
	if other := nodeOf[at.addr]; other != "" && n.name != other {
		return "node " + other
	}
	return ""
}

// sessionBefore returns the session with a peer that the plan so far of a node
// has, or nil.
func sessionBefore(n *node, peer string) *v1alpha1.PlannedSession {
	if n.before == nil {
		return nil
	}
	i := slices.IndexFunc(n.before.Sessions, func(s v1alpha1.PlannedSession) bool {
		return s.Kind == v1alpha1.SessionExternal && s.Name == peer
	})
	if i < 0 {
		return nil
	}
	return &n.before.Sessions[i]
}

// externalSession is the session of a node with a peer whose options are in order.
func externalSession(pe *peering, n *node) v1alpha1.PlannedSession {
	spec := &pe.obj.Spec
	s := v1alpha1.PlannedSession{
		Name:              pe.obj.Name,
		Kind:              v1alpha1.SessionExternal,
		PeerPort:          cmp.Or(spec.PeerPort, defaultPort),
		PeerASN:           spec.PeerASN,
		LocalASN:          deref(spec.LocalASN, 0),
		Passive:           spec.Passive,
		SourceAddress:     spec.SourceAddress,
		EBGPMultihop:      deref(spec.EBGPMultihop, 0),
		TTLSecurity:       deref(spec.TTLSecurity, 0),
		Families:          spec.Families,
		ASOverride:        spec.ASOverride,
		AllowOwnASN:       spec.AllowOwnASN,
		PasswordSecretRef: spec.PasswordSecretRef,
		ImportRules:       pe.imports,
		ExportRules:       pe.exports,
		MaxPrefixes:       deref(spec.MaxPrefixes, DefaultMaxPrefixes),
		Timers:            spec.Timers,
		GracefulRestart:   spec.GracefulRestart,
	}
	pe.at.put(&s)
	if pe.at.prefix.IsValid() {
		s.Passive, s.MaxPeers = true, deref(spec.MaxPeers, DefaultMaxPeers)
	}
	if spec.SourceAddress == v1alpha1.SourceNodeAddress {
		s.SourceAddress = n.address(pe.at.is6()).String()
	}
	// A plan names only what is not as it is anyway.
	if spec.NextHop != v1alpha1.NextHopAuto {
		s.NextHop = spec.NextHop
	}
	if spec.RemovePrivateASN != v1alpha1.PrivateASNKeep {
		s.RemovePrivateASN = spec.RemovePrivateASN
	}
	percent := int64(deref(spec.MaxPrefixesWarningPercent, defaultWarningPercent))
	s.WarnPrefixes = int32((int64(s.MaxPrefixes)*percent + 99) / 100)
	return s
}

// deref returns what p points to, or def when it is nil.
func deref[T any](p *T, def T) T {
	if p == nil {
		return def
	}
	return *p
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
