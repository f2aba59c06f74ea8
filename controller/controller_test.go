package controller

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/internal/apitest"
)

// TestController runs the controller against a real API server, as the
// ServiceAccount that config/rbac makes.
func TestController(t *testing.T) {
	cfg := apitest.Start(t)
	scheme := apitest.Scheme(t)
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	setUp := api{t, c}
	setUp.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "godwit-system"}})
	setUp.applyFile("../config/rbac/controller.yaml")

	for _, tt := range []struct {
		name string
		run  func(*testing.T, *rest.Config, api)
	}{
		{"plans follow what is configured", testPlans},
		{"nothing is written when nothing changes", testQuiet},
		{"overlapping pools", testOverlaps},
		{"peers that can't be carried out", testPeers},
		{"nodes without an address", testNodeProblems},
		{"network settings", testNetworkConfig},
		{"encapsulations change", testEncapsulation},
		{"topologies change", testTopology},
		{"figures of pools", testFigures},
		{"pools that fill", testPoolsFill},
		{"pools of others' addresses", testForeignAddresses},
		{"pools that are to go", testPoolsGo},
		{"claims", testClaims},
		{"namespaces that choose pools", testNamespacesChoose},
		{"a node is deleted and made anew", testNodeIsBack},
		{"a node is deleted for good", testNodeIsGone},
		{"a deleted node lives on", testNodeLivesOn},
		{"a node is out of service", testOutOfService},
		{"leader election", testLeaderElection},
		{"samples", testSamples},
		{"kubectl", testKubectl},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := api{t, c}
			t.Cleanup(a.clear)
			tt.run(t, cfg, a)
		})
	}
}

func testPlans(t *testing.T, cfg *rest.Config, a api) {
	start(t, cfg, Options{})
	rackA := map[string]string{"rack": "a"}
	a.create(node("n1", "10.0.0.1", rackA), node("n2", "10.0.0.2", nil), pool("pods", "172.25.0.0/16"))
	a.hasSessions("n1", "n2")
	a.hasSessions("n2", "n1")

	tor := peer("tor", "10.0.9.1", "office")
	tor.Spec.NodeSelector = &metav1.LabelSelector{MatchLabels: rackA}
	office := &v1alpha1.BGPFilter{
		ObjectMeta: metav1.ObjectMeta{Name: "office"},
		Spec:       v1alpha1.BGPFilterSpec{Rules: []v1alpha1.BGPFilterRule{{CIDR: "192.168.0.0/16", Action: v1alpha1.FilterAccept}}},
	}
	a.create(office, tor)
	a.hasSessions("n1", "n2", "tor")
	a.peerIs("tor", "True Ready: in the plan of 1 of 2 nodes")

	a.create(node("n3", "10.0.0.3", nil))
	a.hasSessions("n1", "n2", "n3", "tor")
	a.hasSessions("n3", "n1", "n2")
	change(a, node("n3", "", nil), func(n *corev1.Node) { n.Labels = rackA })
	a.hasSessions("n3", "n1", "n2", "tor")

	change(a, office, func(f *v1alpha1.BGPFilter) { f.Spec.Rules[0].Action = v1alpha1.FilterReject })
	a.planOf("n3", "the new rule", func(s v1alpha1.NodeNetworkSpec) bool {
		return len(s.Sessions) == 3 && s.Sessions[2].ImportRules[0].Action == v1alpha1.FilterReject
	})
	a.create(&v1alpha1.BGPConfig{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: v1alpha1.BGPConfigSpec{ASNumber: 65100, ListenPort: 1790}})
	a.planOf("n1", "the ASN and port of the BGPConfig", func(s v1alpha1.NodeNetworkSpec) bool {
		return s.ASN == 65100 && s.ListenPort == 1790 && s.Sessions[0].PeerASN == 65100 && s.Sessions[0].PeerPort == 1790
	})

	// A new address is a new plan of everybody; status is written apart from spec.
	n2 := node("n2", "", nil)
	if err := a.Get(t.Context(), client.ObjectKeyFromObject(n2), n2); err != nil {
		t.Fatal(err)
	}
	n2.Status.Addresses[0].Address = "10.0.0.22"
	if err := a.Status().Update(t.Context(), n2); err != nil {
		t.Fatal(err)
	}
	a.planOf("n1", "the new address of n2", func(s v1alpha1.NodeNetworkSpec) bool { return s.Sessions[0].PeerAddress == "10.0.0.22" })

	// What a person does to a plan does not last.
	change(a, network("n1"), func(nn *v1alpha1.NodeNetwork) { nn.Spec.Sessions = nil })
	a.hasSessions("n1", "n2", "n3", "tor")
	a.remove(network("n1"))
	a.hasSessions("n1", "n2", "n3", "tor")

	a.remove(node("n3", "", nil))
	a.isGone(network("n3"))
	a.hasSessions("n1", "n2", "tor")
	a.remove(tor)
	a.hasSessions("n1", "n2")
}

