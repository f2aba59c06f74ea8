package agent

import (
	"net/netip"
	"time"

	"github.com/godwit-net/godwit/ipam"
)

// drainWait is for how long a node that is drained asks others to prefer other
// ways before it withdraws anything (RFC 8326, section 4).
const drainWait = 5 * time.Second

// drain decides what a node that is drained still announces. The zero value is
// that of an agent that knows of no drain.
type drain struct {
	known bool      // advertised was asked before
	on    bool      // the node was being drained then
	since time.Time // from when on others have been asked to prefer other ways
}

// advertised returns those of a node's blocks that it announces. A node that is
// drained withdraws a block, once others have had the time to prefer other ways,
// when no address of it is in use any more: pods that are still there have no
// other way than this node. An agent that finds itself on a drained node does not
// announce first what it would withdraw. more is how long to wait for what is not
// withdrawn yet because of the time; 0: there is no such block.
func (d *drain) advertised(draining bool, blocks []ipam.BlockUsage, now time.Time) (announce []netip.Prefix, more time.Duration) {
	if draining && !d.on && d.known {
		d.since = now
	}
	d.known, d.on = true, draining
	wait := d.since.Add(drainWait).Sub(now)
	for _, b := range blocks {
		idle := draining && b.Allocated+b.Own == 0
		if idle && wait <= 0 {
			continue
		}
		announce = append(announce, b.CIDR)
		if idle {
			more = wait
		}
	}
	return announce, more
}

// drained tells whether a node is to be drained and has no pods any more, so
// that nobody misses its routes when its agent ends.
func drained(draining bool, blocks []ipam.BlockUsage) bool {
	for _, b := range blocks {
		if b.Allocated > 0 {
			return false
		}
	}
	return draining
}
