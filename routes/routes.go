// Package routes keeps the kernel's routes as desired. A Table owns exactly
// the routes and nexthop objects that bear its protocol number and touches no
// other.
//
//	Set, Update ─▶ wanted ─┐
//	                       ├─▶ plan ─▶ requests ─▶ kernel
//	dumps, events ─▶ mirror┘                         │
//	      ▲                        answers           │
//	      └──────────────────────────────────────────┘
//
// Invariants:
//   - A route that is right is never touched; one that is wrong is replaced in
//     one message, never deleted first. Adds come before deletes.
//   - A route that fails does not hold up the others; it is retried with backoff
//     and reported.
//   - A route of ours that nobody wants is removed only when every class is
//     synced, so a restarting agent keeps what its earlier life installed. What
//     is removed by Set or Update goes at once.
//   - What someone else changes of ours is healed at once, told by netlink
//     notifications, and by a full resync as a backstop.
//   - A route of somebody else's that was there first is never overwritten: ours
//     to the same destination is reported as failed until the other is gone.
//   - Nexthop objects come before the routes that use them and go after them.
//     All routes over one gateway share one object, so that a gateway that moves
//     to another link costs one message.
package routes

import (
	"fmt"
	"net/netip"
)

// Protocol is the route protocol number of Godwit's routes and nexthops, a
// number of our own in the range that rtnetlink(7) leaves to users.
const Protocol = 71

// Class is a source of routes. Where two classes want the same destination,
// the lower one has its way.
type Class int

// The classes.
const (
	ClassPod     Class = iota // a pod's address, over its veth
	ClassBlock                // a block of this node: blackhole
	ClassRemote               // a block of another node, as the API tells
	ClassLearned              // learned by BGP
	classCount
)

// Classes lists all classes, by precedence.
func Classes() []Class { return []Class{ClassPod, ClassBlock, ClassRemote, ClassLearned} }

// String names the class.
func (c Class) String() string {
	switch c {
	case ClassPod:
		return "pod"
	case ClassBlock:
		return "block"
	case ClassRemote:
		return "remote"
	case ClassLearned:
		return "learned"
	default:
		return fmt.Sprintf("class %d", int(c))
	}
}

// MarshalText makes the class a readable key in JSON.
func (c Class) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// Route is a desired route. Exactly one of Blackhole, Link and NextHops says
// where packets go.
type Route struct {
	Dst netip.Prefix

	// Blackhole drops the packets that no more specific route takes.
	Blackhole bool
	// Link is the name of the interface on which Dst itself is reached (scope link).
	Link string
	// NextHops are the gateways; more than one makes an equal-cost group. Their
	// order means nothing. Those that can't be used at the moment are left out as
	// long as one can, and the route is reported as failed.
	NextHops []NextHop
}

// NextHop is a gateway.
type NextHop struct {
	Gateway netip.Addr
	// Link is the interface; when empty the kernel's own route to the gateway tells,
	// and is followed when it changes. Where that route itself has a gateway,
	// packets go to that one, as the host's own would.
	Link string
	// OnLink takes the gateway to be on the link whatever the addresses say.
	OnLink bool
}

// Failure is a route that could not be installed, for now.
type Failure struct {
	Dst netip.Prefix
	Err error
}

// Status is what a table has to report.
type Status struct {
	// Desired counts the routes that are asked for, by class.
	Desired map[Class]int
	// Installed counts the routes that are in the kernel as desired, by class. A
	// destination that two classes want counts for the one that has its way.
	Installed map[Class]int
	// Pending counts what awaits its (next first) attempt, or is at it: destinations,
	// and changes that were asked for and not yet looked at. 0: all that was asked for
	// before the call was tried.
	Pending int
	// Failed is sorted by destination.
	Failed []Failure
	// NextHops counts our nexthop objects in the kernel, groups included; 0 where
	// the kernel has none and plain routes are used.
	NextHops int
	// PlainRoutes says that nexthop objects are not used.
	PlainRoutes bool
	// Synced says that every class is complete, so that stale routes are removed.
	Synced bool
}
