package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Changed is signalled when somebody else changed something of ours, or what it
// depends on, so that Set has work to do. Run does the signalling.
func (t *Table) Changed() <-chan struct{} { return t.signal.c }

// Run watches the kernel until ctx ends or Close is called, which is no error.
func (t *Table) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, t.mon.interrupt)()
	for {
		err := t.mon.wait()
		var news bool
		if err == nil {
			news, err = t.news()
		}
		switch {
		case ctx.Err() != nil, errors.Is(err, ErrClosed), t.isClosed():
			return nil
		case err != nil:
			return fmt.Errorf("watch the tunnels: %w", err)
		case news:
			t.signal.give()
		}
	}
}

func (t *Table) isClosed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed
}

// news reads the notifications and tells whether one of them gives Set work.
func (t *Table) news() (news bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false, ErrClosed
	}
	lost, err := t.mon.drain(func(h header, payload []byte) {
		news = news || t.concerns(h, payload)
	})
	return news || lost, err
}

// concerns judges a notification by what is wanted and what was seen last; not
// by who caused it, as the kernel doesn't always say.
func (t *Table) concerns(h header, b []byte) bool {
	switch h.typ {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		l, ok := parseLink(b)
		return ok && b[0] == unix.AF_UNSPEC && t.concernsLink(h.typ == unix.RTM_NEWLINK, &l)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		a, ok := parseAddr(b)
		return ok && t.concernsAddr(h.typ == unix.RTM_NEWADDR, a)
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		return t.concernsEntry(h.typ == unix.RTM_NEWNEIGH, b)
	case unix.RTM_NEWNETCONF:
		return t.concernsForwarding(b)
	}
	return false
}

func (t *Table) concernsLink(is bool, l *link) bool {
	k, ours := t.seen.devices[l.index]
	if ours {
		return !is || l.name != k.w.name || l.params != k.p || linkChanges(k.w, l) != linkChange{} || len(sysctls(k.w, l)) > 0
	}
	if t.seen.inWay[l.index] || is && l.ours() {
		return true
	}
	for _, w := range t.wants {
		if w.name == l.name || t.seen.failing && l.params.kind == w.Kind.String() {
			return true // it comes into the way of ours, or out of it
		}
	}
	return false
}

func (t *Table) concernsAddr(is bool, a ifaddr) bool {
	if k, ours := t.seen.devices[a.index]; ours {
		return is != k.w.wantsAddr(a)
	}
	for _, w := range t.wants {
		if a.addr == w.Local {
			return is != t.seen.locals[a.key()]
		}
	}
	return false
}

func (t *Table) concernsEntry(is bool, b []byte) bool {
	if index, e, ok := parseFDB(b); ok {
		k, ours := t.seen.devices[index]
		return ours && is != k.w.wantsFDB(t.peers, e)
	}
	index, n, ok := parseNeighbour(b)
	if !ok {
		return false
	}
	k, ours := t.seen.devices[index]
	if !ours {
		return false
	}
	peer := k.w.wantsGateway(t.peers, n.addr)
	if is {
		// An entry that the kernel made for itself is no matter, unless it is in the
		// place of a peer's.
		return (peer || n.permanent()) && !k.w.wantsNeighbour(t.peers, n)
	}
	return peer
}

// concernsForwarding judges a message about the settings of a link.
func (t *Table) concernsForwarding(b []byte) bool {
	if len(b) < 4 { // struct netconfmsg, padded
		return false
	}
	index, off := 0, false
	eachAttr(b[4:], func(typ uint16, v []byte) {
		switch typ {
		case netconfIndex:
			index = int(int32(u32(v)))
		case netconfForwarding:
			off = u32(v) == 0
		}
	})
	k, ours := t.seen.devices[index]
	return ours && off && (b[0] == unix.AF_INET || k.w.needs6())
}

const (
	netconfIndex      = 1 // NETCONFA_IFINDEX
	netconfForwarding = 2 // NETCONFA_FORWARDING
)

// ifaddrKey identifies an address on a link.
type ifaddrKey struct {
	index int
	addr  netip.Addr
}

func (a ifaddr) key() ifaddrKey { return ifaddrKey{a.index, a.addr} }
