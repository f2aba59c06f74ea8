package gobgp

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	gobgp "github.com/osrg/gobgp/v4/pkg/server"

	"github.com/godwit-net/godwit/bgp"
)

// server is one life of GoBGP's server: it can't be started again once stopped,
// and can't change who it is.
type server struct {
	*gobgp.BgpServer
	identity  identity
	log       *logHandler
	stopWatch context.CancelFunc
}

// identity is what a server can't change while it runs.
type identity struct {
	asn      uint32
	routerID netip.Addr
	port     uint16
	listen   string // the addresses, in words, for comparison
}

func identityOf(c bgp.Config) identity {
	listen := slices.Clone(c.ListenAddresses)
	slices.SortFunc(listen, netip.Addr.Compare)
	return identity{asn: c.ASN, routerID: c.RouterID, port: c.ListenPort, listen: fmt.Sprint(listen)}
}

// startServer starts GoBGP and listens, with a policy that rejects everything
// in both directions and with nobody to talk to.
func startServer(ctx context.Context, c bgp.Config, console string, stranger func(netip.Addr), b *book, l *learned, log *slog.Logger) (*server, error) {
	epoch := l.newEpoch()
	handler := newLogHandler(log.Handler(), b, func(peer netip.Addr) { l.lost(epoch, peer) })
	handler.stranger = stranger
	options, err := consoleOptions(console)
	if err != nil {
		return nil, err
	}
	s := &server{
		BgpServer: gobgp.NewBgpServer(append(options, gobgp.LoggerOption(slog.New(handler), nil))...),
		identity:  identityOf(c),
		log:       handler,
	}
	go s.Serve()
	global := &api.Global{
		Asn:              c.ASN,
		RouterId:         c.RouterID.String(),
		ListenPort:       int32(c.ListenPort),
		ListenAddresses:  listenAddresses(c),
		UseMultiplePaths: true,
	}
	if err := s.StartBgp(ctx, &api.StartBgpRequest{Global: global}); err != nil {
		s.abandon()
		return nil, fmt.Errorf("start BGP on port %d (does another BGP daemon run on this node?): %w", effectivePort(c.ListenPort), err)
	}
	if err := s.rejectAll(ctx); err != nil {
		s.abandon()
		return nil, fmt.Errorf("set the BGP policy: %w", err)
	}
	watchCtx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // it lasts as long as the server
	s.stopWatch = cancel
	err = s.WatchEvent(watchCtx, gobgp.WatchEventMessageCallbacks{
		OnBestPath: func(paths []*apiutil.Path, _ time.Time) { l.paths(epoch, paths) },
		OnPathEor:  func(p *apiutil.Path, _ time.Time) { l.endOfRIB(epoch, p.PeerAddress, familyOf(p.Family)) },
		OnPeerUpdate: func(e *apiutil.WatchEventMessage_PeerEvent, at time.Time) {
			if e.Type != apiutil.PEER_EVENT_STATE {
				return
			}
			b.event(e, at)
			l.session(epoch, e)
		},
	}, gobgp.WatchBestPath(false), gobgp.WatchEor(false), gobgp.WatchPeer())
	if err != nil {
		s.abandon()
		return nil, fmt.Errorf("watch BGP: %w", err)
	}
	return s, nil
}

// abandon ends a server that has no peers.
func (s *server) abandon() {
	s.log.mute()
	s.Stop()
	if s.stopWatch != nil {
		s.stopWatch()
	}
}

const (
	// flushTimeout bounds how long a leaving speaker waits for its withdrawals to be
	// on their way, and then for the end of its sessions.
	flushTimeout = 2 * time.Second
	// farewellTimeout bounds how long a speaker that leaves for good waits for peers
	// that are away and keep its routes meanwhile, which they would otherwise do for
	// their whole restart time.
	farewellTimeout = 10 * time.Second
	// dismissTimeout bounds how long a peer that is removed is waited for to end.
	dismissTimeout = time.Second
	pollInterval   = 5 * time.Millisecond
)

// stop ends the server, which announces prefixes of some families. One that
// leaves waits for peers that are away as long as farewell says. After it no
// goroutine of the sessions runs.
func (s *server) stop(ctx context.Context, mode bgp.StopMode, announced bgp.Families, farewell time.Duration) error {
	ctx = context.WithoutCancel(ctx) // a stop is not given up half-way; it is short
	if mode == bgp.StopLeave {
		if announced != 0 {
			s.withdrawAll(ctx, announced)
		}
		s.shutdownAll(ctx, farewell)
	}
	s.log.mute()
	err := s.StopBgp(ctx, &api.StopBgpRequest{AllowGracefulRestart: mode == bgp.StopRestart})
	s.Stop()
	s.stopWatch()
	if err != nil {
		return fmt.Errorf("stop BGP: %w", err)
	}
	return nil
}

