package nat

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	chainName = "postrouting"

	// chunk is how many elements go in one message: a netlink attribute has at most
	// 64 KiB, and an element some 40 bytes. It is even, so that an interval's end goes
	// with its beginning.
	chunk = 1000
	// sendBuffer holds a transaction, which is one write, with two sets of 10,000
	// intervals.
	sendBuffer = 4 << 20
)

func largeBuffers(c *netlink.Conn) error { return c.SetWriteBuffer(sendBuffer) }

// family is what differs between IPv4 and IPv6.
type family struct {
	nfproto   byte
	first     setID // of the family's sets
	keyType   nftables.SetDatatype
	saddr     uint32 // offsets in the network header (RFC 791, section 3.1; RFC 8200, section 3)
	daddr     uint32
	multicast netip.Prefix
}

// setID is an index into the table's sets: a role, and for IPv6 setsOfFamily more.
type setID int

const (
	masquerade setID = iota
	exempt
	tunnelled
	nodes
	own
	setsOfFamily
)

const setCount = 2 * setsOfFamily

func (s setID) name() string {
	role := [...]string{"masquerade", "exempt", "tunnelled", "nodes", "own"}[s%setsOfFamily]
	if s < setsOfFamily {
		return role + "4"
	}
	return role + "6"
}

// sets are the family's sets.
func (f family) sets() []setID {
	out := make([]setID, setsOfFamily)
	for i := range out {
		out[i] = f.first + setID(i)
	}
	return out
}

func families() []family {
	return []family{
		{unix.NFPROTO_IPV4, 0, nftables.TypeIPAddr, 12, 16, netip.MustParsePrefix("224.0.0.0/4")},
		{unix.NFPROTO_IPV6, setsOfFamily, nftables.TypeIP6Addr, 8, 24, netip.MustParsePrefix("ff00::/8")},
	}
}

// sets are the elements of the table's sets.
type sets [setCount][]interval

func wantedSets(r Rules) (sets, error) {
	var in [setCount][]netip.Prefix
	for role, prefixes := range map[setID][]netip.Prefix{
		masquerade: r.Masquerade, exempt: r.Exempt, tunnelled: r.Tunnelled, nodes: r.Nodes, own: r.Own,
	} {
		for _, p := range prefixes {
			switch {
			case !p.IsValid() || p.Addr().Is4In6():
				return sets{}, fmt.Errorf("masquerade: %s is not a prefix", p)
			case p.Addr().Is4():
				in[role] = append(in[role], p)
			default:
				in[setsOfFamily+role] = append(in[setsOfFamily+role], p)
			}
		}
	}
	for _, f := range families() {
		in[f.first+exempt] = append(in[f.first+exempt], f.multicast)
	}
	var out sets
	for i, prefixes := range in {
		out[i] = intervals(prefixes)
	}
	return out, nil
}

// nodeSets are the family's sets in which the nodes are.
func (f family) nodeSets() []setID { return []setID{f.first + exempt, f.first + nodes} }

// addNodes adds what other sets of nodes have.
func (s *sets) addNodes(there *sets) {
	for _, f := range families() {
		for _, id := range f.nodeSets() {
			s[id] = merged(slices.Concat(s[id], there[id]))
		}
	}
}

func newTable() *nftables.Table {
	return &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
}

func newChain() *nftables.Chain {
	policy := nftables.ChainPolicyAccept
	return &nftables.Chain{
		Table: newTable(), Name: chainName, Type: nftables.ChainTypeNAT, Policy: &policy,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	}
}

func newSet(id setID, keyType nftables.SetDatatype) *nftables.Set {
	return &nftables.Set{Table: newTable(), ID: uint32(id) + 1, Name: id.name(), KeyType: keyType, Interval: true}
}

// rulesOf returns the rules of a family:
//
//	ip saddr @masquerade4 ip daddr != @exempt4 oifname != "lo" counter masquerade fully-random
//	ip saddr @tunnelled4 ip daddr @nodes4 oifname != "lo" counter masquerade fully-random
//	ip saddr @own4 oifname "godwit.*" counter masquerade fully-random
//
// Ports are chosen at random: two connections that start at the same time on two
// CPUs would else get the same port, and one would lose its first packet.
func rulesOf(f family) [][]expr.Any {
	const reg = unix.NFT_REG_1
	loopback := make([]byte, unix.IFNAMSIZ)
	copy(loopback, "lo")
	ofFamily := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{f.nfproto}},
	}
	lookup := func(offset uint32, role setID, invert bool) []expr.Any {
		s := f.first + role
		return []expr.Any{
			&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.keyType.Bytes},
			&expr.Lookup{SourceRegister: reg, SetName: s.name(), SetID: uint32(s) + 1, Invert: invert},
		}
	}
	leaves := func(op expr.CmpOp, name []byte) []expr.Any {
		return []expr.Any{
			&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg},
			&expr.Cmp{Op: op, Register: reg, Data: name},
		}
	}
	outside := leaves(expr.CmpOpNeq, loopback)
	masq := []expr.Any{&expr.Counter{}, &expr.Masq{FullyRandom: true}}
	return [][]expr.Any{
		slices.Concat(ofFamily, lookup(f.saddr, masquerade, false), lookup(f.daddr, exempt, true), outside, masq),
		slices.Concat(ofFamily, lookup(f.saddr, tunnelled, false), lookup(f.daddr, nodes, false), outside, masq),
		slices.Concat(ofFamily, lookup(f.saddr, own, false), leaves(expr.CmpOpEq, []byte(TunnelPrefix)), masq),
	}
}

