package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	cniapi "github.com/godwit-net/godwit/api/cni"
	"github.com/godwit-net/godwit/cni/wire"
	"github.com/godwit-net/godwit/ipam"
)

func (a Attachment) hostEnd() string { return wire.HostEnd(a.Owner.ContainerID, a.Owner.Interface) }

// del detaches a container.
func (s *Server) del(ctx context.Context, c *call) error {
	unlock, err := s.locks.lock(ctx, c.owner)
	if err != nil {
		return wrap(CodeTryAgain, "waiting for another call for the same container", err)
	}
	defer unlock()
	return s.detach(ctx, c.owner, c.Name)
}

// detach gives an attachment up; the owner's lock is held.
func (s *Server) detach(ctx context.Context, o ipam.Owner, network string) error {
	a, attached, doomed := s.known(o)
	if doomed {
		// The reaper has it. Its addresses may be free any moment, and another's the
		// next: nothing may be done by them any more.
		return nil
	}
	l, found, err := s.o.Wirer.Doom(ctx, o.ContainerID, o.Interface)
	if err != nil {
		return wrap(CodeIO, "detaching the container", err)
	}
	if !attached && !found {
		// Nothing is known of it. Should it have an address all the same, that goes.
		if err := s.o.Allocator.Release(ctx, o); err != nil {
			return wrap(CodeIO, "releasing the container's addresses", err)
		}
		return nil
	}
	if !attached {
		a = Attachment{Owner: o, Network: network, Addresses: s.owned(o, l.Addresses), HostLink: l.HostEnd}
	}
	s.withdraw(ctx, a)
	return nil
}

// owned are those of the addresses that are on record as the owner's.
func (s *Server) owned(o ipam.Owner, addresses []netip.Addr) []netip.Addr {
	var own []netip.Addr
	for _, r := range s.o.Allocator.Records() {
		if r.Owner == o && slices.Contains(addresses, r.Address) {
			own = append(own, r.Address)
		}
	}
	return own
}

// check tells whether an attachment is as ADD left it.
func (s *Server) check(ctx context.Context, c *call) error {
	prev, err := parsePrevious(c)
	if err != nil {
		return err
	}
	ns, err := s.namespace(c)
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }()
	unlock, err := s.locks.lock(ctx, c.owner)
	if err != nil {
		return wrap(CodeTryAgain, "waiting for another call for the same container", err)
	}
	defer unlock()
	a, attached, _ := s.known(c.owner)
	if !attached {
		return errorf(CodeUnknown, "no ADD was served for it, or DEL was since", "container %s is not attached with interface %s", c.owner.ContainerID, c.owner.Interface)
	}
	mtu := c.MTU // what the agent finds may have changed since
	diffs, err := s.o.Wirer.Check(ctx, ns, wire.Spec{Identity: c.identity(a.Addresses), MTU: mtu, Forward: c.AllowIPForwarding}, prev.mac)
	if err != nil {
		return wrap(CodeIO, "looking at the container's interface", err)
	}
	for _, addr := range a.Addresses {
		if !slices.Contains(prev.addresses, addr) {
			diffs = append(diffs, fmt.Sprintf("prevResult does not name the address %s", addr))
		}
	}
	for _, addr := range prev.addresses {
		if !slices.Contains(a.Addresses, addr) {
			diffs = append(diffs, fmt.Sprintf("prevResult names the address %s, which the container was not given", addr))
		}
	}
	diffs = append(diffs, s.checkRecords(c.owner, a.Addresses)...)
	if len(diffs) > 0 {
		return errorf(CodeDiffers, strings.Join(diffs, "; "), "the container's interface %s is not as it was made", c.owner.Interface)
	}
	return nil
}

