package unnumbered

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/net/ipv6"

	"github.com/godwit-net/godwit/internal/netnstest"
)

// solicited listens at swp1 in a namespace, and returns what waits until a node at
// the other end of the link solicits: then it listens, too.
func solicited(t *testing.T, ns *netnstest.NS) (wait func()) {
	t.Helper()
	var conn *ndp.Conn
	var err error
	ns.Do(func() {
		var nic *net.Interface
		if nic, err = net.InterfaceByName("swp1"); err != nil {
			return
		}
		nic.Name = strconv.Itoa(nic.Index)
		if conn, _, err = ndp.Listen(nic, ndp.LinkLocal); err == nil {
			err = conn.JoinGroup(allRouters)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return func() {
		t.Helper()
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		for {
			m, _, _, err := conn.ReadFrom()
			if err != nil {
				t.Fatalf("no solicitation came: %v", err)
			}
			if _, ok := m.(*ndp.RouterSolicitation); ok {
				return
			}
		}
	}
}

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
