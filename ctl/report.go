package ctl

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// Report is what `godwitctl status -o json` prints: the state of the network,
// each list sorted.
type Report struct {
	Nodes    []Node    `json:"nodes"`
	Sessions []Session `json:"sessions"`
	Blocks   []Block   `json:"blocks"`
	Pools    []Pool    `json:"pools"`
	Claims   []Claim   `json:"claims"`
	Tunnels  []Tunnel  `json:"tunnels"`
	// Problems are what a person should look at; none: all is well.
	Problems []Problem `json:"problems"`
}

// Node is a node of the cluster.
type Node struct {
	Name        string   `json:"name"`
	Addresses   []string `json:"addresses"`
	ASN         int64    `json:"asn"`
	RouterID    string   `json:"routerID"`
	Sessions    int      `json:"sessions"`    // planned
	Established int      `json:"established"` // of them
	Blocks      int      `json:"blocks"`
	Pods        int      `json:"pods"`
	Routes      int      `json:"routes"` // learned and in the kernel
	MTU         int32    `json:"mtu"`    // of new pods; 0: not reported
	// BlocksFromAPI tells whether the node is to route the blocks of others as the
	// API tells, BlocksRouted whether it does so.
	BlocksFromAPI bool `json:"blocksFromAPI"`
	BlocksRouted  bool `json:"blocksRouted"`

	Ready        bool        `json:"ready"`
	Reason       string      `json:"reason"`
	Message      string      `json:"message"`
	AgentVersion string      `json:"agentVersion"`
	Created      metav1.Time `json:"created"`
}

// Session is one end of a BGP session, as its node sees it.
type Session struct {
	Node    string `json:"node"`
	Peer    string `json:"peer"` // name of the other node, or of the BGPPeer
	Kind    string `json:"kind"` // Node or External
	Address string `json:"address"`
	ASN     int64  `json:"asn"`
	// State is one of RFC 4271, or Unknown when the node does not report the session.
	State string `json:"state"`
	// Since is when the session was established or, if it is not, when it last
	// stopped being so; null: never.
	Since      *metav1.Time `json:"since"`
	Received   int32        `json:"received"`
	Accepted   int32        `json:"accepted"`
	Advertised int32        `json:"advertised"`
	Message    string       `json:"message"`
	Warning    string       `json:"warning"`   // what is wrong though it is established
	Flaps      int32        `json:"flaps"`     // how often it went down
	LastError  string       `json:"lastError"` // why it last did
	// Capabilities are those of both ends (RFC 5492), in words.
	Capabilities   []string `json:"capabilities"`
	PeerRestarting bool     `json:"peerRestarting"`
	// Refused are the first of the prefixes that the peer, a node, announces though
	// it does not own them, RefusedCount how many there are.
	Refused      []string `json:"refused"`
	RefusedCount int32    `json:"refusedCount"`
}

// Block is a block that a node owns.
type Block struct {
	CIDR string `json:"cidr"`
	Pool string `json:"pool"`
	Node string `json:"node"`
	// Allocated is how many of its addresses pods hold; null: the node does not
	// report the block.
	Allocated *int32 `json:"allocated"`
	Size      int64  `json:"size"` // addresses
}

// Pool is a pool of addresses.
type Pool struct {
	Name          string `json:"name"`
	CIDR          string `json:"cidr"`
	Encapsulation string `json:"encapsulation"` // as asked for
	// PlannedEncapsulation is what the plans of nodes have: another one while a
	// change waits for nodes, several while plans are being written, empty when no
	// plan has the pool.
	PlannedEncapsulation string `json:"plannedEncapsulation"`

	NATOutgoing bool   `json:"natOutgoing"`
	Blocks      int64  `json:"blocks"`   // claimed
	Capacity    int64  `json:"capacity"` // blocks in all
	Summary     string `json:"summary"`
	Allocated   int64  `json:"allocated"` // addresses that pods hold
	Ready       bool   `json:"ready"`
	Reason      string `json:"reason"`
	Message     string `json:"message"`
}

