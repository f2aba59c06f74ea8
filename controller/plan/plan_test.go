package plan

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// TestMake plans each testdata/*.in.yaml and compares with the *.out.yaml
// beside it. GODWIT_UPDATE_GOLDENS=1 writes the outputs anew.
func TestMake(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no inputs in testdata: %v", err)
	}
	for _, file := range inputs {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".in.yaml"), func(t *testing.T) {
			in := readInput(t, file)
			pristine := readInput(t, file)
			got := render(t, Make(in), in)
			golden := strings.TrimSuffix(file, ".in.yaml") + ".out.yaml"
			if os.Getenv("GODWIT_UPDATE_GOLDENS") != "" {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("plan differs from %s (-want +got):\n%s", golden, diff)
			}
			if diff := cmp.Diff(pristine, in); diff != "" {
				t.Errorf("Make changed its input:\n%s", diff)
			}
			for i := range 20 {
				shuffle(&in, uint64(i))
				if diff := cmp.Diff(string(got), string(render(t, Make(in), in))); diff != "" {
					t.Fatalf("the plan depends on the order of the input:\n%s", diff)
				}
			}
		})
	}
}

// readInput reads the objects of a file by kind. The name of an object, where
// its file gives no creationTimestamp, is its only age.
func readInput(t *testing.T, file string) Input {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var in Input
	for doc := range bytes.SplitSeq(data, []byte("\n---\n")) {
		var meta metav1.TypeMeta
		if err := yaml.Unmarshal(doc, &meta); err != nil {
			t.Fatal(err)
		}
		switch meta.Kind {
		case "Node":
			in.Nodes = append(in.Nodes, decode[corev1.Node](t, doc))
		case "BGPConfig":
			config := decode[v1alpha1.BGPConfig](t, doc)
			in.Config = &config
		case "NetworkConfig":
			config := decode[v1alpha1.NetworkConfig](t, doc)
			in.Network = &config
		case "BGPPeer":
			in.Peers = append(in.Peers, decode[v1alpha1.BGPPeer](t, doc))
		case "BGPFilter":
			in.Filters = append(in.Filters, decode[v1alpha1.BGPFilter](t, doc))
		case "IPPool":
			in.Pools = append(in.Pools, decode[v1alpha1.IPPool](t, doc))
		case "IPBlock":
			in.Blocks = append(in.Blocks, decode[v1alpha1.IPBlock](t, doc))
		case "ServiceCIDR":
			in.Services = append(in.Services, decode[networkingv1.ServiceCIDR](t, doc))
		case "NodeNetwork":
			in.Networks = append(in.Networks, decode[v1alpha1.NodeNetwork](t, doc))
		default:
			t.Fatalf("%s: unknown kind %q in:\n%s", file, meta.Kind, doc)
		}
	}
	return in
}

func decode[T any](t *testing.T, doc []byte) T {
	t.Helper()
	var v T
	if err := yaml.UnmarshalStrict(doc, &v); err != nil {
		t.Fatalf("%v in:\n%s", err, doc)
	}
	return v
}

func shuffle(in *Input, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	r.Shuffle(len(in.Nodes), func(i, j int) { in.Nodes[i], in.Nodes[j] = in.Nodes[j], in.Nodes[i] })
	r.Shuffle(len(in.Peers), func(i, j int) { in.Peers[i], in.Peers[j] = in.Peers[j], in.Peers[i] })
	r.Shuffle(len(in.Filters), func(i, j int) { in.Filters[i], in.Filters[j] = in.Filters[j], in.Filters[i] })
	r.Shuffle(len(in.Pools), func(i, j int) { in.Pools[i], in.Pools[j] = in.Pools[j], in.Pools[i] })
	r.Shuffle(len(in.Blocks), func(i, j int) { in.Blocks[i], in.Blocks[j] = in.Blocks[j], in.Blocks[i] })
	r.Shuffle(len(in.Services), func(i, j int) { in.Services[i], in.Services[j] = in.Services[j], in.Services[i] })
	r.Shuffle(len(in.Networks), func(i, j int) { in.Networks[i], in.Networks[j] = in.Networks[j], in.Networks[i] })
}

