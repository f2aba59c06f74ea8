package gobgp

import (
	"time"

	"github.com/osrg/gobgp/v4/api"
	"golang.org/x/sys/unix"

	"github.com/godwit-net/godwit/bgp"
)

const (
	// idleAfterReset is how long GoBGP rests, in seconds, after it has reset a session.
	idleAfterReset = 1
	// deferral is how long, in seconds, a restarting speaker waits for the routes of
	// all peers before it announces its own. Ours depend on nobody else's, so the
	// shortest time will do.
	deferral = 1
)

// apiPeer says in GoBGP's words what a session is to be.
//
// GoBGP's own prefix limit is not used, see limiter.
func apiPeer(c bgp.Config, p bgp.Peer, restarting bool) *api.Peer {
	peer := &api.Peer{
		Conf: &api.PeerConf{
			NeighborAddress: p.Address.String(),
			PeerAsn:         p.ASN,
			LocalAsn:        p.LocalASN,
			AuthPassword:    p.Password,
			Description:     p.Name,
			AllowOwnAsn:     uint32(p.AllowOwnASN),
			ReplacePeerAsn:  p.ASOverride,
			RemovePrivate:   removePrivate(p.RemovePrivateAS),
		},
		Timers: &api.Timers{Config: &api.TimersConfig{
			HoldTime:               seconds(p.EffectiveHold()),
			KeepaliveInterval:      seconds(p.EffectiveKeepalive()),
			ConnectRetry:           seconds(p.EffectiveConnectRetry()),
			IdleHoldTimeAfterReset: idleAfterReset,
		}},
		Transport: &api.Transport{
			RemotePort:   uint32(p.EffectivePort()),
			LocalAddress: localAddress(c, p),
			PassiveMode:  p.Passive,
		},
	}
	setTTL(peer, p)
	if p.Kind == bgp.PeerNode {
		// GoBGP can't make a peer a client, or let it be none any more, while its session
		// stays. So all nodes are, and the export policy alone decides who is told of
		// whom: without a reflector only that a node's own prefixes bear its own
		// identifier as that of their originator comes of it.
		peer.RouteReflector = &api.RouteReflector{RouteReflectorClient: true}
	}
	gr := p.GracefulRestart > 0
	if gr {
		peer.GracefulRestart = &api.GracefulRestart{
			Enabled:         true,
			RestartTime:     uint32(seconds(p.GracefulRestart)),
			DeferralTime:    deferral,
			LocalRestarting: restarting,
			// GoBGP tells the peer our stale time, and keeps its routes for the time
			// that it tells us.
			LonglivedEnabled: p.LongLived > 0,
		}
	}
	for _, f := range c.Families(p.Address).Each() {
		peer.AfiSafis = append(peer.AfiSafis, &api.AfiSafi{
			Config:            &api.AfiSafiConfig{Family: apiFamily(f), Enabled: true},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: gr}},
			LongLivedGracefulRestart: &api.LongLivedGracefulRestart{Config: &api.LongLivedGracefulRestartConfig{
				Enabled: p.LongLived > 0, RestartTime: uint32(seconds(p.LongLived)),
			}},
		})
	}
	return peer
}

// localAddress is the address to dial from, and the only one to accept the peer
// on: its own source address, else the one we listen on, when there is exactly
// one of the peer's family. Else it is empty: dial from the kernel's choice, and
// accept on any. To and from a link-local address only those of the same link do.
func localAddress(c bgp.Config, p bgp.Peer) string {
	if p.SourceAddress.IsValid() {
		return p.SourceAddress.String()
	}
	if bgp.IsLinkLocal(p.Address) {
		return ""
	}
	found := ""
	for _, a := range c.ListenAddresses {
		if a.Is4() != p.Address.Is4() || a.IsUnspecified() {
			continue
		}
		if found != "" {
			return ""
		}
		found = a.String()
	}
	return found
}

// seconds rounds up: GoBGP counts in whole seconds, and takes 0 for its own default.
func seconds(d time.Duration) uint64 {
	return uint64((d + time.Second - 1) / time.Second)
}

// probeMD5 asks the kernel whether it can sign TCP segments (RFC 2385). GoBGP
// only logs when it can't, and would accept connections without.
func probeMD5(v4 bool) error {
	family := unix.AF_INET6
	if v4 {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	sig := &unix.TCPMD5Sig{Keylen: 1, Key: [80]byte{'k'}}
	sig.Addr.Family = uint16(family)
	if v4 {
		copy(sig.Addr.Data[2:], []byte{127, 0, 0, 1})
	} else {
		sig.Addr.Data[6+15] = 1
	}
	return unix.SetsockoptTCPMD5Sig(fd, unix.IPPROTO_TCP, unix.TCP_MD5SIG, sig)
}