// planOf waits until the plan of a node is as wanted.
func (a api) planOf(node, what string, ok func(v1alpha1.NodeNetworkSpec) bool) {
	a.t.Helper()
	eventually(a.t, "plan of "+node+" has "+what, func() error {
		spec, err := a.plan(node)
		if err == nil && !ok(spec) {
			data, _ := json.Marshal(spec)
			err = fmt.Errorf("it is %s", data)
		}
		return err
	})
}

// isGone waits until an object is not there.
func (a api) isGone(o client.Object) {
	a.t.Helper()
	eventually(a.t, o.GetName()+" is gone", func() error {
		err := a.Get(a.t.Context(), client.ObjectKeyFromObject(o), o)
		if err == nil {
			return errors.New("it is there")
		}
		return client.IgnoreNotFound(err)
	})
}

func testQuiet(t *testing.T, cfg *rest.Config, a api) {
	c := start(t, cfg, Options{})
	a.create(node("n1", "10.0.0.1", nil), node("n2", "10.0.0.2", nil), pool("pods", "172.25.0.0/16"), peer("tor", "10.0.9.1"))
	a.create(block("172.25.0.0/26", "pods", "n1"))
	a.hasSessions("n1", "n2", "tor")
	a.hasSessions("n2", "n1", "tor")
	a.poolIs("pods", "True Ready: 2 of 2 nodes take blocks of the pool")
	a.peerIs("tor", "True Ready: in the plan of 2 of 2 nodes")
	a.create(pool("other", "172.26.0.0/16"))
	a.poolIs("other", "True Ready: 2 of 2 nodes take blocks of the pool")
	a.poolHas("pods", "1/1024", 0)
	a.poolHas("other", "0/1024", 0)
	before := c.written()

	// A kubelet's heartbeats, an agent's report, labels and annotations: none is a
	// reason to write. The last change is, so that the test knows that the others
	// were seen.
	for i := range 3 {
		n1 := node("n1", "", nil)
		if err := a.Get(t.Context(), client.ObjectKeyFromObject(n1), n1); err != nil {
			t.Fatal(err)
		}
		n1.Status.Conditions = []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.NewTime(time.Unix(int64(1e9+i), 0)),
		}}
		if err := a.Status().Update(t.Context(), n1); err != nil {
			t.Fatal(err)
		}
	}
	report(a, "n1", func(s *v1alpha1.NodeNetworkStatus) {
		s.Sessions = []v1alpha1.SessionStatus{{Name: "n2", Kind: v1alpha1.SessionNode, PeerAddress: "10.0.0.2", PeerASN: 64512, State: "Established"}}
		s.Summary.Pods = 3
	})
	change(a, node("n1", "", nil), func(n *corev1.Node) { n.Labels = map[string]string{"unrelated": "label"} })
	change(a, pool("pods", ""), func(p *v1alpha1.IPPool) { p.Annotations = map[string]string{"note": "mine"} })
	change(a, pool("pods", ""), func(p *v1alpha1.IPPool) { p.Spec.NATOutgoing = true })
	a.planOf("n2", "natOutgoing", natOutgoing)
	a.planOf("n1", "natOutgoing", natOutgoing)
	a.poolIs("pods", "True Ready: 2 of 2 nodes take blocks of the pool")
	report(a, "n1", func(s *v1alpha1.NodeNetworkStatus) {
		s.Blocks = []v1alpha1.BlockStatus{{CIDR: "172.26.0.0/26", Pool: "other", Allocated: 5}}
	})
	a.poolHas("other", "0/1024", 5)

	const base = "/apis/godwit.dev/v1alpha1/"
	got := slices.Sorted(slices.Values(c.written()[len(before):]))
	want := []string{
		"PATCH " + base + "ippools/other/status", // its figures
		"PATCH " + base + "ippools/pods/status",  // the new generation was judged
		"PATCH " + base + "nodenetworks/n1",
		"PATCH " + base + "nodenetworks/n2",
	}
	if !slices.Equal(got, want) {
		t.Errorf("written:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}

	// Another controller finds everything as it should be.
	c.stop()
	c = start(t, cfg, Options{})
	change(a, pool("pods", ""), func(p *v1alpha1.IPPool) { p.Spec.NATOutgoing = false })
	a.planOf("n1", "no natOutgoing", func(s v1alpha1.NodeNetworkSpec) bool { return !natOutgoing(s) })
	a.planOf("n2", "no natOutgoing", func(s v1alpha1.NodeNetworkSpec) bool { return !natOutgoing(s) })
	a.poolIs("pods", "True Ready: 2 of 2 nodes take blocks of the pool")
	report(a, "n1", func(s *v1alpha1.NodeNetworkStatus) { s.Blocks[0].Allocated = 6 })
	a.poolHas("other", "0/1024", 6)
	if got := slices.Sorted(slices.Values(c.written())); !slices.Equal(got, want) {
		t.Errorf("written after a restart:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// natOutgoing tells whether a plan has the pool pods with natOutgoing.
func natOutgoing(s v1alpha1.NodeNetworkSpec) bool {
	return slices.ContainsFunc(s.Pools, func(p v1alpha1.PlannedPool) bool { return p.Name == "pods" && p.NATOutgoing })
}

// report writes a node's status as its agent does.
func report(a api, node string, f func(*v1alpha1.NodeNetworkStatus)) {
	a.t.Helper()
	nn := network(node)
	if err := a.Get(a.t.Context(), client.ObjectKeyFromObject(nn), nn); err != nil {
		a.t.Fatal(err)
	}
	old := nn.DeepCopy()
	f(&nn.Status)
	if err := a.Status().Patch(a.t.Context(), nn, client.MergeFrom(old)); err != nil {
		a.t.Fatal(err)
	}
}

func testOverlaps(t *testing.T, cfg *rest.Config, a api) {
	start(t, cfg, Options{})
	a.create(node("n1", "10.0.0.1", nil), pool("wide", "172.25.0.0/16"))
	a.poolIs("wide", "True Ready: 1 of 1 nodes take blocks of the pool")
	a.create(block("172.25.0.0/26", "wide", "n1"))

	// Within one second the name decides between pools that nobody uses; here the
	// one that is in use stays.
	a.create(pool("narrow", "172.25.64.0/20"))
	a.poolIs("narrow", "False Overlaps: 172.25.64.0/20 overlaps 172.25.0.0/16 of pool wide, which came first: delete one of the two")
	a.poolIs("wide", "True Ready: 1 of 1 nodes take blocks of the pool")
	a.planOf("n1", "the pool wide alone", func(s v1alpha1.NodeNetworkSpec) bool { return len(s.Pools) == 1 && s.Pools[0].Name == "wide" })
	a.hasEvent("IPPool", "narrow", "Warning", "Overlaps")

	// As long as it is in use it stays, deleted or not.
	a.remove(pool("wide", ""))
	a.poolIs("wide", "False Deleting: the pool is being deleted: it gives out no new addresses, and goes when no node has a block of it")
	a.poolIs("narrow", "False Overlaps: 172.25.64.0/20 overlaps 172.25.0.0/16 of pool wide, which came first: delete one of the two")
	a.planOf("n1", "the pool wide, closed", func(s v1alpha1.NodeNetworkSpec) bool { return len(s.Pools) == 1 && !s.Pools[0].Allocate })
	report(a, "n1", carriedOut(a, "n1"))
	a.remove(block("172.25.0.0/26", "", ""))
	a.isGone(pool("wide", ""))
	a.poolIs("narrow", "True Ready: 1 of 1 nodes take blocks of the pool")
	a.hasEvent("IPPool", "narrow", "Normal", "Ready")
	change(a, pool("narrow", ""), func(p *v1alpha1.IPPool) { p.Spec.Disabled = true })
	a.poolIs("narrow", "False Disabled: the pool is disabled: it gives out no new addresses")
	a.planOf("n1", "the pool narrow, not to allocate", func(s v1alpha1.NodeNetworkSpec) bool { return len(s.Pools) == 1 && !s.Pools[0].Allocate })
	change(a, pool("narrow", ""), func(p *v1alpha1.IPPool) {
		p.Spec.Disabled = false
		p.Spec.NodeSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"rack": "z"}}
	})
	a.poolIs("narrow", "False NoNodes: nodeSelector matches no node that has a plan")
	change(a, pool("narrow", ""), func(p *v1alpha1.IPPool) {
		p.Spec.NodeSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "rack", Operator: "Near"}}}
	})
	a.poolIs("narrow", `False Invalid: nodeSelector: "Near" is not a valid label selector operator: nodes keep to what they did before`)
}

