package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// host is the real Host.
type host struct {
	sysctls string // the folder of the kernel's network settings
}

// Addresses implements Host.
func (host) Addresses(want []netip.Addr) ([]v1alpha1.NodeAddress, error) { return findAddresses(want) }

// findAddresses looks up the plan's addresses on the node's interfaces. One
// that is on none is left out. It takes one list of all addresses, and one of
// the links for each that is found: a node has a link for each of its pods.
//
// An address on the loopback interface alone is that of a node whose network is
// routed up to it. Packets do not leave by that interface, so its MTU says nothing.
func findAddresses(want []netip.Addr) ([]v1alpha1.NodeAddress, error) {
	rib, err := syscall.NetlinkRIB(syscall.RTM_GETADDR, syscall.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	messages, err := syscall.ParseNetlinkMessage(rib)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var found, looped []v1alpha1.NodeAddress
	for _, m := range messages {
		p, index := interfaceAddress(m)
		if !slices.Contains(want, p.Addr()) {
			continue
		}
		link, err := net.InterfaceByIndex(index)
		if err != nil {
			continue // the link went away meanwhile
		}
		one := v1alpha1.NodeAddress{Address: p.String(), Interface: link.Name, MTU: int32(link.MTU)}
		if link.Flags&net.FlagLoopback == 0 {
			found = append(found, one)
			continue
		}
		one.MTU = outwardMTU(p.Addr())
		looped = append(looped, one)
	}
	for _, one := range looped {
		address, _, _ := strings.Cut(one.Address, "/")
		if !slices.ContainsFunc(found, func(o v1alpha1.NodeAddress) bool { return strings.HasPrefix(o.Address, address+"/") }) {
			found = append(found, one)
		}
	}
	return found, nil
}

// outwardMTU is the MTU of the link by which packets leave the node for anywhere,
// or Ethernet's where none do.
func outwardMTU(from netip.Addr) int32 {
	const ethernet = 1500
	anywhere := net.IPv4(192, 0, 2, 1) // of no network (RFC 5737), so that the default route leads to it
	if from.Is6() {
		anywhere = net.ParseIP("2001:db8::1") // RFC 3849
	}
	routes, err := netlink.RouteGet(anywhere)
	if err != nil || len(routes) == 0 {
		return ethernet
	}
	link, err := net.InterfaceByIndex(routes[0].LinkIndex)
	if err != nil || link.Flags&net.FlagLoopback != 0 {
		return ethernet
	}
	return int32(link.MTU)
}

// interfaceAddress reads a message about an address; the prefix of one about
// anything else is invalid.
func interfaceAddress(m syscall.NetlinkMessage) (p netip.Prefix, link int) {
	if m.Header.Type != syscall.RTM_NEWADDR || len(m.Data) < syscall.SizeofIfAddrmsg {
		return netip.Prefix{}, 0
	}
	attrs, err := syscall.ParseNetlinkRouteAttr(&m)
	if err != nil {
		return netip.Prefix{}, 0
	}
	var local, address netip.Addr // they differ on point-to-point links
	for _, a := range attrs {
		switch a.Attr.Type {
		case syscall.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(a.Value)
		case syscall.IFA_ADDRESS:
			address, _ = netip.AddrFromSlice(a.Value)
		}
	}
	if !local.IsValid() {
		local = address
	}
	return netip.PrefixFrom(local, int(m.Data[1])), int(binary.NativeEndian.Uint32(m.Data[4:]))
}

// Where the kernel keeps, below its network settings, whether it forwards, and
// what a node does with router advertisements (RFC 4861).
const (
	forwarding4   = "ipv4/ip_forward"
	forwarding6   = "ipv6/conf/all/forwarding"
	advertisement = "ipv6/conf/*/accept_ra"
)

// forwarding makes the node a router for the families of its pools, without
// which no pod reaches another.
func forwarding(h Host, d *desired) error {
	var v4, v6 bool
	for _, p := range d.ranges {
		v4, v6 = v4 || p.Addr().Is4(), v6 || p.Addr().Is6()
	}
	return h.Forward(v4, v6)
}

// Forward implements Host.
func (h host) Forward(v4, v6 bool) error {
	if v4 {
		if err := setSysctl(filepath.Join(h.sysctls, forwarding4), "0", "1"); err != nil {
			return fmt.Errorf("turn on IPv4 forwarding, without which no pod reaches another (sysctl net.ipv4.ip_forward=1): %w", err)
		}
	}
	if !v6 {
		return nil
	}
	// A host that forwards IPv6 ignores router advertisements unless it is told
	// otherwise, and would lose the default route that it may have from one.
	if on, err := isSysctl(filepath.Join(h.sysctls, forwarding6), "0"); err != nil || on {
		links, _ := filepath.Glob(filepath.Join(h.sysctls, advertisement))
		for _, path := range links {
			if link := filepath.Base(filepath.Dir(path)); link != "all" && link != "default" {
				_ = setSysctl(path, "1", "2") // the link may be gone
			}
		}
	}
	if err := setSysctl(filepath.Join(h.sysctls, forwarding6), "0", "1"); err != nil {
		return fmt.Errorf("turn on IPv6 forwarding, without which no pod reaches another (sysctl net.ipv6.conf.all.forwarding=1): %w", err)
	}
	return nil
}

func isSysctl(path, value string) (bool, error) {
	have, err := os.ReadFile(path) // #nosec G304 -- a sysctl
	return err == nil && string(bytes.TrimSpace(have)) == value, err
}

// setSysctl changes a sysctl that has a certain value, and no other, to another
// value.
func setSysctl(path, from, to string) error {
	if is, err := isSysctl(path, from); err != nil || !is {
		return err
	}
	return os.WriteFile(path, []byte(to+"\n"), 0o644) // #nosec G306 -- a sysctl
}

// Watch implements Host.
func (host) Watch(ctx context.Context, link func(name string), address func(netip.Addr)) error {
	done := make(chan struct{})
	defer close(done)
	broken := make(chan error, 2)
	report := func(err error) {
		select {
		case broken <- err:
		default:
		}
	}
	links, addrs := make(chan netlink.LinkUpdate, 64), make(chan netlink.AddrUpdate, 64)
	if err := netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{ErrorCallback: report}); err != nil {
		return err
	}
	if err := netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{ErrorCallback: report}); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-broken:
			return err
		case l, ok := <-links:
			if !ok {
				return nil
			}
			link(l.Attrs().Name)
		case a, ok := <-addrs:
			if !ok {
				return nil
			}
			if ip, ok := netip.AddrFromSlice(a.LinkAddress.IP); ok {
				address(ip.Unmap())
			}
		}
	}
}