// rebuild replaces the table, whatever it was, in one transaction.
func (t *Table) rebuild(want sets) error {
	c, err := t.conn()
	if err != nil {
		return err
	}
	// Deleting what may not be there fails; what was just added is there.
	c.AddTable(newTable())
	c.DelTable(newTable())
	c.AddTable(newTable())
	chain := c.AddChain(newChain())
	for _, f := range families() {
		for _, id := range f.sets() {
			s := newSet(id, f.keyType)
			if err := c.AddSet(s, nil); err != nil {
				return err
			}
			if err := inChunks(elements(want[id]), func(e []nftables.SetElement) error { return c.SetAddElements(s, e) }); err != nil {
				return err
			}
		}
		for _, r := range rulesOf(f) {
			c.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: r})
		}
	}
	return c.Flush()
}

// update changes the sets' elements from what they are, in one transaction.
func (t *Table) update(have *sets, want sets) error {
	c, err := t.conn()
	if err != nil {
		return err
	}
	for _, f := range families() {
		for _, id := range f.sets() {
			s := newSet(id, f.keyType)
			gone, added := elements(without(have[id], want[id])), elements(without(want[id], have[id]))
			if err := inChunks(gone, func(e []nftables.SetElement) error { return c.SetDeleteElements(s, e) }); err != nil {
				return err
			}
			if err := inChunks(added, func(e []nftables.SetElement) error { return c.SetAddElements(s, e) }); err != nil {
				return err
			}
		}
	}
	return c.Flush() // of nothing when nothing differs
}

func inChunks(all []nftables.SetElement, f func([]nftables.SetElement) error) error {
	for len(all) > 0 {
		n := min(len(all), chunk)
		if err := f(all[:n]); err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

// read returns the elements of the table's sets, or nil if the table is missing or
// is anything but what rebuild makes, so that it must be made anew.
func (t *Table) read() (*sets, error) {
	c, err := t.conn()
	if err != nil {
		return nil, err
	}
	// A table with flags was made dormant.
	if table, err := findTable(c); err != nil || table == nil || table.Flags != 0 {
		return nil, err
	}
	if right, err := chainsAreRight(c); err != nil || !right {
		return nil, err
	}
	listed, err := c.GetSets(newTable())
	if err != nil {
		return nil, err
	}
	if len(listed) != int(setCount) {
		return nil, nil
	}
	out, right, err := readSets(c, listed, family.sets)
	if err != nil || !right {
		return nil, err
	}
	return out, nil
}

// remains returns the elements of the sets of nodes of a table that read doesn't
// know, as far as they are as rebuild makes them: an agent of another version may
// have other rules, and the same nodes.
func (t *Table) remains() (*sets, error) {
	c, err := t.conn()
	if err != nil {
		return nil, err
	}
	if table, err := findTable(c); err != nil || table == nil {
		return &sets{}, err
	}
	listed, err := c.GetSets(newTable())
	if err != nil {
		return nil, err
	}
	out, _, err := readSets(c, listed, family.nodeSets)
	return out, err
}

// readSets returns the elements of some sets of each family, and whether all of
// these are as rebuild makes them; one that is not is left empty.
func readSets(c *nftables.Conn, listed []*nftables.Set, which func(family) []setID) (_ *sets, right bool, err error) {
	var out sets
	right = true
	for _, f := range families() {
		for _, id := range which(f) {
			want := newSet(id, f.keyType)
			if !slices.ContainsFunc(listed, func(s *nftables.Set) bool { return sameSet(s, want) }) {
				right = false
				continue
			}
			e, err := c.GetSetElements(want)
			if err != nil {
				return nil, false, err
			}
			if out[id], err = fromElements(e); err != nil {
				right = false // elements of a kind that we never make: make the table anew
			}
		}
	}
	return &out, right, nil
}

// findTable returns our table, or nil if there is none.
func findTable(c *nftables.Conn) (*nftables.Table, error) {
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, err
	}
	for _, t := range tables {
		if t.Name == TableName {
			return t, nil
		}
	}
	return nil, nil
}

func sameSet(a, b *nftables.Set) bool {
	return a.Name == b.Name && a.KeyType.GetNFTMagic() == b.KeyType.GetNFTMagic() && a.Interval == b.Interval &&
		!a.IsMap && !a.HasTimeout && !a.Dynamic && !a.Constant && !a.Concatenation
}

// chainsAreRight tells whether the table has our chain, with our rules, and no
// other.
func chainsAreRight(c *nftables.Conn) (bool, error) {
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, err
	}
	chains = slices.DeleteFunc(chains, func(ch *nftables.Chain) bool { return ch.Table.Name != TableName })
	if len(chains) != 1 || !sameChain(chains[0], newChain()) {
		return false, nil
	}
	rules, err := c.GetRules(newTable(), newChain())
	if err != nil {
		return false, err
	}
	var want [][]expr.Any
	for _, f := range families() {
		want = append(want, rulesOf(f)...)
	}
	return slices.EqualFunc(rules, want, func(r *nftables.Rule, w []expr.Any) bool { return sameRule(r.Exprs, w) }), nil
}

func sameChain(a, b *nftables.Chain) bool {
	return a.Name == b.Name && a.Type == b.Type && reflect.DeepEqual(a.Hooknum, b.Hooknum) &&
		reflect.DeepEqual(a.Priority, b.Priority) && reflect.DeepEqual(a.Policy, b.Policy)
}

// sameRule compares what a rule does, less what the kernel counts or numbers.
func sameRule(a, b []expr.Any) bool {
	plain := func(in []expr.Any) []expr.Any {
		out := slices.Clone(in)
		for i, e := range out {
			switch e := e.(type) {
			case *expr.Lookup:
				l := *e
				l.SetID = 0
				out[i] = &l
			case *expr.Counter:
				out[i] = &expr.Counter{}
			}
		}
		return out
	}
	return reflect.DeepEqual(plain(a), plain(b))
}
