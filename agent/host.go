package agent

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// findAddresses looks up the plan's addresses on the node's interfaces. One
// that is on none is left out.
func findAddresses(want []netip.Addr) ([]v1alpha1.NodeAddress, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var found []v1alpha1.NodeAddress
	for _, link := range links {
		addrs, err := link.Addrs()
		if err != nil {
			continue // the link went away meanwhile
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err != nil {
				continue
			}
			for _, w := range want {
				if p.Addr() == w {
					found = append(found, v1alpha1.NodeAddress{Address: p.String(), Interface: link.Name, MTU: int32(link.MTU)})
				}
			}
		}
	}
	return found, nil
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
