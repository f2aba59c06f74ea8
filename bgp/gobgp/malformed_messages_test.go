package gobgp

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// fate is what becomes of a session and of the route that it had announced,
// after a message that makes no sense.
type fate struct {
	outcome outcome
	// of the NOTIFICATION that ends the session; zero: of no matter
	code, subcode byte
}

type outcome int

const (
	takenAnew outcome = iota // the announcement counts, without a malformed attribute or with it
	ignored                  // as if it had not come
	withdrawn                // treat-as-withdraw (RFC 7606, section 2)
	reset                    // the session ends
)

func (f fate) String() string {
	switch f.outcome {
	case takenAnew:
		return "takes the announcement"
	case ignored:
		return "ignores the message"
	case withdrawn:
		return "treats the message as a withdrawal"
	}
	if f.code == 0 {
		return "ends the session"
	}
	return fmt.Sprintf("ends the session with %d/%d", f.code, f.subcode)
}

var (
	takes     = fate{outcome: takenAnew}
	ignores   = fate{outcome: ignored}
	withdraws = fate{outcome: withdrawn}
	// ends is for where no RFC says which NOTIFICATION, or that there is one.
	ends = fate{outcome: reset}
)

// letsIn is for an OPEN that is good enough.
var letsIn = takes

func resets(code, subcode byte) fate { return fate{reset, code, subcode} }

// malformed is a message that a peer sends in an established session, over which
// it has announced rogueRoute before.
type malformed struct {
	name    string
	message []byte
	asked   fate   // by the RFCs
	differs *fate  // what becomes of it instead; nil: what is asked
	why     string // it differs
}

func (m malformed) but(f fate, why string) malformed {
	m.differs, m.why = &f, why
	return m
}

// expects tells whether a fate is what is known of the message.
func (m malformed) expects(f fate) bool {
	want := m.want()
	return f == want || want == ends && f.outcome == reset
}

func (m malformed) want() fate {
	if m.differs != nil {
		return *m.differs
	}
	return m.asked
}

func message(name string, message []byte, asked fate) malformed {
	return malformed{name: name, message: message, asked: asked}
}

// malformedMessages are what the speaker must survive.
func malformedMessages() []malformed {
	return slices.Concat(malformedAttributes(), malformedLists(), malformedFamilies(), malformedHeaders())
}

