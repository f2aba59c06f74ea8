package agent

import (
	"cmp"
	"fmt"
	"net/netip"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/ipam"
)

// Defaults of a session, where the plan leaves them open.
const (
	defaultHold            = 90 * time.Second
	defaultConnectRetry    = bgp.DefaultConnectRetry
	defaultGracefulRestart = 120 * time.Second
)

// desired is a plan in the terms of the packages that carry it out. It lacks
// what the plan can't know: the node's blocks and the sessions' passwords.
type desired struct {
	addresses []netip.Addr
	speaker   bgp.Config                           // of peers that are found by their interface, see atInterface, the addresses are missing
	passwords map[netip.Addr]v1alpha1.SecretKeyRef // by the peer's key
	pools     []ipam.Pool
	choices   []poolChoice
	// namespacesChoose says that some namespace chooses pools for its pods.
	namespacesChoose bool
	natted           []netip.Prefix // pools whose pods are masqueraded
	ranges           []netip.Prefix // all pools
	withheld         []bgp.Rule     // keep pools from routers outside the cluster
	aggregates       []netip.Prefix // pools that are announced to them as a whole

	tunnels       []v1alpha1.TunnelKind
	encapsulated  []desiredEncapsulation // pools whose packets go through tunnels, by name
	subnets       []netip.Prefix         // whose nodes reach each other directly
	mtu           int                    // of the network between the nodes; 0: as on the interface
	port          uint16                 // of VXLAN
	vni           uint32
	blocksFromAPI bool
	nodes         map[string][]netip.Addr // the others, when blocks come from the API

	departed       map[netip.Addr]bool // peers that are nodes whose Node is gone
	departedBlocks []netip.Prefix      // blocks of such nodes, of which is to be reported
}

// desiredEncapsulation is a pool whose packets go through tunnels.
type desiredEncapsulation struct {
	name        string
	cidr        netip.Prefix
	kind        v1alpha1.TunnelKind
	crossSubnet bool
}

// poolChoice is a pool that gives out addresses on this node, and the
// namespaces that it is for.
type poolChoice struct {
	name     string
	v6       bool
	selector labels.Selector // nil: for every namespace
}

// translate turns a plan into what is to be done. A part that makes no sense
// is left out and reported; the rest stands.
func translate(spec *v1alpha1.NodeNetworkSpec) (desired, []error) {
	d := desired{passwords: map[netip.Addr]v1alpha1.SecretKeyRef{}, departed: map[netip.Addr]bool{}}
	var problems []error
	for _, s := range spec.Addresses {
		a, err := netip.ParseAddr(s)
		if err != nil {
			problems = append(problems, fmt.Errorf("node address: %w", err))
			continue
		}
		d.addresses = append(d.addresses, a)
	}
	routerID, err := netip.ParseAddr(spec.RouterID)
	if err != nil {
		problems = append(problems, fmt.Errorf("router id: %w", err))
	}
	d.speaker = bgp.Config{
		ASN:        uint32(spec.ASN),
		RouterID:   routerID,
		ListenPort: uint16(spec.ListenPort),
		NextHops:   d.addresses,

		ValidateOrigin: spec.ValidateOrigin,
		Draining:       spec.Draining,
		Reflector:      spec.Reflector,
	}
	d.namespacesChoose = spec.NamespacesChoosePools
	problems = append(problems, d.setNetwork(spec)...)
	for i := range spec.Pools {
		if err := d.addPool(&spec.Pools[i]); err != nil {
			problems = append(problems, fmt.Errorf("pool %s: %w", spec.Pools[i].Name, err))
		}
	}
	for _, s := range spec.DepartedBlocks {
		block, err := netip.ParsePrefix(s)
		if err != nil {
			problems = append(problems, fmt.Errorf("block of a node that is gone: %w", err))
			continue
		}
		d.departedBlocks = append(d.departedBlocks, block)
	}
	for i := range spec.Sessions {
		if err := d.addSession(&spec.Sessions[i]); err != nil {
			problems = append(problems, fmt.Errorf("session %s: %w", spec.Sessions[i].Name, err))
			if a, err := netip.ParseAddr(spec.Sessions[i].PeerAddress); err == nil {
				d.speaker.Barred = append(d.speaker.Barred, a)
			}
		}
	}
	return d, problems
}

