package agent

import (
	"context"
	"fmt"
	"net/netip"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/ipam"
)

// BlockStore keeps blocks as IPBlocks in the Kubernetes API. An IPBlock's name
// is its CIDR, so the API server lets one creator of a block win.
type BlockStore struct {
	Client client.Client
	// Returned remembers what was given back; nil: nobody does.
	Returned *returned
}

var _ ipam.BlockStore = BlockStore{}

// Create implements ipam.BlockStore.
func (s BlockStore) Create(ctx context.Context, b ipam.Block) error {
	err := s.Client.Create(ctx, &v1alpha1.IPBlock{
		ObjectMeta: metav1.ObjectMeta{
			Name:   v1alpha1.IPBlockName(b.CIDR),
			Labels: map[string]string{v1alpha1.NodeLabel: b.Node},
		},
		Spec: v1alpha1.IPBlockSpec{CIDR: b.CIDR.String(), Pool: b.Pool, NodeName: b.Node, Pod: parseHolder(b.Holder)},
	})
	if apierrors.IsAlreadyExists(err) {
		return ipam.ErrBlockExists
	}
	if err != nil {
		return fmt.Errorf("claim block %s: %w", b.CIDR, err)
	}
	return nil
}

// List implements ipam.BlockStore.
func (s BlockStore) List(ctx context.Context, pool string) ([]ipam.Block, error) {
	all, err := s.list(ctx)
	if err != nil {
		return nil, err
	}
	var out []ipam.Block
	for _, b := range all {
		if b.Pool != pool {
			continue
		}
		if b.back {
			b.Node = "" // taken, and not to be taken for this node's
		}
		out = append(out, b.Block)
	}
	return out, nil
}

// ListNode implements ipam.BlockStore. Blocks are found by their label, so
// that a node does not read those of all others; the spec has the last word. A
// block that was given back and is there again is given back once more.
func (s BlockStore) ListNode(ctx context.Context, node string) ([]ipam.Block, error) {
	all, err := s.list(ctx, client.MatchingLabels{v1alpha1.NodeLabel: node})
	if err != nil {
		return nil, err
	}
	var out []ipam.Block
	for _, b := range all {
		switch {
		case b.Node != node:
		case b.back:
			if err := s.Delete(ctx, b.Block); err != nil {
				return nil, err
			}
		default:
			out = append(out, b.Block)
		}
	}
	return out, nil
}

// Get implements ipam.BlockStore.
func (s BlockStore) Get(ctx context.Context, cidr netip.Prefix) (ipam.Block, bool, error) {
	var have v1alpha1.IPBlock
	err := s.Client.Get(ctx, client.ObjectKey{Name: v1alpha1.IPBlockName(cidr)}, &have)
	if apierrors.IsNotFound(err) {
		return ipam.Block{}, false, nil
	}
	if err != nil {
		return ipam.Block{}, false, fmt.Errorf("read block %s: %w", cidr, err)
	}
	return ipam.Block{CIDR: cidr, Pool: have.Spec.Pool, Node: have.Spec.NodeName, Holder: holderOf(have.Spec.Pod)}, true, nil
}

// Delete implements ipam.BlockStore.
func (s BlockStore) Delete(ctx context.Context, b ipam.Block) error {
	var have v1alpha1.IPBlock
	err := s.Client.Get(ctx, client.ObjectKey{Name: v1alpha1.IPBlockName(b.CIDR)}, &have)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("release block %s: %w: %w", b.CIDR, ipam.ErrUntouched, err)
	}
	if have.Spec.NodeName != b.Node {
		return nil
	}
	s.Returned.add(have.UID)
	// The very object that was looked at, not one that another node made since.
	err = s.Client.Delete(ctx, &have, client.Preconditions{UID: &have.UID})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("release block %s: %w", b.CIDR, err)
	}
	return nil
}

// listed is a block of the API; back tells that this node had given it back.
type listed struct {
	ipam.Block
	back bool
}

func (s BlockStore) list(ctx context.Context, opts ...client.ListOption) ([]listed, error) {
	var l v1alpha1.IPBlockList
	if err := s.Client.List(ctx, &l, opts...); err != nil {
		return nil, fmt.Errorf("list blocks: %w", err)
	}
	out := make([]listed, 0, len(l.Items))
	for i := range l.Items {
		spec := &l.Items[i].Spec
		cidr, err := netip.ParsePrefix(spec.CIDR)
		if err != nil {
			continue // the API server validates it; one that got by is nobody's
		}
		out = append(out, listed{ipam.Block{CIDR: cidr, Pool: spec.Pool, Node: spec.NodeName, Holder: holderOf(spec.Pod)}, s.Returned.has(l.Items[i].UID)})
	}
	return out, nil
}
