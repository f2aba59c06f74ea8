package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/e2e/controlplane"
	"github.com/godwit-net/godwit/e2e/topology"
)

// The names of the lab's pools.
const (
	PoolName   = "default"
	PoolNameV6 = "default-ipv6"
)

// PoolOf returns the name of the lab's pool of a family.
func PoolOf(f topology.Family) string {
	if f == topology.IPv6 {
		return PoolNameV6
	}
	return PoolName
}

// subnetLabel is the label of nodes with the subnet that they are in, by which
// the routers' sessions choose theirs.
const subnetLabel = corev1.LabelTopologyZone

// passwordSecret is the name of the Secret that the project's manifests let the
// agents read.
const passwordSecret = "bgp-passwords" // #nosec G101 -- the name of a Secret

// hostFilter is the name of the filter for the routers' announcements.
const hostFilter = "hosts"

// API returns an administrator's client.
func (l *Lab) API() (client.Client, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.api != nil {
		return l.api, nil
	}
	cfg, err := l.CP.Config("lab", controlplane.AdminGroup)
	if err != nil {
		return nil, err
	}
	s := runtime.NewScheme()
	if err := errors.Join(scheme.AddToScheme(s), v1alpha1.AddToScheme(s)); err != nil {
		return nil, err
	}
	c, err := client.New(cfg, client.Options{Scheme: s})
	if err != nil {
		return nil, err
	}
	l.api = c
	return c, nil
}

// createObjects puts what a person would into the API, and what kubelets would.
func (l *Lab) createObjects(ctx context.Context) error {
	api, err := l.API()
	if err != nil {
		return err
	}
	if err := controlplane.ApplyFolder(ctx, api, filepath.Join(l.ConfigDir, "crd"), "godwit-lab"); err != nil {
		return err
	}
	objects := []client.Object{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: SystemNamespace}}}
	for _, n := range l.Top.Nodes {
		objects = append(objects, node(n))
	}
	objects = append(objects, l.passwords())
	for _, o := range objects {
		if err := api.Create(ctx, o); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create %T %s: %w", o, o.GetName(), err)
		}
	}
	// Agents and controller get the rights that the project's manifests give them, and
	// no more.
	if err := controlplane.ApplyFolder(ctx, api, filepath.Join(l.ConfigDir, "rbac"), "godwit-lab"); err != nil {
		return err
	}
	if err := l.createGodwitObjects(ctx, api); err != nil {
		return err
	}
	for _, n := range l.Top.Nodes {
		if err := reportNode(ctx, api, n); err != nil {
			return err
		}
	}
	return nil
}

