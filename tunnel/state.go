package tunnel

import (
	"cmp"
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

// state is what was seen of the kernel.
type state struct {
	links []link
	addrs []ifaddr
	fdb   map[int][]fdbEntry  // by link
	neigh map[int][]neighbour // by link
	// listening tells whether a UDP socket is in the way of one for VXLAN.
	listening func(port uint16, six, other6 bool) bool
}

// ifaddr is an address of a link.
type ifaddr struct {
	index       int
	addr, other netip.Addr // other: that of the other end, mostly the same
	bits        int
}

// fdbEntry says to which node the packets to a MAC address go.
type fdbEntry struct {
	mac hwaddr
	dst netip.Addr
	// odd: it is not permanent, or has a port or VNI or link of its own.
	odd bool
}

// neighbour is a link's neighbour entry.
type neighbour struct {
	addr  netip.Addr
	mac   hwaddr
	state uint16
}

func (n neighbour) permanent() bool { return n.state&unix.NUD_PERMANENT != 0 }

func (s *state) byName(name string) *link {
	for i := range s.links {
		if s.links[i].name == name {
			return &s.links[i]
		}
	}
	return nil
}

// underlay finds the link that has the address. Of several it is the one in
// use, if it is among them, and a loopback link only if there is no other.
func (s *state) underlay(a netip.Addr, inUse int) (index int, found bool) {
	var best *link
	better := func(a, b *link) bool {
		switch {
		case b == nil:
			return true
		case a.loopback() != b.loopback():
			return b.loopback()
		case a.index == inUse || b.index == inUse:
			return a.index == inUse
		}
		return cmp.Less(a.index, b.index)
	}
	for _, addr := range s.addrs {
		if addr.addr != a {
			continue
		}
		for i := range s.links {
			if l := &s.links[i]; l.index == addr.index && better(l, best) {
				best = l
			}
		}
	}
	switch {
	case best == nil:
		return 0, false
	case best.loopback():
		return 0, true // packets leave by whichever link the routes say
	}
	return best.index, true
}

// knownNodes are the nodes that forwarding entries lead to which can only be ours:
// those whose MAC address follows from where they lead.
func (s *state) knownNodes() []netip.Addr {
	var nodes []netip.Addr
	for _, entries := range s.fdb {
		for _, e := range entries {
			if !e.odd && e.dst.IsValid() && e.mac == macOf(e.dst) {
				nodes = append(nodes, e.dst)
			}
		}
	}
	return nodes
}

// observe looks at the kernel: all links and addresses, and the entries of the
// devices named.
func (t *Table) observe(wants []*want) (*state, error) {
	s := &state{fdb: map[int][]fdbEntry{}, neigh: map[int][]neighbour{}, listening: t.proc.listening}
	msgs, err := t.req.dump("list the links", unix.RTM_GETLINK, make([]byte, sizeofIfinfo), func(m *batch) {
		m.attr32(unix.IFLA_EXT_MASK, skipStats)
	})
	if err != nil {
		return nil, err
	}
	for _, b := range msgs {
		if l, ok := parseLink(b); ok {
			s.links = append(s.links, l)
		}
	}
	msgs, err = t.req.dump("list the addresses", unix.RTM_GETADDR, make([]byte, sizeofIfaddr), nil)
	if err != nil {
		return nil, err
	}
	for _, b := range msgs {
		if a, ok := parseAddr(b); ok {
			s.addrs = append(s.addrs, a)
		}
	}
	for _, w := range wants {
		l := s.byName(w.name)
		if w.err != nil || w.Kind != VXLAN || l == nil || l.params.kind != VXLAN.String() {
			continue
		}
		if err := t.observeEntries(s, w, l); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (t *Table) observeEntries(s *state, w *want, l *link) error {
	if t.oldOffload {
		on, err := t.req.txChecksum(l.name)
		if err != nil {
			return err
		}
		l.txChecksum = on
	}
	msgs, err := t.req.dump("list the forwarding entries", unix.RTM_GETNEIGH, ndmsg(unix.AF_BRIDGE, l.index, 0, 0), nil)
	if err != nil {
		return err
	}
	for _, b := range msgs {
		if index, e, ok := parseFDB(b); ok && index == l.index {
			s.fdb[index] = append(s.fdb[index], e)
		}
	}
	msgs, err = t.req.dump("list the neighbours", unix.RTM_GETNEIGH, ndmsg(family(w.Local), 0, 0, 0), func(m *batch) {
		m.attr32(unix.NDA_IFINDEX, uint32(l.index))
	})
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		return err
	}
	for _, b := range msgs {
		if index, n, ok := parseNeighbour(b); ok && index == l.index {
			s.neigh[index] = append(s.neigh[index], n)
		}
	}
	return nil
}

// parseAddr reads an RTM_NEWADDR or RTM_DELADDR message.
func parseAddr(b []byte) (a ifaddr, ok bool) {
	if len(b) < sizeofIfaddr {
		return ifaddr{}, false
	}
	a.bits, a.index = int(b[1]), int(u32(b[4:]))
	eachAttr(b[sizeofIfaddr:], func(typ uint16, v []byte) {
		switch typ {
		case unix.IFA_LOCAL:
			a.addr = address(v)
		case unix.IFA_ADDRESS:
			a.other = address(v)
		}
	})
	if !a.addr.IsValid() {
		a.addr = a.other
	}
	return a, a.addr.IsValid()
}

// parseFDB reads an RTM_NEWNEIGH or RTM_DELNEIGH message of a link's own
// forwarding entry.
func parseFDB(b []byte) (index int, e fdbEntry, ok bool) {
	if len(b) < sizeofNdmsg || b[0] != unix.AF_BRIDGE || b[10]&unix.NTF_SELF == 0 {
		return 0, fdbEntry{}, false
	}
	e.odd = binary.NativeEndian.Uint16(b[8:])&unix.NUD_PERMANENT == 0
	eachAttr(b[sizeofNdmsg:], func(typ uint16, v []byte) {
		switch typ {
		case unix.NDA_LLADDR:
			if ok = len(v) == len(e.mac); ok {
				e.mac = hwaddr(v)
			}
		case unix.NDA_DST:
			e.dst = address(v)
		case unix.NDA_PORT, unix.NDA_VNI, unix.NDA_SRC_VNI, unix.NDA_IFINDEX:
			e.odd = true
		}
	})
	return int(u32(b[4:])), e, ok
}

// parseNeighbour reads an RTM_NEWNEIGH or RTM_DELNEIGH message of IP.
func parseNeighbour(b []byte) (index int, n neighbour, ok bool) {
	if len(b) < sizeofNdmsg || b[0] != unix.AF_INET && b[0] != unix.AF_INET6 || b[10]&unix.NTF_PROXY != 0 {
		return 0, neighbour{}, false
	}
	n.state = binary.NativeEndian.Uint16(b[8:])
	eachAttr(b[sizeofNdmsg:], func(typ uint16, v []byte) {
		switch typ {
		case unix.NDA_DST:
			n.addr = address(v)
		case unix.NDA_LLADDR:
			if len(v) == len(n.mac) {
				n.mac = hwaddr(v)
			}
		}
	})
	return int(u32(b[4:])), n, n.addr.IsValid()
}

func ndmsg(fam uint8, index int, state uint16, flags uint8) []byte {
	b := make([]byte, sizeofNdmsg)
	b[0] = fam
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint16(b[8:], state)
	b[10] = flags
	return b
}

// address gives a link an address, or takes it away.
func (m *batch) address(s step, typ, flags uint16, a ifaddr) {
	fixed := make([]byte, sizeofIfaddr)
	fixed[0], fixed[1] = family(a.addr), byte(a.bits)
	binary.NativeEndian.PutUint32(fixed[4:], uint32(a.index))
	m.begin(s, a.addr, typ, flags, fixed)
	m.attrAddr(unix.IFA_LOCAL, a.addr)
	m.attrAddr(unix.IFA_ADDRESS, a.other)
	if typ == unix.RTM_NEWADDR && a.addr.Is6() {
		// Nobody else can have it, and there is no subnet to have a route to.
		m.attr32(unix.IFA_FLAGS, unix.IFA_F_NODAD|unix.IFA_F_NOPREFIXROUTE)
	}
	m.end()
}

// putFDB writes a forwarding entry over whatever there is for its MAC address.
func (m *batch) putFDB(index int, e fdbEntry) {
	m.begin(stepAddFDB, e.dst, unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE,
		ndmsg(unix.AF_BRIDGE, index, unix.NUD_PERMANENT, unix.NTF_SELF))
	m.attr(unix.NDA_LLADDR, e.mac[:])
	m.attrAddr(unix.NDA_DST, e.dst)
	m.end()
}

func (m *batch) deleteFDB(index int, e fdbEntry) {
	m.begin(stepDelFDB, e.mac, unix.RTM_DELNEIGH, 0,
		ndmsg(unix.AF_BRIDGE, index, unix.NUD_PERMANENT, unix.NTF_SELF))
	m.attr(unix.NDA_LLADDR, e.mac[:])
	if e.dst.IsValid() {
		m.attrAddr(unix.NDA_DST, e.dst)
	}
	m.end()
}

// putNeighbour writes a neighbour entry over whatever there is for its address.
func (m *batch) putNeighbour(index int, n neighbour) {
	m.begin(stepAddNeigh, n.addr, unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE,
		ndmsg(family(n.addr), index, unix.NUD_PERMANENT, 0))
	m.attrAddr(unix.NDA_DST, n.addr)
	m.attr(unix.NDA_LLADDR, n.mac[:])
	m.end()
}

func (m *batch) deleteNeighbour(index int, n neighbour) {
	m.begin(stepDelNeigh, n.addr, unix.RTM_DELNEIGH, 0, ndmsg(family(n.addr), index, 0, 0))
	m.attrAddr(unix.NDA_DST, n.addr)
	m.end()
}
