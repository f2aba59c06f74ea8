package wire

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// minMTU6 is the least MTU of a link with IPv6 (RFC 8200, section 5): the kernel
// turns IPv6 off on others.
const minMTU6 = 1280

// ErrNoIPv6 says that the container's link can't have an IPv6 address.
var ErrNoIPv6 = errors.New("the link can't have an IPv6 address")

// vetIPv6 tells why the container can't be given its IPv6 address, if it is to
// have one.
func (s Spec) vetIPv6() error {
	switch {
	case !s.has6() || s.haveIPv6():
		return nil
	case s.MTU > 0 && s.MTU < minMTU6:
		return fmt.Errorf("%w: its MTU would be %d, and IPv6 needs %d", ErrNoIPv6, s.MTU, minMTU6)
	}
	return fmt.Errorf("%w: the kernel has none (ipv6.disable=1?)", ErrNoIPv6)
}

// haveIPv6 tells whether the kernel has IPv6 on such a link.
func (s Spec) haveIPv6() bool {
	if s.MTU > 0 && s.MTU < minMTU6 {
		return false
	}
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

// How long an address may take to come into force, and how often it is looked at.
const (
	localTimeout  = 5 * time.Second
	localInterval = 50 * time.Microsecond
)

// awaitLocal waits until packets to an IPv6 address of the link are taken. Even
// without duplicate address detection the kernel makes the address's route, and
// joins the group by which neighbours ask for it, in a worker of its own some time
// after the request; a neighbour that asks before waits a second to ask again.
func (c *conn) awaitLocal(ctx context.Context, a netip.Addr, index int) error {
	ctx, cancel := context.WithTimeout(ctx, localTimeout)
	defer cancel()
	for {
		local, err := c.isLocal(a, index)
		if err != nil || local {
			return err
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("wait for the address %s: %w", a, err)
		}
		// The thread itself: timers of Go's come a millisecond late when all is idle.
		pause := unix.NsecToTimespec(localInterval.Nanoseconds())
		_ = unix.Nanosleep(&pause, nil)
	}
}

func (c *conn) isLocal(a netip.Addr, index int) (local bool, err error) {
	var b batch
	b.begin("look up the route to the address "+a.String(), unix.RTM_GETROUTE, unix.NLM_F_ACK,
		[]byte{family(a), byte(a.BitLen()), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	b.attrAddr(unix.RTA_DST, a)
	b.attr32(unix.RTA_OIF, uint32(index))
	b.end()
	err = c.do(&b, func(r reply) error {
		local = local || r.typ == unix.RTM_NEWROUTE && len(r.data) >= unix.SizeofRtMsg && r.data[7] == unix.RTN_LOCAL
		return nil
	})
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
		return false, nil
	}
	return local, err
}

func (id Identity) has6() bool {
	for _, a := range id.Addresses {
		if a.Is6() {
			return true
		}
	}
	return false
}
