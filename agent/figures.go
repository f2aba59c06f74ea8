package agent

import (
	"math/rand/v2"
	"time"

	"golang.org/x/time/rate"

	"github.com/godwit-net/godwit/bgp"
)

const (
	countInterval = 10 * time.Second // how often mere figures are written, in the long run
	countBurst    = 3                // how many such writes may come one upon the other

	// figureShare is a node's share of the cluster's time for figures, for each block
	// in the cluster: a block that comes changes the figures of all nodes at the same
	// moment, and thousands of nodes are not to write at the same moment. It makes 20
	// writes a second where each node has a block.
	figureShare = 50 * time.Millisecond
	// freshPlan is for how long after a change of the node's plan figures are written
	// soon, if not often: the controller may wait for them.
	freshPlan = 30 * time.Second
	// freshShare is the most of a node's share then.
	freshShare = 5 * time.Second
	// freshInterval is how often in a large cluster: the plans of all of its nodes may
	// be new.
	freshInterval = 20 * time.Second
)

// figures say when a status of which only figures are others is written: in a
// small cluster three times in a row and then once in ten seconds, in a large one
// at some moment within the time that all nodes share.
type figures struct {
	limit  *rate.Limiter
	random func() float64 // in [0, 1)

	due     time.Time // when the present change is to be written; zero: there is none
	plan    int64     // generation of the node's plan
	planned time.Time // when that was first seen
}

func newFigures() *figures {
	return &figures{limit: rate.NewLimiter(rate.Every(countInterval), countBurst), random: rand.Float64} // #nosec G404 -- a spread
}

// ripe tells whether figures that differ are to be written now; it counts them as
// written then.
func (f *figures) ripe(o *observation, now time.Time) bool {
	if o.generation != f.plan {
		f.plan, f.planned = o.generation, now
	}
	share := time.Duration(clusterBlocks(o.sessions)) * figureShare
	burst, interval := countBurst, max(countInterval, share)
	if share > countInterval {
		burst = 1
	}
	if now.Sub(f.planned) < freshPlan {
		share, interval = min(share, freshShare), min(interval, freshInterval)
	}
	if share < statusInterval {
		share = 0
	}
	f.limit.SetLimitAt(now, rate.Every(interval))
	f.limit.SetBurstAt(now, burst)
	if f.due.IsZero() {
		f.due = now.Add(time.Duration(f.random() * float64(share)))
	}
	if share > 0 && now.Before(f.due) {
		return false
	}
	return f.limit.AllowN(now, 1)
}

// settled says that no figure differs from what is written.
func (f *figures) settled() { f.due = time.Time{} }

// clusterBlocks is about how many blocks the nodes of the cluster have: as many as
// a reflector tells of, or else one for each node.
func clusterBlocks(sessions []bgp.Session) int {
	nodes, most := 0, 0
	for i := range sessions {
		if sessions[i].Kind == bgp.PeerNode {
			nodes++
			most = max(most, sessions[i].Accepted)
		}
	}
	return max(nodes, most)
}
