package topology

import (
	"fmt"
	"net/netip"
	"slices"
)

// Family is one address family, or both.
type Family string

// The families.
const (
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
	Dual Family = "dual"
)

// Each lists the single families, IPv4 first.
func (f Family) Each() []Family {
	if f == Dual {
		return []Family{IPv4, IPv6}
	}
	return []Family{f}
}

// Has tells whether a single family is part of f.
func (f Family) Has(one Family) bool { return slices.Contains(f.Each(), one) }

// FamilyOf returns the family of an address.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// Flag is the option by which ip(8) and ping(8) are told the family.
func (f Family) Flag() string {
	if f == IPv6 {
		return "-6"
	}
	return "-4"
}

// Pair is at most one address, or network, of each family; the zero prefix:
// none.
type Pair struct{ V4, V6 netip.Prefix }

// Of returns the prefix of a single family.
func (p Pair) Of(f Family) netip.Prefix {
	if f == IPv6 {
		return p.V6
	}
	return p.V4
}

// Each lists the prefixes that there are, IPv4 first.
func (p Pair) Each() []netip.Prefix {
	return slices.DeleteFunc([]netip.Prefix{p.V4, p.V6}, func(one netip.Prefix) bool { return !one.IsValid() })
}

// Addrs lists the addresses that there are, IPv4 first.
func (p Pair) Addrs() []netip.Addr {
	var all []netip.Addr
	for _, one := range p.Each() {
		all = append(all, one.Addr())
	}
	return all
}

// Networks lists the networks that the addresses are in, IPv4 first.
func (p Pair) Networks() []netip.Prefix {
	all := p.Each()
	for i := range all {
		all[i] = all[i].Masked()
	}
	return all
}

// First returns the IPv4 address or, where there is none, the IPv6 one.
func (p Pair) First() netip.Addr {
	if all := p.Addrs(); len(all) > 0 {
		return all[0]
	}
	return netip.Addr{}
}

// Is tells whether an address is one of the pair's.
func (p Pair) Is(a netip.Addr) bool { return slices.Contains(p.Addrs(), a) }

// only leaves the prefixes of a family.
func (p Pair) only(f Family) Pair {
	if !f.Has(IPv4) {
		p.V4 = netip.Prefix{}
	}
	if !f.Has(IPv6) {
		p.V6 = netip.Prefix{}
	}
	return p
}

// Options are what may differ from the reference topology. The zero value is
// the reference topology itself.
type Options struct {
	Family  Family `json:"family,omitempty"`  // empty: IPv4
	Subnets int    `json:"subnets,omitempty"` // how many the nodes are in: 1 (also 0) or 2
	// Nodes is how many nodes there are: 3 (also 0) to 6.
	Nodes int `json:"nodes,omitempty"`
	// ToRs is how many top-of-rack routers there are, each with a host of its own: 2
	// (also 0) or 4. Host3 is behind all of them.
	ToRs int `json:"tors,omitempty"`
	// MTU is that of the links between the machines of the fabric; 0: 1500.
	MTU int `json:"mtu,omitempty"`
	// StrictReversePath lets the nodes drop what comes by another interface than that
	// by which the answer would go (rp_filter 1, RFC 3704, section 2.2).
	StrictReversePath bool `json:"strictReversePath,omitempty"`
}

// DefaultMTU is the MTU of links where the options don't say.
const DefaultMTU = 1500

// mostToRs is how many top-of-rack routers there can be.
const mostToRs = 4

// mostNodes is how many nodes there can be.
const mostNodes = 6

// minMTU is what IPv4 asks of a link that carries packets of useful size.
const minMTU = 576

// WithDefaults fills in what is not given.
func (o Options) WithDefaults() Options {
	if o.Family == "" {
		o.Family = IPv4
	}
	if o.Subnets == 0 {
		o.Subnets = 1
	}
	if o.ToRs == 0 {
		o.ToRs = 2
	}
	if o.MTU == 0 {
		o.MTU = DefaultMTU
	}
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	return o
}

// Check tells what is wrong with options that have their defaults.
func (o Options) Check() error {
	switch {
	case o.Family != IPv4 && o.Family != IPv6 && o.Family != Dual:
		return fmt.Errorf("family %q: choose %s, %s or %s", o.Family, IPv4, IPv6, Dual)
	case o.Subnets < 1 || o.Subnets > 2:
		return fmt.Errorf("subnets %d: choose 1 or 2", o.Subnets)
	case o.Nodes < 3 || o.Nodes > mostNodes:
		return fmt.Errorf("nodes %d: choose 3 to %d", o.Nodes, mostNodes)
	case o.ToRs != 2 && o.ToRs != mostToRs:
		return fmt.Errorf("%d top-of-rack routers: choose 2 or %d", o.ToRs, mostToRs)
	case o.MTU < minMTU || o.MTU > 65535:
		return fmt.Errorf("MTU %d: choose %d to 65535", o.MTU, minMTU)
	}
	return nil
}
