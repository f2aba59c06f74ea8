package cni

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"

	"github.com/godwit-net/godwit/cni/wire"
)

// result is what ADD answers: the host's end of the pair, the container's end,
// its addresses and its routes, in the version of the configuration. MTUs are
// told from version 1.1.0 on, which brought them.
func result(c *call, l wire.Link) ([]byte, error) {
	inContainer := 1 // index of the container's end
	mtu := 0
	if c.CNIVersion == types100.ImplementedSpecVersion {
		mtu = l.MTU
	}
	r := &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{
			{Name: l.HostEnd, Mac: l.HostMAC.String(), Mtu: mtu},
			{Name: l.Interface, Mac: l.PodMAC.String(), Mtu: mtu, Sandbox: c.netns},
		},
		DNS: c.DNS,
	}
	for _, a := range l.Addresses {
		gw := wire.Gateway(a)
		r.IPs = append(r.IPs, &types100.IPConfig{Interface: &inContainer, Address: ipNet(netip.PrefixFrom(a, a.BitLen())), Gateway: gw.AsSlice()})
		everywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if a.Is6() {
			everywhere = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		r.Routes = append(r.Routes, &types.Route{Dst: ipNet(everywhere), GW: gw.AsSlice(), MTU: mtu})
	}
	converted, err := r.GetAsVersion(c.CNIVersion)
	if err != nil {
		return nil, errorf(CodeInternal, err.Error(), "the result can't be put in version %s", c.CNIVersion)
	}
	out, err := json.Marshal(converted)
	if err != nil {
		return nil, errorf(CodeInternal, err.Error(), "the result can't be written")
	}
	return append(out, '\n'), nil
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// previous is what CHECK reads of the chain's result.
type previous struct {
	addresses []netip.Addr
	mac       net.HardwareAddr // of the container's end
}

// parsePrevious reads prevResult, in any version that the server speaks.
func parsePrevious(c *call) (previous, error) {
	var p previous
	if !present(c.PrevResult) {
		return p, errorf(CodeConfig, "the runtime keeps ADD's result and hands it to CHECK", "the network configuration has no prevResult")
	}
	bad := func(err error) error {
		return errorf(CodeDecode, err.Error(), "prevResult can't be read")
	}
	r, err := create.Create(c.CNIVersion, c.PrevResult)
	if err != nil {
		return p, bad(err)
	}
	newest, err := types100.NewResultFromResult(r)
	if err != nil {
		return p, bad(err)
	}
	mine := -1
	for i, link := range newest.Interfaces {
		if link.Name != c.owner.Interface || link.Sandbox == "" {
			continue
		}
		mine = i
		if link.Mac == "" {
			continue
		}
		if p.mac, err = net.ParseMAC(link.Mac); err != nil {
			return p, bad(err)
		}
	}
	if mine < 0 {
		return p, errorf(CodeConfig, "", "prevResult has no interface %s in the container", c.owner.Interface)
	}
	for _, ip := range newest.IPs {
		if ip.Interface == nil || *ip.Interface != mine {
			continue
		}
		a, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return p, bad(fmt.Errorf("address %v", ip.Address))
		}
		p.addresses = append(p.addresses, a.Unmap())
	}
	return p, nil
}
