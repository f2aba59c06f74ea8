// Package routewatch notes when routes are missing in a network namespace, be
// it for a moment only. It looks in two ways, as neither sees all:
//
//   - It hears every removal of a route, as the kernel tells it (rtnetlink(7)).
//     A replaced route is told as a new one. The end of a nexthop object takes
//     routes away without a word.
//   - It asks the kernel again and again for the way to each destination.
package routewatch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/godwit-net/godwit/e2e/namespace"
)

const (
	// buffer holds notifications while the reader waits for a processor.
	buffer = 8 << 20
	// pollMillis is how soon the listener notices that it is to end.
	pollMillis = 20
	// pause is the time between two questions for all destinations.
	pause = time.Millisecond
)

// Watch looks at routes until it is stopped.
type Watch struct {
	dsts []netip.Prefix
	fd   int
	h    *netlink.Handle
	stop chan struct{}
	wg   sync.WaitGroup

	mu    sync.Mutex
	seen  []string // what was wrong
	asked int
	err   error
}

// Start begins to watch routes with these very destinations, which must be
// there.
func Start(ns string, dsts []netip.Prefix) (*Watch, error) {
	w := &Watch{dsts: dsts, fd: -1, stop: make(chan struct{})}
	err := namespace.Do(ns, func() (err error) {
		w.fd, err = listen()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("watch routes in %s: %w", ns, err)
	}
	there, err := netns.GetFromPath(namespace.Path(ns))
	if err == nil {
		w.h, err = netlink.NewHandleAt(there, unix.NETLINK_ROUTE)
		_ = there.Close()
	}
	if err != nil {
		_ = unix.Close(w.fd)
		return nil, fmt.Errorf("watch routes in %s: %w", ns, err)
	}
	w.ask()
	if len(w.seen) > 0 || w.err != nil {
		w.close()
		return nil, fmt.Errorf("watch routes in %s: %v: %w", ns, w.seen, errors.Join(w.err, errors.New("not there to begin with")))
	}
	w.wg.Go(w.listen)
	w.wg.Go(w.askOn)
	return w, nil
}

func listen() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return -1, err
	}
	groups := uint32(1<<(unix.RTNLGRP_IPV4_ROUTE-1) | 1<<(unix.RTNLGRP_IPV6_ROUTE-1))
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}),
	)
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// listen takes notifications until it is told to stop and there are no more.
func (w *Watch) listen() {
	buf := make([]byte, 1<<16)
	for {
		stopping := w.stopping()
		n, _, err := unix.Recvfrom(w.fd, buf, 0)
		switch {
		case err == nil:
			w.take(buf[:n])
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN) && stopping:
			return
		case errors.Is(err, unix.EAGAIN):
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}, pollMillis); err != nil && !errors.Is(err, unix.EINTR) {
				w.fail(err)
				return
			}
		default:
			w.fail(err) // notifications that were lost, say
			return
		}
	}
}

func (w *Watch) stopping() bool {
	select {
	case <-w.stop:
		return true
	default:
		return false
	}
}

func (w *Watch) take(raw []byte) {
	messages, err := syscall.ParseNetlinkMessage(raw)
	if err != nil {
		w.fail(err)
		return
	}
	for _, m := range messages {
		if m.Header.Type != unix.RTM_DELROUTE {
			continue
		}
		if dst, ok := destination(m); ok && slices.Contains(w.dsts, dst) {
			w.note("the route to " + dst.String() + " was deleted")
		}
	}
}

// destination reads the destination of a route of the main table.
func destination(m syscall.NetlinkMessage) (netip.Prefix, bool) {
	if len(m.Data) < unix.SizeofRtMsg || m.Data[4] != unix.RT_TABLE_MAIN {
		return netip.Prefix{}, false
	}
	bits := int(m.Data[1])
	for rest := m.Data[unix.SizeofRtMsg:]; len(rest) >= unix.SizeofRtAttr; {
		length := int(binary.NativeEndian.Uint16(rest))
		if length < unix.SizeofRtAttr || length > len(rest) {
			return netip.Prefix{}, false
		}
		if binary.NativeEndian.Uint16(rest[2:]) == unix.RTA_DST {
			a, ok := netip.AddrFromSlice(rest[unix.SizeofRtAttr:length])
			return netip.PrefixFrom(a, bits), ok
		}
		rest = rest[min((length+3)&^3, len(rest)):]
	}
	return netip.Prefix{}, false
}

// askOn asks for the destinations again and again.
func (w *Watch) askOn() {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-w.stop:
			return
		case <-tick.C:
			w.ask()
		}
	}
}

// ask looks by which route the kernel goes to each destination; a wider one
// does not count.
func (w *Watch) ask() {
	for _, dst := range w.dsts {
		routes, err := w.h.RouteGetWithOptions(dst.Addr().AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
		found := err == nil && slices.ContainsFunc(routes, func(r netlink.Route) bool {
			if r.Dst == nil {
				return false
			}
			// A pod of the block may have the very first address.
			ones, _ := r.Dst.Mask.Size()
			return ones >= dst.Bits()
		})
		if !found {
			w.note(fmt.Sprintf("there was no route to %s (%v)", dst, err))
		}
	}
	w.mu.Lock()
	w.asked++
	w.mu.Unlock()
}

func (w *Watch) note(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, time.Now().Format("15:04:05.000000")+" "+what)
}

func (w *Watch) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = errors.Join(w.err, err)
}

func (w *Watch) close() {
	w.h.Close()
	_ = unix.Close(w.fd)
}

// Stop ends the watch. It returns when routes were missing, and how often it
// has asked.
func (w *Watch) Stop() (missing []string, asked int, err error) {
	close(w.stop)
	w.wg.Wait()
	w.close()
	return w.seen, w.asked, w.err
}
