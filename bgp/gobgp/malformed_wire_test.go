package gobgp

import (
	"encoding/binary"
	"slices"
)

// Message types (RFC 4271, section 4.1; RFC 2918).
const (
	messageOpen, messageUpdate, messageNotification, messageKeepalive, messageRefresh = 1, 2, 3, 4, 5
)

// Path attributes and their flags (RFC 4271, section 4.3).
const (
	attrOrigin, attrASPath, attrNextHop, attrMED, attrLocalPref, attrAtomic, attrAggregator = 1, 2, 3, 4, 5, 6, 7
	attrCommunities, attrOriginator, attrClusters, attrMPReach, attrMPUnreach, attrExtended = 8, 9, 10, 14, 15, 16
	attrAS4Path, attrAS4Aggregator, attrPMSI, attrTunnel, attrExtended6, attrAIGP           = 17, 18, 22, 23, 25, 26
	attrLinkState, attrLarge, attrPrefixSID, attrAttrSet                                    = 29, 32, 40, 128

	wellKnown, optional, transitive, partial, extendedLength = 0x40, 0x80, 0x40, 0x20, 0x10
)

const rogueASN = 65001

// What a rogue has announced, and what it announces in the messages: the same
// prefix by another next hop.
var (
	rogueRoute  = pfx("10.9.7.0/24")
	rogueRoute6 = pfx("fd09:0:0:7::/64")
	formerHop   = addr("127.0.1.1")
	rogueHop    = addr("127.0.1.2")
	rogueNLRI   = []byte{24, 10, 9, 7}
)

// frame makes a message of a body, whatever it is.
func frame(kind byte, body ...byte) []byte {
	b := slices.Repeat([]byte{0xff}, 16)
	b = binary.BigEndian.AppendUint16(b, uint16(19+len(body)))
	return append(append(b, kind), body...)
}

func attribute(flags, kind byte, value ...byte) []byte {
	if flags&extendedLength != 0 {
		return append(binary.BigEndian.AppendUint16([]byte{flags, kind}, uint16(len(value))), value...)
	}
	return append([]byte{flags, kind, byte(len(value))}, value...)
}

// rawUpdate is an UPDATE of parts that need not fit together.
func rawUpdate(withdrawn, attrs, nlri []byte) []byte {
	body := binary.BigEndian.AppendUint16(nil, uint16(len(withdrawn)))
	body = append(body, withdrawn...)
	body = binary.BigEndian.AppendUint16(body, uint16(len(attrs)))
	body = append(body, attrs...)
	return frame(messageUpdate, append(body, nlri...)...)
}

// attributesWith are those that a route needs, those given in the place of those
// of their kind, or added. One that is given empty is left out.
func attributesWith(given ...[]byte) []byte {
	attrs := [][]byte{
		attribute(wellKnown, attrOrigin, 0),
		attribute(wellKnown, attrASPath, 2, 1, 0, 0, rogueASN>>8, rogueASN&0xff),
		attribute(wellKnown, attrNextHop, rogueHop.AsSlice()...),
	}
	for _, g := range given {
		if i := slices.IndexFunc(attrs, func(a []byte) bool { return a[1] == g[1] }); i >= 0 {
			attrs[i] = g
		} else {
			attrs = append(attrs, g)
		}
	}
	return slices.Concat(attrs...)
}

// updateWith announces the route with some attributes, see attributesWith.
func updateWith(given ...[]byte) []byte { return rawUpdate(nil, attributesWith(given...), rogueNLRI) }

// updateWithout announces the route without an attribute.
func updateWithout(kind byte) []byte {
	var kept []byte
	for rest := attributesWith(); len(rest) > 0; {
		n := 3 + int(rest[2])
		if rest[1] != kind {
			kept = append(kept, rest[:n]...)
		}
		rest = rest[n:]
	}
	return rawUpdate(nil, kept, rogueNLRI)
}

// reach is an MP_REACH_NLRI attribute (RFC 4760, section 3).
func reach(value ...byte) []byte { return attribute(optional, attrMPReach, value...) }

// unreach is an MP_UNREACH_NLRI attribute (RFC 4760, section 4).
func unreach(value ...byte) []byte { return attribute(optional, attrMPUnreach, value...) }

// reach6 is one for IPv6, by a next hop of any length, with prefixes.
func reach6(hop []byte, nlri ...byte) []byte {
	return reach(slices.Concat([]byte{0, 2, 1, byte(len(hop))}, hop, []byte{0}, nlri)...)
}

var (
	hop6  = []byte{0xfd, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}
	nlri6 = []byte{64, 0xfd, 9, 0, 0, 0, 0, 0, 7}
)

// alone is an UPDATE of these attributes only.
func alone(attrs ...[]byte) []byte { return rawUpdate(nil, slices.Concat(attrs...), nil) }

// openOf is an OPEN that a rogue may send (RFC 4271, section 4.2), with parts of
// its own choice; what is after the identifier begins with the length of the
// optional parameters.
func openOf(version byte, asn, hold uint16, id [4]byte, params ...byte) []byte {
	b := []byte{version}
	b = binary.BigEndian.AppendUint16(b, asn)
	b = binary.BigEndian.AppendUint16(b, hold)
	return frame(messageOpen, slices.Concat(b, id[:], params)...)
}

// openWith is a good OPEN but for its optional parameters.
func openWith(params ...byte) []byte {
	return openOf(4, rogueASN, 90, [4]byte{127, 0, 1, 1}, params...)
}

// capable is an OPEN with one capability (RFC 5492) of any bytes.
func capable(capability ...byte) []byte {
	n := byte(len(capability))
	return openWith(append([]byte{n + 2, 2, n}, capability...)...)
}