// render writes a plan as the YAML of the objects that come of it, in the form
// of kubectl.
func render(t *testing.T, p *Plan, in Input) []byte {
	t.Helper()
	var out bytes.Buffer
	write := func(v any) {
		t.Helper()
		data, err := yaml.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if out.Len() > 0 {
			out.WriteString("---\n")
		}
		out.Write(data)
	}
	type object struct {
		Kind   string `json:"kind"`
		Name   string `json:"name"`
		Spec   any    `json:"spec,omitempty"`
		Status any    `json:"status,omitempty"`
	}
	for _, name := range p.Nodes() {
		spec, ok := p.Spec(name)
		if !ok {
			t.Fatalf("no spec of node %s", name)
		}
		write(object{Kind: "NodeNetwork", Name: name, Spec: spec})
	}
	usages := Usages(in.Pools, in.Blocks, in.Networks)
	for _, o := range byAge(in.Pools, func(o *v1alpha1.IPPool) *metav1.ObjectMeta { return &o.ObjectMeta }) {
		var conditions []string
		for _, c := range p.Pools[o.Name] {
			conditions = append(conditions, c.Type+" "+line(c))
		}
		u := usages[o.Name]
		write(object{Kind: "IPPool", Name: o.Name, Status: map[string]any{
			"conditions": conditions, "blocks": u.Blocks, "capacity": u.Capacity, "allocated": u.Allocated, "summary": u.Summary,
			"free": u.Free, "addresses": u.Addresses, "left": u.Left,
		}})
	}
	for _, o := range byAge(in.Peers, func(o *v1alpha1.BGPPeer) *metav1.ObjectMeta { return &o.ObjectMeta }) {
		st := p.Peers[o.Name]
		write(object{Kind: "BGPPeer", Name: o.Name, Status: map[string]any{"ready": line(st.Conditions[0]), "nodes": st.Nodes}})
	}
	for _, pr := range p.Problems {
		write(object{Kind: "Problem", Name: pr.Node, Status: pr.Reason + ": " + pr.Message})
	}
	return out.Bytes()
}

func line(c metav1.Condition) string {
	return fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
}

// Every plan of any mixture of nodes must be one that the API accepts: unique
// addresses of sessions, which both ends have of each other.
func TestMeshIsSymmetric(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 7))
		var in Input
		for i := range 12 {
			n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%02d", i)}}
			if r.IntN(3) > 0 {
				n.Status.Addresses = append(n.Status.Addresses, internalIP(fmt.Sprintf("10.0.0.%d", r.IntN(14))))
			}
			if r.IntN(3) > 0 {
				n.Status.Addresses = append(n.Status.Addresses, internalIP(fmt.Sprintf("fd00::%x", r.IntN(14))))
			}
			in.Nodes = append(in.Nodes, n)
		}
		p := Make(in)
		ids := map[string]string{}
		for _, name := range p.Nodes() {
			spec, _ := p.Spec(name)
			if other := ids[spec.RouterID]; other != "" {
				t.Fatalf("seed %d: %s and %s have the router ID %s", seed, name, other, spec.RouterID)
			}
			ids[spec.RouterID] = name
			seen := map[string]bool{}
			for _, s := range spec.Sessions {
				if seen[s.PeerAddress] {
					t.Fatalf("seed %d: %s has two sessions with %s", seed, name, s.PeerAddress)
				}
				seen[s.PeerAddress] = true
				back, _ := p.Spec(s.Name)
				if !hasSession(back, name, spec.Addresses, netip.MustParseAddr(s.PeerAddress).Is4()) {
					t.Fatalf("seed %d: %s speaks with %s, but not the other way round", seed, name, s.Name)
				}
			}
		}
	}
}

func hasSession(spec v1alpha1.NodeNetworkSpec, name string, addrs []string, v4 bool) bool {
	for _, s := range spec.Sessions {
		for _, a := range addrs {
			if s.Name == name && s.PeerAddress == a && netip.MustParseAddr(a).Is4() == v4 {
				return true
			}
		}
	}
	return false
}

func internalIP(a string) corev1.NodeAddress {
	return corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a}
}

func TestHashRouterID(t *testing.T) {
	valid := 0
	for i := range 5000 {
		id, ok := hashRouterID(fmt.Sprintf("node-%d", i), 0)
		if !ok {
			continue
		}
		valid++
		if b := id.As4(); b[0] == 0 || b[0] == 127 || b[0] >= 224 {
			t.Fatalf("%s is no unicast address of a router", id)
		}
	}
	if valid < 4000 {
		t.Errorf("%d of 5000 hashes are valid, want about 223/256 of them", valid)
	}
}

