package bgp

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// GracefulShutdown is the community by which a sender asks others to prefer
// other ways, as this one will go away (RFC 8326).
const GracefulShutdown = "65535:0"

// ASPathBoundary is what "_" in a Match.ASPathRegexp stands for.
const ASPathBoundary = "(^|[,{}() ]|$)"

// Announcement is a route as far as rules look at it or change it.
type Announcement struct {
	Prefix      netip.Prefix
	From        *PeerKind // of which kind the peer is that it was learned from; nil: it is our own
	Reflected   bool      // that peer is a reflector
	Communities []string  // standard and large, as in Match.Communities
	ASPath      string    // numbers with a space between, the nearest AS first
	LocalPref   *uint32   // nil: none
	MED         *uint32   // nil: none
}

// Origin is the value of Announcement.From for a kind.
func Origin(k PeerKind) *PeerKind { return &k }

// compiled is a rule with its expressions ready. One that can't be compiled,
// which Config.Usable refuses, matches nothing.
type compiled struct {
	Rule
	community, asPath *regexp.Regexp
	broken            bool
}

func compile(rules []Rule) []compiled {
	out := make([]compiled, len(rules))
	for i, r := range rules {
		out[i].Rule = r
		var err1, err2 error
		if r.CommunityRegexp != "" {
			out[i].community, err1 = regexp.Compile(r.CommunityRegexp)
		}
		if r.ASPathRegexp != "" {
			out[i].asPath, err2 = regexp.Compile(strings.ReplaceAll(r.ASPathRegexp, "_", ASPathBoundary))
		}
		out[i].broken = err1 != nil || err2 != nil
	}
	return out
}

// holds reports whether a route meets the conditions that do not ask where it
// comes from.
func (r compiled) holds(a Announcement) bool {
	has := func(c string) bool { return slices.Contains(a.Communities, c) }
	switch {
	case r.broken,
		len(r.Ranges) > 0 && !contains(r.Ranges, a.Prefix),
		slices.ContainsFunc(r.Communities, func(c string) bool { return !has(c) }),
		r.community != nil && !slices.ContainsFunc(a.Communities, r.community.MatchString),
		r.asPath != nil && !r.asPath.MatchString(a.ASPath):
		return false
	}
	return true
}

// concerns reports whether a route comes from where the rule asks for.
func (r compiled) concerns(a Announcement) bool {
	switch {
	case r.Source == SourceOwn && a.From != nil, r.Source == SourceLearned && a.From == nil:
		return false
	case r.PeerKind != nil:
		return a.From != nil && *a.From == *r.PeerKind
	}
	return true
}

// set changes an accepted route: what is to be added and removed is removed.
func (r compiled) set(a Announcement, asn uint32) Announcement {
	if !r.Accept {
		return a
	}
	if len(r.Set.AddCommunities)+len(r.Set.RemoveCommunities) > 0 {
		cs := slices.Concat(a.Communities, r.Set.AddCommunities)
		slices.Sort(cs)
		a.Communities = slices.DeleteFunc(slices.Compact(cs), func(c string) bool { return slices.Contains(r.Set.RemoveCommunities, c) })
	}
	if r.Set.LocalPref != nil {
		a.LocalPref = r.Set.LocalPref
	}
	if r.Set.MED != nil {
		a.MED = r.Set.MED
	}
	for range r.Set.Prepend {
		a.ASPath = strings.TrimSuffix(strconv.FormatUint(uint64(asn), 10)+" "+a.ASPath, " ")
	}
	return a
}

// IsLargeCommunity tells the two kinds of communities apart, both being
// well-formed.
func IsLargeCommunity(s string) bool { return strings.Count(s, ":") == 2 }

// Originated is how an own prefix is announced: with the attributes of the first
// mark that contains it, and those of a node that drains. Its local preference
// is for internal peers.
func (c Config) Originated(p netip.Prefix) Announcement {
	a := Announcement{Prefix: p}
	for _, m := range c.Marks {
		if m.CIDR.Bits() <= p.Bits() && m.CIDR.Contains(p.Addr()) {
			a.Communities, a.LocalPref = slices.Clone(m.Communities), m.LocalPref
			break
		}
	}
	if c.Draining {
		none := uint32(0)
		a.LocalPref = &none
		a.Communities = append(a.Communities, GracefulShutdown)
	}
	slices.Sort(a.Communities)
	a.Communities = slices.Compact(a.Communities)
	return a
}
