package gobgp

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/godwit-net/godwit/bgp"
)

// book keeps what is known of each peer beyond what GoBGP tells when asked:
// since when, and why not. It outlives a peer's removal only as long as GoBGP's
// goroutines may still speak of it.
type book struct {
	silent chan struct{} // a session ended because its peer was silent; holds at most one
	// returned tells that a peer has us back after a restart; it holds at most one.
	returned chan struct{}
	crossed  chan struct{} // a session ended as soon as it was up; holds at most one
	calling  chan struct{} // a peer called whose session is up; holds at most one

	mu    sync.Mutex
	pages map[netip.Addr]*page
}

// page is what is known of one peer.
type page struct {
	// established spares GoBGP the work of its debug messages, see logHandler.
	established atomic.Bool

	mu      sync.Mutex
	peer    bgp.Peer  // as configured
	began   time.Time // when the page was last made new
	since   time.Time
	message string
	// flaps counts how often it went down after it was established, and lastError
	// says why it last did, or why it was last refused.
	flaps     int
	lastError string
	changed   string // what of its configuration it was last reset for
	resetting bool   // it is being reset for that, until it is up again
	held      bool   // down for exceeding its limit of prefixes
	// opening is since when it comes up: when it was in OpenConfirm, until it is known
	// that its peer was told all; zero: it does not.
	opening     time.Time
	nonsense    nonsense
	crossed     bool      // its session ended as soon as it was up, and nothing was done about it yet
	startedOver time.Time // when it last did for that
	arrived     time.Time // when we heard that it came up, as long as it has an opening; zero: it has not
	returning   bool      // when it comes up, it has us back after a restart
	returned    bool      // it has, and nothing was done about it yet
	deferred    bool      // it has, and GoBGP told it all later than others
	calling     bool      // it called while its session was up, and nothing was done about it yet
	probed      time.Time // when something last was
	silent      bool      // the hold time of its session expired, and nothing was done about it yet

	accepted, advertised, refused tally
	refusedFirst                  []netip.Prefix
}

// tally is a count of prefixes that is valid while the peer sends nothing, or is
// sent nothing, and the policy stays.
type tally struct {
	valid   bool
	updates uint64 // UPDATE messages when it was made
	// received are the prefixes in the table then: GoBGP counts a message before it
	// has worked on it.
	received int
	count    int
}

func newBook() *book {
	return &book{
		silent: make(chan struct{}, 1), returned: make(chan struct{}, 1), crossed: make(chan struct{}, 1), calling: make(chan struct{}, 1),
		pages: make(map[netip.Addr]*page),
	}
}

// page returns the page of a peer, which is made when it is missing.
func (b *book) page(addr netip.Addr) *page {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.pages[addr]
	if p == nil {
		p = &page{}
		b.pages[addr] = p
	}
	return p
}

// setPeers takes the peers as configured and drops the pages of others.
func (b *book) setPeers(peers map[netip.Addr]bgp.Peer) {
	for addr, peer := range peers {
		p := b.page(addr)
		p.mu.Lock()
		if p.peer.MaxPrefixes != peer.MaxPrefixes || p.peer.Kind != peer.Kind {
			p.accepted.valid = false
		}
		p.peer = peer
		p.mu.Unlock()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for addr := range b.pages {
		if _, wanted := peers[addr]; !wanted {
			delete(b.pages, addr)
		}
	}
}

// reset makes a page new, for a peer whose session starts from the beginning;
// what it has been through stays.
func (b *book) reset(addr netip.Addr, now time.Time) {
	p := b.page(addr)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.began = now
	if p.established.Swap(false) {
		p.flaps++
		p.lastError = p.reconfigured()
	}
	p.since, p.message, p.held, p.opening, p.arrived, p.silent = time.Time{}, "", false, time.Time{}, time.Time{}, false
	p.returning, p.returned, p.crossed, p.calling = false, false, false, false
	p.accepted, p.advertised, p.refused = tally{}, tally{}, tally{}
}

// reconfigure notes what of a peer's configuration its session is about to be
// reset for.
func (b *book) reconfigure(addr netip.Addr, what string) {
	p := b.page(addr)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changed, p.resetting = what, true
}

func (b *book) policyChanged(addr netip.Addr) {
	p := b.page(addr)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.accepted.valid, p.advertised.valid, p.refused.valid = false, false, false
}

// forget drops everything, for a server that is gone.
func (b *book) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pages = make(map[netip.Addr]*page)
}

