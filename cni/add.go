package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"time"

	"github.com/godwit-net/godwit/cni/wire"
	"github.com/godwit-net/godwit/ipam"
)

// undoTimeout bounds what a failed ADD does to leave nothing behind; the
// caller may be gone by then.
const undoTimeout = 10 * time.Second

// add attaches a container and returns the result to print.
func (s *Server) add(ctx context.Context, c *call) ([]byte, error) {
	if err := c.vetForAdd(); err != nil {
		return nil, err
	}
	ns, err := s.namespace(c)
	if err != nil {
		return nil, err
	}
	defer func() { _ = ns.Close() }()
	if err := s.o.Ready(); err != nil {
		return nil, &Error{CodeTryAgain, "the Godwit agent on this node is not ready, try again later", err.Error(), err}
	}
	unlock, err := s.locks.lock(ctx, c.owner)
	if err != nil {
		return nil, wrap(CodeTryAgain, "waiting for another call for the same container", err)
	}
	defer unlock()
	if err := s.makeWay(ctx, c); err != nil {
		return nil, err
	}
	// From here on something may have to be taken back, after a panic too.
	a := Attachment{Owner: c.owner, Network: c.Name, HostLink: wire.HostEnd(c.owner.ContainerID, c.owner.Interface)}
	complete := false
	defer func() {
		if !complete {
			s.undo(ctx, a)
		}
	}()
	if a.Addresses, err = s.allocate(ctx, c); err != nil {
		return nil, err
	}
	out, err := s.attach(ctx, c, ns, a)
	if err != nil {
		return nil, err
	}
	s.setAttached(a)
	complete = true
	return out, nil
}

// namespace opens the container's network namespace.
func (s *Server) namespace(c *call) (*wire.Namespace, error) {
	if c.netns == "" {
		return nil, errorf(CodeEnvironment, "", "CNI_NETNS is not set")
	}
	ns, err := s.o.Wirer.OpenNamespace(c.netns)
	switch {
	case err == nil:
		return ns, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, &Error{CodeEnvironment, fmt.Sprintf("CNI_NETNS %q does not exist", c.netns), err.Error(), err}
	case errors.Is(err, wire.ErrNodeNamespace):
		return nil, &Error{CodeEnvironment, fmt.Sprintf("CNI_NETNS %q is the node's own network namespace", c.netns), "a container on the host's network is not attached to any other", err}
	case errors.Is(err, wire.ErrNoNamespace):
		return nil, &Error{CodeEnvironment, fmt.Sprintf("CNI_NETNS %q is not a network namespace", c.netns), err.Error(), err}
	}
	return nil, wrap(CodeEnvironment, "opening CNI_NETNS", err)
}

// makeWay refuses what is attached already, and finishes what is left of an
// earlier life of the same attachment.
func (s *Server) makeWay(ctx context.Context, c *call) error {
	old, attached, doomed := s.known(c.owner)
	if attached {
		_, found, err := s.o.Wirer.Find(ctx, c.owner.ContainerID, c.owner.Interface)
		if err != nil {
			return wrap(CodeIO, "looking for the container's link", err)
		}
		if found {
			return errorf(CodeExists, fmt.Sprintf("container %s was attached by an earlier ADD, with link %s on the node; it stays as it is: DEL comes before another ADD", c.owner.ContainerID, old.HostLink),
				"interface %s exists already", c.owner.Interface)
		}
		// Its namespace went, and the link with it, without a DEL.
		s.withdraw(ctx, old)
		doomed = true
	}
	if !doomed {
		return nil
	}
	if err := s.reapNow(ctx); err != nil {
		return wrap(CodeTryAgain, "finishing the container's earlier DEL", err)
	}
	if _, _, doomed := s.known(c.owner); doomed {
		return errorf(CodeTryAgain, "see the agent's log for why", "what an earlier attachment left can't be removed yet, try again later")
	}
	return nil
}

// attach gives the container its link and the node its routes, and returns the
// result to print.
func (s *Server) attach(ctx context.Context, c *call, ns *wire.Namespace, a Attachment) ([]byte, error) {
	mtu := c.MTU
	if mtu == 0 {
		var err error
		if mtu, err = s.o.MTU(a.Addresses); err != nil {
			return nil, wrap(CodeTryAgain, "finding the MTU of the container's interface", err)
		}
	}
	l, err := s.o.Wirer.Attach(ctx, ns, wire.Spec{Identity: c.identity(a.Addresses), MTU: mtu, Forward: c.AllowIPForwarding})
	switch {
	case err == nil:
	case errors.Is(err, wire.ErrInterfaceExists):
		return nil, &Error{CodeExists, fmt.Sprintf("interface %s exists already", c.owner.Interface), err.Error(), err}
	case errors.Is(err, wire.ErrNoIPv6):
		return nil, &Error{CodeConfig, fmt.Sprintf("interface %s can't have the address of its IPv6 pool", c.owner.Interface), err.Error(), err}
	default:
		return nil, wrap(CodeIO, "attaching the container", err)
	}
	for _, addr := range a.Addresses {
		if err := s.o.Routes.Add(ctx, addr, l.HostEnd); err != nil {
			return nil, wrap(CodeIO, fmt.Sprintf("adding the route to %s", addr), err)
		}
	}
	if err := ctx.Err(); err != nil { // nobody waits for the result any more
		return nil, wrap(CodeTryAgain, "attaching the container", err)
	}
	return result(c, l)
}

// allocate gets the container's addresses. When the pools are exhausted, or the
// address that the pod asks for is taken, addresses on their way back are waited
// for.
func (s *Server) allocate(ctx context.Context, c *call) ([]netip.Addr, error) {
	records, err := s.o.Allocator.Allocate(ctx, c.owner, c.pod)
	var exhausted *ipam.ExhaustedError
	var unusable *ipam.UnusableAddressError
	if (errors.As(err, &exhausted) || errors.As(err, &unusable)) && s.anyDoomed() {
		if rerr := s.reapNow(ctx); rerr != nil {
			return nil, allocationError(err)
		}
		records, err = s.o.Allocator.Allocate(ctx, c.owner, c.pod)
	}
	if err != nil {
		return nil, allocationError(err)
	}
	addresses := make([]netip.Addr, len(records))
	for i, r := range records {
		addresses[i] = r.Address
	}
	if len(addresses) == 0 {
		return nil, errorf(CodeInternal, "", "the container was given no address")
	}
	return addresses, nil
}

// undo takes back what a failed ADD did; ctx may have ended.
func (s *Server) undo(ctx context.Context, a Attachment) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	_, found, err := s.o.Wirer.Doom(ctx, a.Owner.ContainerID, a.Owner.Interface)
	if err != nil {
		s.o.Log.Error("can't give up the link of a failed ADD; trying on", "container", a.Owner.ContainerID, "err", err)
	}
	if err != nil || found {
		s.withdraw(ctx, a)
		_ = s.reapNow(ctx) // or later: the reaper goes on trying
		return
	}
	for _, addr := range a.Addresses {
		s.o.Routes.Remove(ctx, addr)
	}
	if err := s.o.Allocator.Release(ctx, a.Owner); err != nil {
		s.o.Log.Error("can't release the addresses of a failed ADD; trying on", "container", a.Owner.ContainerID, "err", err)
		s.doom(a)
	}
}

// withdraw makes an attachment's addresses unreachable and hands it to the reaper.
func (s *Server) withdraw(ctx context.Context, a Attachment) {
	for _, addr := range a.Addresses {
		s.o.Routes.Remove(ctx, addr)
	}
	s.doom(a)
}
