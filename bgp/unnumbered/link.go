package unnumbered

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/net/ipv6"
)

// The groups of all nodes and of all routers on a link (RFC 4291, section 2.7.1).
var allNodes, allRouters = netip.MustParseAddr("ff02::1"), netip.MustParseAddr("ff02::2") //nolint:gochecknoglobals // constants

// link is an interface that is there.
type link struct {
	talk
	name   string
	index  int
	mac    net.HardwareAddr
	source netip.Addr // ours, with the name as its zone; the last one while there is none
	conn   *ndp.Conn  // nil: the interface is down, or has no address yet
	// problem says why there is no conn, or the last thing that went wrong with it.
	problem string
}

// message is what was heard on a link; err: the end of conn.
type message struct {
	link *link
	conn *ndp.Conn
	from netip.Addr
	asks bool // a solicitation, else an advertisement
	err  error
}

// open begins to talk, with one of the addresses of the interface. heard takes
// what is heard, until stop is closed.
func (l *link) open(address netip.Addr, mtu int, heard chan<- message, stop <-chan struct{}) error {
	// The interface's number instead of its name spares the net package's table of
	// zones, which is up to a minute old, from having to know an interface that was
	// just made; and brings it up to date for those who dial by name.
	nic := &net.Interface{Index: l.index, Name: strconv.Itoa(l.index), MTU: mtu}
	conn, _, err := ndp.Listen(nic, ndp.Addr(address.WithZone("").String()))
	if err != nil {
		return err
	}
	filter := &ipv6.ICMPFilter{}
	filter.SetAll(true)
	filter.Accept(ipv6.ICMPTypeRouterAdvertisement)
	filter.Accept(ipv6.ICMPTypeRouterSolicitation)
	err = errors.Join(
		conn.SetICMPFilter(filter),
		conn.SetControlMessage(ipv6.FlagHopLimit, true),
		conn.JoinGroup(allNodes),
		conn.JoinGroup(allRouters),
	)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	l.conn, l.source, l.problem = conn, address.WithZone(l.name), ""
	go l.read(conn, heard, stop)
	return nil
}

// close ends the talk; what was learned stays.
func (l *link) close() {
	if l.conn != nil {
		_ = l.conn.Close()
		l.conn = nil
	}
}

// read hands on what is heard, until conn is closed. What did not come from the
// link itself is left out (RFC 4861, sections 6.1.1 and 6.1.2).
func (l *link) read(conn *ndp.Conn, heard chan<- message, stop <-chan struct{}) {
	for {
		m, control, from, err := conn.ReadFrom()
		out := message{link: l, conn: conn, from: from.WithZone(l.name), err: err}
		if err == nil {
			if control == nil || control.HopLimit != ndp.HopLimit {
				continue
			}
			switch m.(type) {
			case *ndp.RouterSolicitation:
				out.asks = true
			case *ndp.RouterAdvertisement:
				if !from.IsLinkLocalUnicast() {
					continue
				}
			default:
				continue
			}
		}
		select {
		case heard <- out:
		case <-stop:
			return
		}
		if err != nil {
			return
		}
	}
}

// speak sends what is due and returns when something is due next.
func (l *link) speak(now time.Time) time.Time {
	advertise, solicit, next := l.due(now)
	var options []ndp.Option
	if len(l.mac) == 6 {
		options = append(options, &ndp.LinkLayerAddress{Direction: ndp.Source, Addr: l.mac})
	}
	var errs []error
	if advertise {
		errs = append(errs, l.conn.WriteTo(&ndp.RouterAdvertisement{Options: options}, nil, allNodes))
	}
	if solicit {
		errs = append(errs, l.conn.WriteTo(&ndp.RouterSolicitation{Options: options}, nil, allRouters))
	}
	l.problem = ""
	if err := errors.Join(errs...); err != nil {
		l.problem = fmt.Sprintf("can't send on %s: %v", l.name, err)
	}
	return next
}

// neighbor is what is known of the link.
func (l *link) neighbor() Neighbor {
	n := Neighbor{Interface: l.name, Problem: l.problem}
	if n.Problem == "" {
		n.Problem = l.talk.problem(l.name)
	}
	if l.router.IsValid() {
		n.Address, n.Source = l.router, l.source
	}
	return n
}
