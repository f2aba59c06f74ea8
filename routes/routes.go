// Package routes keeps the kernel's routes as desired. A Table owns exactly
// the routes and nexthop objects that bear its protocol number and touches no
// other.
//
// Invariants:
//   - A route that is right is never touched; one that is wrong is replaced in
//     one message, never deleted first. Adds come before deletes.
//   - A route that fails does not hold up the others; it is retried with backoff
//     and reported.
//   - A route of ours that nobody wants is removed only when every class is
//     synced, so a restarting agent keeps what its earlier life installed.
//   - What someone else changes of ours is healed at once, told by netlink
//     notifications, and by a full resync as a backstop.
package routes

import "net/netip"

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
	ClassLearned              // learned by BGP
	classCount
)

// Route is a desired route. Exactly one of Blackhole, Link and NextHops says
// where packets go.
type Route struct {
	Dst netip.Prefix

	// Blackhole drops the packets that no more specific route takes.
	Blackhole bool
	// Link is the name of the interface on which Dst itself is reached (scope link).
	Link string
	// NextHops are the gateways; more than one makes an equal-cost group.
	NextHops []NextHop
}

// NextHop is a gateway.
type NextHop struct {
	Gateway netip.Addr
	// Link is the interface; when empty the kernel's own route to the gateway tells,
	// and is followed when it changes.
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
	Installed [classCount]int // routes in the kernel as desired, by class
	Failed    []Failure       // sorted by destination
}
