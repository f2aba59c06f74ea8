package e2e

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/lab"
)

// testNamespacePools has a namespace choose a pool for its pods. Those of others get
// their addresses as before.
func testNamespacePools(t *testing.T, l *lab.Lab) {
	ctx := deadline(t, 2*time.Minute)
	api, err := l.API()
	if err != nil {
		t.Fatal(err)
	}
	base := census(t, l, "n1")
	m := migration{t: t, l: l, api: api}
	const pool, cidr = "zz-chosen", "172.28.0.0/24" // the last of the pools: nobody takes it without being told
	m.create(pool, cidr)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "choosy", Annotations: map[string]string{v1alpha1.PoolsAnnotation: `["` + pool + `"]`}}}
	if err := api.Create(ctx, namespace); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	m.carriedOut(func(s *v1alpha1.NodeNetworkSpec) bool { return s.NamespacesChoosePools && allocating(s, pool) })
	t.Logf("all nodes ask for what namespaces choose %v after the first one did", time.Since(begin).Round(time.Millisecond))

	chosen, err := l.AddPodIn(ctx, "choosy", "n1", "chosen")
	if err != nil {
		t.Fatal(err)
	}
	if !netip.MustParsePrefix(cidr).Contains(chosen.Address) {
		t.Errorf("a pod of the namespace has %s, want one of %s", chosen.Address, cidr)
	}
	other, err := l.AddPod(ctx, "n1", "other")
	if err != nil {
		t.Fatal(err)
	}
	if netip.MustParsePrefix(cidr).Contains(other.Address) {
		t.Errorf("a pod of another namespace has %s", other.Address)
	}
	// Its block may have been claimed a moment ago.
	eventually(t, 10*time.Second, "the pod is reached from n2", func() error {
		_, err := l.Ping(ctx, "n2-p1", chosen.Address)
		return err
	})

	for _, name := range []string{"chosen", "other"} {
		if err := l.DelPod(ctx, "n1", name); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(
		l.Change(ctx, &corev1.Namespace{}, "choosy", func(o client.Object) { o.SetAnnotations(nil) }),
		api.Delete(ctx, &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: pool}}),
	); err != nil {
		t.Fatal(err)
	}
	m.carriedOut(func(s *v1alpha1.NodeNetworkSpec) bool { return !s.NamespacesChoosePools })
	eventually(t, 60*time.Second, "the pool goes", func() error { return m.gone(pool) })
	base.same(t, l)
	if err := api.Delete(ctx, namespace); err != nil {
		t.Fatal(err)
	}
}