func (s *Server) checkRecords(o ipam.Owner, addresses []netip.Addr) (diffs []string) {
	recorded := map[netip.Addr]ipam.Owner{}
	for _, r := range s.o.Allocator.Records() {
		recorded[r.Address] = r.Owner
	}
	for _, a := range addresses {
		switch owner, found := recorded[a]; {
		case !found:
			diffs = append(diffs, fmt.Sprintf("the address %s is on record as free", a))
		case owner != o:
			diffs = append(diffs, fmt.Sprintf("the address %s is on record as that of container %s", a, owner.ContainerID))
		}
	}
	return diffs
}

// gc detaches all containers of the network but those that the configuration
// names. An ADD that is being served while GC is is not in question: the
// specification has runtimes do one or the other, and each attachment is looked at
// once more, under its lock, right before it goes.
func (s *Server) gc(ctx context.Context, c config) error {
	valid := map[ipam.Owner]bool{}
	for _, v := range c.ValidAttachments {
		valid[ipam.Owner{ContainerID: v.ContainerID, Interface: v.IfName}] = true
	}
	var errs []error
	for _, a := range s.Attachments() {
		if a.Network != c.Name || valid[a.Owner] {
			continue
		}
		s.o.Log.Info("detaching a container that the runtime does not know any more", "container", a.Owner.ContainerID, "interface", a.Owner.Interface, "addresses", a.Addresses)
		if err := s.collect(ctx, a); err != nil {
			errs = append(errs, fmt.Errorf("container %s: %w", a.Owner.ContainerID, err))
		}
	}
	if len(errs) > 0 {
		return wrap(CodeIO, "collecting what no container uses", errors.Join(errs...))
	}
	return nil
}

func (s *Server) collect(ctx context.Context, a Attachment) error {
	unlock, err := s.locks.lock(ctx, a.Owner)
	if err != nil {
		return err
	}
	defer unlock()
	// Whoever held the lock may have attached the container anew, after the runtime
	// made its list.
	if now, attached, _ := s.known(a.Owner); !attached || now.serial != a.serial {
		return nil
	}
	return s.detach(ctx, a.Owner, a.Network)
}

// status tells whether ADD can be served.
func (s *Server) status() error {
	if err := s.o.Ready(); err != nil {
		return &Error{CodeNotAvailable, "the Godwit agent on this node is not ready", err.Error(), err}
	}
	return nil
}

// The contract's methods follow; an Error is an answer, not a failed call.

// Add implements the contract's Add.
func (s *Server) Add(ctx context.Context, r *cniapi.Request) (*cniapi.Response, error) {
	return s.serve(ctx, "ADD", r, func(ctx context.Context) ([]byte, error) {
		c, err := parseCall(r)
		if err != nil {
			return nil, err
		}
		return s.add(ctx, c)
	})
}

// Del implements the contract's Del.
func (s *Server) Del(ctx context.Context, r *cniapi.Request) (*cniapi.Response, error) {
	return s.serve(ctx, "DEL", r, func(ctx context.Context) ([]byte, error) {
		c, err := parseCall(r)
		if err != nil {
			return nil, err
		}
		return nil, s.del(ctx, c)
	})
}

// Check implements the contract's Check.
func (s *Server) Check(ctx context.Context, r *cniapi.Request) (*cniapi.Response, error) {
	return s.serve(ctx, "CHECK", r, func(ctx context.Context) ([]byte, error) {
		c, err := parseCall(r)
		if err != nil {
			return nil, err
		}
		return nil, s.check(ctx, c)
	})
}

// GC implements the contract's GC.
func (s *Server) GC(ctx context.Context, r *cniapi.Request) (*cniapi.Response, error) {
	return s.serve(ctx, "GC", r, func(ctx context.Context) ([]byte, error) {
		c, err := parseConfig(r.GetConfig())
		if err != nil {
			return nil, err
		}
		return nil, s.gc(ctx, c)
	})
}

// Status implements the contract's Status.
func (s *Server) Status(ctx context.Context, r *cniapi.Request) (*cniapi.Response, error) {
	return s.serve(ctx, "STATUS", r, func(context.Context) ([]byte, error) {
		if _, err := parseConfig(r.GetConfig()); err != nil {
			return nil, err
		}
		return nil, s.status()
	})
}
