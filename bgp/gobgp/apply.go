package gobgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/osrg/gobgp/v4/api"

	"github.com/godwit-net/godwit/bgp"
)

// apply brings the server from what is applied to c. Things that widen what is
// announced or accepted come after those that narrow it; own prefixes come
// before new peers, so that a new session starts with all of them.
func (s *Speaker) apply(ctx context.Context, c bgp.Config) error {
	want := make(map[netip.Addr]bgp.Peer, len(c.Peers))
	for _, p := range c.Peers {
		want[p.Address] = p
	}
	var errs []error
	fail := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}

	added, withdrawn := s.prefixChanges(c)
	fail(s.withdraw(withdrawn))
	for _, addr := range sortedKeys(s.applied.peers) {
		p := s.applied.peers[addr]
		if w, keep := want[addr]; keep {
			changed := p.ResetFor(w)
			if s.applied.families[addr] != c.Families(addr) {
				changed = append(changed, "address families")
			}
			if len(changed) == 0 {
				continue
			}
			why := strings.Join(changed, ", ")
			s.log.Info("resetting a BGP session: what changed can't be changed while it is up", "peer", w.Name, "changed", why)
			s.book.reconfigure(addr, why)
		}
		if err := s.removePeer(ctx, p); err != nil {
			fail(&bgp.PeerError{Peer: p.Name, Err: err})
		}
	}
	policy := newPolicy(c)
	policy.among(sortedKeys(s.applied.peers)) // one that could not be removed is told apart, too
	s.markForEvaluation(policy, want, added, withdrawn)
	s.learned.setPeers(c, want)
	s.book.setPeers(want)
	if err := s.setPolicy(ctx, policy); err != nil {
		// Without the policy nothing may be announced and no peer let in.
		return errors.Join(append(errs, err)...)
	}
	fail(s.announce(added))

	for _, addr := range sortedKeys(want) {
		p := want[addr]
		if _, have := s.applied.peers[addr]; have {
			s.applied.peers[addr] = p
			continue
		}
		if err := s.addPeer(ctx, c, p); err != nil {
			fail(&bgp.PeerError{Peer: p.Name, Err: err})
		}
	}
	fail(s.evaluateAnew(ctx))
	s.limits.watch(s.applied.peers)
	return errors.Join(errs...)
}

// prefixChanges compares what is announced with what is to be. A prefix with
// another next hop or other attributes counts as added.
func (s *Speaker) prefixChanges(c bgp.Config) (added, withdrawn []own) {
	originates := c.Originates()
	want := make(map[netip.Prefix]bool, len(originates))
	for _, p := range originates {
		o := ownOf(c, p)
		if !want[p] && s.applied.advertise[p] != o {
			added = append(added, o)
		}
		want[p] = true
	}
	for p, o := range s.applied.advertise {
		if !want[p] {
			withdrawn = append(withdrawn, o)
		}
	}
	return added, withdrawn
}

func (s *Speaker) announce(prefixes []own) error {
	if err := s.server.announce(prefixes); err != nil {
		return err
	}
	for _, o := range prefixes {
		s.applied.advertise[o.prefix] = o
	}
	return nil
}

func (s *Speaker) withdraw(prefixes []own) error {
	if err := s.server.withdraw(prefixes); err != nil {
		return err
	}
	s.learned.ownGone(prefixes, time.Now())
	for _, o := range prefixes {
		delete(s.applied.advertise, o.prefix)
	}
	return nil
}

// stale says which routes of a peer the policy must look at anew: those that it
// has sent, and those that it is sent.
type stale struct{ in, out bool }

// markForEvaluation remembers the peers for whose routes the policy changes.
// Announcing a prefix matters to the import only when someone else's route is in
// its range, which is rare; withdrawing one may let others' routes in.
func (s *Speaker) markForEvaluation(p *policy, want map[netip.Addr]bgp.Peer, added, withdrawn []own) {
	old := s.applied.policy
	if old == nil {
		return
	}
	everyone := len(withdrawn) > 0 || s.learned.anyWithin(added) || old.origins != p.origins
	blocks := !slices.Equal(old.blocks, p.blocks) || old.validate != p.validate
	for addr, was := range s.applied.peers {
		peer, keep := want[addr]
		if !keep {
			continue
		}
		mark := s.applied.stale[addr]
		switch {
		case everyone, peer.Kind != was.Kind,
			peer.Kind == bgp.PeerNode && blocks,
			peer.Kind == bgp.PeerNode && p.validate && !slices.Equal(peer.Owned, was.Owned),
			peer.Kind == bgp.PeerNode && p.validate && peer.Reflection != was.Reflection,
			peer.Kind == bgp.PeerNode && old.marksReflected(was) != p.marksReflected(peer),
			peer.Kind == bgp.PeerExternal && !sameRules(peer.Import, was.Import):
			mark.in = true
		}
		rules, former := exportRulesOf(peer), exportRulesOf(was)
		if peer.Kind == bgp.PeerNode && (old.reflects || p.reflects) && (old.reflects != p.reflects || peer.Reflection != was.Reflection) {
			mark.out = true
		}
		if !sameRules(rules, former) || len(rules) > 0 && (peer.NextHop != was.NextHop || !sameWay(old, p)) {
			mark.out = true
		}
		if mark != (stale{}) {
			s.applied.stale[addr] = mark
		}
	}
}

