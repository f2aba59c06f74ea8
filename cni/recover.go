package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/godwit-net/godwit/ipam"
)

// Recover makes the server's memory from the kernel's links and the
// allocator's records, and puts right where they differ:
//
//	link   record   what comes of it
//	yes    yes      attached
//	yes    no       attached, and the address is recorded again; if it is another's
//	                by now, the link is given up
//	yes    other    attached, and the address of the link is recorded instead
//	no     yes      the pod went while no agent ran: the address is released
//	given up        detaching goes on where it ended
//
// Records of the node's own addresses have no link and are left alone.
//
// It returns what is attached, for the node's routes. It must be called before
// Serve.
func (s *Server) Recover(ctx context.Context) ([]Attachment, error) {
	links, err := s.o.Wirer.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the links of attached containers: %w", err)
	}
	recorded := map[ipam.Owner][]netip.Addr{}
	for _, r := range s.o.Allocator.Records() {
		if !r.Owner.IsNode() {
			recorded[r.Owner] = append(recorded[r.Owner], r.Address)
		}
	}
	for _, l := range links {
		a := Attachment{
			Owner:   ipam.Owner{ContainerID: l.ContainerID, Interface: l.Interface},
			Network: l.Network, Addresses: l.Addresses, HostLink: l.HostEnd,
		}
		delete(recorded, a.Owner)
		if l.Doomed {
			s.doom(a)
			continue
		}
		switch err := s.readopt(ctx, a); {
		case errors.Is(err, ipam.ErrAddressTaken):
			s.o.Log.Error("giving up an attached container, because its address is another's", "container", l.ContainerID, "link", l.HostEnd, "err", err)
			if _, _, err := s.o.Wirer.Doom(ctx, l.ContainerID, l.Interface); err != nil {
				return nil, fmt.Errorf("give up link %s: %w", l.HostEnd, err)
			}
			s.doom(a)
			continue
		case err != nil:
			// A pod that works is left to work, whatever is the matter with the records.
			s.o.Log.Error("can't record the address of an attached container", "container", l.ContainerID, "link", l.HostEnd, "err", err)
		}
		s.setAttached(a)
	}
	for o, addresses := range recorded {
		// An agent that was about to end may have attached it since the list.
		l, live, err := s.o.Wirer.Find(ctx, o.ContainerID, o.Interface)
		if err != nil {
			return nil, fmt.Errorf("make sure that container %s is gone: %w", o.ContainerID, err)
		}
		if live {
			s.setAttached(Attachment{Owner: o, Network: l.Network, Addresses: l.Addresses, HostLink: l.HostEnd})
			continue
		}
		s.o.Log.Info("releasing the addresses of a container that went while no agent ran", "container", o.ContainerID, "addresses", addresses)
		s.doom(Attachment{Owner: o, Addresses: addresses})
	}
	if err := s.reap(ctx); err != nil {
		// The reaper goes on trying; what is attached is served meanwhile.
		s.o.Log.Error("can't finish detaching containers; trying on", "err", err)
	}
	return s.Attachments(), nil
}

// readopt puts an attachment's addresses on record. What else is on record as
// the owner's is not what its link says, and goes.
func (s *Server) readopt(ctx context.Context, a Attachment) error {
	adopt := func() error {
		for _, addr := range a.Addresses {
			if err := s.o.Allocator.Adopt(ipam.Record{Address: addr, Owner: a.Owner}); err != nil {
				return err
			}
		}
		return nil
	}
	err := adopt()
	if !errors.Is(err, ipam.ErrOwnerHasAddress) {
		return err
	}
	if err := s.o.Allocator.Release(ctx, a.Owner); err != nil {
		return err
	}
	return adopt()
}
