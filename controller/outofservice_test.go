package controller

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// testOutOfService: the claimed address of a node that is out of service is freed
// when nobody hears of it any more, and no other block of the node. Neither the
// taint nor a kubelet that is silent is enough, and nor is silence.
func testOutOfService(t *testing.T, cfg *rest.Config, a api) {
	const delay = time.Second
	c := start(t, cfg, Options{BlockReleaseDelay: delay})
	fixed := pool("fixed", "172.26.0.0/24")
	fixed.Spec.Allocation = v1alpha1.AllocationClaims
	held := block("172.26.0.10/32", "fixed", "n1")
	held.Spec.Pod = &v1alpha1.PodReference{Namespace: "default", Name: "db"}
	a.create(fixed, held, &v1alpha1.IPClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "172-26-0-10"}, Spec: v1alpha1.IPClaimSpec{Address: "172.26.0.10", Namespace: "default"},
	})
	a.create(node("n1", "10.0.0.1", nil), node("n2", "10.0.0.2", nil), node("n3", "10.0.0.3", nil), pool("pods", "172.25.0.0/16"))
	a.create(block("172.25.0.0/26", "pods", "n1"))
	asked := func(want ...string) {
		t.Helper()
		for _, name := range []string{"n2", "n3"} {
			a.planOf(name, fmt.Sprintf("the question about %v", want), func(s v1alpha1.NodeNetworkSpec) bool {
				return len(s.Sessions) == 2 && slices.Equal(s.DepartedBlocks, want)
			})
		}
	}
	answer := func(name string, announced bool) {
		t.Helper()
		report(a, name, func(s *v1alpha1.NodeNetworkStatus) {
			s.ObservedGeneration = 1
			s.DepartedBlocks = []v1alpha1.DepartedBlock{{CIDR: "172.26.0.10/32", Announced: announced}}
		})
	}
	ready := func(status corev1.ConditionStatus) {
		t.Helper()
		n := node("n1", "", nil)
		eventually(t, "the readiness of n1", func() error {
			if err := a.Get(t.Context(), client.ObjectKeyFromObject(n), n); err != nil {
				return err
			}
			n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status}}
			return a.Status().Update(t.Context(), n)
		})
	}
	taint := func(taints ...corev1.Taint) {
		t.Helper()
		change(a, node("n1", "", nil), func(n *corev1.Node) { n.Spec.Taints = taints })
	}
	out := corev1.Taint{Key: corev1.TaintNodeOutOfService, Value: "nodeshutdown", Effect: corev1.TaintEffectNoExecute}
	stays := func(why string) {
		t.Helper()
		for end := time.Now().Add(3 * delay); time.Now().Before(end); time.Sleep(delay / 10) {
			if a.owners()["172.26.0.10/32"] != "n1" {
				t.Fatal("the address was freed: " + why)
			}
		}
	}

	asked()
	answer("n2", false)
	answer("n3", false)
	ready(corev1.ConditionUnknown)
	stays("the node has no taint")
	asked()
	ready(corev1.ConditionTrue)
	taint(out)
	stays("the node is ready")
	asked()
	ready(corev1.ConditionUnknown)
	asked("172.26.0.10/32")
	answer("n2", true)
	stays("n2 hears of it")
	quiet := time.Now()
	answer("n2", false)
	eventually(t, "the address is free", func() error {
		if err := a.Get(t.Context(), client.ObjectKeyFromObject(held), &v1alpha1.IPBlock{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("its block is there: %w", err)
		}
		return nil
	})
	if took := time.Since(quiet); took < delay {
		t.Errorf("freed %s after the last announcement, want at least %s", took, delay)
	}
	a.hasEvent("Node", "n1", "Normal", "ClaimedAddressFreed")
	asked()
	if got := a.owners()["172.25.0.0/26"]; got != "n1" {
		t.Errorf("another block of the node is %q's, want n1's", got)
	}
	if want := []string{"DELETE " + resources + "ipblocks/172-26-0-10-32"}; !slices.Equal(deletions(c.written()), want) {
		t.Errorf("deleted %q, want %q", deletions(c.written()), want)
	}
}