// hasEvent waits for an event about an object.
func (a api) hasEvent(kind, name, eventType, reason string) {
	a.t.Helper()
	eventually(a.t, fmt.Sprintf("event %s of %s %s", reason, kind, name), func() error {
		var list eventsv1.EventList
		if err := a.List(a.t.Context(), &list, client.InNamespace("default")); err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.Regarding.Kind == kind && e.Regarding.Name == name && e.Type == eventType && e.Reason == reason {
				return nil
			}
		}
		return fmt.Errorf("not among %d events", len(list.Items))
	})
}

func testPeers(t *testing.T, cfg *rest.Config, a api) {
	start(t, cfg, Options{})
	a.create(node("n1", "10.0.0.1", nil), node("n2", "10.0.0.2", nil))
	a.create(peer("tor", "10.0.9.1", "office"))
	a.peerIs("tor", "False FilterNotFound: BGPFilter office does not exist: only routes that the filters before it accept are taken")
	a.hasSessions("n1", "n2", "tor")
	a.hasEvent("BGPPeer", "tor", "Warning", "FilterNotFound")
	a.create(&v1alpha1.BGPFilter{ObjectMeta: metav1.ObjectMeta{Name: "office"}})
	a.peerIs("tor", "True Ready: in the plan of 2 of 2 nodes")

	// The name comes after "tor", as the age does not tell within one second.
	a.create(peer("tor-again", "10.0.9.1"))
	a.peerIs("tor-again", "False Conflict: BGPPeer tor has a session with 10.0.9.1 already on n1, n2: "+
		"a node has one session with an address, and the older one stays")
	a.create(peer("n2", "10.0.0.2"))
	a.peerIs("n2", "False Conflict: node n2 has a session with 10.0.0.2 already on n1: "+
		"a node has one session with an address, and the older one stays")
	lonely := peer("lonely", "10.0.9.2")
	lonely.Spec.NodeSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"rack": "z"}}
	a.create(lonely)
	a.peerIs("lonely", "False NoNodes: nodeSelector matches no node that has a plan and another address of the family of 10.0.9.2")
	a.hasSessions("n1", "n2", "tor")
	a.remove(peer("tor", ""))
	a.peerIs("tor-again", "True Ready: in the plan of 2 of 2 nodes")
	a.hasSessions("n1", "n2", "tor-again")
}