// malformedAttributes have one attribute that is wrong (RFC 7606, section 7, and
// the RFCs of the attributes). One that the speaker does not know, or has no use
// for, is no reason to refuse the route.
func malformedAttributes() []malformed {
	of := func(flags, kind byte, value ...byte) []byte { return updateWith(attribute(flags, kind, value...)) }
	const optTrans = optional | transitive
	return []malformed{
		message("ORIGIN missing", updateWithout(attrOrigin), withdraws),
		message("ORIGIN unknown", of(wellKnown, attrOrigin, 9), withdraws),
		message("ORIGIN empty", of(wellKnown, attrOrigin), withdraws),
		message("ORIGIN too long", of(wellKnown, attrOrigin, 0, 0), withdraws),
		message("ORIGIN optional", of(optional, attrOrigin, 0), withdraws),
		message("AS_PATH missing", updateWithout(attrASPath), withdraws),
		message("AS_PATH empty from another AS", of(wellKnown, attrASPath), takes),
		message("AS_PATH segment runs out", of(wellKnown, attrASPath, 2, 5, 0, 0, 0xfd, 0xe9), withdraws),
		message("AS_PATH segment is empty", of(wellKnown, attrASPath, 2, 0), withdraws),
		message("AS_PATH segment unknown", of(wellKnown, attrASPath, 9, 1, 0, 0, 0xfd, 0xe9), withdraws),
		message("AS_PATH one octet", of(wellKnown, attrASPath, 2), withdraws),
		message("AS_PATH of a confederation", of(wellKnown, attrASPath, 3, 1, 0, 0, 0xfd, 0xe9), withdraws),
		message("NEXT_HOP missing", updateWithout(attrNextHop), withdraws),
		message("NEXT_HOP empty", of(wellKnown, attrNextHop), withdraws),
		message("NEXT_HOP short", of(wellKnown, attrNextHop, 127, 0, 1), withdraws),
		message("NEXT_HOP of IPv6", of(wellKnown, attrNextHop, hop6...), withdraws),
		message("NEXT_HOP unspecified", of(wellKnown, attrNextHop, 0, 0, 0, 0), withdraws),
		message("NEXT_HOP multicast", of(wellKnown, attrNextHop, 224, 0, 0, 5), withdraws),
		message("MED short", of(optional, attrMED, 1, 2, 3), withdraws),
		message("LOCAL_PREF from another AS", of(wellKnown, attrLocalPref, 0, 0, 1, 0), takes),
		message("LOCAL_PREF short from another AS", of(wellKnown, attrLocalPref, 1), takes).but(withdraws, "GoBGP looks at it as if it came from our own AS"),
		message("ATOMIC_AGGREGATE with a value", of(wellKnown, attrAtomic, 1), takes),
		message("AGGREGATOR short", of(optTrans, attrAggregator, 1, 2, 3), takes),
		message("COMMUNITIES of three octets", of(optTrans, attrCommunities, 1, 2, 3), withdraws),
		message("COMMUNITIES empty", of(optTrans, attrCommunities), withdraws).but(takes, "GoBGP takes an empty list for one"),
		message("ORIGINATOR_ID short from another AS", of(optional, attrOriginator, 1, 2, 3), takes).but(withdraws, "GoBGP looks at it as if it came from our own AS"),
		message("CLUSTER_LIST short from another AS", of(optional, attrClusters, 1, 2, 3), takes).but(withdraws, "GoBGP looks at it as if it came from our own AS"),
		message("extended communities of three octets", of(optTrans, attrExtended, 1, 2, 3), withdraws),
		message("IPv6 extended communities of three octets", of(optTrans, attrExtended6, 1, 2, 3), withdraws),
		message("large communities of five octets", of(optTrans, attrLarge, 1, 2, 3, 4, 5), withdraws),
		message("AS4_PATH garbage", of(optTrans, attrAS4Path, 7, 7, 7), takes).but(withdraws, "GoBGP is stricter than RFC 6793, section 6"),
		message("AS4_AGGREGATOR short", of(optTrans, attrAS4Aggregator, 1, 2), takes).but(resets(3, 1), "GoBGP works on it before it discards it"),
		message("PMSI tunnel short", of(optTrans, attrPMSI, 1), withdraws),
		message("tunnel encapsulation garbage", of(optTrans, attrTunnel, 0, 15, 0, 200, 1, 255, 0), takes),
		message("AIGP garbage", of(optional, attrAIGP, 1, 0, 200), takes),
		message("BGP-LS attribute garbage", of(optional, attrLinkState, 4, 0, 0, 200, 1), takes),
		message("prefix SID garbage", of(optTrans, attrPrefixSID, 1, 0, 1, 0, 5), takes),
		message("ATTR_SET garbage", of(optTrans, attrAttrSet, 1, 2), takes),
		message("unknown optional attribute", of(optTrans|partial, 250, 1, 2, 3), takes),
		message("unknown well-known attribute", of(wellKnown, 250, 1, 2, 3), resets(3, 2)),
	}
}

// malformedLists are UPDATEs whose parts don't fit together (RFC 7606, sections 3,
// 4 and 5).
func malformedLists() []malformed {
	good := attributesWith()
	origin := attribute(wellKnown, attrOrigin, 0)
	return []malformed{
		message("ORIGIN twice", rawUpdate(nil, slices.Concat(good, attribute(wellKnown, attrOrigin, 1)), rogueNLRI), takes),
		message("last attribute runs out", rawUpdate(nil, slices.Concat(good, []byte{optional, attrMED, 200, 0}), rogueNLRI), withdraws).but(ignores, "GoBGP looks for prefixes no further: the former route stays"),
		message("only attribute runs out", rawUpdate(nil, []byte{wellKnown, attrOrigin, 200, 0}, rogueNLRI), withdraws).but(ignores, "GoBGP looks for prefixes no further: the former route stays"),
		message("one octet of attributes", rawUpdate(nil, []byte{wellKnown}, rogueNLRI), withdraws),
		message("extended length of one octet", rawUpdate(nil, []byte{wellKnown | extendedLength, attrOrigin, 0}, rogueNLRI), withdraws).but(ignores, "GoBGP looks for prefixes no further: the former route stays"),
		message("attributes longer than the message", frame(messageUpdate, 0, 0, 0xff, 0xff, wellKnown, attrOrigin, 1, 0), resets(3, 1)),
		message("withdrawn longer than the message", frame(messageUpdate, 0xff, 0xff, 0, 0), resets(3, 1)),
		message("UPDATE of two octets", frame(messageUpdate, 0, 0), resets(1, 2)).but(resets(3, 1), "GoBGP takes the length for one of the parts'"),
		message("UPDATE of nothing", frame(messageUpdate), resets(1, 2)).but(resets(3, 1), "GoBGP takes the length for one of the parts'"),
		message("NLRI of 33 bits", rawUpdate(nil, good, []byte{33, 10, 9, 7, 0, 0}), resets(3, 10)),
		message("NLRI runs out", rawUpdate(nil, good, []byte{24, 10}), resets(3, 10)),
		message("withdrawn of 255 bits", rawUpdate([]byte{255, 1}, nil, nil), resets(3, 10)),
		message("withdrawn runs into the attributes", frame(messageUpdate, 0, 2, 24, 10, 0, 0), resets(3, 1)),
		message("NLRI without attributes", rawUpdate(nil, nil, rogueNLRI), withdraws),
		message("attributes without NLRI", alone(origin), ignores),
		message("withdrawn and announced at once", rawUpdate(rogueNLRI, good, rogueNLRI), takes).but(withdraws, "GoBGP withdraws last"),
	}
}