func (s *Speaker) setPolicy(ctx context.Context, p *policy) error {
	if reflect.DeepEqual(p, s.applied.policy) {
		return nil
	}
	if err := s.server.setPolicy(ctx, p); err != nil {
		return fmt.Errorf("set the BGP policy: %w", err)
	}
	s.applied.policy = p
	return nil
}

func (s *Speaker) addPeer(ctx context.Context, c bgp.Config, p bgp.Peer) error {
	if c.Families(p.Address) == 0 {
		// It had some, and keeps its other properties while the new ones make no sense.
		return errors.New("the node has no address any more of the families that the session carried")
	}
	if p.Password != "" {
		if err := probeMD5(p.Address.Is4()); err != nil {
			return fmt.Errorf("a password is set, but this kernel has no TCP MD5: %w", err)
		}
	}
	s.book.reset(p.Address, time.Now())
	returns := s.restarting || s.callers.returns(p)
	if returns && p.GracefulRestart > 0 {
		s.book.page(p.Address).returns()
	}
	if err := s.server.addPeer(ctx, apiPeer(c, p, returns)); err != nil {
		return fmt.Errorf("add the session: %w", err)
	}
	s.applied.peers[p.Address], s.applied.families[p.Address] = p, c.Families(p.Address)
	s.limits.awake(p.Address)
	return nil
}

func (s *Speaker) removePeer(ctx context.Context, p bgp.Peer) error {
	delete(s.applied.stale, p.Address)
	s.server.dismiss(ctx, p.Address.String())
	if p.Password != "" && !s.sharesKey(p) {
		// GoBGP forgets to take the key from its listening socket when a peer is
		// deleted, but not when it is updated.
		bare := p
		bare.Password = ""
		peer := apiPeer(s.config, bare, false)
		peer.Conf.AdminDown = true
		if _, err := s.server.UpdatePeer(ctx, &api.UpdatePeerRequest{Peer: peer}); err != nil {
			return fmt.Errorf("take the password away: %w", err)
		}
	}
	if err := s.server.DeletePeer(ctx, &api.DeletePeerRequest{Address: p.Address.String()}); err != nil {
		return fmt.Errorf("remove the session: %w", err)
	}
	delete(s.applied.peers, p.Address)
	delete(s.applied.families, p.Address)
	s.book.reset(p.Address, time.Now())
	return nil
}

// sharesKey tells whether a peer on another link has the address of p, and so the key
// of the listening socket, which knows no links.
func (s *Speaker) sharesKey(p bgp.Peer) bool {
	for addr, other := range s.applied.peers {
		if addr != p.Address && addr.WithZone("") == p.Address.WithZone("") && other.Password != "" {
			return true
		}
	}
	return false
}

// evaluateAnew has the policy look again at the routes of marked peers: first at
// all that was received, as what is sent may depend on it. GoBGP keeps what it
// has received, so peers need not send it again.
func (s *Speaker) evaluateAnew(ctx context.Context) error {
	var errs []error
	peers := sortedKeys(s.applied.stale)
	reset := func(addr netip.Addr, direction api.ResetPeerRequest_Direction) {
		err := s.server.ResetPeer(ctx, &api.ResetPeerRequest{Address: addr.String(), Soft: true, Direction: direction})
		if err != nil {
			errs = append(errs, &bgp.PeerError{Peer: s.applied.peers[addr].Name, Err: err})
			return
		}
		mark := s.applied.stale[addr]
		if direction == api.ResetPeerRequest_DIRECTION_IN {
			mark.in = false
			s.book.policyChanged(addr)
		} else {
			mark.out = false
		}
		s.applied.stale[addr] = mark
	}
	for _, addr := range peers {
		if s.applied.stale[addr].in {
			reset(addr, api.ResetPeerRequest_DIRECTION_IN)
		}
	}
	for _, addr := range peers {
		if s.applied.stale[addr].out {
			reset(addr, api.ResetPeerRequest_DIRECTION_OUT)
		}
		if s.applied.stale[addr] == (stale{}) {
			delete(s.applied.stale, addr)
		}
	}
	return errors.Join(errs...)
}

func sortedKeys[V any](m map[netip.Addr]V) []netip.Addr {
	keys := make([]netip.Addr, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, netip.Addr.Compare)
	return keys
}
