package cni

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// reapRetry is after what time a reaping that failed is tried again.
const reapRetry = time.Second

// reapLoop finishes what DEL left, in batches, until ctx ends.
func (s *Server) reapLoop(ctx context.Context) {
	var timer <-chan time.Time
	for {
		var waiting chan<- struct{}
		select {
		case <-ctx.Done():
			return
		case <-s.kick:
			if timer == nil {
				timer = time.After(s.o.ReapDelay)
			}
			continue
		case waiting = <-s.drain:
		case <-s.hurry:
		case <-timer:
		}
		timer = nil
		if err := s.reap(ctx); err != nil {
			s.o.Log.Error("can't finish detaching containers; trying on", "err", err)
			timer = time.After(reapRetry)
		}
		if waiting != nil {
			close(waiting)
		}
	}
}

// reapNow has everything reaped that is doomed by now. That it came to an end
// does not mean that it went well: see doomed.
func (s *Server) reapNow(ctx context.Context) error {
	done := make(chan struct{})
	select {
	case s.drain <- done:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// reap deletes all links that are given up, forgets their connections and then
// frees their addresses, in this order.
func (s *Server) reap(ctx context.Context) error {
	s.mu.Lock()
	batch := slices.Collect(maps.Values(s.doomed))
	s.mu.Unlock()
	if len(batch) == 0 {
		return nil
	}
	if err := s.giveUpAgain(ctx, batch); err != nil {
		return err
	}
	if err := s.o.Wirer.Sweep(ctx); err != nil {
		return err
	}
	var addresses []netip.Addr
	for _, a := range batch {
		addresses = append(addresses, a.Addresses...)
	}
	if err := s.o.Wirer.FlushConntrack(ctx, addresses); err != nil {
		// The addresses are the last to be given out again; stale entries age meanwhile.
		s.o.Log.Warn("can't forget the connections of released addresses", "err", err)
	}
	var errs []error
	for _, a := range batch {
		if err := s.o.Allocator.Release(ctx, a.Owner); err != nil {
			errs = append(errs, err)
			continue
		}
		s.mu.Lock()
		delete(s.doomed, a.Owner)
		s.mu.Unlock()
	}
	return errors.Join(errs...)
}

// giveUpAgain marks the links that could not be marked when it was time.
func (s *Server) giveUpAgain(ctx context.Context, batch []Attachment) error {
	links, err := s.o.Wirer.List(ctx)
	if err != nil {
		return err
	}
	live := map[string]bool{}
	for _, l := range links {
		live[l.HostEnd] = !l.Doomed
	}
	for _, a := range batch {
		if !live[a.hostEnd()] {
			continue
		}
		if _, _, err := s.o.Wirer.Doom(ctx, a.Owner.ContainerID, a.Owner.Interface); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) anyDoomed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.doomed) > 0
}
