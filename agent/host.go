package agent

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// findAddresses looks up the plan's addresses on the node's interfaces. One
// that is on none is left out. It takes one list of all addresses, and one of
// the links for each that is found: a node has a link for each of its pods.
func findAddresses(want []netip.Addr) ([]v1alpha1.NodeAddress, error) {
	rib, err := syscall.NetlinkRIB(syscall.RTM_GETADDR, syscall.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	messages, err := syscall.ParseNetlinkMessage(rib)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var found []v1alpha1.NodeAddress
	for _, m := range messages {
		p, index := interfaceAddress(m)
		if !slices.Contains(want, p.Addr()) {
			continue
		}
		link, err := net.InterfaceByIndex(index)
		if err != nil {
			continue // the link went away meanwhile
		}
		found = append(found, v1alpha1.NodeAddress{Address: p.String(), Interface: link.Name, MTU: int32(link.MTU)})
	}
	return found, nil
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

// forwarding makes the node a router, without which no pod reaches another.
func forwarding() error {
	const path = "/proc/sys/net/ipv4/ip_forward"
	have, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if string(bytes.TrimSpace(have)) == "1" {
		return nil
	}
	if err := os.WriteFile(path, []byte("1\n"), 0o644); err != nil { // #nosec G306 -- a sysctl
		return fmt.Errorf("turn on IPv4 forwarding, without which no pod reaches another (sysctl net.ipv4.ip_forward=1): %w", err)
	}
	return nil
}

// mtuKept is for how long the MTU of the node's interface is taken to be what
// it was: pods that come at once share one look at it.
const mtuKept = 5 * time.Second

// mtuMemory remembers the MTU that was found last.
type mtuMemory struct {
	mu    sync.Mutex
	value int
	until time.Time
}

func (m *mtuMemory) get(find func() int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := time.Now(); m.value == 0 || now.After(m.until) {
		m.value, m.until = find(), now.Add(mtuKept)
	}
	return m.value
}
