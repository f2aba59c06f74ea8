// Package nat has one job: packets that would get no answer under their own
// address get their node's (masquerade). It keeps one nftables table, over
// netlink, without the nft program.
//
//	packet ──▶ postrouting ──▶ from @masquerade, to none of @exempt?   ──▶ masqueraded
//	                           from @tunnelled, to one of @nodes?      ──▶ masqueraded
//	                           from @own, out of a tunnel's interface? ──▶ masqueraded
//	                                                              else as it is
//
// Invariants:
//   - Exactly the table "godwit" of family inet is ours; nothing else in the
//     firewall is read into decisions or touched.
//   - What Set does is one transaction: at no time are packets treated by half of
//     the rules.
//   - Set compares with what the kernel has, so that it heals what somebody else
//     changed, and writes no more than what differs. Connections that stand keep
//     their translation.
//   - Until all nodes are known (Rules.Partial) none that the kernel knows is taken
//     out.
//   - A node where nothing was ever masqueraded has no table: a NAT hook alone makes
//     the kernel track every connection. Once there, the table stays until Remove,
//     for without a NAT hook the kernel stops translating connections that stand.
//
// It needs Linux 5.2 (NAT in family inet) with nft_masq.
package nat

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"

	"github.com/google/nftables"
)

// TableName is the name of the table, of family inet, that this package owns.
const TableName = "godwit"

// Rules say what is masqueraded.
type Rules struct {
	// Masquerade are the sources whose packets get the node's address: the pools with
	// natOutgoing.
	Masquerade []netip.Prefix
	// Exempt are the destinations to which packets go under their own address: all
	// pools, and the nodes' addresses. Multicast is always exempt.
	Exempt []netip.Prefix
	// Tunnelled are the sources whose packets get the node's address on their way to
	// Nodes, exempt or not: the pools whose packets go through tunnels. A node answers
	// a pod of theirs through a tunnel, while the pod's packets come to it without
	// one, and strict reverse-path filters (RFC 3704, section 2.2) drop what does not
	// come by the way that its answer goes.
	Tunnelled []netip.Prefix
	// Nodes are the other nodes' addresses.
	Nodes []netip.Prefix
	// Own are the node's own addresses. What leaves a tunnel's interface from one of
	// them gets the interface's: a service's address was replaced by that of a pod
	// behind the tunnel when the source was chosen already.
	Own []netip.Prefix
	// Partial says that Nodes may not be all that there are, as after a restart, nor
	// Exempt, which has them, too: what else the kernel has in the sets of the two stays
	// there. A connection keeps for life what is decided at its first packet.
	Partial bool
}

// TunnelPrefix is what the names of the tunnels' interfaces begin with.
const TunnelPrefix = "godwit."

// nothing tells whether no packet is masqueraded. Own without Tunnelled is that:
// there are no tunnels.
func (r *Rules) nothing() bool { return len(r.Masquerade) == 0 && len(r.Tunnelled) == 0 }

// Table is the table in one network namespace. Its methods may be called
// concurrently.
type Table struct {
	mu sync.Mutex
	ns *os.File
}

// Open returns the table of the network namespace that the calling thread is in.
// It changes nothing. Close it after use.
func Open() (*Table, error) {
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open the network namespace: %w", err)
	}
	return &Table{ns: ns}, nil
}

// Close ends the use of the table, which stays in the kernel.
func (t *Table) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ns.Close()
}

// Set makes the kernel's table be what the rules say, in one transaction. It is
// idempotent: call it after every change of the rules, and from time to time for
// the sake of changes that somebody else made. When it fails the table is as it
// was.
func (t *Table) Set(ctx context.Context, r Rules) error {
	want, err := wantedSets(r)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	have, err := t.read()
	if err != nil {
		return fmt.Errorf("read nftables table inet %s: %w", TableName, err)
	}
	if have == nil && r.nothing() {
		// Not made for nothing; but a broken one of ours may drop packets.
		return t.remove()
	}
	if r.Partial {
		there := have
		if there == nil {
			if there, err = t.remains(); err != nil {
				return fmt.Errorf("read the nodes in nftables table inet %s: %w", TableName, err)
			}
		}
		want.addNodes(there)
	}
	if have != nil {
		// Some kernels refuse to delete and add intervals that overlap in one transaction;
		// then the table is made anew.
		if err = t.update(have, want); err == nil {
			return nil
		}
	}
	if rerr := t.rebuild(want); rerr != nil {
		return fmt.Errorf("write nftables table inet %s: %w", TableName, errors.Join(rerr, err))
	}
	return nil
}

// Remove deletes the table, as when Godwit leaves the node. Connections that are
// masqueraded break. It is no error if there is no table.
func (t *Table) Remove() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.remove()
}

func (t *Table) remove() error {
	c, err := t.conn()
	if err != nil {
		return err
	}
	// Where there is none nothing is written, so that a node without masquerade
	// changes nothing in the firewall.
	table, err := findTable(c)
	if err != nil {
		return fmt.Errorf("look for nftables table inet %s: %w", TableName, err)
	}
	if table == nil {
		return nil
	}
	c.AddTable(newTable()) // in case it went meanwhile
	c.DelTable(newTable())
	if err := c.Flush(); err != nil {
		return fmt.Errorf("delete nftables table inet %s: %w", TableName, err)
	}
	return nil
}

// conn returns a connection for a few operations, each of which opens a socket of
// its own in the table's namespace: what an operation that failed left unread
// disturbs no other.
func (t *Table) conn() (*nftables.Conn, error) {
	c, err := nftables.New(nftables.WithNetNSFd(int(t.ns.Fd())), nftables.WithSockOptions(largeBuffers))
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket for nftables: %w", err)
	}
	return c, nil
}
