package plan

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// sim is a cluster: the API's objects, agents that take their plans and report,
// and a planner whose view of both may lag behind.
type sim struct {
	t        *testing.T
	in       Input // without Networks
	networks map[string]*simNetwork
	agents   map[string]*simAgent
	up       map[[2]string]bool // sessions, by the names of both ends in order
	all      map[string]known   // see knowledge; nil: to be found out
	flies    func() bool        // whether a write takes its time; nil: none does
}

// simNetwork is a NodeNetwork with all its versions.
type simNetwork struct {
	versions []v1alpha1.NodeNetwork
	seen     int // index of the one that the planner knows
	written  int // index of the newest that the planner knows to have written
	flying   *simFlight
}

// simFlight is a write of a plan that the planner has no answer to yet.
type simFlight struct {
	spec   v1alpha1.NodeNetworkSpec
	base   int64 // generation that it changes
	landed int   // index of the version that came of it; 0: none yet
}

// land lets what is written be there.
func (n *simNetwork) land() {
	if n == nil || n.flying == nil || n.flying.landed > 0 {
		return
	}
	obj := n.now().DeepCopy()
	obj.Spec = *n.flying.spec.DeepCopy()
	obj.Generation++
	n.flying.landed = len(n.versions)
	n.versions = append(n.versions, *obj)
}

// answer lets the planner know what came of its write: if it is not there, it failed.
func (n *simNetwork) answer() {
	if n == nil || n.flying == nil {
		return
	}
	n.written = max(n.written, n.flying.landed)
	n.flying = nil
}

// sent is the NodeNetwork as the planner has to take it: as it knows it, but for
// what it has written since.
func (n *simNetwork) sent() v1alpha1.NodeNetwork {
	nn := n.versions[n.seen]
	switch {
	case n.flying != nil && nn.Generation <= n.flying.base:
		nn.Spec, nn.Generation = n.flying.spec, n.flying.base+1
	case nn.Generation < n.versions[n.written].Generation:
		nn.Spec, nn.Generation = n.versions[n.written].Spec, n.versions[n.written].Generation
	}
	return nn
}

func (n *simNetwork) now() *v1alpha1.NodeNetwork { return &n.versions[len(n.versions)-1] }

// simAgent is what a node does: it carries out the plan that it last took.
type simAgent struct {
	spec       v1alpha1.NodeNetworkSpec
	generation int64
	devices    []string                         // tunnels that there are
	fails      map[v1alpha1.TunnelKind][]string // reason and message of kinds that it can't make
	blocks     []v1alpha1.BlockStatus
	mute       bool // announces only the first of its blocks
}

func newSim(t *testing.T) *sim {
	return &sim{t: t, networks: map[string]*simNetwork{}, agents: map[string]*simAgent{}, up: map[[2]string]bool{}}
}

// addNode adds a node which owns a block of each of the first pools of its
// families.
func (s *sim) addNode(name string, addrs ...string) {
	n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, a := range addrs {
		n.Status.Addresses = append(n.Status.Addresses, internalIP(a))
	}
	s.in.Nodes = append(s.in.Nodes, n)
	s.agents[name] = &simAgent{fails: map[v1alpha1.TunnelKind][]string{}}
}

func (s *sim) node(name string) *corev1.Node {
	i := slices.IndexFunc(s.in.Nodes, func(n corev1.Node) bool { return n.Name == name })
	if i < 0 {
		s.t.Fatalf("there is no node %s", name)
	}
	return &s.in.Nodes[i]
}

func (s *sim) removeNode(name string) {
	s.in.Nodes = slices.DeleteFunc(s.in.Nodes, func(n corev1.Node) bool { return n.Name == name })
	delete(s.agents, name)
	s.sessionsEnd()
}

func (s *sim) setReady(name string, status corev1.ConditionStatus) {
	s.node(name).Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status}}
}

func (s *sim) pool(name string) *v1alpha1.IPPool {
	i := slices.IndexFunc(s.in.Pools, func(p v1alpha1.IPPool) bool { return p.Name == name })
	if i < 0 {
		s.in.Pools = append(s.in.Pools, v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}})
		i = len(s.in.Pools) - 1
	}
	return &s.in.Pools[i]
}

func (s *sim) setTopology(topology v1alpha1.Topology) {
	if s.in.Config == nil {
		s.in.Config = &v1alpha1.BGPConfig{}
	}
	s.in.Config = s.in.Config.DeepCopy()
	s.in.Config.Spec.Topology = topology
}

// setReflectors says how Auto and RouteReflectors are to be: the latter of nodes
// with the label "rr".
func (s *sim) setReflectors(redundancy, meshLimit int32, chosen bool) {
	rr := &v1alpha1.RouteReflectors{Redundancy: &redundancy, MeshLimit: &meshLimit}
	if chosen {
		rr.NodeSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "rr", Operator: "Exists"}}}
	}
	s.setTopology(s.in.Config.Spec.Topology)
	s.in.Config.Spec.RouteReflectors = rr
}

