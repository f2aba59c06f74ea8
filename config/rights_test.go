package config_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/internal/apitest"
)

const (
	system           = "godwit-system"
	controllerPolicy = "ValidatingAdmissionPolicy 'godwit-controller'"
	policy           = "ValidatingAdmissionPolicy 'godwit-agent'" // by which the policy's refusals are told from RBAC's
	roles            = "is forbidden: User"                       // RBAC's
)

// cluster is an API server with Godwit installed, two nodes and their agents'
// pods.
type cluster struct {
	t     *testing.T
	cfg   *rest.Config
	admin client.WithWatch
}

func newCluster(t *testing.T) *cluster {
	cfg := apitest.Start(t)
	s := apitest.Scheme(t)
	if err := clientgoscheme.AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	admin, err := client.NewWithWatch(cfg, client.Options{Scheme: s})
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t, cfg, admin}
	install(t, admin)
	for _, n := range []string{"a", "b"} {
		c.create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n}})
		c.create(&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "agent-" + n},
			Spec: corev1.PodSpec{
				NodeName: n, ServiceAccountName: "godwit-agent",
				Containers: []corev1.Container{{Name: "agent", Image: "godwit"}},
			},
		})
		c.create(&v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: n}})
	}
	for _, name := range []string{"bgp-passwords", "other"} {
		c.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: name}, StringData: map[string]string{"key": "word"}})
	}
	c.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bgp-passwords"}})
	return c
}

func (c *cluster) create(o client.Object) {
	c.t.Helper()
	if err := c.admin.Create(c.t.Context(), o); err != nil {
		c.t.Fatalf("create %T %s: %v", o, o.GetName(), err)
	}
}

// token returns a client of a service account by a token as kubelet asks for it:
// bound to an object, or to none.
func (c *cluster) token(account string, bound client.Object, kind string) client.WithWatch {
	c.t.Helper()
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: account}}
	req := &authenticationv1.TokenRequest{}
	if bound != nil {
		if err := c.admin.Get(c.t.Context(), client.ObjectKeyFromObject(bound), bound); err != nil {
			c.t.Fatal(err)
		}
		req.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: kind, Name: bound.GetName(), UID: bound.GetUID()}
	}
	if err := c.admin.SubResource("token").Create(c.t.Context(), sa, req); err != nil {
		c.t.Fatalf("token of %s: %v", account, err)
	}
	cfg := rest.AnonymousClientConfig(c.cfg)
	cfg.BearerToken, cfg.QPS = req.Status.Token, -1
	user, err := client.NewWithWatch(cfg, client.Options{Scheme: c.admin.Scheme()})
	if err != nil {
		c.t.Fatal(err)
	}
	return user
}

func (c *cluster) agentOf(node string) client.WithWatch {
	return c.token("godwit-agent", &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "agent-" + node}}, "Pod")
}

// attempt is something that somebody tries.
type attempt struct {
	name string
	by   string // whose refusal it meets: policy or roles
	do   func(context.Context) error
}

// refused tries all attempts and holds each to be refused by whom it names.
func refused(t *testing.T, attempts []attempt) {
	for _, a := range attempts {
		t.Run(a.name, func(t *testing.T) {
			err := a.do(t.Context())
			switch {
			case err == nil:
				t.Error("it was not refused")
			case !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), a.by):
				t.Errorf("refused by %v, want %q", err, a.by)
			default:
				t.Log(err)
			}
		})
	}
}

func block(cidr, node string) *v1alpha1.IPBlock {
	return &v1alpha1.IPBlock{
		ObjectMeta: metav1.ObjectMeta{
			Name:   strings.NewReplacer(".", "-", "/", "-").Replace(cidr),
			Labels: map[string]string{v1alpha1.NodeLabel: node},
		},
		Spec: v1alpha1.IPBlockSpec{CIDR: cidr, Pool: "pods", NodeName: node},
	}
}

func networkOf(node string) *v1alpha1.NodeNetwork {
	return &v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: node}}
}