func testNodeProblems(t *testing.T, cfg *rest.Config, a api) {
	start(t, cfg, Options{})
	mute := node("mute", "", nil)
	mute.Status.Addresses = nil
	a.create(node("n1", "10.0.0.1", nil), mute)
	a.hasEvent("Node", "mute", "Warning", "NoAddress")
	a.hasSessions("n1")
	if _, err := a.plan("mute"); !apierrors.IsNotFound(err) {
		t.Errorf("plan of a node without address: %v, want that there is none", err)
	}
	mute.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.2"}}
	if err := a.Status().Update(t.Context(), mute); err != nil {
		t.Fatal(err)
	}
	a.hasSessions("mute", "n1")
	a.hasEvent("Node", "mute", "Normal", "Planned")

	// Addresses that vanish take nothing from a node that works.
	mute.Status.Addresses = nil
	if err := a.Status().Update(t.Context(), mute); err != nil {
		t.Fatal(err)
	}
	a.create(node("n3", "10.0.0.3", nil)) // so that another plan is surely made
	a.hasSessions("mute", "n1", "n3")
	a.hasSessions("n1", "mute", "n3")
}

// poolHas waits for the figures of a pool.
func (a api) poolHas(name, summary string, allocated int64) {
	a.t.Helper()
	eventually(a.t, "figures of pool "+name, func() error {
		p := pool(name, "")
		if err := a.Get(a.t.Context(), client.ObjectKeyFromObject(p), p); err != nil {
			return err
		}
		if p.Status.Summary != summary || p.Status.Allocated != allocated {
			return fmt.Errorf("blocks %s, allocated %d; want %s, %d", p.Status.Summary, p.Status.Allocated, summary, allocated)
		}
		return nil
	})
}