// createGodwitObjects creates what configures Godwit. The API server may need
// a moment until it serves a kind whose definition is new.
func (l *Lab) createGodwitObjects(ctx context.Context, api client.Client) error {
	for _, o := range l.godwitObjects() {
		err := l.poll(ctx, 20*time.Second, fmt.Sprintf("create %T %s", o, o.GetName()), func(ctx context.Context) error {
			err := api.Create(ctx, o)
			if apierrors.IsAlreadyExists(err) {
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) godwitObjects() []client.Object {
	named := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }
	objects := []client.Object{
		&v1alpha1.BGPConfig{
			ObjectMeta: named(v1alpha1.BGPConfigName),
			Spec: v1alpha1.BGPConfigSpec{
				ASNumber: int64(l.Top.NodeASN), Topology: l.Options.BGP, GracefulRestart: l.gracefulRestart(),
			},
		},
	}
	if l.Options.VXLANPort != 0 || l.Options.VNI != 0 {
		objects = append(objects, &v1alpha1.NetworkConfig{
			ObjectMeta: named(v1alpha1.NetworkConfigName),
			Spec:       v1alpha1.NetworkConfigSpec{VXLAN: &v1alpha1.VXLANConfig{Port: l.Options.port(), VNI: l.Options.vni()}},
		})
	}
	filter := &v1alpha1.BGPFilter{ObjectMeta: named(hostFilter)}
	for _, f := range l.Options.Family.Each() {
		objects = append(objects, &v1alpha1.IPPool{
			ObjectMeta: named(PoolOf(f)),
			Spec: v1alpha1.IPPoolSpec{
				CIDR: l.Top.Pool.Of(f).String(), NATOutgoing: true, Encapsulation: l.Options.EncapsulationOf(f),
			},
		})
		hosts := l.Top.HostRange.Of(f)
		minLen, maxLen := int32(hosts.Bits()), int32(l.Top.Hosts[0].Address.Of(f).Bits())
		filter.Spec.Rules = append(filter.Spec.Rules, v1alpha1.BGPFilterRule{
			CIDR: hosts.String(), MinLength: &minLen, MaxLength: &maxLen, Action: v1alpha1.FilterAccept,
		})
	}
	objects = append(objects, filter)
	for _, f := range l.sessionFamilies() {
		for _, t := range l.Top.ToRs {
			objects = append(objects, l.peer(t, f))
		}
	}
	// Blocks may be assigned before a node asks for one. Here they are, so that every
	// lab has the same addresses.
	for _, n := range l.Top.Nodes {
		for _, b := range n.Block.Each() {
			objects = append(objects, Block(n.Name, b))
		}
	}
	return objects
}

// gracefulRestart is what sessions are told of it; nil: Godwit's default, which
// is on.
func (l *Lab) gracefulRestart() *v1alpha1.GracefulRestart {
	if l.Options.NoGracefulRestart {
		return &v1alpha1.GracefulRestart{Disabled: true}
	}
	return nil
}

// peer is a router as those nodes that are in its subnet are to speak with it.
func (l *Lab) peer(t topology.ToR, f topology.Family) *v1alpha1.BGPPeer {
	peer := &v1alpha1.BGPPeer{
		ObjectMeta: metav1.ObjectMeta{Name: l.sessionName(t.Name, f)},
		Spec: v1alpha1.BGPPeerSpec{
			PeerAddress: t.Address.Of(f).Addr().String(), PeerASN: int64(t.ASN), ImportFilters: []string{hostFilter},
			GracefulRestart: l.gracefulRestart(),
		},
	}
	if l.Options.Subnets > 1 {
		peer.Spec.NodeSelector = &metav1.LabelSelector{MatchLabels: map[string]string{subnetLabel: subnetName(0)}}
	}
	if t.Password != "" {
		peer.Spec.PasswordSecretRef = &v1alpha1.SecretKeyRef{Name: passwordSecret, Key: t.Name}
	}
	return peer
}

func subnetName(subnet int) string { return "subnet" + strconv.Itoa(subnet+1) }

// Block returns the claim of a node to a block of the lab's pool of its family.
func Block(node string, cidr netip.Prefix) *v1alpha1.IPBlock {
	return &v1alpha1.IPBlock{
		ObjectMeta: metav1.ObjectMeta{
			Name:   v1alpha1.IPBlockName(cidr),
			Labels: map[string]string{v1alpha1.NodeLabel: node},
		},
		Spec: v1alpha1.IPBlockSpec{CIDR: cidr.String(), Pool: PoolOf(topology.FamilyOf(cidr.Addr())), NodeName: node},
	}
}

// passwords is the Secret with the passwords of the routers' sessions.
func (l *Lab) passwords() *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: passwordSecret, Namespace: SystemNamespace},
		StringData: map[string]string{},
	}
	for _, t := range l.Top.ToRs {
		if t.Password != "" {
			s.StringData[t.Name] = t.Password
		}
	}
	return s
}

func node(n topology.Node) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: n.Name,
		Labels: map[string]string{
			corev1.LabelHostname: n.Name, corev1.LabelOSStable: "linux", subnetLabel: subnetName(n.Subnet),
		},
	}}
}

// reportNode writes the status that the node's kubelet would.
func reportNode(ctx context.Context, api client.Client, n topology.Node) error {
	var o corev1.Node
	if err := api.Get(ctx, client.ObjectKey{Name: n.Name}, &o); err != nil {
		return err
	}
	o.Status.Addresses = nil
	for _, a := range n.Address.Addrs() {
		o.Status.Addresses = append(o.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
	}
	o.Status.Addresses = append(o.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: n.Name})
	o.Status.Conditions = []corev1.NodeCondition{{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Lab",
		Message:            "the lab has no kubelet",
		LastTransitionTime: metav1.Now(), LastHeartbeatTime: metav1.Now(),
	}}
	if err := api.Status().Update(ctx, &o); err != nil {
		return fmt.Errorf("status of node %s: %w", n.Name, err)
	}
	return nil
}

// AddNode puts a node into the API, as its kubelet would.
func (l *Lab) AddNode(ctx context.Context, n topology.Node) error {
	api, err := l.API()
	if err != nil {
		return err
	}
	if err := api.Create(ctx, node(n)); err != nil {
		return err
	}
	return reportNode(ctx, api, n)
}
