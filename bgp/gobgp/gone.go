package gobgp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

const (
	// stalest is the community LLGR_STALE, with which a path is worse than all that
	// are without (RFC 9494, section 4.3).
	stalest = "65535:6"
	// withdrawnAtOnce bounds for how many prefixes GoBGP is kept from all else.
	withdrawnAtOnce = 256
)

// withdrawMissed withdraws once more, from everybody, what went since a time.
func (s *Speaker) withdrawMissed(since time.Time) {
	missed := slices.DeleteFunc(s.learned.goneSince(since), func(p netip.Prefix) bool {
		_, own := s.applied.advertise[p]
		return own
	})
	for some := range slices.Chunk(missed, withdrawnAtOnce) {
		if err := s.server.withdrawAgain(some); err != nil {
			s.log.Warn("can't withdraw once more what went while a BGP session came up; peers may keep it until their sessions end", "error", err)
		}
	}
}

// withdrawAgain withdraws prefixes that are not there. GoBGP withdraws only what it
// has, so each is made our own for a moment. Export policy lets nobody know of it
// (see originGone), but does not look at withdrawals. A peer that announces the
// prefix in this moment has the better path, so that ours changes nothing.
func (s *server) withdrawAgain(prefixes []netip.Prefix) error {
	owns := make([]own, len(prefixes))
	for i, p := range prefixes {
		owns[i] = own{prefix: p, hop: netip.IPv4Unspecified(), communities: stalest}
		if p.Addr().Is6() {
			owns[i].hop = netip.IPv6Unspecified()
		}
	}
	paths, err := ownPaths(owns)
	if err != nil {
		return err
	}
	mark, err := packet.ParseExtendedCommunity(packet.EC_SUBTYPE_ROUTE_ORIGIN, originGone)
	if err != nil {
		return fmt.Errorf("mark what is to go: %w", err)
	}
	for _, p := range paths {
		p.Attrs = append(p.Attrs, packet.NewPathAttributeExtendedCommunities([]packet.ExtendedCommunityInterface{mark}))
	}
	_, err = s.AddPath(apiutil.AddPathRequest{Paths: paths})
	return errors.Join(err, s.withdraw(owns)) // some may have been added
}

// noteGone notes that a prefix has a way, or lost one, maybe the last. The lock is
// held.
func (l *learned) noteGone(prefix netip.Prefix, lost bool, now time.Time) {
	switch {
	case !lost:
		delete(l.gone, prefix)
	case l.passesOn:
		l.gone[prefix] = now
	}
}

// ownGone notes that prefixes are our own no more.
func (l *learned) ownGone(prefixes []own, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.peers) == 0 {
		return // nobody misses it, and nobody forgets it
	}
	for _, o := range prefixes {
		l.gone[o.prefix] = now
	}
}

// goneSince are the prefixes that went since a time and are not there again.
func (l *learned) goneSince(since time.Time) []netip.Prefix {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []netip.Prefix
	for p, at := range l.gone {
		if r := l.routes[p]; (r == nil || len(r.ways) == 0) && !at.Before(since) {
			out = append(out, p)
		}
	}
	return out
}

// forgetGone forgets what went before a time.
func (l *learned) forgetGone(before time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p, at := range l.gone {
		if at.Before(before) {
			delete(l.gone, p)
		}
	}
}