func testFigures(t *testing.T, cfg *rest.Config, a api) {
	start(t, cfg, Options{})
	a.create(node("n1", "10.0.0.1", nil), node("n2", "10.0.0.2", nil), pool("pods", "172.25.0.0/24"))
	a.poolHas("pods", "0/4", 0)
	a.create(block("172.25.0.0/26", "pods", "n1"), block("172.25.0.64/26", "pods", "n2"))
	a.poolHas("pods", "2/4", 0)
	a.hasSessions("n1", "n2")
	a.hasSessions("n2", "n1")
	for name, cidr := range map[string]string{"n1": "172.25.0.0/26", "n2": "172.25.0.64/26"} {
		report(a, name, func(s *v1alpha1.NodeNetworkStatus) {
			s.Blocks = []v1alpha1.BlockStatus{{CIDR: cidr, Pool: "pods", Allocated: 7}}
		})
	}
	a.poolHas("pods", "2/4", 14)
	a.remove(block("172.25.0.64/26", "", ""))
	report(a, "n2", func(s *v1alpha1.NodeNetworkStatus) { s.Blocks = nil })
	a.poolHas("pods", "1/4", 7)
	report(a, "n1", func(s *v1alpha1.NodeNetworkStatus) { s.Blocks[0].Allocated = 0 })
	a.poolHas("pods", "1/4", 0)
}

func testLeaderElection(t *testing.T, cfg *rest.Config, a api) {
	o := Options{LeaderElect: true, leaseDuration: 2 * time.Second}
	first, second := start(t, cfg, o), start(t, cfg, o)
	a.create(node("n1", "10.0.0.1", nil), node("n2", "10.0.0.2", nil), pool("pods", "172.25.0.0/16"))
	a.hasSessions("n1", "n2")
	a.hasSessions("n2", "n1")
	a.poolIs("pods", "True Ready: 2 of 2 nodes take blocks of the pool")

	if len(first.written()) == 0 {
		first, second = second, first
	}
	if w := second.written(); len(w) > 0 {
		t.Fatalf("both write: the first %q, the second %q", first.written(), w)
	}
	// The lease is given back at the end, so that the other goes on at once.
	first.stop()
	before := len(first.written())
	a.create(node("n3", "10.0.0.3", nil))
	a.hasSessions("n1", "n2", "n3")
	if len(second.written()) == 0 || len(first.written()) != before {
		t.Errorf("after the end of the first controller it wrote %q, the second %q", first.written()[before:], second.written())
	}
}

// testSamples shows that everything in config/samples is taken and works.
func testSamples(t *testing.T, cfg *rest.Config, a api) {
	start(t, cfg, Options{})
	a.create(node("n1", "10.211.55.101", map[string]string{"example.com/rack": "a"}), node("n2", "10.211.55.116", nil))
	files, err := filepath.Glob("../config/samples/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no samples: %v", err)
	}
	for _, f := range files {
		a.applyFile(f)
	}
	a.poolIs("pods", "True Ready: 2 of 2 nodes take blocks of the pool")
	a.poolIs("frontends", "True Ready: 1 of 2 nodes take blocks of the pool")
	a.peerIs("tor-a", "True Ready: in the plan of 1 of 2 nodes")
}

