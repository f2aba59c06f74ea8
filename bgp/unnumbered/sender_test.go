package unnumbered

import (
	"errors"
	"net"
	"net/netip"
	"strconv"

	"github.com/mdlayher/ndp"
	"golang.org/x/net/ipv6"

	"github.com/godwit-net/godwit/internal/netnstest"
)

// advertise sends an advertisement from swp1 in a namespace, with a hop limit.
func advertise(ns *netnstest.NS, from, to string, hops int) (err error) {
	ns.Do(func() {
		var nic *net.Interface
		if nic, err = net.InterfaceByName("swp1"); err != nil {
			return
		}
		nic.Name = strconv.Itoa(nic.Index)
		var conn *ndp.Conn
		var source netip.Addr
		if conn, source, err = ndp.Listen(nic, ndp.Addr(from)); err != nil {
			return
		}
		control := &ipv6.ControlMessage{HopLimit: hops, Src: source.AsSlice(), IfIndex: nic.Index}
		err = errors.Join(conn.WriteTo(&ndp.RouterAdvertisement{}, control, netip.MustParseAddr(to)), conn.Close())
	})
	return err
}
