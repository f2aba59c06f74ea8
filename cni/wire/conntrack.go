package wire

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Of linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h.
const (
	ctNew    = 1 << 8 // NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_NEW
	ctGet    = 1<<8 | 1
	ctDelete = 1<<8 | 2

	ctTupleOrig  = 1
	ctTupleReply = 2
	ctID         = 12
	ctZone       = 18
	ctFilter     = 25

	ctTupleIP = 1
	ctV4Src   = 1
	ctV6Src   = 3

	ctFilterOrig  = 1
	ctFilterReply = 2
	ctFilterIPSrc = 1 // CTA_FILTER_F_CTA_IP_SRC

	sizeofNfgenmsg = 4
)

// maxFilteredFlush is up to how many addresses the kernel is asked for the
// entries of each; for more, one pass over the whole table is less work.
const maxFilteredFlush = 8

// FlushConntrack deletes the connection-tracking entries of addresses that are
// about to be given to somebody else, so that nobody meets the connections of
// the one before. An entry is an address's if that is where a packet of either
// direction comes from.
func (w *Wirer) FlushConntrack(ctx context.Context, addresses []netip.Addr) error {
	if len(addresses) == 0 || w.noConntrack() {
		return nil
	}
	gone := make(map[netip.Addr]bool, len(addresses))
	for _, a := range addresses {
		gone[a] = true
	}
	return w.ct.with(func(c *conn) error {
		var b batch
		if len(addresses) > maxFilteredFlush {
			ctDump(&b, unix.AF_UNSPEC, nil)
			return c.flush(&b, gone)
		}
		var errs []error
		for _, a := range addresses {
			if err := ctx.Err(); err != nil {
				return errors.Join(append(errs, err)...)
			}
			for _, tuple := range []uint16{ctTupleOrig, ctTupleReply} {
				b = batch{}
				ctDump(&b, family(a), func() { ctBySource(&b, tuple, a) })
				errs = append(errs, c.flush(&b, gone))
			}
		}
		return errors.Join(errs...)
	})
}

// noConntrack tells that the node tracks no connection at all.
func (w *Wirer) noConntrack() bool {
	none := false
	_ = w.onNode(func() error {
		n, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
		none = errors.Is(err, os.ErrNotExist) || strings.TrimSpace(string(n)) == "0"
		return nil
	})
	return none
}

func ctDump(b *batch, fam byte, filter func()) {
	b.begin("list tracked connections", ctGet, unix.NLM_F_DUMP, []byte{fam, 0, 0, 0})
	if filter != nil {
		filter()
	}
	b.end()
}

// ctBySource has the kernel return only what comes from a in the direction of
// the tuple. A kernel without such filters (before 5.8) returns everything.
func ctBySource(b *batch, tuple uint16, a netip.Addr) {
	b.nest(tuple|unix.NLA_F_NESTED, func() {
		b.nest(ctTupleIP|unix.NLA_F_NESTED, func() {
			if a.Is4() {
				b.attrAddr(ctV4Src, a)
			} else {
				b.attrAddr(ctV6Src, a)
			}
		})
	})
	flags := uint16(ctFilterOrig)
	if tuple == ctTupleReply {
		flags = ctFilterReply
	}
	b.nest(ctFilter|unix.NLA_F_NESTED, func() { b.attr32(flags, ctFilterIPSrc) })
}

// flush deletes what the dump of list returns, if it is of the addresses.
func (c *conn) flush(list *batch, gone map[netip.Addr]bool) error {
	var del batch
	err := c.do(list, func(r reply) error {
		if r.typ != ctNew || len(r.data) < sizeofNfgenmsg || !ctOf(r.data[sizeofNfgenmsg:], gone) {
			return nil
		}
		del.begin("forget a tracked connection", ctDelete, unix.NLM_F_ACK, r.data[:sizeofNfgenmsg])
		attrs(r.data[sizeofNfgenmsg:], func(typ uint16, v []byte) {
			switch typ {
			case ctTupleOrig:
				del.attr(typ|unix.NLA_F_NESTED, v)
			case ctID, ctZone:
				del.attr(typ, v)
			}
		})
		del.end()
		return nil
	})
	if err != nil {
		return fmt.Errorf("list tracked connections: %w", err)
	}
	for len(del.what) > 0 {
		var part batch
		part, del = del.split(256)
		// ENOENT: it went by itself.
		if err := c.do(&part, nil); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}

// split cuts a batch in two, of which the first has at most n messages.
func (b batch) split(n int) (head, tail batch) {
	for at := 0; at < len(b.buf); {
		size := align(int(order.Uint32(b.buf[at:])))
		part := &head
		if len(head.what) == n {
			part = &tail
		}
		part.what = append(part.what, b.what[len(head.what)+len(tail.what)])
		start := len(part.buf)
		part.buf = append(part.buf, b.buf[at:at+size]...)
		order.PutUint32(part.buf[start+8:], uint32(len(part.what)))
		at += size
	}
	return head, tail
}

// ctOf tells whether an entry comes, in either direction, from one of the addresses.
func ctOf(entry []byte, gone map[netip.Addr]bool) bool {
	found := false
	attrs(entry, func(typ uint16, v []byte) {
		if typ != ctTupleOrig && typ != ctTupleReply {
			return
		}
		attrs(v, func(typ uint16, v []byte) {
			if typ != ctTupleIP {
				return
			}
			attrs(v, func(typ uint16, v []byte) {
				if typ == ctV4Src || typ == ctV6Src {
					a, _ := netip.AddrFromSlice(v)
					found = found || gone[a]
				}
			})
		})
	})
	return found
}
