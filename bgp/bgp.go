// Package bgp is what the rest of Godwit knows of BGP: a declarative Speaker,
// its configuration, and what it learns and reports, in types of our own.
// The speaker itself is in bgp/gobgp, the only package that imports GoBGP; a
// behavioural fake for tests is in bgp/bgptest.
//
// Invariants:
//   - Only prefixes in Config.Advertise are ever sent to anyone, and to external
//     peers those in Config.Aggregates, unless an export rule of an external peer
//     accepts what was learned, or a reflector passes on nodes' blocks to nodes.
//   - Of a node peer only blocks are taken: prefixes inside one of Config.Blocks
//     and within its lengths. Of an external peer only what its import rules
//     accept: without rules, nothing (RFC 8212).
//   - A route's next hops are of the family of its prefix, or are link-local ones of
//     IPv6 of a link over which the session goes (RFC 8950).
//   - Changing one peer does not touch the session of another.
package bgp

import (
	"context"
	"net/netip"
	"time"
)

// PeerKind tells who is at the other end of a session; the import policy
// follows from it.
type PeerKind int

// The kinds of a peer.
const (
	PeerNode     PeerKind = iota // another node of the cluster
	PeerExternal                 // a router outside the cluster
)

// Config is everything a speaker is to do. It is a value: a Speaker never
// changes it, and the caller must not change one that was handed over.
type Config struct {
	ASN      uint32     // AS number (RFC 6793)
	RouterID netip.Addr // BGP identifier (RFC 6286), in IPv4 form

	ListenAddresses []netip.Addr // none: all addresses
	ListenPort      uint16       // TCP port

	// NextHops are the node's own addresses, at most one of a family. Their
	// families are those that every session carries, whatever its own family. Over a
	// session of the other family the node's prefixes are announced with them as
	// next hop; over one of the same family with the session's own address, which
	// the peer is sure to reach. None: each session carries its own family only.
	NextHops []netip.Addr

	// Blocks are the ranges of which node peers may announce parts.
	Blocks []Range
	// Advertise are the prefixes announced to every peer: the node's own blocks.
	Advertise []netip.Prefix
	// Aggregates are prefixes announced to external peers only, beside Advertise: the
	// ranges that blocks of all nodes are in.
	Aggregates []netip.Prefix
	// Marks are attributes that own prefixes are announced with.
	Marks []Mark
	// ValidateOrigin has a node peer's routes taken only for its own blocks, see
	// Peer.Owned. Reflectors are trusted: they have done so themselves.
	ValidateOrigin bool
	// Reflector has the speaker pass on what nodes announce: to node peers that are
	// clients all of it, to those that are reflectors what comes from other nodes than
	// these (RFC 4456). Turning it on and off resets no session.
	Reflector bool
	// Draining has all own prefixes announced with the community GRACEFUL_SHUTDOWN
	// and local preference 0 (RFC 8326, section 4), so that others prefer other ways
	// before these go. What goes, and when, Advertise says.
	Draining bool
	Peers    []Peer
	// Callers are peers by the range that they call from.
	Callers []Callers
	// Barred are addresses from which nobody may call, though Callers have them: those
	// of peers that can't be had as they are to be, for want of a password, say.
	Barred []netip.Addr
}

// Mark gives attributes to the own prefixes inside CIDR; the first that fits a
// prefix decides.
type Mark struct {
	CIDR        netip.Prefix
	Communities []string // standard or large, see Match.Communities
	LocalPref   *uint32  // to internal peers; nil: 100
}

// Range is a set of prefixes: those inside CIDR whose length is at least
// MinLength and at most MaxLength.
type Range struct {
	CIDR      netip.Prefix
	MinLength int
	MaxLength int
}

// Rule says what becomes of routes that match. The first rule that matches a
// route decides.
type Rule struct {
	Match
	Accept bool
	Set    Attributes // what an accepted route gets
}

