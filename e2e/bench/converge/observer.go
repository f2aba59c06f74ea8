package converge

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/godwit-net/godwit/bgp/bgptest/sender"
	"github.com/godwit-net/godwit/e2e/namespace"
)

const (
	// receiveBuffer holds the notifications of several whole tables.
	receiveBuffer = 512 << 20
	// observeEvery is how often the observer looks, and so its precision.
	observeEvery = time.Millisecond
	// observeQuiet is how long there must be no news before the observer reads what
	// it has got.
	observeQuiet = 50 * time.Millisecond
)

// observer counts the routes that a kernel gets, by their notifications.
//
// To read them at once would take the processor from the router that it
// observes. So it lets them gather, and only notes when how many bytes were
// there; it reads them when no more come, and by their place among the bytes it
// knows when they came.
type observer struct {
	netns   string
	fd      int
	table   Case
	missing map[netip.Prefix]bool // the whole table
	left    int                   // how many are missing
	buf     []byte
	samples []sample
}

// sample says how much there was to read at some time.
type sample struct {
	at    time.Time
	bytes uint32
}

// newObserver subscribes to the routes of a namespace, which has none of the
// table yet.
func newObserver(netns string, c Case) (*observer, error) {
	o := &observer{netns: netns, table: c, buf: make([]byte, 64<<10), missing: make(map[netip.Prefix]bool, c.Prefixes)}
	for i := range c.Prefixes {
		o.note(sender.TablePrefix(i), true)
	}
	err := namespace.Do(netns, func() (err error) {
		o.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
		return os.NewSyscallError("netlink socket", err)
	})
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		os.NewSyscallError("netlink bind", unix.Bind(o.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})),
		os.NewSyscallError("netlink buffer", unix.SetsockoptInt(o.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)),
		os.NewSyscallError("netlink group", unix.SetsockoptInt(o.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.RTNLGRP_IPV4_ROUTE)),
	)
	if err != nil {
		o.close()
		return nil, err
	}
	return o, nil
}

func (o *observer) close() { _ = unix.Close(o.fd) }

// wait returns when the kernel has all prefixes, and since when it had.
func (o *observer) wait(ctx context.Context) (time.Time, error) {
	tick := time.NewTicker(observeEvery)
	defer tick.Stop()
	for {
		now := time.Now()
		n, err := o.gathered()
		if err != nil {
			return time.Time{}, err
		}
		last := len(o.samples) - 1
		switch {
		case last < 0 && n > 0, last >= 0 && o.samples[last].bytes != n:
			o.samples = append(o.samples, sample{now, n})
		case last >= 0 && now.Sub(o.samples[last].at) > observeQuiet:
			if at, err := o.read(); err != nil || o.left == 0 {
				return at, err
			}
		}
		select {
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("%d of %d prefixes are not in the kernel", o.left, o.table.Prefixes)
		case <-tick.C:
		}
	}
}

// gathered is how many bytes there are to read, in the kernel's own count.
func (o *observer) gathered() (uint32, error) {
	var info [unix.SK_MEMINFO_VARS]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(o.fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0) // #nosec G103 -- x/sys has no function for it
	if errno != 0 {
		return 0, os.NewSyscallError("netlink memory", errno)
	}
	return info[unix.SK_MEMINFO_RMEM_ALLOC], nil
}

// read takes in the notifications that are there, and returns when the one came
// that was the last to be missing.
func (o *observer) read() (at time.Time, err error) {
	samples := o.samples
	o.samples = nil
	total, err := o.gathered()
	rest, mixed := total, false
	for err == nil {
		n, _, err := unix.Recvfrom(o.fd, o.buf, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return at, nil
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil: // ENOBUFS is that some were lost, which are not to be timed
			return at, os.NewSyscallError("netlink receive", err)
		}
		before := rest
		if rest, err = o.gathered(); err != nil {
			return at, err
		}
		// Where more come while these are read, places say nothing: then it is now.
		mixed = mixed || rest >= before
		missed := o.left
		if o.take(o.buf[:n]); missed > 0 && o.left == 0 {
			at = time.Now()
			if i := slices.IndexFunc(samples, func(s sample) bool { return s.bytes >= total-rest }); i >= 0 && !mixed {
				at = samples[i].at
			}
		}
	}
	return at, err
}

// take reads a datagram of route messages (rtnetlink(7)): length, type, and
// after the header of 16 bytes family and prefix length; then attributes.
func (o *observer) take(b []byte) {
	for len(b) >= unix.SizeofNlMsghdr+unix.SizeofRtMsg {
		n := int(binary.NativeEndian.Uint32(b))
		if n < unix.SizeofNlMsghdr+unix.SizeofRtMsg || n > len(b) {
			return
		}
		if p, ok := destination(b[unix.SizeofNlMsghdr:n]); ok {
			if _, ours := o.missing[p]; ours {
				o.note(p, binary.NativeEndian.Uint16(b[4:]) == unix.RTM_DELROUTE)
			}
		}
		b = b[min((n+3)&^3, len(b)):]
	}
}

// note notes whether a prefix of the table is missing.
func (o *observer) note(p netip.Prefix, missing bool) {
	if o.missing[p] == missing {
		return
	}
	o.missing[p] = missing
	if missing {
		o.left++
	} else {
		o.left--
	}
}

// destination is the destination of an IPv4 unicast route in the main table.
func destination(m []byte) (netip.Prefix, bool) {
	family, bits, table, kind := m[0], m[1], m[4], m[7]
	if family != unix.AF_INET || table != unix.RT_TABLE_MAIN || kind != unix.RTN_UNICAST {
		return netip.Prefix{}, false
	}
	for m = m[unix.SizeofRtMsg:]; len(m) >= unix.SizeofRtAttr; {
		n := int(binary.NativeEndian.Uint16(m))
		if n < unix.SizeofRtAttr || n > len(m) {
			break
		}
		if binary.NativeEndian.Uint16(m[2:]) == unix.RTA_DST && n == unix.SizeofRtAttr+4 {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte(m[4:8])), int(bits)), true
		}
		m = m[min((n+3)&^3, len(m)):]
	}
	return netip.Prefix{}, false
}

// kernelRoutes returns the gateways of the table's routes in a namespace.
func kernelRoutes(netns string) (map[netip.Prefix][]netip.Addr, error) {
	var list []netlink.Route
	err := namespace.Do(netns, func() (err error) {
		list, err = netlink.RouteList(nil, unix.AF_INET)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the routes of %s: %w", netns, err)
	}
	have := make(map[netip.Prefix][]netip.Addr, len(list))
	for _, r := range list {
		if r.Dst == nil {
			continue
		}
		addr, _ := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		p := netip.PrefixFrom(addr.Unmap(), bits)
		if !announced().Contains(p.Addr()) || p == ownBlock() {
			continue
		}
		gw, _ := netip.AddrFromSlice(r.Gw)
		have[p] = append(have[p], gw.Unmap())
	}
	return have, nil
}

// check compares the kernel's routes with the table.
func check(netns string, c Case) error {
	have, err := kernelRoutes(netns)
	if err != nil {
		return err
	}
	if len(have) != c.Prefixes {
		return fmt.Errorf("the kernel has %d destinations of the table, not %d", len(have), c.Prefixes)
	}
	share := c.Prefixes / c.Hops
	for i := range c.Prefixes {
		p, hop := sender.TablePrefix(i), sender.TableHop(min(i/share, c.Hops-1))
		if got := have[p]; len(got) != 1 || got[0] != hop {
			return fmt.Errorf("the kernel has %v via %v, not via %v", p, got, hop)
		}
	}
	return nil
}