// testKubectl shows what a person sees with kubectl.
func testKubectl(t *testing.T, cfg *rest.Config, a api) {
	start(t, cfg, Options{})
	a.create(node("n1", "10.211.55.101", nil), node("n2", "10.211.55.116", nil), pool("pods", "172.25.0.0/16"))
	a.poolIs("pods", "True Ready: 2 of 2 nodes take blocks of the pool")
	a.create(block("172.25.0.128/26", "pods", "n1"), pool("small", "172.25.8.0/24"))
	fixed := pool("fixed", "172.26.0.0/28")
	fixed.Spec.Allocation = v1alpha1.AllocationClaims
	held := block("172.26.0.10/32", "fixed", "n2")
	held.Spec.Pod = &v1alpha1.PodReference{Namespace: "default", Name: "web-0"}
	a.create(fixed, held)
	for address, pod := range map[string]string{"172.26.0.10": "web-0", "172.26.0.11": ""} {
		a.create(&v1alpha1.IPClaim{
			ObjectMeta: metav1.ObjectMeta{Name: strings.ReplaceAll(address, ".", "-")},
			Spec:       v1alpha1.IPClaimSpec{Address: address, Namespace: "default", PodName: pod},
		})
	}
	a.create(peer("tor", "10.211.55.1", "office"), &v1alpha1.BGPFilter{ObjectMeta: metav1.ObjectMeta{Name: "office"}})
	a.create(&v1alpha1.BGPConfig{ObjectMeta: metav1.ObjectMeta{Name: "default"}},
		&v1alpha1.NetworkConfig{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: v1alpha1.NetworkConfigSpec{VXLAN: &v1alpha1.VXLANConfig{Port: 8472}}})
	a.hasSessions("n1", "n2", "tor")
	a.poolIs("small", "False Overlaps: 172.25.8.0/24 overlaps 172.25.0.0/16 of pool pods, which came first: delete one of the two")
	a.peerIs("tor", "True Ready: in the plan of 2 of 2 nodes")
	report(a, "n1", func(s *v1alpha1.NodeNetworkStatus) {
		s.Summary = v1alpha1.NodeSummary{Sessions: "2/2", Blocks: 1, Pods: 2, Routes: 1}
		s.Blocks = []v1alpha1.BlockStatus{{CIDR: "172.25.0.128/26", Pool: "pods", Allocated: 2}}
		s.Conditions = []metav1.Condition{{Type: "Ready", Status: "True", Reason: "Ready", LastTransitionTime: metav1.Now()}}
	})
	a.poolHas("pods", "1/1024", 2)
	a.poolHas("small", "0/4", 0)
	a.poolHas("fixed", "1/16", 0)
	for name, want := range map[string]string{
		"172-26-0-10": "True Held: node n2 has the address for pod default/web-0", "172-26-0-11": "True Free: no pod has the address",
	} {
		claim := &v1alpha1.IPClaim{ObjectMeta: metav1.ObjectMeta{Name: name}}
		a.hasReady(claim, func() []metav1.Condition { return claim.Status.Conditions }, want)
	}

	kubeconfig := apitest.Kubeconfig(t, cfg)
	kubectl := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kubectl"), args...)
		cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig, "HOME="+t.TempDir())
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("kubectl %q: %v\n%s", args, err, out)
		}
		return "$ kubectl " + strings.Join(args, " ") + "\n" + string(out)
	}
	var got strings.Builder
	for _, kind := range []string{"nodenetworks", "ippools", "ipblocks", "ipclaims", "bgppeers", "bgpconfigs", "networkconfigs", "bgpfilters"} {
		got.WriteString(kubectl("get", kind) + "\n")
	}
	age := regexp.MustCompile(`(?m)\d+s$`)
	golden(t, "kubectl-get.txt", age.ReplaceAllString(got.String(), "AGE"))

	got.Reset()
	for _, field := range []string{"ippool.spec", "bgppeer.spec", "bgpfilter.spec.rules", "bgpconfig.spec", "networkconfig.spec", "ipblock.spec", "ipclaim.spec", "nodenetwork.spec"} {
		got.WriteString(kubectl("explain", field) + "\n")
	}
	golden(t, "kubectl-explain.txt", got.String())
}