func (s *sim) label(name, key, value string) {
	n := s.node(name).DeepCopy()
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	if n.Labels[key] = value; value == "" {
		delete(n.Labels, key)
	}
	*s.node(name) = *n
}

// pass makes a plan from what the planner sees, and writes to the nodes that
// may be written to what differs from that. It tells whether anything was. A
// planner that does not see all that it wrote makes no plan: nil.
func (s *sim) pass(mayWrite func(name string) bool) (*Plan, bool) {
	in := s.in
	for name, n := range s.networks {
		if s.agents[name] == nil {
			delete(s.networks, name)
			continue
		}
		in.Networks = append(in.Networks, n.sent())
	}
	p := Make(in)
	wrote, busy := false, slices.ContainsFunc(slices.Collect(maps.Values(s.networks)), func(n *simNetwork) bool { return n.flying != nil })
	for _, name := range p.Nodes() {
		spec, _ := p.Spec(name)
		n := s.networks[name]
		if n != nil && (busy || reflect.DeepEqual(n.sent().Spec, spec)) || !mayWrite(name) {
			continue
		}
		wrote = true
		if n != nil && s.flies != nil && s.flies() {
			n.flying = &simFlight{spec: *spec.DeepCopy(), base: n.sent().Generation}
			continue
		}
		if n == nil {
			obj := v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: name, Generation: 1}, Spec: *spec.DeepCopy()}
			s.networks[name] = &simNetwork{versions: []v1alpha1.NodeNetwork{obj}}
			continue
		}
		obj := n.now().DeepCopy()
		obj.Spec = *spec.DeepCopy()
		obj.Generation++
		n.written = len(n.versions)
		n.versions = append(n.versions, *obj)
	}
	return p, wrote
}

// see lets the planner know the newest version of a NodeNetwork.
func (s *sim) see(name string) {
	if n := s.networks[name]; n != nil {
		n.seen = len(n.versions) - 1
	}
}

// take lets a node's agent carry out its newest plan.
func (s *sim) take(name string) {
	n, a := s.networks[name], s.agents[name]
	if n == nil {
		return
	}
	s.all = nil
	a.spec, a.generation = *n.now().Spec.DeepCopy(), n.now().Generation
	had := a.devices
	a.devices = nil
	for _, kind := range a.spec.Tunnels {
		for _, addr := range a.spec.Addresses {
			device := kind.Interface(strings.Contains(addr, ":"))
			// What fails is the making: a tunnel that is there stays.
			if device != "" && (a.fails[kind] == nil || slices.Contains(had, device)) {
				a.devices = append(a.devices, device)
			}
		}
	}
	s.sessionsEnd()
}

// sessionsEnd ends the sessions that one of both ends has no more.
func (s *sim) sessionsEnd() {
	s.all = nil
	for ends := range s.up {
		if !s.wanted(ends[0], ends[1]) || !s.wanted(ends[1], ends[0]) {
			delete(s.up, ends)
		}
	}
}

func (s *sim) wanted(from, to string) bool {
	a := s.agents[from]
	return a != nil && slices.ContainsFunc(a.spec.Sessions, func(p v1alpha1.PlannedSession) bool {
		return p.Kind == v1alpha1.SessionNode && p.Name == to
	})
}

// connect brings the session of two nodes up if both are to have it.
func (s *sim) connect(a, b string) {
	if s.wanted(a, b) && s.wanted(b, a) {
		s.all = nil
		s.up[ends(a, b)] = true
	}
}

func ends(a, b string) [2]string { return [2]string{min(a, b), max(a, b)} }

// report writes the status of a node.
func (s *sim) report(name string) {
	n, a := s.networks[name], s.agents[name]
	if n == nil || a.generation == 0 {
		return
	}
	st := v1alpha1.NodeNetworkStatus{ObservedGeneration: a.generation, BlocksFromAPI: a.spec.BlocksFromAPI, Blocks: a.blocks}
	for _, d := range a.devices {
		st.Tunnels = append(st.Tunnels, v1alpha1.TunnelStatus{Interface: d})
	}
	for _, kind := range a.spec.Tunnels {
		if why := a.fails[kind]; why != nil && !slices.Contains(a.devices, kind.Interface(false)) {
			st.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionTunnelsReady, Status: metav1.ConditionFalse, Reason: why[0], Message: why[1]}}
		}
	}
	for _, p := range a.spec.Sessions {
		state, accepted := "Active", 0
		if s.up[ends(name, p.Name)] {
			state, accepted = established, s.taken(name, p.Name)
		}
		st.Sessions = append(st.Sessions, v1alpha1.SessionStatus{
			Name: p.Name, Kind: p.Kind, PeerAddress: p.PeerAddress, State: state, Accepted: int32(accepted),
		})
	}
	if reflect.DeepEqual(n.now().Status, st) {
		return
	}
	obj := n.now().DeepCopy()
	obj.Status = *st.DeepCopy()
	n.versions = append(n.versions, *obj)
}