// withdrawAll withdraws all own prefixes and waits until the messages are sent:
// at least one for each family that a peer was told prefixes of.
func (s *server) withdrawAll(ctx context.Context, announced bgp.Families) {
	before := s.established(ctx)
	if err := s.DeletePath(apiutil.DeletePathRequest{DeleteAll: true}); err != nil {
		return
	}
	for deadline := time.Now().Add(flushTimeout); time.Now().Before(deadline); time.Sleep(pollInterval) {
		flushed := true
		now := s.established(ctx)
		for addr, was := range before {
			due := uint64(len((was.families & announced).Each()))
			if is, still := now[addr]; still && is.updates < was.updates+due {
				flushed = false
			}
		}
		if flushed {
			return
		}
	}
}

// shutdownAll ends all sessions with a Cease and waits until they have ended.
// GoBGP's own stop closes accepted connections at once, often before the Cease
// is sent, which peers then take for a restart.
//
// A session that was lost a moment ago comes up first, to end likewise: its peer
// may take this for a restart already.
func (s *server) shutdownAll(ctx context.Context, farewell time.Duration) {
	start := time.Now()
	for asked := make(map[string]time.Time); ; time.Sleep(pollInterval) {
		// Away is asked first: whom it misses since it has come up is in the other.
		waiting := s.anyAway(ctx) && time.Since(start) < farewell
		// One by one: asked for all at once, GoBGP gives all sessions one message, which
		// each of them writes to while it sends it.
		for addr := range s.established(ctx) {
			if _, is := asked[addr]; !is {
				asked[addr] = time.Now()
				_ = s.DisablePeer(ctx, &api.DisablePeerRequest{Address: addr, Communication: "this node leaves"}) // it may be gone already
			}
			waiting = waiting || time.Since(asked[addr]) < flushTimeout
		}
		if !waiting {
			return
		}
	}
}

// dismiss ends the session with a peer that is about to be removed or reset, with
// a Cease: GoBGP's removal closes accepted connections before that is sent, which
// peers then take for a restart.
func (s *server) dismiss(ctx context.Context, addr string) {
	if !s.isUp(ctx, addr) || s.DisablePeer(ctx, &api.DisablePeerRequest{Address: addr, Communication: "the session is removed or reset"}) != nil {
		return
	}
	for deadline := time.Now().Add(dismissTimeout); s.isUp(ctx, addr) && time.Now().Before(deadline); time.Sleep(pollInterval) {
	}
}

// anyAway tells whether a peer is taken to restart: as far as is known it keeps
// our routes, as we keep its.
func (s *server) anyAway(ctx context.Context) bool {
	away := false
	_ = s.ListPeer(ctx, &api.ListPeerRequest{}, func(p *api.Peer) {
		away = away || p.State.SessionState != api.PeerState_SESSION_STATE_ESTABLISHED &&
			p.State.AdminState == api.PeerState_ADMIN_STATE_UP && p.GracefulRestart.GetPeerRestarting()
	})
	return away
}

// progress is how far an established session has come.
type progress struct {
	updates  uint64 // UPDATE messages sent
	families bgp.Families
}

// established lists the sessions that are up.
func (s *server) established(ctx context.Context) map[string]progress {
	up := make(map[string]progress)
	_ = s.ListPeer(ctx, &api.ListPeerRequest{}, func(p *api.Peer) {
		if p.State.SessionState == api.PeerState_SESSION_STATE_ESTABLISHED {
			up[p.State.NeighborAddress] = progress{p.State.Messages.Sent.Update, negotiated(p)}
		}
	})
	return up
}

func (s *server) addPeer(ctx context.Context, p *api.Peer) error {
	return s.AddPeer(ctx, &api.AddPeerRequest{Peer: p})
}

// listenAddresses are those of c, or all: of both families where the kernel
// has IPv6, else GoBGP would fail as a whole.
func listenAddresses(c bgp.Config) []string {
	if len(c.ListenAddresses) == 0 {
		all := []string{netip.IPv4Unspecified().String()}
		if l, err := net.Listen("tcp6", "[::]:0"); err == nil {
			_ = l.Close()
			all = append(all, netip.IPv6Unspecified().String())
		}
		return all
	}
	addrs := make([]string, len(c.ListenAddresses))
	for i, a := range c.ListenAddresses {
		addrs[i] = a.String()
	}
	return addrs
}

func effectivePort(p uint16) uint16 {
	if p == 0 {
		return bgp.DefaultPort
	}
	return p
}
