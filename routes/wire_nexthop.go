package routes

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// The attributes of nexthop objects (linux/nexthop.h).
const (
	nhaID        = 1
	nhaGroup     = 2
	nhaGroupType = 3
	nhaBlackhole = 4
	nhaOif       = 5
	nhaGateway   = 6
	nhaEncapType = 7
	nhaEncap     = 8
	nhaFDB       = 11
	nhaResGroup  = 12
)

// kernelObject is a nexthop object as the kernel has it.
type kernelObject struct {
	id       uint32
	protocol uint8
	content  content
}

// content is what a nexthop object says; comparable. Either path or members
// is set, or odd for an object of a kind that we never make.
type content struct {
	path    path
	members string // of a group: its members' ids, sorted, as joinIDs makes it
	odd     bool
}

func (c content) group() bool { return c.members != "" }

// joinIDs makes a comparable list of ids, in ascending order.
func joinIDs(ids []uint32) string {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	var b strings.Builder
	b.Grow(4 * len(ids))
	for _, id := range ids {
		b.Write(binary.BigEndian.AppendUint32(nil, id))
	}
	return b.String()
}

// splitIDs is joinIDs' inverse.
func splitIDs(s string) []uint32 {
	ids := make([]uint32, 0, len(s)/4)
	for ; len(s) >= 4; s = s[4:] {
		ids = append(ids, binary.BigEndian.Uint32([]byte(s[:4])))
	}
	return ids
}

// without returns the group without a member.
func (c content) without(id uint32) content {
	ids := splitIDs(c.members)
	return content{members: joinIDs(slices.DeleteFunc(ids, func(m uint32) bool { return m == id })), odd: c.odd}
}

func (c content) has(id uint32) bool { return slices.Contains(splitIDs(c.members), id) }

// encodeObject writes a nexthop message; a DELNEXTHOP message holds the id only.
func encodeObject(e *encoder, typ, flags uint16, seq uint32, o *kernelObject) {
	e.begin(typ, flags, seq)
	family, nhFlags, protocol := uint8(unix.AF_UNSPEC), uint32(0), o.protocol
	single := typ == unix.RTM_NEWNEXTHOP && !o.content.group()
	if single {
		family = familyOf(o.content.path.gateway)
		if o.content.path.onlink {
			nhFlags = rtnhOnlink
		}
	}
	if typ == unix.RTM_DELNEXTHOP {
		protocol = 0
	}
	e.b = append(e.b, family, 0, protocol, 0)
	e.b = binary.NativeEndian.AppendUint32(e.b, nhFlags)
	e.attr32(nhaID, o.id)
	switch {
	case typ == unix.RTM_DELNEXTHOP:
	case single:
		e.attr32(nhaOif, uint32(o.content.path.oif))
		e.addr(nhaGateway, o.content.path.gateway)
	default:
		at := e.nest(nhaGroup)
		for _, id := range splitIDs(o.content.members) {
			e.b = binary.NativeEndian.AppendUint32(e.b, id)
			e.b = append(e.b, 0, 0, 0, 0) // weight 1 is written as 0
		}
		e.unnest(at)
	}
	e.end()
}

// decodeObject reads a nexthop message.
func decodeObject(b []byte) (*kernelObject, error) {
	if len(b) < sizeofNhmsg {
		return nil, fmt.Errorf("%w: nexthop of %d bytes", errMalformed, len(b))
	}
	o := &kernelObject{protocol: b[2]}
	p := path{onlink: binary.NativeEndian.Uint32(b[4:])&rtnhOnlink != 0}
	var ids []uint32
	group := false
	err := eachAttr(b[sizeofNhmsg:], func(typ uint16, v []byte) (err error) {
		var n uint32
		switch typ {
		case nhaID:
			o.id, err = u32(v)
		case nhaOif:
			n, err = u32(v)
			p.oif = int(int32(n))
		case nhaGateway:
			p.gateway, err = address(v)
		case nhaGroup:
			group = true
			for ; len(v) >= sizeofNhgrp; v = v[sizeofNhgrp:] {
				ids = append(ids, binary.NativeEndian.Uint32(v))
				o.content.odd = o.content.odd || v[4] != 0 || v[5] != 0
			}
		case nhaGroupType:
			o.content.odd = o.content.odd || len(v) >= 2 && binary.NativeEndian.Uint16(v) != 0
		case nhaBlackhole, nhaEncap, nhaEncapType, nhaFDB, nhaResGroup:
			o.content.odd = true
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if o.id == 0 {
		return nil, fmt.Errorf("%w: a nexthop without id", errMalformed)
	}
	if group {
		o.content.members = joinIDs(ids)
	} else {
		o.content.path = p
	}
	return o, nil
}