// malformedFamilies have their prefixes in attributes (RFC 4760; RFC 7606,
// section 7.11; RFC 8950).
func malformedFamilies() []malformed {
	bare := [][]byte{attribute(wellKnown, attrOrigin, 0), attribute(wellKnown, attrASPath, 2, 1, 0, 0, rogueASN>>8, rogueASN&0xff)}
	with := func(attrs ...[]byte) []byte { return alone(slices.Concat(bare, attrs)...) }
	return []malformed{
		message("MP_REACH of an unknown family", with(reach(0x7f, 0xff, 0x7f, 4, 1, 2, 3, 4, 0)), ignores).but(ends, "GoBGP ends the session, by a notification 0/0, over families that were not agreed upon"),
		message("MP_REACH of a family not agreed upon", with(reach(0, 1, 2, 4, 127, 0, 1, 2, 0, 24, 10, 9, 7)), ignores).but(ends, "GoBGP ends the session, by a notification 0/0, over families that were not agreed upon"),
		message("MP_UNREACH of a family not agreed upon", alone(unreach(0, 25, 70, 2, 0)), ignores).but(resets(3, 10), "GoBGP reads prefixes of all families that it knows"),
		message("MP_REACH of two octets", with(reach(0, 2)), ends),
		message("MP_REACH empty", with(reach()), ends),
		message("MP_REACH next hop of seven octets", with(reach6(hop6[:7], nlri6...)), ends),
		message("MP_REACH without next hop", with(reach6(nil, nlri6...)), ends),
		message("MP_REACH next hop runs out", with(reach(0, 2, 1, 200, 1)), ends),
		message("MP_REACH prefix of 200 bits", with(reach6(hop6, 200, 1, 2)), ends),
		message("MP_REACH prefix runs out", with(reach6(hop6, nlri6[:5]...)), ends),
		message("MP_REACH twice", with(reach6(hop6, nlri6...), reach6(hop6, nlri6...)), resets(3, 1)),
		message("MP_REACH of IPv4 by a link-local address", with(reach(slices.Concat([]byte{0, 1, 1, 16, 0xfe, 0x80}, make([]byte, 14), rogueNLRI)...)), ignores),
		message("MP_UNREACH of one octet", alone(unreach(0)), ends),
		message("MP_UNREACH prefix runs out", alone(unreach(0, 2, 1, 64, 1)), ends),
		message("MP_UNREACH twice", alone(unreach(0, 2, 1), unreach(0, 2, 1)), resets(3, 1)),
	}
}

