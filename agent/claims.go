package agent

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/cni"
	"github.com/godwit-net/godwit/ipam"
)

// claimRead is how long the API server has to say whom a claim is for.
const claimRead = 5 * time.Second

// claimsOf finds the claims that a pod asks for and makes sure that they are for
// it. That takes one read of the API for each, or one list where the pod does not
// name them; none for what the node has for this very pod already, as when a
// runtime makes a pod's sandbox anew.
func (a *Agent) claimsOf(ctx context.Context, w wishes, pod cni.Pod) ([]ipam.AddressClaim, error) {
	if pod.Namespace == "" || pod.Name == "" {
		return nil, fmt.Errorf("annotation %s: the container runtime does not say which pod this is", v1alpha1.ClaimAnnotation)
	}
	ctx, cancel := context.WithTimeout(ctx, claimRead)
	defer cancel()
	held := a.addresses.HeldFor(holderOfPod(pod))
	addresses := w.claims
	if w.byPod {
		var err error
		if addresses, err = claimsByPod(ctx, a.o.Client, pod); err != nil && len(held) == 0 {
			return nil, err
		}
		if err != nil { // the API is away, and the pod was here before
			return held, nil
		}
	}
	a.state.mu.Lock()
	pools, lacking := a.state.desired.pools, maps.Clone(a.state.lacking)
	a.state.mu.Unlock()
	claims := make([]ipam.AddressClaim, 0, len(addresses))
	for _, addr := range addresses {
		i := slices.IndexFunc(pools, func(p ipam.Pool) bool { return p.Claims && p.CIDR.Contains(addr) })
		if i < 0 {
			return nil, &ipam.UnusableAddressError{Address: addr, Reason: "no IP pool with allocation Claims that this node was told of has it (see kubectl get ippools)"}
		}
		if err := lacking[pools[i].Name]; err != nil {
			return nil, &ipam.UnusableAddressError{Address: addr, Reason: fmt.Sprintf("IP pool %s gives out no addresses on this node: %v", pools[i].Name, err)}
		}
		claim := ipam.AddressClaim{Address: addr, Pool: pools[i].Name}
		if !w.byPod && !slices.Contains(held, claim) {
			if err := mayClaim(ctx, a.o.Client, addr, pod); err != nil {
				return nil, err
			}
		}
		claims = append(claims, claim)
	}
	return claims, nil
}

// mayClaim reads whether the claim of an address is for a pod.
func mayClaim(ctx context.Context, c client.Reader, addr netip.Addr, pod cni.Pod) error {
	var claim v1alpha1.IPClaim
	name := v1alpha1.IPClaimName(addr)
	err := c.Get(ctx, client.ObjectKey{Name: name}, &claim)
	refuse := func(format string, args ...any) error {
		return &ipam.UnusableAddressError{Address: addr, Reason: fmt.Sprintf(format, args...)}
	}
	switch {
	case apierrors.IsNotFound(err):
		return refuse("there is no IPClaim %s: create it for namespace %s", name, pod.Namespace)
	case err != nil:
		return fmt.Errorf("read IPClaim %s, whose address the pod asks for: %w", name, err)
	case claim.Spec.Namespace != pod.Namespace:
		return refuse("IPClaim %s is for pods of namespace %s", name, claim.Spec.Namespace)
	case claim.Spec.PodName != "" && claim.Spec.PodName != pod.Name:
		return refuse("IPClaim %s is for pod %s/%s", name, claim.Spec.Namespace, claim.Spec.PodName)
	case claim.DeletionTimestamp != nil:
		return refuse("IPClaim %s is being deleted", name)
	}
	return nil
}

// claimsByPod lists the claims that name a pod.
func claimsByPod(ctx context.Context, c client.Reader, pod cni.Pod) ([]netip.Addr, error) {
	var list v1alpha1.IPClaimList
	err := c.List(ctx, &list, client.MatchingFields{"spec.namespace": pod.Namespace, "spec.podName": pod.Name})
	if err != nil {
		return nil, fmt.Errorf("list the IPClaims of pod %s, which asks for them: %w", pod, err)
	}
	var out []netip.Addr
	for i := range list.Items {
		if list.Items[i].DeletionTimestamp != nil {
			continue
		}
		addr, err := netip.ParseAddr(list.Items[i].Spec.Address)
		if err != nil {
			continue // the API server refuses it
		}
		if slices.ContainsFunc(out, func(o netip.Addr) bool { return o.Is4() == addr.Is4() }) {
			return nil, fmt.Errorf("several IPClaims of one family name pod %s: a pod has one address of each", pod)
		}
		out = append(out, addr)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no IPClaim names pod %s (spec.namespace, spec.podName), as its annotation %s asks", pod, v1alpha1.ClaimAnnotation)
	}
	return out, nil
}

// readClaims reads the annotation that names claims, by name or address.
func readClaims(text string) (claims []netip.Addr, byPod bool, err error) {
	if strings.TrimSpace(text) == v1alpha1.ClaimByPod {
		return nil, true, nil
	}
	list, err := readList(text)
	if err != nil {
		return nil, false, err
	}
	for _, s := range list {
		addr, err := claimedAddress(s)
		if err != nil {
			return nil, false, err
		}
		if slices.ContainsFunc(claims, func(o netip.Addr) bool { return o.Is4() == addr.Is4() }) {
			return nil, false, fmt.Errorf("%q has two addresses of one family: a pod has one of each", text)
		}
		claims = append(claims, addr)
	}
	return claims, false, nil
}

// claimedAddress reads the name of a claim, or its address.
func claimedAddress(s string) (netip.Addr, error) {
	for _, separator := range []string{".", ":"} {
		addr, err := netip.ParseAddr(strings.ReplaceAll(s, "-", separator))
		if err == nil && addr.Zone() == "" {
			return addr.Unmap(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%q is neither the name of an IPClaim nor an address, nor %q", s, v1alpha1.ClaimByPod)
}

// holderOfPod says for whom a claimed address is, as ipam.Block.Holder has it.
func holderOfPod(p cni.Pod) string {
	return holderOf(&v1alpha1.PodReference{Namespace: p.Namespace, Name: p.Name, UID: p.UID})
}

func holderOf(p *v1alpha1.PodReference) string {
	if p == nil {
		return ""
	}
	s := p.String()
	if p.UID != "" {
		s += " " + p.UID
	}
	return s
}

// parseHolder reads what holderOf wrote; what it did not write is nobody.
func parseHolder(s string) *v1alpha1.PodReference {
	s, ok := strings.CutPrefix(s, "pod ")
	if !ok {
		return nil
	}
	name, uid, _ := strings.Cut(s, " ")
	namespace, name, _ := strings.Cut(name, "/")
	return &v1alpha1.PodReference{Namespace: namespace, Name: name, UID: uid}
}

// claimed tells whether any of the addresses is of a pool whose addresses are
// claimed: its next pod may wait for it, on another node.
func (a *Agent) claimed(addresses []netip.Addr) bool {
	a.state.mu.Lock()
	pools := a.state.desired.pools
	a.state.mu.Unlock()
	return slices.ContainsFunc(pools, func(p ipam.Pool) bool {
		return p.Claims && slices.ContainsFunc(addresses, p.CIDR.Contains)
	})
}
