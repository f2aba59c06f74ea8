package ctl

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// sound is a cluster in which all agrees: nodes n1 to n4 with the blocks
// 172.25.N.0/26 and 172.25.N.64/26, of whose first three addresses are in use,
// and a pod for each of these.
func sound() *addressing {
	o := &addressing{pools: []v1alpha1.IPPool{{
		ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: v1alpha1.IPPoolSpec{CIDR: "172.25.0.0/16"},
	}}}
	for n := 1; n <= 4; n++ {
		node := fmt.Sprintf("n%d", n)
		o.nodes = append(o.nodes, corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}})
		nn := v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: node, Generation: 1}}
		nn.Status.ObservedGeneration = 1
		o.networks = append(o.networks, nn)
		for _, low := range []int{0, 64} {
			o.claim(node, fmt.Sprintf("172.25.%d.%d/26", n, low))
			o.hold(node, fmt.Sprintf("172.25.%d.%d/26", n, low), "0-2")
			for i := range 3 {
				o.pod(node, fmt.Sprintf("172.25.%d.%d", n, low+i))
			}
		}
	}
	o.learn()
	return o
}

func (o *addressing) claim(node, cidr string) {
	o.blocks = append(o.blocks, v1alpha1.IPBlock{
		ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.IPBlockName(netip.MustParsePrefix(cidr))},
		Spec:       v1alpha1.IPBlockSpec{CIDR: cidr, Pool: "default", NodeName: node},
	})
}

func (o *addressing) unclaim(cidr string) {
	o.blocks = slices.DeleteFunc(o.blocks, func(b v1alpha1.IPBlock) bool { return b.Spec.CIDR == cidr })
}

func (o *addressing) network(node string) *v1alpha1.NodeNetwork {
	return &o.networks[slices.IndexFunc(o.networks, func(nn v1alpha1.NodeNetwork) bool { return nn.Name == node })]
}

func (o *addressing) hold(node, cidr, inUse string) {
	nn := o.network(node)
	used, _ := v1alpha1.ParseOffsets(inUse, 64)
	nn.Status.Blocks = append(nn.Status.Blocks, v1alpha1.BlockStatus{CIDR: cidr, Pool: "default", InUse: inUse, Allocated: int32(used.Len())})
}

func (o *addressing) drop(node, cidr string) {
	nn := o.network(node)
	nn.Status.Blocks = slices.DeleteFunc(nn.Status.Blocks, func(b v1alpha1.BlockStatus) bool { return b.CIDR == cidr })
}

func (o *addressing) pod(node, address string) *corev1.Pod {
	o.pods = append(o.pods, corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "pod-" + address},
		Spec:       corev1.PodSpec{NodeName: node},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: address}}},
	})
	return &o.pods[len(o.pods)-1]
}

func (o *addressing) podOf(address string) *corev1.Pod {
	return &o.pods[slices.IndexFunc(o.pods, func(p corev1.Pod) bool { return p.Status.PodIPs[0].IP == address })]
}

// learn makes every node know what the others hold.
func (o *addressing) learn() {
	for i := range o.networks {
		count, digest := 0, uint64(0)
		for j := range o.networks {
			for _, b := range o.networks[j].Status.Blocks {
				if i != j {
					count++
					digest ^= v1alpha1.BlockDigest(netip.MustParsePrefix(b.CIDR))
				}
			}
		}
		l := v1alpha1.NewLearnedBlocks(count, digest)
		o.networks[i].Status.Learned = &l
	}
}

// forget makes a node not know a block.
func (o *addressing) forget(node, cidr string) { o.toggle(node, cidr, -1) }

func (o *addressing) toggle(node, cidr string, more int32) {
	l := o.network(node).Status.Learned
	var digest uint64
	_, _ = fmt.Sscanf(l.Digest, "%x", &digest)
	*l = v1alpha1.NewLearnedBlocks(int(l.Count+more), digest^v1alpha1.BlockDigest(netip.MustParsePrefix(cidr)))
}