// event notes a change of a session's state.
func (b *book) event(e *apiutil.WatchEventMessage_PeerEvent, at time.Time) {
	p := b.page(e.Peer.State.NeighborAddress)
	p.mu.Lock()
	defer p.mu.Unlock()
	if at.Before(p.began) {
		return // GoBGP tells of what happens some time after: this was the session before
	}
	if e.Peer.State.SessionState == packet.BGP_FSM_ESTABLISHED {
		p.established.Store(true)
		p.arrived = time.Now()
		p.since, p.message, p.held, p.resetting, p.silent = at, "", false, false, false
		p.returning, p.returned, p.deferred = false, p.returning, p.returning
		if p.returned {
			tell(b.returned)
		}
		return
	}
	p.opening, p.arrived = time.Time{}, time.Time{}
	if e.Peer.State.SessionState == packet.BGP_FSM_OPENCONFIRM {
		p.opening = at
	}
	if p.established.Swap(false) {
		if p.crossed = at.Sub(p.since) < crossedWithin && !p.resetting; p.crossed {
			tell(b.crossed)
		}
		p.since = at
		p.flaps++
		p.lastError = p.cause(e.Peer.State.DisconnectReason)
		if p.silent {
			tell(b.silent)
		}
	}
	if p.held {
		return // the reason is known better
	}
	switch e.Peer.State.DisconnectReason {
	case api.PeerState_DISCONNECT_REASON_GRACEFUL_RESTART:
		if p.message == "" {
			p.message = connectionLost
		}
		p.message += "; what it announced is kept while it restarts"
	case api.PeerState_DISCONNECT_REASON_RESTART_TIMER_EXPIRED:
		p.message = "it did not come back within its restart time"
	case api.PeerState_DISCONNECT_REASON_READ_FAILED, api.PeerState_DISCONNECT_REASON_WRITE_FAILED:
		if p.message == "" {
			p.message = connectionLost
		}
	case api.PeerState_DISCONNECT_REASON_INVALID_MSG:
		if p.message == "" {
			p.message = "it sent a message that makes no sense here"
		}
	}
}

const connectionLost = "the connection was lost"

// reconfigured says what the session was reset for. The lock is held.
func (p *page) reconfigured() string {
	if p.changed == "" {
		return "its configuration changed"
	}
	return "its configuration changed, which takes a new session: " + p.changed
}

// cause says why a session that was established has ended: what was heard of it
// since, else what follows from GoBGP's reason. The lock is held.
func (p *page) cause(reason api.PeerState_DisconnectReason) string {
	switch {
	case reason == api.PeerState_DISCONNECT_REASON_DECONFIGURED, p.resetting:
		return p.reconfigured()
	case p.message != "":
		return p.message
	case reason == api.PeerState_DISCONNECT_REASON_INVALID_MSG:
		return "it sent a message that makes no sense here"
	case reason == api.PeerState_DISCONNECT_REASON_HOLD_TIMER_EXPIRED:
		return "we closed the session: " + notification(codeHold, 0)
	}
	return connectionLost
}

// tell wakes who listens, if nobody did so already.
func tell(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// returns notes that the peer has routes of an earlier life of ours.
func (p *page) returns() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.returning = true
}

// takeReturned tells once that a peer has us back.
func (p *page) takeReturned() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	returned := p.returned
	p.returned = false
	return returned
}

// takeSilent tells once that a session ended because the peer was silent.
func (p *page) takeSilent() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	silent := p.silent && !p.established.Load()
	p.silent = p.silent && !silent
	return silent
}

// hangs tells whether a session is in OpenConfirm for too long.
func (p *page) hangs(now time.Time, after time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.opening.IsZero() && !p.established.Load() && now.Sub(p.opening) > after
}

// refuse notes a NOTIFICATION that ended the session, or kept it from coming up.
func (p *page) refuse(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.held {
		p.message, p.lastError = text, text
	}
}

// ceased notes a Cease that we sent: that the session is being reset is known
// better.
func (p *page) ceased(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.held && !p.resetting {
		p.message, p.lastError = text, text
	}
}

// say sets the reason why the session is not established.
func (p *page) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.held {
		p.message = fmt.Sprintf(format, args...)
	}
}
