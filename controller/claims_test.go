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

// testClaims: the plans of other nodes follow who has a claimed address by right,
// and the claim says who.
func testClaims(t *testing.T, cfg *rest.Config, a api) {
	start(t, cfg, Options{})
	fixed := pool("fixed", "172.26.0.0/24")
	fixed.Spec.Allocation = v1alpha1.AllocationClaims
	claim := &v1alpha1.IPClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "172-26-0-10"},
		Spec:       v1alpha1.IPClaimSpec{Address: "172.26.0.10", Namespace: "default"},
	}
	a.create(claim, node("n1", "10.0.0.1", nil), node("n2", "10.0.0.2", nil), node("n3", "10.0.0.3", nil))
	is := func(want string) {
		t.Helper()
		a.hasReady(claim, func() []metav1.Condition { return claim.Status.Conditions }, want)
	}
	is("False NoPool: no pool that is in use and has allocation Claims has 172.26.0.10")
	a.create(fixed)
	is("True Free: no pod has the address")

	holding := func(node, namespace string) *v1alpha1.IPBlock {
		b := block("172.26.0.10/32", "fixed", node)
		b.Spec.Pod = &v1alpha1.PodReference{Namespace: namespace, Name: "db"}
		return b
	}
	// ownersAre waits until the plan of n3 lets these nodes announce the address.
	ownersAre := func(want ...string) time.Duration {
		t.Helper()
		began := time.Now()
		a.planOf("n3", fmt.Sprintf("the address of %v", want), func(s v1alpha1.NodeNetworkSpec) bool {
			var got []string
			for _, o := range s.Sessions {
				if slices.Contains(o.Blocks, "172.26.0.10/32") {
					got = append(got, o.Name)
				}
			}
			return slices.Equal(got, want)
		})
		return time.Since(began)
	}
	a.create(holding("n1", "default"))
	ownersAre("n1")
	is("True Held: node n1 has the address for pod default/db")
	if s := claim.Status; s.NodeName != "n1" || s.PodName != "db" || s.Since == nil {
		t.Errorf("the claim's status: %+v", s)
	}
	a.remove(holding("n1", "default"))
	a.create(holding("n2", "default"))
	t.Logf("the plans followed a move to another node after %v", ownersAre("n2").Round(time.Millisecond))
	is("True Held: node n2 has the address for pod default/db")
	a.remove(holding("n2", "default"))
	a.create(holding("n2", "other"))
	ownersAre()
	is("False WrongPod: node n2 has the address for pod other/db, which the claim is not for: other nodes take no route to it from that node")
	a.remove(holding("n2", "other"))
	is("True Free: no pod has the address")

	// A claim in use stays until it is not.
	a.create(holding("n1", "default"))
	is("True Held: node n1 has the address for pod default/db")
	if err := a.Delete(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	change(a, node("n2", "", nil), func(n *corev1.Node) { n.Labels = map[string]string{"a": "b"} }) // one more pass
	ownersAre("n1")
	if err := a.Get(t.Context(), client.ObjectKeyFromObject(claim), claim); err != nil {
		t.Fatalf("the claim of a live pod: %v", err)
	}
	a.remove(holding("n1", "default"))
	eventually(t, "the claim goes", func() error {
		if err := a.Get(t.Context(), client.ObjectKeyFromObject(claim), claim); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
}