// Two nodes without IPv4 whose names have the same hash still get two IDs, and
// the older one keeps its own.
func TestRouterIDCollision(t *testing.T) {
	v6 := []netip.Addr{netip.MustParseAddr("fd00::1")}
	alone := []*node{{name: "a", addrs: v6}}
	assignRouterIDs(alone)
	twins := []*node{{name: "a", addrs: v6}, {name: "a", addrs: v6}}
	assignRouterIDs(twins)
	if twins[0].routerID != alone[0].routerID {
		t.Errorf("the older node's ID changed from %s to %s", alone[0].routerID, twins[0].routerID)
	}
	if twins[0].routerID == twins[1].routerID {
		t.Errorf("both nodes have the ID %s", twins[0].routerID)
	}
}

func TestSpecOfUnknownNode(t *testing.T) {
	if spec, ok := Make(Input{}).Spec("nobody"); ok {
		t.Errorf("Spec(nobody) = %+v, want none", spec)
	}
}

func TestCapacity(t *testing.T) {
	tests := []struct {
		cidr     string
		size     int32
		reserved []string
		want     int64
		shown    string
	}{
		{"172.25.0.0/16", 26, nil, 1024, "1024"},
		{"172.25.0.0/26", 26, nil, 1, "1"},
		{"172.25.0.0/16", 26, []string{"172.25.0.0/28"}, 1024, "1024"},
		{"172.25.0.0/16", 26, []string{"172.25.0.0/24", "172.25.0.64/26", "172.25.9.0/26"}, 1019, "1019"},
		{"172.25.0.0/16", 26, []string{"172.25.1.0/24", "172.25.1.0/24"}, 1020, "1020"},
		{"172.25.0.0/16", 26, []string{"172.25.0.0/16"}, 0, "0"},
		{"fd00:25::/64", 122, nil, 1 << 58, "2^58"},
		{"fd00:25::/48", 122, nil, 1<<63 - 1, "2^74"},
	}
	for _, tt := range tests {
		obj := &v1alpha1.IPPool{Spec: v1alpha1.IPPoolSpec{CIDR: tt.cidr, BlockSize: &tt.size, ReservedCIDRs: tt.reserved}}
		pl, err := parsePool(obj)
		if err != nil {
			t.Fatal(err)
		}
		if n, shown := pl.capacity(); n != tt.want || shown != tt.shown {
			t.Errorf("capacity of %s in /%d without %v = %d, %q, want %d, %q", tt.cidr, tt.size, tt.reserved, n, shown, tt.want, tt.shown)
		}
	}
}

// BenchmarkMake plans 500 nodes in racks of 20, with two routers each: a mesh,
// nodes without sessions, and nodes on their way from these to the mesh, where
// each session is looked at.
func BenchmarkMake(b *testing.B) {
	none := &v1alpha1.BGPConfig{Spec: v1alpha1.BGPConfigSpec{Topology: v1alpha1.TopologyNone}}
	b.Run("Mesh", func(b *testing.B) { benchmarkMake(b, largeInput()) })
	b.Run("None", func(b *testing.B) {
		in := largeInput()
		in.Config = none
		benchmarkMake(b, in)
	})
	b.Run("change", func(b *testing.B) {
		in := largeInput()
		p := Make(in)
		for _, name := range p.Nodes() {
			spec, _ := p.Spec(name)
			spec.BlocksFromAPI = true
			nn := v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: name, Generation: 1}, Spec: spec}
			nn.Status.ObservedGeneration = 1
			for _, s := range spec.Sessions {
				nn.Status.Sessions = append(nn.Status.Sessions, v1alpha1.SessionStatus{Kind: s.Kind, PeerAddress: s.PeerAddress, State: established})
			}
			in.Networks = append(in.Networks, nn)
		}
		benchmarkMake(b, in)
	})
}

func benchmarkMake(b *testing.B, in Input) {
	b.Helper()
	b.ReportAllocs()
	for b.Loop() {
		p := Make(in)
		for _, n := range p.Nodes() {
			if _, ok := p.Spec(n); !ok {
				b.Fatal("no spec")
			}
		}
	}
}

func largeInput() Input {
	var in Input
	for i := range 500 {
		in.Nodes = append(in.Nodes, corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%04d", i), Labels: map[string]string{"rack": fmt.Sprint(i / 20)}},
			Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{internalIP(fmt.Sprintf("10.0.%d.%d", i/250, i%250+1))}},
		})
	}
	for i := range 50 {
		in.Peers = append(in.Peers, v1alpha1.BGPPeer{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("tor%02d", i)},
			Spec: v1alpha1.BGPPeerSpec{
				PeerAddress: fmt.Sprintf("10.1.0.%d", i+1), PeerASN: 65000,
				NodeSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"rack": fmt.Sprint(i / 2)}},
			},
		})
	}
	return in
}
