package controller

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// testNamespacesChoose: plans say whether any namespace chooses pools. Of other
// changes of namespaces no plan is written.
func testNamespacesChoose(t *testing.T, cfg *rest.Config, a api) {
	c := start(t, cfg, Options{})
	a.create(node("n1", "10.0.0.1", nil), node("n2", "10.0.0.2", nil), pool("pods", "172.25.0.0/16"))
	choose := func(want bool) {
		t.Helper()
		for _, n := range []string{"n1", "n2"} {
			a.planOf(n, fmt.Sprintf("that namespaces choose pools: %v", want), func(s v1alpha1.NodeNetworkSpec) bool {
				return len(s.Sessions) == 1 && len(s.Pools) == 1 && s.NamespacesChoosePools == want
			})
		}
	}
	namespace := func(name string) *corev1.Namespace {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	}
	annotate := func(name, pools string) {
		change(a, namespace(name), func(n *corev1.Namespace) {
			n.Annotations = map[string]string{v1alpha1.PoolsAnnotation: pools}
		})
	}
	choose(false)
	a.create(namespace("choosy"), namespace("other"))
	annotate("choosy", "pods")
	choose(true)

	plans := func() (written []string) {
		for _, w := range c.written() {
			if strings.Contains(w, "/nodenetworks") {
				written = append(written, w)
			}
		}
		return written
	}
	before := plans()
	annotate("choosy", "pods,more")
	annotate("other", "pods")
	change(a, namespace("other"), func(n *corev1.Namespace) { n.Annotations = nil; n.Labels = map[string]string{"a": "b"} })
	time.Sleep(5 * planSettle)
	if more := plans()[len(before):]; len(more) > 0 {
		t.Errorf("written while another namespace chooses, and no more: %q", more)
	}
	choose(true)
	annotate("choosy", "")
	choose(false)
}