// Match holds conditions, all of which a route must meet; those that are zero
// any route meets.
type Match struct {
	Ranges []Range // the prefix is in one of them
	// Source is where the route comes from, and PeerKind of which kind the peer is
	// that a learned route comes from: they say something of exported routes only.
	Source   Source
	PeerKind *PeerKind
	// Communities are all there: standard ones as "64512:100" (RFC 1997), large ones
	// as "64512:1:2" (RFC 8092), in decimal.
	Communities []string
	// CommunityRegexp matches at least one community in that form.
	CommunityRegexp string
	// ASPathRegexp matches the AS path, its numbers in decimal with a space between;
	// "_" stands for a space, the beginning or the end, as routers have it. An export
	// rule can't have it where Peer.ASOverride or Peer.RemovePrivateAS changes paths:
	// rules are looked at after that.
	ASPathRegexp string
}

// Source tells own routes from others'.
type Source int

// The sources of a route.
const (
	SourceAny Source = iota
	SourceOwn
	SourceLearned
)

// Attributes are changes to a route's attributes.
type Attributes struct {
	LocalPref         *uint32
	MED               *uint32
	AddCommunities    []string // as in Match.Communities
	RemoveCommunities []string
	Prepend           int // how many times the own AS number is put before the AS path
}

// Peer is one session. Peers are told apart by Address.
//
// An IPv6 link-local Address, with the interface as its zone, makes a session that
// needs no other addresses: over it own prefixes of both families are announced
// with our link-local address as next hop, and those of the peer are taken
// (RFC 8950).
type Peer struct {
	Name    string // for people: the node's or the BGPPeer's name
	Kind    PeerKind
	Address netip.Addr
	Port    uint16
	ASN     uint32

	// LocalASN is the AS number by which the peer knows us; zero: Config.ASN. It
	// stands in the place of Config.ASN in AS paths that the peer is sent (RFC 7705,
	// section 3.3: as with "Replace Old AS").
	LocalASN uint32

	Password string // TCP MD5 (RFC 2385); empty: none. Never logged or reported.

	Hold, Keepalive, ConnectRetry time.Duration // zero: the default

	// GracefulRestart is how long the peer is asked to keep our routes while we are
	// away (RFC 4724); zero turns graceful restart off.
	GracefulRestart time.Duration
	// LongLived is for how long after that each side keeps the other's routes as a
	// last resort (RFC 9494); zero: not at all. It needs GracefulRestart.
	LongLived time.Duration

	Passive       bool       // the peer calls, we never do
	SourceAddress netip.Addr // our end of the session; zero: the kernel's choice
	// MultihopTTL is the TTL of an external session that is not on a link of ours;
	// zero: the peer is on a link. With GTSMHops packets are sent with TTL 255 and
	// taken only from within so many hops (RFC 5082); zero: not checked. At most
	// one of them is not zero.
	MultihopTTL, GTSMHops uint8
	// Families are those to carry; zero: all that the node has, see Config.NextHops.
	Families Families

	NextHop         NextHopMode
	ASOverride      bool // replace the peer's AS number by ours in paths sent to it
	AllowOwnASN     int  // how many times ours, each of them with LocalASN, may be in paths that it sends
	RemovePrivateAS RemovePrivateAS

	// Owned are the blocks of a node peer, for Config.ValidateOrigin.
	Owned []netip.Prefix
	// Import are the rules for routes of an external peer: what none matches is not
	// taken.
	Import []Rule
	// Export are the rules for routes to be announced to an external peer: of what
	// none matches, own prefixes are announced, others not.
	Export []Rule
	// Reflection is the part of a node peer in route reflection.
	Reflection Reflection
	// MaxPrefixes ends the session when the peer sends more; zero: no limit. At
	// WarnPrefixes and more it is said in Session.Warning; zero: never.
	MaxPrefixes, WarnPrefixes int
}

// Reflection is the part of a node peer in route reflection (RFC 4456).
type Reflection int

// The parts.
const (
	// ReflectionNone is a node that speaks for itself only.
	ReflectionNone Reflection = iota
	// ReflectionClient is a node that Config.Reflector has us tell of the others.
	ReflectionClient
	// ReflectionServer is a reflector: it may announce every node's blocks, as it
	// looked at their origin itself.
	ReflectionServer
)

// NextHopMode says with which next hop routes are announced to a peer.
type NextHopMode int