func statusPatch() client.Patch {
	return client.RawPatch(types.MergePatchType, []byte(`{"status":{"agentVersion":"stolen"}}`))
}

func event(name, kind, about string) *corev1.Event {
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: "default", Name: name},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: kind, Name: about},
		Reason:         "Test", Message: "m", Type: corev1.EventTypeNormal,
	}
}

// TestRights holds what the service accounts may do and what they may not, with
// the manifests and tokens that a cluster has.
func TestRights(t *testing.T) {
	c := newCluster(t)
	c.create(block("172.25.0.64/26", "b"))
	c.create(event("of-b", "Node", "b"))
	// A policy is in force some time after it was made.
	unbound := c.token("godwit-agent", nil, "")
	eventually(t, "the policy comes into force", func(ctx context.Context) error {
		err := unbound.Create(ctx, block("172.25.9.0/26", "a"), client.DryRunAll)
		if err == nil || !strings.Contains(err.Error(), "must be bound") {
			return fmt.Errorf("a claim by an unbound token: %w", errors.Join(err, errors.New("not refused by the policy")))
		}
		return nil
	})
	t.Run("agent's work", func(t *testing.T) { testAgentsWork(t, c) })
	t.Run("stolen agent's token", func(t *testing.T) { refused(t, stolen(c.agentOf("a"))) })
	t.Run("token without a node", func(t *testing.T) { refused(t, withoutNode(c.token("godwit-agent", nil, ""))) })
	t.Run("controller", func(t *testing.T) { refused(t, controllerAttempts(c.token("godwit-controller", nil, ""))) })
	t.Run("controller and pools", func(t *testing.T) { testControllersPools(t, c) })
	c.unharmed()
}

// testAgentsWork does what agents do, of two nodes: it must be allowed.
func testAgentsWork(t *testing.T, c *cluster) {
	for _, who := range []struct {
		name, node string
		agent      client.WithWatch
	}{
		{"agent of a", "a", c.agentOf("a")},
		{"agent of a whose token is bound to the node", "a", c.token("godwit-agent", &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, "Node")},
		{"agent of b", "b", c.agentOf("b")},
	} {
		agent, node := who.agent, who.node
		own := block("172.25.1.0/26", node)
		said := event("of-agent-"+node, "Node", node)
		var secret corev1.Secret
		var all v1alpha1.NodeNetworkList
		var blocks v1alpha1.IPBlockList
		held := holding(node)
		ctx := t.Context()
		for _, step := range []struct {
			name string
			err  func() error
		}{
			{"claim a block", func() error { return agent.Create(ctx, own) }},
			{"list blocks", func() error { return agent.List(ctx, &blocks) }},
			{"give it back", func() error { return agent.Delete(ctx, own) }},
			{"read a claim", func() error {
				return client.IgnoreNotFound(agent.Get(ctx, client.ObjectKeyFromObject(claim()), claim()))
			}},
			{"find a pod's claims", func() error {
				return agent.List(ctx, &v1alpha1.IPClaimList{}, client.MatchingFields{"spec.namespace": "default", "spec.podName": "web-0"})
			}},
			{"have a claimed address", func() error { return agent.Create(ctx, held) }},
			{"give it up", func() error { return agent.Delete(ctx, held) }},
			{"read plans", func() error { return agent.List(ctx, &all) }},
			{"report", func() error { return agent.Status().Patch(ctx, networkOf(node), statusPatch()) }},
			{"read the Secret of the passwords", func() error {
				return agent.Get(ctx, client.ObjectKey{Namespace: system, Name: "bgp-passwords"}, &secret)
			}},
			{"tell of it", func() error { return agent.Create(ctx, said) }},
			{"tell of it again", func() error {
				return agent.Patch(ctx, said, client.RawPatch(types.MergePatchType, []byte(`{"count":2}`)))
			}},
			{"clean up", func() error { return c.admin.Delete(ctx, said) }},
		} {
			if err := step.err(); err != nil {
				t.Errorf("%s: %s: %v", who.name, step.name, err)
			}
		}
	}
}

