package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/e2e/topology"
)

// Hop is one machine on a packet's way.
type Hop struct {
	Name    string
	Address netip.Addr
	RTT     time.Duration // zero for the sender
	Route   string        // the kernel's route by which the packet goes on; empty: it has arrived
}

// maxHops is more than any way in the lab has.
const maxHops = 8

// probeTimeout is how long a hop may take to answer.
const probeTimeout = 2 * time.Second

// protocol is how ICMP looks in one family.
type protocol struct {
	network, address string // to listen
	number           int
	request, reply   icmp.Type
}

func protocolOf(a netip.Addr) protocol {
	if a.Is6() {
		// RFC 4443.
		return protocol{"ip6:ipv6-icmp", "::", 58, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply}
	}
	// RFC 792.
	return protocol{"ip4:icmp", "0.0.0.0", 1, ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply}
}

// Trace sends real packets of growing lifetime from a pod or machine, and asks
// every machine on the way for the route by which it sends them on.
func (l *Lab) Trace(ctx context.Context, from Endpoint, to netip.Addr) ([]Hop, error) {
	route, err := l.routeAt(ctx, from.Name, to)
	if err != nil {
		return nil, err
	}
	owners, err := l.tunnelOwners(ctx)
	if err != nil {
		return nil, err
	}
	hops := []Hop{{Name: from.Name, Address: from.Address, Route: route}}
	for ttl := 1; ttl <= maxHops; ttl++ {
		at, rtt, err := l.probe(from.Name, to, ttl)
		if err != nil {
			return hops, fmt.Errorf("hop %d from %s to %s: %w", ttl, from.Name, to, err)
		}
		h := Hop{Name: l.nameOf(at), Address: at, RTT: rtt}
		if h.Name == "" {
			h.Name = owners[at]
		}
		if at == to {
			return append(hops, h), nil
		}
		if h.Name != "" {
			if h.Route, err = l.routeAt(ctx, h.Name, to); err != nil {
				return hops, err
			}
		}
		hops = append(hops, h)
	}
	return hops, fmt.Errorf("no way from %s to %s within %d hops", from.Name, to, maxHops)
}

func (l *Lab) nameOf(a netip.Addr) string {
	for _, p := range l.Pods() {
		if slices.Contains(p.Addresses, a) {
			return p.Name
		}
	}
	return l.Top.NameOf(a)
}

// routeAt asks a machine's kernel for the route that it uses.
func (l *Lab) routeAt(ctx context.Context, machine string, to netip.Addr) (string, error) {
	out, err := l.RunIn(ctx, machine, "ip", topology.FamilyOf(to).Flag(), "route", "get", "fibmatch", to.String())
	return strings.Join(strings.Fields(out), " "), err
}

// probe sends one echo request with a lifetime and returns who answered.
func (l *Lab) probe(from string, to netip.Addr, ttl int) (netip.Addr, time.Duration, error) {
	p := protocolOf(to)
	var conn *icmp.PacketConn
	err := namespace.Do(l.Top.Namespace(from), func() (err error) {
		conn, err = icmp.ListenPacket(p.network, p.address)
		return err
	})
	if err != nil {
		return netip.Addr{}, 0, err
	}
	defer func() { _ = conn.Close() }()
	setLifetime := func() error {
		if to.Is6() {
			return conn.IPv6PacketConn().SetHopLimit(ttl)
		}
		return conn.IPv4PacketConn().SetTTL(ttl)
	}
	if err := setLifetime(); err != nil {
		return netip.Addr{}, 0, err
	}
	id := os.Getpid() & 0xffff
	// The kernel writes the checksum of ICMPv6.
	msg, err := (&icmp.Message{Type: p.request, Body: &icmp.Echo{ID: id, Seq: ttl, Data: []byte("godwit")}}).Marshal(nil)
	if err != nil {
		return netip.Addr{}, 0, err
	}
	sent := time.Now()
	if err := conn.SetReadDeadline(sent.Add(l.Patience.Times(probeTimeout))); err != nil {
		return netip.Addr{}, 0, err
	}
	if _, err := conn.WriteTo(msg, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return netip.Addr{}, 0, err
	}
	buf := make([]byte, 1500)
	for {
		n, peer, err := conn.ReadFrom(buf)
		if err != nil {
			return netip.Addr{}, 0, err
		}
		if p.answers(buf[:n], id, ttl) {
			a, ok := netip.AddrFromSlice(peer.(*net.IPAddr).IP)
			if !ok {
				return netip.Addr{}, 0, errors.New("answer without an address")
			}
			return a.Unmap(), time.Since(sent), nil
		}
	}
}

// answers tells whether a message is the reply to our request, or a
// complaint about it: that has the beginning of the request in it.
func (p protocol) answers(raw []byte, id, seq int) bool {
	m, err := icmp.ParseMessage(p.number, raw)
	if err != nil {
		return false
	}
	switch body := m.Body.(type) {
	case *icmp.Echo:
		return m.Type == p.reply && body.ID == id && body.Seq == seq
	case *icmp.TimeExceeded:
		return p.aboutRequest(body.Data, id, seq)
	case *icmp.DstUnreach:
		return p.aboutRequest(body.Data, id, seq)
	}
	return false
}

func (p protocol) aboutRequest(packet []byte, id, seq int) bool {
	header := ipv6.HeaderLen
	if p.request == ipv4.ICMPTypeEcho {
		h, err := icmp.ParseIPv4Header(packet)
		if err != nil {
			return false
		}
		header = h.Len
	}
	if len(packet) < header {
		return false
	}
	m, err := icmp.ParseMessage(p.number, packet[header:])
	if err != nil {
		return false
	}
	echo, ok := m.Body.(*icmp.Echo)
	return ok && echo.ID == id && echo.Seq == seq
}

// FormatTrace is a trace as a table.
func FormatTrace(hops []Hop) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "HOP\tWHERE\tADDRESS\tRTT\tGOES ON BY")
	for i, h := range hops {
		rtt := "–"
		if h.RTT > 0 {
			rtt = fmt.Sprintf("%.2f ms", h.RTT.Seconds()*1000)
		}
		route := h.Route
		if route == "" {
			route = "arrived"
		}
		_, _ = fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\n", i, h.Name, h.Address, rtt, route)
	}
	_ = w.Flush()
	return b.String()
}
