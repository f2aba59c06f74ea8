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
	mu    sync.Mutex
	pages map[netip.Addr]*page
}

// page is what is known of one peer.
type page struct {
	// established spares GoBGP the work of its debug messages, see logHandler.
	established atomic.Bool

	mu      sync.Mutex
	peer    bgp.Peer // as configured
	since   time.Time
	message string
	held    bool      // down for exceeding its limit of prefixes
	opening time.Time // since when it is in OpenConfirm; zero: it is not

	accepted accepted
}

// accepted is a count that is valid while the peer sends nothing and the
// policy stays.
type accepted struct {
	valid   bool
	updates uint64
	count   int
}

func newBook() *book { return &book{pages: make(map[netip.Addr]*page)} }

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

// reset makes a page new, for a peer whose session starts from the beginning.
func (b *book) reset(addr netip.Addr) {
	p := b.page(addr)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.established.Store(false)
	p.since, p.message, p.held, p.accepted, p.opening = time.Time{}, "", false, accepted{}, time.Time{}
}

func (b *book) policyChanged(addr netip.Addr) {
	p := b.page(addr)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.accepted.valid = false
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
	p.opening = time.Time{}
	if e.Peer.State.SessionState == packet.BGP_FSM_OPENCONFIRM {
		p.opening = at
	}
	if e.Peer.State.SessionState == packet.BGP_FSM_ESTABLISHED {
		p.established.Store(true)
		p.since, p.message, p.held = at, "", false
		return
	}
	if p.established.Swap(false) {
		p.since = at
	}
	if p.held {
		return // the reason is known better
	}
	switch e.Peer.State.DisconnectReason {
	case api.PeerState_DISCONNECT_REASON_GRACEFUL_RESTART:
		if p.message == "" {
			p.message = "the connection was lost"
		}
		p.message += "; what it announced is kept while it restarts"
	case api.PeerState_DISCONNECT_REASON_RESTART_TIMER_EXPIRED:
		p.message = "it did not come back within its restart time"
	case api.PeerState_DISCONNECT_REASON_READ_FAILED, api.PeerState_DISCONNECT_REASON_WRITE_FAILED:
		if p.message == "" {
			p.message = "the connection was lost"
		}
	case api.PeerState_DISCONNECT_REASON_INVALID_MSG:
		if p.message == "" {
			p.message = "it sent a message that makes no sense here"
		}
	}
}

// hangs tells whether a session is in OpenConfirm for too long.
func (p *page) hangs(now time.Time, after time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.opening.IsZero() && now.Sub(p.opening) > after
}

// say sets the reason why the session is not established.
func (p *page) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.held {
		p.message = fmt.Sprintf(format, args...)
	}
}