func claim() *v1alpha1.IPClaim {
	return &v1alpha1.IPClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "172-26-0-10"},
		Spec:       v1alpha1.IPClaimSpec{Address: "172.26.0.10", Namespace: "default", PodName: "web-0"},
	}
}

// holding is a node's claim to have the address of claim.
func holding(node string) *v1alpha1.IPBlock {
	b := block("172.26.0.10/32", node)
	b.Spec.Pod = &v1alpha1.PodReference{Namespace: "default", Name: "web-0"}
	return b
}

// stolen is what whoever has the token of the agent of node a may try.
func stolen(thief client.WithWatch) []attempt {
	labelled := block("172.25.2.0/26", "a")
	labelled.Labels[v1alpha1.NodeLabel] = "b"
	kept := block("172.25.2.64/26", "a")
	kept.Finalizers = []string{"example.com/forever"}
	owned := block("172.25.2.128/26", "a")
	owned.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "b", UID: "1"}}
	relabel := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"godwit.dev/node":"a"}}}`))
	respec := client.RawPatch(types.MergePatchType, []byte(`{"spec":{"nodeName":"a"}}`))
	attempts := []attempt{
		{"claim an address for b's pod", policy, func(ctx context.Context) error { return thief.Create(ctx, holding("b")) }},
		{"say who has a claim", roles, func(ctx context.Context) error {
			return thief.Status().Patch(ctx, claim(), client.RawPatch(types.MergePatchType, []byte(`{"status":{"nodeName":"a"}}`)))
		}},
		{"claim for b", policy, func(ctx context.Context) error { return thief.Create(ctx, block("172.25.2.192/26", "b")) }},
		{"claim under the label of b", policy, func(ctx context.Context) error { return thief.Create(ctx, labelled) }},
		{"claim for good", policy, func(ctx context.Context) error { return thief.Create(ctx, kept) }},
		{"claim for an owner", policy, func(ctx context.Context) error { return thief.Create(ctx, owned) }},
		{"free a block of b", policy, func(ctx context.Context) error { return thief.Delete(ctx, block("172.25.0.64/26", "b")) }},
		{"free all blocks", roles, func(ctx context.Context) error { return thief.DeleteAllOf(ctx, &v1alpha1.IPBlock{}) }},
		{"take a block of b", roles, func(ctx context.Context) error { return thief.Patch(ctx, block("172.25.0.64/26", "b"), respec) }},
		{"relabel a block of b", roles, func(ctx context.Context) error { return thief.Patch(ctx, block("172.25.0.64/26", "b"), relabel) }},
		{"status of b", policy, func(ctx context.Context) error { return thief.Status().Patch(ctx, networkOf("b"), statusPatch()) }},
		{"replace the status of b", roles, func(ctx context.Context) error { return thief.Status().Update(ctx, networkOf("b")) }},
		{"event on b", policy, func(ctx context.Context) error { return thief.Create(ctx, event("forged", "Node", "b")) }},
		{"event on a pod", policy, func(ctx context.Context) error { return thief.Create(ctx, event("forged", "Pod", "a")) }},
		{"change an event of b", policy, func(ctx context.Context) error {
			return thief.Patch(ctx, event("of-b", "Node", "b"), client.RawPatch(types.MergePatchType, []byte(`{"message":"forged"}`)))
		}},
		{"token of another agent", roles, func(ctx context.Context) error {
			sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "godwit-agent"}}
			return thief.SubResource("token").Create(ctx, sa, &authenticationv1.TokenRequest{})
		}},
		{"pod", roles, func(ctx context.Context) error {
			return thief.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}})
		}},
		{"more rights", roles, func(ctx context.Context) error {
			return thief.Create(ctx, &rbacv1.ClusterRoleBinding{
				ObjectMeta: metav1.ObjectMeta{Name: "more"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
			})
		}},
		{"node a", roles, func(ctx context.Context) error {
			return thief.Patch(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, relabel)
		}},
	}
	for _, node := range []string{"a", "b"} {
		attempts = append(
			attempts,
			attempt{"plan of " + node, roles, func(ctx context.Context) error { return thief.Patch(ctx, networkOf(node), respec) }},
			attempt{"delete the plan of " + node, roles, func(ctx context.Context) error { return thief.Delete(ctx, networkOf(node)) }},
		)
	}
	attempts = append(attempts, attempt{"new plan", roles, func(ctx context.Context) error { return thief.Create(ctx, networkOf("c")) }})
	return append(append(attempts, secrets(thief)...), settings(thief)...)
}

// secrets are attempts to read Secrets that no plan can name.
func secrets(user client.WithWatch) []attempt {
	get := func(namespace, name string) func(context.Context) error {
		return func(ctx context.Context) error {
			return user.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &corev1.Secret{})
		}
	}
	return []attempt{
		{"another Secret", roles, get(system, "other")},
		{"a Secret of another namespace", roles, get("kube-system", "bgp-passwords")},
		{"list Secrets", roles, func(ctx context.Context) error {
			return user.List(ctx, &corev1.SecretList{}, client.InNamespace(system))
		}},
		{"list all Secrets", roles, func(ctx context.Context) error { return user.List(ctx, &corev1.SecretList{}) }},
		{"watch Secrets", roles, func(ctx context.Context) error {
			w, err := user.Watch(ctx, &corev1.SecretList{}, client.InNamespace(system))
			if err == nil {
				w.Stop()
			}
			return err
		}},
		{"change the Secret of the passwords", roles, func(ctx context.Context) error {
			s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "bgp-passwords"}}
			return user.Patch(ctx, s, client.RawPatch(types.MergePatchType, []byte(`{"stringData":{"key":"other"}}`)))
		}},
	}
}

// settings are attempts to change what people configure.
func settings(user client.WithWatch) []attempt {
	var attempts []attempt
	for _, o := range []client.Object{
		&v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Spec: v1alpha1.IPPoolSpec{CIDR: "10.0.0.0/16"}},
		claim(),
		&v1alpha1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: "x"}},
		&v1alpha1.BGPFilter{ObjectMeta: metav1.ObjectMeta{Name: "x"}},
		&v1alpha1.BGPConfig{ObjectMeta: metav1.ObjectMeta{Name: "default"}},
		&v1alpha1.NetworkConfig{ObjectMeta: metav1.ObjectMeta{Name: "default"}},
	} {
		kind := strings.TrimPrefix(fmt.Sprintf("%T", o), "*v1alpha1.")
		attempts = append(
			attempts,
			attempt{"create " + kind, roles, func(ctx context.Context) error { return user.Create(ctx, o) }},
			attempt{"change " + kind, roles, func(ctx context.Context) error {
				return user.Patch(ctx, o, client.RawPatch(types.MergePatchType, []byte(`{"spec":{}}`)))
			}},
			attempt{"delete " + kind, roles, func(ctx context.Context) error { return user.Delete(ctx, o) }},
		)
	}
	return attempts
}

// withoutNode is what a token that names no node can't do.
func withoutNode(user client.WithWatch) []attempt {
	return []attempt{
		{"claim", policy, func(ctx context.Context) error { return user.Create(ctx, block("172.25.3.0/26", "a")) }},
		{"free", policy, func(ctx context.Context) error { return user.Delete(ctx, block("172.25.0.64/26", "b")) }},
		{"status", policy, func(ctx context.Context) error { return user.Status().Patch(ctx, networkOf("a"), statusPatch()) }},
		{"event", policy, func(ctx context.Context) error { return user.Create(ctx, event("forged", "Node", "a")) }},
	}
}

// controllerAttempts are what the controller needs not, and may not.
func controllerAttempts(user client.WithWatch) []attempt {
	// Pools and claims it may patch, as far as testControllersPools holds.
	people := slices.DeleteFunc(settings(user), func(a attempt) bool { return a.name == "change IPPool" || a.name == "change IPClaim" })
	return append(append([]attempt{
		{"claim", roles, func(ctx context.Context) error { return user.Create(ctx, block("172.25.4.0/26", "a")) }},
		{"status of a node's network", roles, func(ctx context.Context) error { return user.Status().Patch(ctx, networkOf("a"), statusPatch()) }},
		{"the Secret of the passwords", roles, func(ctx context.Context) error {
			return user.Get(ctx, client.ObjectKey{Namespace: system, Name: "bgp-passwords"}, &corev1.Secret{})
		}},
		{"pods", roles, func(ctx context.Context) error { return user.List(ctx, &corev1.PodList{}) }},
		{"delete a node", roles, func(ctx context.Context) error {
			return user.Delete(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
		}},
	}, secrets(user)...), people...)
}

// testControllersPools holds the controller to the finalizers of pools and claims.
func testControllersPools(t *testing.T, c *cluster) {
	user := c.token("godwit-controller", nil, "")
	patch := func(body string, opts ...client.PatchOption) func(context.Context) error {
		return func(ctx context.Context) error {
			pool := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "people"}}
			return user.Patch(ctx, pool, client.RawPatch(types.MergePatchType, []byte(body)), opts...)
		}
	}
	c.create(&v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "people"}, Spec: v1alpha1.IPPoolSpec{CIDR: "10.0.0.0/16"}})
	disable := patch(`{"spec":{"disabled":true}}`, client.DryRunAll)
	eventually(t, "the controller's policy comes into force", func(ctx context.Context) error {
		if err := disable(ctx); err == nil || !strings.Contains(err.Error(), controllerPolicy) {
			return fmt.Errorf("not refused by the policy: %w", errors.Join(err, errors.New("a pool was disabled")))
		}
		return nil
	})
	refused(t, []attempt{
		{"disable", controllerPolicy, disable},
		{"label", controllerPolicy, patch(`{"metadata":{"labels":{"a":"b"}}}`)},
		{"annotate", controllerPolicy, patch(`{"metadata":{"annotations":{"a":"b"}}}`)},
	})
	c.create(claim())
	annotate := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"annotations":{"a":"b"}}}`))
	finalize := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":["godwit.dev/held"]}}`))
	refused(t, []attempt{{"annotate a claim", controllerPolicy, func(ctx context.Context) error { return user.Patch(ctx, claim(), annotate) }}})
	if err := user.Patch(t.Context(), claim(), finalize); err != nil {
		t.Errorf("set the finalizer of a claim: %v", err)
	}
	for _, finalizers := range []string{`["godwit.dev/test"]`, `[]`} {
		if err := patch(`{"metadata":{"finalizers":` + finalizers + `}}`)(t.Context()); err != nil {
			t.Errorf("set the finalizers %s: %v", finalizers, err)
		}
	}
}

// unharmed holds that the attempts changed nothing.
func (c *cluster) unharmed() {
	c.t.Helper()
	var blocks v1alpha1.IPBlockList
	if err := c.admin.List(c.t.Context(), &blocks); err != nil {
		c.t.Fatal(err)
	}
	for _, b := range blocks.Items {
		if b.Name != "172-25-0-64-26" || b.Spec.NodeName != "b" || b.Labels[v1alpha1.NodeLabel] != "b" {
			c.t.Errorf("there is the block %s of %s with labels %v", b.Name, b.Spec.NodeName, b.Labels)
		}
	}
	if len(blocks.Items) != 1 {
		c.t.Errorf("there are %d blocks, want the one of b", len(blocks.Items))
	}
	var e corev1.Event
	if err := c.admin.Get(c.t.Context(), client.ObjectKey{Namespace: "default", Name: "of-b"}, &e); err != nil || e.Message != "m" {
		c.t.Errorf("the event of b says %q (%v)", e.Message, err)
	}
}
