package cni

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/godwit-net/godwit/ipam"
)

// Recover makes the server's memory from the kernel's links and the
// allocator's records, and puts right where they differ:
//
//	link   record   what comes of it
//	yes    yes      attached
//	yes    no       attached, and the address is recorded again; if that can't be,
//	                because it is another's, the link is given up
//	no     yes      the pod went while no agent ran: the address is released
//	given up        detaching goes on where it ended
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
		recorded[r.Owner] = append(recorded[r.Owner], r.Address)
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
		if err := s.readopt(a); err != nil {
			s.o.Log.Error("giving up an attached container, because its address can't be recorded", "container", l.ContainerID, "link", l.HostEnd, "err", err)
			if _, _, err := s.o.Wirer.Doom(ctx, l.ContainerID, l.Interface); err != nil {
				return nil, fmt.Errorf("give up link %s: %w", l.HostEnd, err)
			}
			s.doom(a)
			continue
		}
		s.setAttached(a)
	}
	for o, addresses := range recorded {
		s.o.Log.Info("releasing the addresses of a container that went while no agent ran", "container", o.ContainerID, "addresses", addresses)
		s.doom(Attachment{Owner: o, Addresses: addresses})
	}
	if err := s.reap(ctx); err != nil {
		// The reaper goes on trying; what is attached is served meanwhile.
		s.o.Log.Error("can't finish detaching containers; trying on", "err", err)
	}
	return s.Attachments(), nil
}

func (s *Server) readopt(a Attachment) error {
	for _, addr := range a.Addresses {
		if err := s.o.Allocator.Adopt(ipam.Record{Address: addr, Owner: a.Owner}); err != nil {
			return err
		}
	}
	return nil
}
