package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// pool is a pool whose range could be read.
type pool struct {
	obj       *v1alpha1.IPPool
	cidr      netip.Prefix
	blockSize int
	reserved  []netip.Prefix
	nodes     labels.Selector
	err       error // of a selector: the pool can't change what nodes do with it

	// encapsulation is what the pool is planned with: what it asks for or, while
	// nodes can't do that yet, what they have used so far.
	encapsulation v1alpha1.Encapsulation

	// advertise is how nodes announce the pool, communities as numbers, as far as they
	// are known: advertiseErr names one that is not.
	advertise    *v1alpha1.PoolAdvertisement
	advertiseErr error
}

// wanted returns the encapsulation that the pool asks for.
func (pl *pool) wanted() v1alpha1.Encapsulation {
	return cmp.Or(pl.obj.Spec.Encapsulation, v1alpha1.EncapsulationNone)
}

// planPools decides which pools are in the plan. Of pools that overlap the one
// stays of which nodes hold blocks, or else the oldest. One whose addresses Services
// or nodes have is refused, unless nodes hold blocks of it.
func (p *Plan) planPools(objects []v1alpha1.IPPool, blocks []v1alpha1.IPBlock, services []networkingv1.ServiceCIDR) {
	var pools []*pool
	for _, obj := range byAge(objects, func(o *v1alpha1.IPPool) *metav1.ObjectMeta { return &o.ObjectMeta }) {
		pl, err := parsePool(obj)
		if err != nil {
			p.Pools[obj.Name] = []metav1.Condition{notReady(ReasonInvalid, err.Error())}
			continue
		}
		pools = append(pools, pl)
	}
	used := poolsInUse(pools, blocks)
	slices.SortStableFunc(pools, func(a, b *pool) int { return boolCompare(used[b], used[a]) })

	for _, pl := range pools {
		i := slices.IndexFunc(p.pools, func(o *pool) bool { return o.cidr.Overlaps(pl.cidr) })
		if i >= 0 {
			other := p.pools[i]
			p.Pools[pl.obj.Name] = []metav1.Condition{notReady(ReasonOverlaps, fmt.Sprintf(
				"%s overlaps %s of pool %s, which came first: delete one of the two", pl.cidr, other.cidr, other.obj.Name))}
			continue
		}
		reason, conflict := p.conflict(pl, services)
		switch {
		case conflict == "", pl.obj.Closing():
			p.Pools[pl.obj.Name] = []metav1.Condition{p.poolCondition(pl)}
		case used[pl]:
			p.Pools[pl.obj.Name] = []metav1.Condition{notReady(reason, conflict+"; nodes have blocks of it and go on with it: "+
				"make another pool, disable this one, and start its pods anew")}
		default:
			conflict += ": delete it, and make one of other addresses"
			p.Pools[pl.obj.Name] = []metav1.Condition{notReady(reason, conflict)}
			p.refused = append(p.refused, v1alpha1.RefusedPool{Name: pl.obj.Name, Message: conflict})
			continue
		}
		p.pools = append(p.pools, pl)
	}
	slices.SortFunc(p.refused, func(a, b v1alpha1.RefusedPool) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(p.pools, func(a, b *pool) int { return strings.Compare(a.obj.Name, b.obj.Name) })
	p.planLives(blocks)
}

// poolCondition judges a pool that is in the plan.
func (p *Plan) poolCondition(pl *pool) metav1.Condition {
	if pl.err != nil {
		return notReady(ReasonInvalid, pl.err.Error()+": nodes keep to what they did before")
	}
	if pl.obj.DeletionTimestamp != nil {
		return notReady(ReasonDeleting, "the pool is being deleted: it gives out no new addresses, and goes when no node has a block of it")
	}
	if pl.obj.Spec.Disabled {
		return notReady(ReasonDisabled, "the pool is disabled: it gives out no new addresses")
	}
	n, present := 0, 0
	var strangers []string
	for _, node := range p.nodes {
		if node.departed {
			continue
		}
		present++
		switch {
		case pl.isFor(node):
			n++
		case pl.nodes.Matches(node.labels):
			strangers = append(strangers, node.name)
		}
	}
	without := ""
	if len(strangers) > 0 {
		slices.Sort(strangers)
		without = "; these have no address of its family, by which others could reach their pods: " + names(strangers)
	}
	switch {
	case n == 0 && without == "":
		return notReady(ReasonNoNodes, "nodeSelector matches no node that has a plan")
	case n == 0:
		return notReady(ReasonNoNodes, "no node takes blocks of the pool"+without)
	case pl.claims():
		return ready(fmt.Sprintf("pods on %d of %d nodes can have addresses of the pool that are claimed", n, present) + without)
	}
	return ready(fmt.Sprintf("%d of %d nodes take blocks of the pool", n, present) + without)
}

// isFor tells whether a node may give out addresses of a pool: its selector says
// so, and the node has an address of the family, which is the next hop of the
// pool's blocks and the end of its tunnels.
func (pl *pool) isFor(n *node) bool { return pl.nodes.Matches(n.labels) && n.has(pl.cidr.Addr()) }

// planned returns the pool as the node is to know it.
func (pl *pool) planned(n *node) v1alpha1.PlannedPool {
	out := v1alpha1.PlannedPool{
		Name:              pl.obj.Name,
		CIDR:              pl.cidr.String(),
		BlockSize:         int32(pl.blockSize),
		Claims:            pl.claims(),
		Encapsulation:     pl.encapsulation,
		NATOutgoing:       pl.obj.Spec.NATOutgoing,
		MaxBlocksPerNode:  pl.obj.Spec.MaxBlocksPerNode,
		EmptyBlockSeconds: pl.obj.Spec.EmptyBlockSeconds,
		NamespaceSelector: pl.obj.Spec.NamespaceSelector,
		Advertise:         pl.advertise,
	}
	before := pl.before(n)
	if pl.advertiseErr != nil && before != nil {
		out.Advertise = before.Advertise
	}
	for _, r := range pl.reserved {
		out.ReservedCIDRs = append(out.ReservedCIDRs, r.String())
	}
	switch {
	case pl.err == nil && !n.departed:
		out.Allocate = !pl.obj.Closing() && pl.isFor(n)
		return out
	case pl.err != nil:
		out.NamespaceSelector = nil
	}
	if before != nil {
		out.Allocate = before.Allocate && !pl.obj.Closing()
	}
	if before != nil && pl.err != nil {
		out.NamespaceSelector = before.NamespaceSelector
	}
	return out
}

// before returns the pool as the plan so far of a node has it, or nil.
func (pl *pool) before(n *node) *v1alpha1.PlannedPool {
	if n.before == nil {
		return nil
	}
	i := slices.IndexFunc(n.before.Pools, func(b v1alpha1.PlannedPool) bool {
		return b.Name == pl.obj.Name && b.CIDR == pl.cidr.String()
	})
	if i < 0 {
		return nil
	}
	return &n.before.Pools[i]
}

// parsePool reads a pool. An error in its range makes it useless; one in a
// selector is kept in the pool.
func parsePool(obj *v1alpha1.IPPool) (*pool, error) {
	pl := &pool{obj: obj}
	var err error
	if pl.cidr, err = parseCIDR(obj.Spec.CIDR); err != nil {
		return nil, fmt.Errorf("cidr: %w", err)
	}
	pl.blockSize = defaultBlockSizeV4
	if pl.cidr.Addr().Is6() {
		pl.blockSize = defaultBlockSizeV6
	}
	if obj.Spec.BlockSize != nil {
		pl.blockSize = int(*obj.Spec.BlockSize)
	}
	if pl.claims() {
		pl.blockSize = pl.cidr.Addr().BitLen()
	}
	if pl.blockSize < pl.cidr.Bits() || pl.blockSize > pl.cidr.Addr().BitLen() {
		return nil, fmt.Errorf("blocks of /%d do not fit into %s", pl.blockSize, pl.cidr)
	}
	for _, s := range obj.Spec.ReservedCIDRs {
		r, err := parseCIDR(s)
		if err != nil {
			return nil, fmt.Errorf("reservedCIDRs: %w", err)
		}
		pl.reserved = append(pl.reserved, r)
	}
	if pl.nodes, err = parseSelector(obj.Spec.NodeSelector); err != nil {
		pl.err = fmt.Errorf("nodeSelector: %w", err)
	} else if _, err = parseSelector(obj.Spec.NamespaceSelector); err != nil {
		pl.err = fmt.Errorf("namespaceSelector: %w", err)
	}
	return pl, nil
}

// poolsInUse tells of which pools nodes hold blocks.
func poolsInUse(pools []*pool, blocks []v1alpha1.IPBlock) map[*pool]bool {
	byName := make(map[string]*pool, len(pools))
	for _, pl := range pools {
		byName[pl.obj.Name] = pl
	}
	used := make(map[*pool]bool, len(pools))
	for i := range blocks {
		if pl := byName[blocks[i].Spec.Pool]; pl != nil && !used[pl] && pl.holds(&blocks[i]) {
			used[pl] = true
		}
	}
	return used
}

// holds tells whether the block is a part of the pool's range.
func (pl *pool) holds(b *v1alpha1.IPBlock) bool {
	cidr, err := parseCIDR(b.Spec.CIDR)
	return err == nil && pl.cidr.Bits() <= cidr.Bits() && pl.cidr.Contains(cidr.Addr())
}

// parseSelector reads a selector of nodes or namespaces; nil matches all.
func parseSelector(s *metav1.LabelSelector) (labels.Selector, error) {
	if s == nil {
		return labels.Everything(), nil
	}
	return metav1.LabelSelectorAsSelector(s)
}

func parseCIDR(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a network in CIDR form", s)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%s has host bits set", s)
	}
	return p, nil
}

// boolCompare orders false before true.
func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
