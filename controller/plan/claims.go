package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// An address of a pool with allocation Claims is had by a node by right when there
// is an IPClaim of it, and an IPBlock of it by that node for a pod that the claim
// is for:
//
//	IPClaim 172-26-0-10 ──for──▶ namespace, pod ◀──for── IPBlock 172-26-0-10-32 ──▶ node

// ClaimState is what is so of a claim.
type ClaimState struct {
	Status v1alpha1.IPClaimStatus // its one condition without times
	Held   bool                   // some node has the address
}

// planClaims finds out who has the addresses that are claimed, and which blocks of
// single addresses nodes have by right.
func (p *Plan) planClaims(claims []v1alpha1.IPClaim, blocks []v1alpha1.IPBlock) {
	holding := make(map[netip.Addr]*v1alpha1.IPBlock)
	for i := range blocks {
		if cidr, err := parseCIDR(blocks[i].Spec.CIDR); err == nil && cidr.IsSingleIP() && p.claimedOf(cidr.Addr()) != nil {
			holding[cidr.Addr()] = &blocks[i]
		}
	}
	p.Claims = make(map[string]ClaimState, len(claims))
	p.rightful = make(map[netip.Addr]bool, len(claims))
	for i := range claims {
		c := &claims[i]
		addr, ok := parseAddr(c.Spec.Address)
		if !ok {
			p.Claims[c.Name] = ClaimState{Status: claimStatus(notReady(ReasonInvalid, fmt.Sprintf("%q is not an address that pods can have", c.Spec.Address)))}
			continue
		}
		b := holding[addr]
		state := ClaimState{Status: claimStatus(p.claimCondition(c, addr, b)), Held: b != nil}
		if b != nil && c.Spec.IsFor(b.Spec.Pod) {
			p.rightful[addr] = true
			state.Status.NodeName, state.Status.PodName = b.Spec.NodeName, b.Spec.Pod.Name
			since := b.CreationTimestamp // a copy: the plan is written by clients that decode into it
			state.Status.Since = &since
		}
		p.Claims[c.Name] = state
	}
}

func claimStatus(c metav1.Condition) v1alpha1.IPClaimStatus {
	return v1alpha1.IPClaimStatus{Conditions: []metav1.Condition{c}}
}

// claimCondition tells whether pods can have an address; b is the block of the
// node that has it, or nil.
func (p *Plan) claimCondition(c *v1alpha1.IPClaim, addr netip.Addr, b *v1alpha1.IPBlock) metav1.Condition {
	pl := p.claimedOf(addr)
	switch {
	case pl == nil:
		return notReady(ReasonNoPool, fmt.Sprintf("no pool that is in use and has allocation Claims has %s", addr))
	case b != nil && !c.Spec.IsFor(b.Spec.Pod):
		return notReady(ReasonWrongPod, fmt.Sprintf("node %s has the address for %s, which the claim is not for: other nodes take no route to it from that node",
			b.Spec.NodeName, b.Spec.Pod))
	case b != nil:
		held := ready(fmt.Sprintf("node %s has the address for %s", b.Spec.NodeName, b.Spec.Pod))
		held.Reason = ReasonHeld
		return held
	case pl.obj.DeletionTimestamp != nil:
		return notReady(ReasonDeleting, fmt.Sprintf("pool %s is being deleted", pl.obj.Name))
	case pl.obj.Spec.Disabled:
		return notReady(ReasonDisabled, fmt.Sprintf("pool %s is disabled", pl.obj.Name))
	case slices.ContainsFunc(pl.reserved, func(r netip.Prefix) bool { return r.Contains(addr) }):
		return notReady(ReasonReserved, fmt.Sprintf("pool %s reserves the address", pl.obj.Name))
	}
	free := ready("no pod has the address")
	free.Reason = ReasonFree
	return free
}

// claimedOf returns the pool in the plan of which an address is claimed by itself,
// or nil.
func (p *Plan) claimedOf(addr netip.Addr) *pool {
	i := slices.IndexFunc(p.pools, func(pl *pool) bool { return pl.claims() && pl.cidr.Contains(addr) })
	if i < 0 {
		return nil
	}
	return p.pools[i]
}

func (pl *pool) claims() bool { return pl.obj.Spec.Allocation == v1alpha1.AllocationClaims }

// ClaimsMove tells whether by one plan of a node others have other addresses of
// pools with allocation Claims than by another. Nobody reaches the pod of such an
// address before that is written.
func ClaimsMove(before, after *v1alpha1.NodeNetworkSpec) bool {
	if !slices.ContainsFunc(after.Pools, func(pl v1alpha1.PlannedPool) bool { return pl.Claims }) {
		return false
	}
	return !apiequality.Semantic.DeepEqual(singles(before), singles(after))
}

// singles are the addresses that nodes announce by themselves, by session.
func singles(spec *v1alpha1.NodeNetworkSpec) map[string][]string {
	out := make(map[string][]string)
	for i := range spec.Sessions {
		for _, b := range spec.Sessions[i].Blocks {
			if strings.HasSuffix(b, "/32") || strings.HasSuffix(b, "/128") {
				out[spec.Sessions[i].Name] = append(out[spec.Sessions[i].Name], b)
			}
		}
	}
	return out
}
