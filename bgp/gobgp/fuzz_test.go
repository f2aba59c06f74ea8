package gobgp

import (
	"context"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/godwit-net/godwit/bgp/bgptest/sender"
)

// FuzzEstablished sends one message over a session that is up. The speaker must
// go on with it, or end it, and nobody else may notice.
func FuzzEstablished(f *testing.F) {
	for _, m := range malformedMessages() {
		if n := int(binary.BigEndian.Uint16(m.message[16:])); n == len(m.message) {
			f.Add(m.message[18], m.message[19:])
		}
	}
	for _, r := range []sender.Route{
		{NextHop: rogueHop, ASPath: []uint32{rogueASN}, MED: 1, LocalPref: 1, Communities: []uint32{1}, LargeCommunities: [][3]uint32{{1, 2, 3}}},
		{NextHop: addr("fd09::1"), ASPath: []uint32{rogueASN}},
	} {
		f.Add(byte(messageUpdate), sender.Update(r, rogueRoute)[19:])
		f.Add(byte(messageUpdate), sender.Update(r, pfx("172.25.9.0/26"), guarded)[19:])
	}
	f.Add(byte(messageUpdate), updateWith( // of an old speaker
		attribute(wellKnown, attrASPath, 2, 2, 0xfd, 0xe9, 0x5b, 0xa0), attribute(optional|transitive, attrAggregator, 0x5b, 0xa0, 127, 0, 1, 1),
		attribute(optional|transitive, attrAS4Path, 2, 1, 0, 1, 0, 0), attribute(optional|transitive, attrAS4Aggregator, 0, 1, 0, 0, 127, 0, 1, 1),
	)[19:])
	f.Add(byte(messageUpdate), sender.Withdraw(rogueRoute)[19:])
	f.Add(byte(messageUpdate), sender.EndOfRIB(false)[19:])
	b := newBrawl(f)
	f.Fuzz(func(t *testing.T, kind byte, body []byte) { b.send(t, frame(kind, body...)) })
}

// FuzzAttribute announces a route with any attribute, which is well-framed, so
// that it is looked into.
func FuzzAttribute(f *testing.F) {
	for kind := range byte(42) {
		for _, flags := range []byte{wellKnown, optional, optional | transitive} {
			f.Add(flags, kind, []byte{1, 4, 127, 0, 1, 2, 0, 24})
		}
	}
	f.Add(byte(optional|transitive), byte(attrTunnel), []byte{0, 8, 0, 12, 1, 4, 0, 0, 0, 9, 4, 4, 3, 11, 0, 1})
	f.Add(byte(optional), byte(attrLinkState), []byte{4, 2, 0, 4, 'n', 'o', 'd', 'e', 4, 4, 0, 4, 127, 0, 0, 1, 4, 71, 0, 3, 0, 0, 1})
	f.Add(byte(optional|transitive), byte(attrPrefixSID), slices.Concat([]byte{5, 0, 34, 0, 1, 0, 30, 0}, hop6, []byte{0, 0, 18, 0, 1, 0, 6, 40, 24, 16, 0, 16, 64}))
	f.Add(byte(optional), byte(attrMPReach), slices.Concat([]byte{0, 2, 1, 16}, hop6, []byte{0}, nlri6))
	f.Add(byte(optional), byte(attrMPReach), slices.Concat([]byte{0, 1, 1, 16}, hop6, []byte{0}, rogueNLRI))
	f.Add(byte(optional|transitive), byte(attrExtended), []byte{0, 2, 0xfd, 0xe9, 0, 0, 0, 1, 6, 3, 0, 0, 0, 0, 0, 0})
	b := newBrawl(f)
	f.Fuzz(func(t *testing.T, flags, kind byte, value []byte) {
		b.send(t, updateWith(attribute(flags|extendedLength, kind, value...)))
	})
}

// FuzzFirst sends one message, in the place of an OPEN, over a new connection.
// The speaker must hang up, or confirm it and go on with a session that ends soon,
// and nobody else may notice.
func FuzzFirst(f *testing.F) {
	for _, m := range malformedOpens() {
		if len(m.message) >= 19 {
			f.Add(m.message[18], m.message[19:])
		}
	}
	for _, capability := range [][]byte{
		{64, 6, 0x80, 120, 0, 1, 1, 0x80}, {69, 4, 0, 1, 1, 3}, {71, 7, 0, 1, 1, 0x80, 0, 0, 9}, {5, 6, 0, 1, 0, 1, 0, 2}, {6, 0}, {9, 1, 0}, {73, 2, 1, 'x'},
	} {
		f.Add(byte(messageOpen), capable(capability...)[19:])
	}
	b := newBrawl(f)
	session := slices.Concat(frame(messageKeepalive), updateWith(), frame(messageRefresh, 0, 1, 0, 1), frame(99))
	f.Fuzz(func(t *testing.T, kind byte, body []byte) {
		if len(body) > 4096-19 {
			return
		}
		p := b.next(t)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if _, err := sendFirst(ctx, b.at, p.options.Local, frame(kind, body...), session); err != nil {
			t.Fatal(err)
		}
		b.later(p)
		b.undisturbed(t)
	})
}
