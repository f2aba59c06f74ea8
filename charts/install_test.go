package charts_test

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/internal/apitest"
)

// TestInstall has Helm install the chart into an API server that knows nothing of
// Godwit, change a setting, and take it away again.
func TestInstall(t *testing.T) {
	cfg := apitest.StartBare(t)
	access := []string{"--kubeconfig", apitest.Kubeconfig(t, cfg)}
	s := apitest.Scheme(t)
	if err := clientgoscheme.AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	api, err := client.New(cfg, client.Options{Scheme: s})
	if err != nil {
		t.Fatal(err)
	}
	pool := []string{"--set", "pools[0].name=pods,pools[0].cidr=172.25.0.0/16"}
	run := func(args ...string) string {
		t.Helper()
		out, err := helm(t, append(args, access...)...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	get := func(name string, o client.Object) error {
		key := client.ObjectKey{Name: name}
		if _, is := o.(*appsv1.DaemonSet); is {
			key.Namespace = "godwit-system"
		}
		return api.Get(t.Context(), key, o)
	}

	out := run(append([]string{"install", "godwit", chart, "--set", "bgp.asNumber=64600"}, pool...)...)
	if !strings.Contains(out, "kubectl get nodenetworks") || strings.Contains(out, "no pod starts without one") {
		t.Errorf("helm install says:\n%s", out)
	}
	var p v1alpha1.IPPool
	if err := get("pods", &p); err != nil || p.Spec.CIDR != "172.25.0.0/16" {
		t.Fatalf("the pool is %+v (%v)", p.Spec, err)
	}
	var bgp v1alpha1.BGPConfig
	if err := get("default", &bgp); err != nil || bgp.Spec.ASNumber != 64600 {
		t.Fatalf("the BGPConfig is %+v (%v)", bgp.Spec, err)
	}
	var ns corev1.Namespace
	if err := get("godwit-system", &ns); err != nil || ns.Labels["pod-security.kubernetes.io/enforce"] != "privileged" {
		t.Fatalf("the namespace has the labels %v (%v)", ns.Labels, err)
	}
	for _, u := range template(t) {
		if u.GetKind() == "CustomResourceDefinition" {
			continue // Helm has no part in them after the install
		}
		have := &unstructured.Unstructured{}
		have.SetGroupVersionKind(u.GroupVersionKind())
		if err := api.Get(t.Context(), client.ObjectKeyFromObject(u), have); err != nil {
			t.Errorf("after the install: %v", err)
		}
	}

	run("upgrade", "godwit", chart, "--set", "agent.metricsAddress=:9471")
	var agents appsv1.DaemonSet
	if err := get("godwit-agent", &agents); err != nil {
		t.Fatal(err)
	}
	if args := agents.Spec.Template.Spec.Containers[0].Args; !slices.Contains(args, "--metrics-address=:9471") {
		t.Errorf("after the upgrade the agent's arguments are %v", args)
	}
	if err := get("pods", &p); err != nil || !p.DeletionTimestamp.IsZero() {
		t.Errorf("the pool, which the values don't name any more, has not stayed: %v", err)
	}
	if err := get("default", &bgp); !apierrors.IsNotFound(err) {
		t.Errorf("the BGPConfig, which the values don't name any more, is there: %v", err)
	}

	out = run("upgrade", "godwit", chart, "--set", "uninstall=true")
	if !strings.Contains(out, "takes away what the agents left") {
		t.Errorf("helm upgrade to an uninstall says:\n%s", out)
	}
	if err := get("godwit-agent", &agents); err != nil || !slices.Equal(agents.Spec.Template.Spec.Containers[0].Command, []string{"/bin/godwit-agent", "uninstall"}) {
		t.Errorf("the agents have not become an uninstall: %v", err)
	}
	run("uninstall", "godwit")
	for _, u := range template(t) {
		if kind := u.GetKind(); kind == "CustomResourceDefinition" || kind == "Namespace" {
			continue // the first stay; nobody here carries out a namespace's deletion
		}
		have := &unstructured.Unstructured{}
		have.SetGroupVersionKind(u.GroupVersionKind())
		if err := api.Get(t.Context(), client.ObjectKeyFromObject(u), have); !apierrors.IsNotFound(err) && have.GetDeletionTimestamp() == nil {
			t.Errorf("after the uninstall %s %s is there (%v)", u.GetKind(), u.GetName(), err)
		}
	}

	// What the schema can't judge the API server does.
	if out, err := helm(t, append([]string{"install", "again", chart, "--set", "namespace.name=again,pools[0].name=six,pools[0].cidr=fd00::/48,pools[0].encapsulation=IPIP"}, access...)...); err == nil || !strings.Contains(out, "IPIP carries IPv4 only") {
		t.Errorf("IPIP for an IPv6 pool: %v: %s", err, out)
	}
	crd := &unstructured.Unstructured{}
	crd.SetAPIVersion("apiextensions.k8s.io/v1")
	crd.SetKind("CustomResourceDefinition")
	if err := get("ippools.godwit.dev", crd); err != nil {
		t.Errorf("the CRDs, and with them the pools, have not stayed: %v", err)
	}
}