func (d *desired) addPool(p *v1alpha1.PlannedPool) error {
	cidr, err := netip.ParsePrefix(p.CIDR)
	if err != nil {
		return err
	}
	pool := ipam.Pool{
		Name: p.Name, CIDR: cidr, BlockLen: int(p.BlockSize), Allocate: p.Allocate, Claims: p.Claims,
		Restricted: p.NamespaceSelector != nil,
	}
	if p.MaxBlocksPerNode != nil {
		pool.MaxBlocks = int(*p.MaxBlocksPerNode)
	}
	if p.EmptyBlockSeconds != nil {
		pool.GiveBackAfter = time.Duration(*p.EmptyBlockSeconds) * time.Second
	}
	for _, s := range p.ReservedCIDRs {
		r, err := netip.ParsePrefix(s)
		if err != nil {
			return fmt.Errorf("reserved range: %w", err)
		}
		pool.Reserved = append(pool.Reserved, r)
	}
	choice := poolChoice{name: p.Name, v6: cidr.Addr().Is6()}
	if p.NamespaceSelector != nil {
		choice.selector, err = metav1.LabelSelectorAsSelector(p.NamespaceSelector)
		if err != nil {
			return fmt.Errorf("namespace selector: %w", err)
		}
	}
	if err := d.advertise(p.Advertise, cidr); err != nil {
		return err
	}
	d.pools = append(d.pools, pool)
	d.ranges = append(d.ranges, cidr)
	// Exactly blocks: a longer prefix would draw single pods away from their node.
	d.speaker.Blocks = append(d.speaker.Blocks, bgp.Range{CIDR: cidr, MinLength: pool.BlockLen, MaxLength: pool.BlockLen})
	if p.Allocate && !p.Claims {
		d.choices = append(d.choices, choice)
	}
	if p.NATOutgoing {
		d.natted = append(d.natted, cidr)
	}
	if kind := p.Encapsulation.Tunnel(); kind != "" {
		if kind.Interface(cidr.Addr().Is6()) == "" {
			return fmt.Errorf("%s can't carry %s", kind, cidr)
		}
		d.encapsulated = append(d.encapsulated, desiredEncapsulation{
			name: p.Name, cidr: cidr, kind: kind, crossSubnet: p.Encapsulation.CrossSubnet(),
		})
	}
	return nil
}

// advertise takes in how blocks of a pool are announced.
func (d *desired) advertise(a *v1alpha1.PoolAdvertisement, pool netip.Prefix) error {
	if a == nil {
		return nil
	}
	pref, err := toUint32(a.LocalPref)
	if err != nil {
		return fmt.Errorf("local preference: %w", err)
	}
	if a.Disabled {
		all := bgp.Range{CIDR: pool, MinLength: pool.Bits(), MaxLength: pool.Addr().BitLen()}
		if a.Aggregate {
			all.MinLength = min(all.MinLength+1, all.MaxLength)
		}
		d.withheld = append(d.withheld, bgp.Rule{Match: bgp.Match{Ranges: []bgp.Range{all}, Source: bgp.SourceOwn}})
	}
	if a.Aggregate {
		d.aggregates = append(d.aggregates, pool)
	}
	if len(a.Communities) > 0 || pref != nil {
		d.speaker.Marks = append(d.speaker.Marks, bgp.Mark{CIDR: pool, Communities: a.Communities, LocalPref: pref})
	}
	return nil
}

// setNetwork takes in what a plan says of tunnels and of other nodes.
func (d *desired) setNetwork(spec *v1alpha1.NodeNetworkSpec) (problems []error) {
	d.tunnels = spec.Tunnels
	d.port, d.vni = v1alpha1.DefaultVXLANPort, v1alpha1.DefaultVXLANVNI
	if n := spec.Network; n != nil {
		if n.MTU != nil {
			d.mtu = int(*n.MTU)
		}
		if n.VXLAN != nil {
			d.port = cmp.Or(uint16(n.VXLAN.Port), d.port)
			d.vni = cmp.Or(uint32(n.VXLAN.VNI), d.vni)
		}
		for _, s := range n.Subnets {
			p, err := netip.ParsePrefix(s)
			if err != nil {
				problems = append(problems, fmt.Errorf("subnets: %w", err))
				continue
			}
			d.subnets = append(d.subnets, p.Masked())
		}
	}
	d.blocksFromAPI = spec.BlocksFromAPI
	d.nodes = make(map[string][]netip.Addr, len(spec.Nodes))
	for _, n := range spec.Nodes {
		for _, s := range n.Addresses {
			a, err := netip.ParseAddr(s)
			if err != nil {
				problems = append(problems, fmt.Errorf("node %s: %w", n.Name, err))
				continue
			}
			d.nodes[n.Name] = append(d.nodes[n.Name], a)
		}
	}
	return problems
}