// The modes. Own prefixes always have ourselves as next hop.
const (
	NextHopAuto NextHopMode = iota // as BGP has it: ours to external peers, unchanged to internal ones
	NextHopSelf                    // ourselves
	NextHopKeep                    // unchanged
)

// RemovePrivateAS says what becomes of private AS numbers (RFC 6996) in paths
// that are sent.
type RemovePrivateAS int

// What becomes of private AS numbers.
const (
	PrivateASKeep RemovePrivateAS = iota
	PrivateASRemove
	PrivateASReplace // by our own
)

// Route is the best way, or the equally good ways, to a prefix that was
// learned from peers.
type Route struct {
	Prefix   netip.Prefix
	NextHops []netip.Addr // sorted, without duplicates; a link-local one bears its zone
	FromNode bool         // the best path came from a node peer
}

// Sink takes what a speaker learns. The speaker calls it from one goroutine,
// with changes coalesced: a prefix is in a batch once, with its newest state.
// Calls block the speaker's delivery, not BGP itself.
type Sink interface {
	// Learned reports prefixes whose best ways changed and prefixes that have none
	// any more. The slices are the sink's to keep.
	Learned(changed []Route, gone []netip.Prefix)
	// InSync reports, once, that what was reported so far is what there is to
	// learn: each expected peer has sent its End-of-RIB (RFC 4724, section 2), or
	// the time for waiting is over. Until then routes of an earlier life of the
	// node must be kept.
	InSync()
}

// State is a state of a session (RFC 4271, section 8.2.2).
type State string

// The states of a session.
const (
	StateIdle        State = "Idle"
	StateConnect     State = "Connect"
	StateActive      State = "Active"
	StateOpenSent    State = "OpenSent"
	StateOpenConfirm State = "OpenConfirm"
	StateEstablished State = "Established"
)

// Session is the state of one session.
type Session struct {
	Name    string
	Kind    PeerKind
	Address netip.Addr
	ASN     uint32

	State State
	Since time.Time // of State when Established, else of the last time it was; zero: never

	Received   int // prefixes that the peer has sent
	Accepted   int // those of them that were taken
	Advertised int // prefixes that the peer was sent

	Message string // why it is not established, as far as known
	Warning string // what is not as it should be though it is established, or empty

	Flaps     int    // how many times it went down after it was established
	LastError string // why it last went down, notifications in words (RFC 4271, section 4.5)
	// Capabilities are those that both sides have, in words, sorted.
	Capabilities []string
	// PeerRestarting tells that the peer is away and its routes are kept until it is
	// back or its restart time is over (RFC 4724).
	PeerRestarting bool
	// Refused are prefixes that a node peer announces though it does not own them, at
	// most 8 of them; RefusedCount is how many there are.
	Refused      []netip.Prefix
	RefusedCount int
}

// StopMode says how a speaker takes leave of its peers.
type StopMode int

const (
	// StopRestart closes the connections without a Cease, so that peers with
	// graceful restart keep our routes while we are away.
	StopRestart StopMode = iota
	// StopLeave withdraws our routes and sends a Cease: the node goes away. A peer
	// whose connection was just lost is waited for, so that it hears it too.
	StopLeave
)

// Speaker is a BGP speaker. Its methods may be called concurrently.
type Speaker interface {
	// Set makes the speaker do what c says. It touches only what differs from the
	// configuration before, and is idempotent. An error that concerns a peer
	// (*PeerError, possibly several joined) leaves the others as configured; Set
	// may be called again with the same Config to retry.
	Set(ctx context.Context, c Config) error
	// Sessions reports the state of every configured peer, sorted by name.
	Sessions(ctx context.Context) ([]Session, error)
	// Announced reports which of some prefixes an external peer announces at the
	// moment, sorted, also where the rules do not let its route in.
	Announced(ctx context.Context, prefixes []netip.Prefix) ([]netip.Prefix, error)
	// Stop ends the speaker. It can't be used afterwards.
	Stop(ctx context.Context, mode StopMode) error
}

// PeerError is an error that concerns one peer only.
type PeerError struct {
	Peer string
	Err  error
}

func (e *PeerError) Error() string { return "peer " + e.Peer + ": " + e.Err.Error() }

func (e *PeerError) Unwrap() error { return e.Err }