// Problem is something that is not well.
type Problem struct {
	Kind    string `json:"kind"` // of the object that it is about
	Name    string `json:"name"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Reasons that no object bears.
const (
	reasonNoPools     = "NoPools"
	reasonNoPlan      = "NoPlan"
	reasonNotReported = "NotReported"
	reasonNewPlan     = "PlanNotTaken"
	reasonFailedRoute = "FailedRoute"
	reasonNoTunnel    = "NoTunnel"
	reasonNotRouted   = "BlocksNotRouted"
	stateUnknown      = "Unknown"
	stateEstablished  = "Established"
	stateListening    = "Listening" // for calls from a range; nobody has called
)

// objects is everything that a report is made from.
type objects struct {
	nodes    []corev1.Node
	networks []v1alpha1.NodeNetwork
	blocks   []v1alpha1.IPBlock
	pools    []v1alpha1.IPPool
	claims   []v1alpha1.IPClaim
	peers    []v1alpha1.BGPPeer
}

// makeReport turns objects into what a person wants to know of them. It is pure.
func makeReport(o objects) Report {
	r := Report{Nodes: []Node{}, Sessions: []Session{}, Blocks: []Block{}, Pools: []Pool{}, Claims: []Claim{}, Tunnels: []Tunnel{}, Problems: []Problem{}}
	planned := make(map[string]bool, len(o.networks))
	for i := range o.networks {
		planned[o.networks[i].Name] = true
		r.addNetwork(&o.networks[i])
	}
	for i := range o.nodes {
		if n := &o.nodes[i]; !planned[n.Name] {
			r.addUnplanned(n)
		}
	}
	r.addBlocks(o)
	encapsulations := plannedEncapsulations(o.networks)
	for i := range o.pools {
		r.addPool(&o.pools[i], encapsulations[o.pools[i].Name])
	}
	if len(o.pools) == 0 {
		r.problem("Cluster", "", reasonNoPools, "there is no IPPool: pods get no addresses")
	}
	for i := range o.claims {
		r.addClaim(&o.claims[i])
	}
	for i := range o.peers {
		p := &o.peers[i]
		if c := readyCondition(p.Status.Conditions); c.Status != metav1.ConditionTrue {
			r.problem("BGPPeer", p.Name, c.Reason, c.Message)
		}
	}
	r.sort()
	return r
}

func (r *Report) addNetwork(nn *v1alpha1.NodeNetwork) {
	c := readyCondition(nn.Status.Conditions)
	n := Node{
		Name:      nn.Name,
		Addresses: append([]string{}, nn.Spec.Addresses...), // never null
		ASN:       nn.Spec.ASN,
		RouterID:  nn.Spec.RouterID,
		Blocks:    int(nn.Status.Summary.Blocks),
		Pods:      int(nn.Status.Summary.Pods),
		Routes:    int(nn.Status.Summary.Routes),
		MTU:       nn.Status.MTU,

		BlocksFromAPI: nn.Spec.BlocksFromAPI,
		BlocksRouted:  nn.Status.BlocksFromAPI,

		Ready:        c.Status == metav1.ConditionTrue,
		Reason:       c.Reason,
		Message:      c.Message,
		AgentVersion: nn.Status.AgentVersion,
		Created:      nn.CreationTimestamp,
	}
	for _, s := range sessions(nn) {
		if s.State != stateListening {
			n.Sessions++
		}
		if s.State == stateEstablished {
			n.Established++
		}
		r.Sessions = append(r.Sessions, s)
	}
	r.Nodes = append(r.Nodes, n)
	r.addNodeProblems(nn)
	r.addTunnels(nn)
}

func (r *Report) addNodeProblems(nn *v1alpha1.NodeNetwork) {
	const kind = "Node"
	if len(nn.Status.Conditions) == 0 {
		r.problem(kind, nn.Name, reasonNotReported, "the node's agent has not reported yet: see that godwit-agent runs there")
		return
	}
	for _, c := range nn.Status.Conditions {
		if c.Status != metav1.ConditionTrue {
			r.problem(kind, nn.Name, c.Reason, c.Type+": "+c.Message)
		}
	}
	for _, f := range nn.Status.FailedRoutes {
		r.problem(kind, nn.Name, reasonFailedRoute, f.Destination+": "+f.Message)
	}
	if nn.Spec.BlocksFromAPI && !nn.Status.BlocksFromAPI {
		r.problem(kind, nn.Name, reasonNotRouted, "the agent does not report that it routes the blocks of all other nodes as the API tells")
	}
	if nn.Status.ObservedGeneration != nn.Generation {
		r.problem(kind, nn.Name, reasonNewPlan, fmt.Sprintf(
			"the agent carries out generation %d of the plan, the newest is %d", nn.Status.ObservedGeneration, nn.Generation))
	}
}

// addUnplanned adds a node without a NodeNetwork.
func (r *Report) addUnplanned(n *corev1.Node) {
	message := "the node has no plan: see that godwit-controller runs, and `kubectl describe node " + n.Name + "`"
	r.Nodes = append(r.Nodes, Node{
		Name: n.Name, Addresses: []string{}, Reason: reasonNoPlan, Message: message, Created: n.CreationTimestamp,
	})
	r.problem("Node", n.Name, reasonNoPlan, message)
}

func (r *Report) addBlocks(o objects) {
	type key struct{ node, cidr string }
	allocated := make(map[key]*int32)
	for i := range o.networks {
		for j := range o.networks[i].Status.Blocks {
			b := &o.networks[i].Status.Blocks[j]
			allocated[key{o.networks[i].Name, b.CIDR}] = &b.Allocated
		}
	}
	for i := range o.blocks {
		spec := o.blocks[i].Spec
		r.Blocks = append(r.Blocks, Block{
			CIDR: spec.CIDR, Pool: spec.Pool, Node: spec.NodeName,
			Allocated: allocated[key{spec.NodeName, spec.CIDR}], Size: size(spec.CIDR),
		})
	}
}

// plannedEncapsulations returns the encapsulation of each pool, by name, in the
// plans of nodes.
func plannedEncapsulations(networks []v1alpha1.NodeNetwork) map[string]string {
	found := make(map[string][]string)
	for i := range networks {
		for _, p := range networks[i].Spec.Pools {
			if e := string(p.Encapsulation); !slices.Contains(found[p.Name], e) {
				found[p.Name] = append(found[p.Name], e)
			}
		}
	}
	joined := make(map[string]string, len(found))
	for name, list := range found {
		slices.Sort(list)
		joined[name] = strings.Join(list, ",")
	}
	return joined
}

func (r *Report) addPool(p *v1alpha1.IPPool, planned string) {
	c := readyCondition(p.Status.Conditions)
	r.Pools = append(r.Pools, Pool{
		Name: p.Name, CIDR: p.Spec.CIDR,
		Encapsulation:        string(cmp.Or(p.Spec.Encapsulation, v1alpha1.EncapsulationNone)),
		PlannedEncapsulation: planned,

		NATOutgoing: p.Spec.NATOutgoing,
		Blocks:      p.Status.Blocks, Capacity: p.Status.Capacity, Summary: p.Status.Summary,
		Allocated: p.Status.Allocated,
		Ready:     c.Status == metav1.ConditionTrue, Reason: c.Reason, Message: c.Message,
	})
	if c.Status != metav1.ConditionTrue && !p.Closing() {
		r.problem("IPPool", p.Name, c.Reason, c.Message)
	}
	for _, kind := range []string{
		v1alpha1.ConditionHasRoom, v1alpha1.ConditionEncapsulationApplied, v1alpha1.ConditionAdvertisementApplied,
	} {
		if e := apimeta.FindStatusCondition(p.Status.Conditions, kind); e != nil && e.Status != metav1.ConditionTrue {
			r.problem("IPPool", p.Name, e.Reason, e.Message)
		}
	}
}

func (r *Report) problem(kind, name, reason, message string) {
	r.Problems = append(r.Problems, Problem{Kind: kind, Name: name, Reason: reason, Message: message})
}

func (r *Report) sort() {
	slices.SortFunc(r.Nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(r.Pools, func(a, b Pool) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(r.Sessions, func(a, b Session) int {
		// Nodes before routers: the kinds happen to be in the other order.
		return cmp.Or(strings.Compare(a.Node, b.Node), strings.Compare(b.Kind, a.Kind), strings.Compare(a.Peer, b.Peer))
	})
	slices.SortFunc(r.Tunnels, func(a, b Tunnel) int {
		return cmp.Or(strings.Compare(a.Node, b.Node), strings.Compare(a.Interface, b.Interface))
	})
	slices.SortFunc(r.Blocks, func(a, b Block) int { return compareCIDRs(a.CIDR, b.CIDR) })
	slices.SortFunc(r.Claims, func(a, b Claim) int {
		pa, _ := netip.ParseAddr(a.Address) // the API server refuses what is none
		pb, _ := netip.ParseAddr(b.Address)
		return pa.Compare(pb)
	})
	slices.SortStableFunc(r.Problems, func(a, b Problem) int {
		return cmp.Or(strings.Compare(b.Kind, a.Kind), strings.Compare(a.Name, b.Name))
	})
}

// readyCondition returns the Ready condition, or one that says that nobody has
// judged the object yet.
func readyCondition(conditions []metav1.Condition) metav1.Condition {
	if c := apimeta.FindStatusCondition(conditions, v1alpha1.ConditionReady); c != nil {
		return *c
	}
	return metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionUnknown, Reason: reasonNotReported, Message: "nothing has been reported yet",
	}
}

// compareCIDRs orders networks by family, address and length.
func compareCIDRs(a, b string) int {
	pa, errA := netip.ParsePrefix(a)
	pb, errB := netip.ParsePrefix(b)
	if errA != nil || errB != nil {
		return strings.Compare(a, b)
	}
	return cmp.Or(pa.Addr().Compare(pb.Addr()), cmp.Compare(pa.Bits(), pb.Bits()))
}

// size returns how many addresses a block has; 0 when it is no network, or one
// too large to be a block.
func size(cidr string) int64 {
	p, err := netip.ParsePrefix(cidr)
	if err != nil || p.Addr().BitLen()-p.Bits() > 32 {
		return 0
	}
	return 1 << (p.Addr().BitLen() - p.Bits())
}