// malformedHeaders are messages that are wrong as a whole, or out of turn
// (RFC 4271, section 6.1; RFC 6608; RFC 7313, section 5).
func malformedHeaders() []malformed {
	marker := updateWith()
	marker[3] = 0
	length := func(n uint16) []byte {
		b := updateWith()
		binary.BigEndian.PutUint16(b[16:], n)
		return b
	}
	return []malformed{
		message("marker", marker, resets(1, 1)),
		message("length below the header's", length(18), resets(1, 2)),
		message("length of nothing", length(0), resets(1, 2)),
		message("length above the largest", length(5000), resets(1, 2)),
		message("type 0", frame(0), resets(1, 3)),
		message("type unknown", frame(9, 1, 2, 3), resets(1, 3)),
		message("KEEPALIVE with a body", frame(messageKeepalive, 1), resets(1, 2)).but(ignores, "GoBGP does not look at it"),
		message("OPEN once more", openWith(0), resets(5, 3)).but(ignores, "GoBGP does not look at it"),
		message("OPEN of nothing", frame(messageOpen), resets(1, 2)),
		message("NOTIFICATION of nothing", frame(messageNotification), ends),
		message("NOTIFICATION of one octet", frame(messageNotification, 6), ends),
		message("NOTIFICATION unknown", frame(messageNotification, 77, 77, 1, 2, 3), ends),
		message("NOTIFICATION with a reason that runs out", frame(messageNotification, 6, 2, 200, 'x'), ends),
		message("ROUTE-REFRESH of one octet", frame(messageRefresh, 0), resets(7, 1)),
		message("ROUTE-REFRESH of an unknown family", frame(messageRefresh, 0x7f, 0xff, 0, 0x7f), ignores),
		message("ROUTE-REFRESH of an unknown kind", frame(messageRefresh, 0, 1, 77, 1), ignores),
	}
}

// malformedOpens are what a peer may send as its first message. No session may
// come of them.
func malformedOpens() []malformed {
	id := [4]byte{127, 0, 1, 1}
	return []malformed{
		message("version 3", openOf(3, rogueASN, 90, id, 0), resets(2, 1)),
		message("hold time of one second", openOf(4, rogueASN, 1, id, 0), resets(2, 6)),
		message("identifier 0", openOf(4, rogueASN, 90, [4]byte{}, 0), resets(2, 3)),
		message("AS number 0", openOf(4, 0, 90, id, 0), resets(2, 2)),
		message("another AS number", openOf(4, 64999, 90, id, 0), resets(2, 2)),
		message("cut short", frame(messageOpen, 4, 0, 1), resets(1, 2)),
		message("empty", frame(messageOpen), resets(1, 2)),
		message("parameters longer than the message", openWith(200), resets(2, 0)).but(resets(1, 2), "GoBGP takes the length for the header's"),
		message("parameter runs out", openWith(2, 2, 200), resets(2, 0)).but(resets(1, 2), "GoBGP takes the length for the header's"),
		message("parameter of one octet", openWith(1, 2), resets(2, 0)).but(resets(1, 2), "GoBGP takes the length for the header's"),
		message("parameter unknown", openWith(3, 77, 1, 0), resets(2, 4)).but(letsIn, "GoBGP lets unknown parameters be"),
		message("capability runs out", openWith(4, 2, 2, 1, 200), resets(2, 0)).but(resets(2, 7), "GoBGP says that it does not know the capability"),
		message("capability of one octet", capable(65), resets(2, 0)).but(letsIn, "GoBGP lets the rest of the list be"),
		message("four-octet AS of two octets", capable(65, 2, 0, 1), resets(2, 0)).but(resets(2, 7), "GoBGP says that it does not know the capability"),
		message("four-octet AS that differs", capable(65, 4, 0, 0, 0, 1), resets(2, 2)),
		message("family of one octet", capable(1, 1, 0), resets(2, 0)).but(resets(2, 7), "GoBGP says that it does not know the capability"),
		message("graceful restart of one octet", capable(64, 1, 0), resets(2, 0)).but(resets(2, 7), "GoBGP says that it does not know the capability"),
		message("host name runs out", capable(73, 2, 200, 'x'), resets(2, 0)).but(resets(2, 7), "GoBGP says that it does not know the capability"),
		message("a KEEPALIVE instead", frame(messageKeepalive), resets(5, 1)),
		message("an UPDATE instead", updateWith(), resets(5, 1)),
		message("a ROUTE-REFRESH instead", frame(messageRefresh, 0, 1, 0, 1), resets(5, 1)),
		message("a NOTIFICATION instead", frame(messageNotification, 6, 2), ends),
		message("a type unknown", frame(77, 1, 2, 3), resets(1, 3)),
		message("a marker of zeros", make([]byte, 29), resets(1, 1)),
		message("not BGP at all", []byte("GET / HTTP/1.1\r\nHost: godwit\r\n\r\n"), resets(1, 1)),
	}
}