// announced are the blocks that a node announces of its own.
func (s *sim) announced(name string) []string {
	var out []string
	for _, b := range s.agents[name].blocks {
		out = append(out, b.CIDR)
	}
	if s.agents[name].mute {
		out = out[:min(len(out), 1)]
	}
	return out
}

// known are the blocks that a node knows, whose value tells that it has them not
// only of reflectors.
type known map[string]bool

// partOf returns which part a node takes another to have.
func (a *simAgent) partOf(name string) v1alpha1.Reflection {
	for _, p := range a.spec.Sessions {
		if p.Name == name && p.Kind == v1alpha1.SessionNode {
			return p.Reflection
		}
	}
	return ""
}

// tells returns what a node takes of another in a session that is up.
func (s *sim) tells(from, to string, all map[string]known) known {
	out := known{}
	a, b := s.agents[from], s.agents[to]
	trusted := b.partOf(from) == v1alpha1.ReflectionServer
	for _, block := range s.announced(from) {
		out[block] = !trusted
	}
	part := a.partOf(to)
	if !a.spec.Reflector || part == "" || !trusted { // of others' blocks nodes take none
		return out
	}
	for block, straight := range all[from] {
		if straight || part == v1alpha1.ReflectionClient {
			out[block] = false
		}
	}
	return out
}

// knowledge is what each node knows when all have told each other all.
func (s *sim) knowledge() map[string]known {
	if s.all != nil {
		return s.all
	}
	all := map[string]known{}
	for name := range s.agents {
		all[name] = known{}
	}
	for changed := true; changed; {
		changed = false
		for ends := range s.up {
			for _, way := range [][2]string{{ends[0], ends[1]}, {ends[1], ends[0]}} {
				for block, straight := range s.tells(way[0], way[1], all) {
					if had, knows := all[way[1]][block]; !knows || straight && !had {
						all[way[1]][block] = straight
						changed = true
					}
				}
			}
		}
	}
	s.all = all
	return all
}

// taken counts the blocks that a node takes of another in a session that is up.
func (s *sim) taken(to, from string) int {
	n := 0
	for block := range s.tells(from, to, s.knowledge()) {
		if !slices.ContainsFunc(s.agents[to].blocks, func(b v1alpha1.BlockStatus) bool { return b.CIDR == block }) {
			n++
		}
	}
	return n
}

// show describes the plans that the API has, one line for the nodes that are to
// do the same.
func (s *sim) show(p *Plan) []string {
	byText := map[string][]string{}
	var texts []string
	for _, name := range p.Nodes() {
		text := describe(&s.networks[name].now().Spec, len(p.Nodes())-1)
		if byText[text] == nil {
			texts = append(texts, text)
		}
		byText[text] = append(byText[text], name)
	}
	var lines []string
	for _, text := range texts {
		lines = append(lines, strings.Join(byText[text], " ")+": "+text)
	}
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range p.Pools {
			if !yield(name) {
				return
			}
		}
	}) {
		for _, c := range p.Pools[name] {
			if c.Type != v1alpha1.ConditionReady && c.Type != v1alpha1.ConditionHasRoom {
				lines = append(lines, fmt.Sprintf("pool %s: %s", name, line(c)))
			}
		}
	}
	if p.TopologyWaits != "" {
		lines = append(lines, "topology waits: "+p.TopologyWaits)
	}
	if p.Waiting {
		lines = append(lines, "reports are awaited")
	}
	return lines
}

// describe says what a plan has of tunnels, pools, sessions with nodes and blocks
// from the API.
func describe(spec *v1alpha1.NodeNetworkSpec, others int) string {
	var kinds, pools []string
	for _, k := range spec.Tunnels {
		kinds = append(kinds, string(k))
	}
	for _, p := range spec.Pools {
		pools = append(pools, p.Name+" "+string(p.Encapsulation))
	}
	sessions := 0
	parts := map[v1alpha1.Reflection][]string{}
	for _, p := range spec.Sessions {
		if p.Kind == v1alpha1.SessionNode {
			sessions++
			parts[p.Reflection] = append(parts[p.Reflection], p.Name)
		}
	}
	text := fmt.Sprintf("tunnels %s; %s; sessions with %d of %d nodes",
		cmp.Or(strings.Join(kinds, ","), "none"), cmp.Or(strings.Join(pools, ", "), "no pools"), sessions, others)
	if spec.Reflector {
		text += "; reflector"
	}
	if list := parts[v1alpha1.ReflectionServer]; len(list) > 0 {
		text += "; reflectors " + strings.Join(list, ",")
	}
	if list := parts[v1alpha1.ReflectionClient]; len(list) > 0 {
		text += "; clients " + strings.Join(list, ",")
	}
	if spec.BlocksFromAPI {
		text += fmt.Sprintf("; blocks of %d nodes from the API", len(spec.Nodes))
	}
	return text
}