func TestCompare(t *testing.T) {
	if a := compare(*sound()); len(a.Differences) > 0 || a.Nodes != 4 || a.Blocks != 8 || a.Addresses != 24 || a.Pods != 24 {
		t.Fatalf("a cluster in which all agrees: %+v", a)
	}
	for _, tt := range []struct {
		name string
		do   func(o *addressing)
		want []string // kind, name, node and reason
	}{
		{"a node lost a block", func(o *addressing) {
			o.hold("n1", "172.25.9.0/26", "")
			o.claim("n1", "172.25.9.0/26")
			o.learn()
			o.drop("n1", "172.25.9.0/26")
			o.learn()
		}, []string{"IPBlock 172-25-9-0-26 n1 NotHeld"}},
		{"the API lost a block", func(o *addressing) { o.unclaim("172.25.1.0/26"); o.forget("n2", "172.25.1.0/26") }, []string{
			"IPBlock 172-25-1-0-26  Stray", "IPBlock 172-25-1-0-26 n1 UnknownBlock",
		}},
		{"the API gave a block to another node", func(o *addressing) {
			o.unclaim("172.25.1.0/26")
			o.claim("n2", "172.25.1.0/26")
			for _, n := range []string{"n2", "n3", "n4"} {
				o.forget(n, "172.25.1.0/26")
			}
		}, []string{"IPBlock 172-25-1-0-26 n1 OthersBlock", "IPBlock 172-25-1-0-26 n2 NotHeld"}},
		{"two nodes hold a block", func(o *addressing) {
			o.hold("n2", "172.25.1.0/26", "2-3")
			o.pod("n2", "172.25.1.3")
		}, []string{
			"Address 172.25.1.2 n2 Twice", "IPBlock 172-25-1-0-26 n2 OthersBlock", "IPBlock 172-25-1-0-26 n2 Overlap",
			"Pod default/pod-172.25.1.2 n1 NoRecord",
		}},
		{"a block lies in another", func(o *addressing) {
			o.claim("n2", "172.25.1.32/27")
			o.hold("n2", "172.25.1.32/27", "")
			o.learn()
		}, []string{"IPBlock 172-25-1-32-27 n2 Overlap"}},
		{"a block's node is gone", func(o *addressing) { o.claim("n9", "172.25.9.0/26") }, []string{"IPBlock 172-25-9-0-26 n9 NodeGone"}},
		{"a block's node has no agent", func(o *addressing) {
			o.claim("n9", "172.25.9.0/26")
			o.nodes = append(o.nodes, corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n9"}})
		}, []string{"IPBlock 172-25-9-0-26 n9 NotHeld"}},
		{"a block's pool is gone", func(o *addressing) {
			o.blocks[0].Spec.Pool = "gone"
		}, []string{"IPBlock 172-25-1-0-26 n1 NoPool"}},
		{"claims", func(o *addressing) {
			o.pools = append(o.pools, v1alpha1.IPPool{
				ObjectMeta: metav1.ObjectMeta{Name: "fixed"}, Spec: v1alpha1.IPPoolSpec{CIDR: "172.26.0.0/24", Allocation: v1alpha1.AllocationClaims},
			})
			for i, pod := range []*v1alpha1.PodReference{{Namespace: "default", Name: "web-0"}, {Namespace: "other", Name: "web-0"}, {Namespace: "default", Name: "web-1"}, nil} {
				cidr := fmt.Sprintf("172.26.0.%d/32", i)
				o.claim("n1", cidr)
				o.blocks[len(o.blocks)-1].Spec.Pool, o.blocks[len(o.blocks)-1].Spec.Pod = "fixed", pod
				o.hold("n1", cidr, "")
				o.claims = append(o.claims, v1alpha1.IPClaim{Spec: v1alpha1.IPClaimSpec{Address: fmt.Sprintf("172.26.0.%d", i), Namespace: "default", PodName: "web-0"}})
			}
			o.claims = o.claims[:3]
			o.learn()
		}, []string{"IPBlock 172-26-0-1-32 n1 NoClaim", "IPBlock 172-26-0-2-32 n1 NoClaim", "IPBlock 172-26-0-3-32 n1 NoClaim"}},
		{"an address leaked", func(o *addressing) { o.network("n1").Status.Blocks[0].InUse = "0-2,7" }, []string{"Address 172.25.1.7 n1 NoPod"}},
		{"a live address was freed", func(o *addressing) { o.network("n1").Status.Blocks[0].InUse = "0,2" }, []string{"Pod default/pod-172.25.1.1 n1 NoRecord"}},
		{"two pods have an address", func(o *addressing) {
			p := o.pod("n1", "172.25.1.0")
			p.Name = "other"
		}, []string{"Pod default/other n1 Twice"}},
		{"a pod has an address of another node", func(o *addressing) { o.podOf("172.25.1.0").Spec.NodeName = "n2" }, []string{
			"Pod default/pod-172.25.1.0 n2 NoRecord",
		}},
		{"pods that are done, or go", func(o *addressing) {
			o.pod("n1", "172.25.1.9").Status.Phase = corev1.PodSucceeded
			o.pod("n1", "172.25.1.0").Status.Phase = corev1.PodFailed
			o.pod("n1", "172.25.1.10").DeletionTimestamp = &metav1.Time{}
			o.podOf("172.25.1.1").DeletionTimestamp = &metav1.Time{}
		}, nil},
		{"pods of the host's network, and of others", func(o *addressing) {
			o.pod("n1", "172.25.1.9").Spec.HostNetwork = true
			o.pod("n1", "10.0.0.9")
		}, nil},
		{"one node has not learned a block", func(o *addressing) { o.forget("n2", "172.25.1.0/26") }, []string{"IPBlock 172-25-1-0-26 n1 NotLearned"}},
		{"nobody has learned a block", func(o *addressing) {
			for _, n := range []string{"n2", "n3", "n4"} {
				o.forget(n, "172.25.1.0/26")
			}
		}, []string{"IPBlock 172-25-1-0-26 n1 NotLearned"}},
		{"a node has not learned two blocks of two nodes", func(o *addressing) {
			o.forget("n2", "172.25.1.0/26")
			o.forget("n2", "172.25.3.0/26")
		}, []string{"IPBlock 172-25-1-0-26 n1 NotLearned", "IPBlock 172-25-3-0-26 n3 NotLearned"}},
		{"a node has learned nothing", func(o *addressing) {
			*o.network("n2").Status.Learned = v1alpha1.NewLearnedBlocks(0, 0)
		}, []string{
			"IPBlock 172-25-1-0-26 n1 NotLearned", "IPBlock 172-25-1-64-26 n1 NotLearned",
			"IPBlock 172-25-3-0-26 n3 NotLearned", "IPBlock 172-25-3-64-26 n3 NotLearned",
			"IPBlock 172-25-4-0-26 n4 NotLearned", "IPBlock 172-25-4-64-26 n4 NotLearned",
		}},
		{"a node has learned too few to say which", func(o *addressing) {
			o.forget("n2", "172.25.1.0/26")
			o.forget("n2", "172.25.3.0/26")
			o.forget("n2", "172.25.4.0/26")
		}, []string{"Node n2 n2 OtherBlocks"}},
		{"a node has learned what nobody holds", func(o *addressing) { o.toggle("n2", "172.25.77.0/26", 1) }, []string{"Node n2 n2 OtherBlocks"}},
		{"a node routes as the API tells", func(o *addressing) {
			o.network("n2").Status.BlocksFromAPI = true
			*o.network("n2").Status.Learned = v1alpha1.NewLearnedBlocks(0, 0)
		}, nil},
		{"a drained node's empty block", func(o *addressing) {
			o.claim("n1", "172.25.9.0/26")
			o.hold("n1", "172.25.9.0/26", "")
			o.network("n1").Spec.Draining = true
		}, nil},
		{"an older agent", func(o *addressing) { o.network("n2").Status.Learned = nil }, nil},
		{"what a node says of itself", func(o *addressing) {
			o.network("n1").Status.Differences = []v1alpha1.Difference{{Object: "172.25.1.0", Message: "wrong"}, {Object: "172.25.1.0/26", Message: "wrong"}}
		}, []string{"Address 172.25.1.0 n1 OnNode", "IPBlock 172-25-1-0-26 n1 OnNode"}},
		{"what a node says of another", func(o *addressing) {
			o.network("n1").Status.Sessions = []v1alpha1.SessionStatus{{Name: "n2", Refused: []string{"172.25.77.0/26"}}}
		}, []string{"IPBlock 172-25-77-0-26 n2 Refused"}},
		{"a status that can't be read", func(o *addressing) {
			o.network("n4").Status.Learned.Digest = "x"
			o.hold("n3", "nonsense", "")
			o.network("n1").Status.Blocks[0].InUse = "0-4294967295"
		}, []string{
			"Node n1 n1 Unreadable", "Node n3 n3 Unreadable", "Node n4 n4 Unreadable",
			"Pod default/pod-172.25.1.0 n1 NoRecord", "Pod default/pod-172.25.1.1 n1 NoRecord", "Pod default/pod-172.25.1.2 n1 NoRecord",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := sound()
			tt.do(o)
			a := compare(*o)
			var got []string
			for _, d := range a.Differences {
				got = append(got, strings.Join([]string{d.Kind, d.Name, d.Node, d.Reason}, " "))
				if d.Message == "" || d.Action == "" || strings.Contains(d.Message+d.Action, "%!") || strings.Contains(d.Message, "\n") {
					t.Errorf("%+v does not say what is wrong and what to do, in a line", d)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
				for _, d := range a.Differences {
					t.Logf("%s %s: %s: %s", d.Kind, d.Name, d.Message, d.Action)
				}
			}
		})
	}
}

func TestCheckCommand(t *testing.T) {
	reader := func(o *addressing) []runtime.Object {
		var all []runtime.Object
		for i := range o.nodes {
			all = append(all, &o.nodes[i])
		}
		for i := range o.networks {
			all = append(all, &o.networks[i])
		}
		for i := range o.blocks {
			all = append(all, &o.blocks[i])
		}
		for i := range o.pools {
			all = append(all, &o.pools[i])
		}
		for i := range o.pods {
			all = append(all, &o.pods[i])
		}
		return all
	}
	o := sound()
	good := fake.NewClientBuilder().WithScheme(testScheme(t)).WithRuntimeObjects(reader(o)...).Build()
	o.unclaim("172.25.1.0/26")
	o.network("n2").Status.Blocks[0].InUse = "0-3"
	bad := fake.NewClientBuilder().WithScheme(testScheme(t)).WithRuntimeObjects(reader(o)...).Build()
	stdout, stderr, status := run(good, false, "ipam", "check")
	golden(t, "check.good.txt", stdout)
	if status != 0 || stderr != "" {
		t.Errorf("status %d and stderr %q, want 0 and none", status, stderr)
	}
	for file, args := range map[string][]string{
		"check.bad.txt":  {"ipam", "check", "--settle=0"},
		"check.bad.json": {"ipam", "check", "--settle=1s", "-o", "json"},
	} {
		stdout, stderr, status := run(bad, false, args...)
		golden(t, file, stdout)
		if status != 2 || stderr != "" {
			t.Errorf("status %d and stderr %q, want 2 and none", status, stderr)
		}
	}
	if _, stderr, status := run(good, false, "ipam", "check", "-o", "yaml"); status != 1 || stderr != "error: --output \"yaml\": use json\n" {
		t.Errorf("status %d and stderr %q", status, stderr)
	}
}
