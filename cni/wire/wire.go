// Package wire connects containers to the node with veth pairs.
//
// A container is a routed host: its interface bears its address as a /32 (or
// /128), its gateway is 169.254.1.1 (fe80::ecee:eeff:feee:eeee), whose MAC it
// knows for good, and everything goes there. The host's end of the pair needs
// no address but the IPv6 gateway's; the /32 route to the container is the
// routing table's part, not this package's.
//
// Invariants:
//   - The host's end bears its identity in its alias (see Identity), from the
//     moment it exists: the links of a namespace tell who is attached, and
//     nothing else needs to be kept.
//   - A link without such an alias is never touched.
//   - An attachment that fails leaves no link behind.
//   - When an attachment is made, its addresses are in force: the first packet
//     passes as soon as there is a route, in both families.
//   - An attachment that was given up (Doom) bears that in its alias too, before
//     the caller is told; whoever comes next, another process even, finishes it.
package wire

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Gateway4 and Gateway6 are the gateways of every container. The second is
// the link-local address that HostMAC makes.
//
//nolint:gochecknoglobals // constants in all but form
var (
	Gateway4 = netip.AddrFrom4([4]byte{169, 254, 1, 1})
	Gateway6 = netip.MustParseAddr("fe80::ecee:eeff:feee:eeee")
	hostMAC  = net.HardwareAddr{0xee, 0xee, 0xee, 0xee, 0xee, 0xee}
)

// HostMAC is the MAC address of the host's end of every pair.
func HostMAC() net.HardwareAddr { return append(net.HardwareAddr(nil), hostMAC...) }

// Gateway is the gateway for addresses of a's family.
func Gateway(a netip.Addr) netip.Addr {
	if a.Is4() {
		return Gateway4
	}
	return Gateway6
}

// What callers tell apart of Attach's errors.
var (
	// ErrInterfaceExists says that the container has an interface of that name.
	ErrInterfaceExists = errors.New("the container has an interface of that name already")
	// ErrForeignLink says that the host's end can't have its name, because a link that
	// is not Godwit's bears it.
	ErrForeignLink = errors.New("a link that is not Godwit's has the name")
)

// Spec says how a container is to be attached.
type Spec struct {
	Identity
	// MTU of both ends; 0 leaves the kernel's default.
	MTU int
	// Forward lets the container forward packets (net.ipv4.ip_forward and its IPv6
	// twin stay as they are).
	Forward bool
}

// Link is an attachment.
type Link struct {
	Identity
	Doomed  bool   // given up, to be deleted by Sweep
	HostEnd string // name of the host's end
	HostMAC net.HardwareAddr
	PodMAC  net.HardwareAddr // known from Attach only
	MTU     int              // of both ends; known from Attach only
}

// Wirer attaches containers to the network namespace it was made in. Its
// methods may be called concurrently, but for one identity one at a time.
type Wirer struct {
	log  *slog.Logger
	host *os.File // the node's network namespace
	home *os.File // the process's network namespace
	// atHome says that both are the same, as they are but in tests.
	atHome  bool
	sysctls string // where the settings are written
	rt      *conns // rtnetlink in the node's namespace
	ct      *conns // ctnetlink in the node's namespace
}

// Options of a Wirer.
type Options struct {
	Log *slog.Logger
	// Namespace is the path of the node's network namespace; "" is that of the
	// calling thread, which must be the process's own.
	Namespace string
	// Sysctls is where the kernel's network settings can be written, as in a container
	// /proc/sys can't; "": DefaultSysctls.
	Sysctls string
}

// New makes a Wirer. It holds the namespace open until Close.
func New(o Options) (*Wirer, error) {
	const own = "/proc/thread-self/ns/net"
	path := o.Namespace
	if path == "" {
		path = own
	}
	host, err := os.Open(path) // #nosec G304 -- of the agent's own choice
	if err != nil {
		return nil, fmt.Errorf("open the node's network namespace: %w", err)
	}
	home, err := os.Open(own)
	if err != nil {
		_ = host.Close()
		return nil, fmt.Errorf("open the process's network namespace: %w", err)
	}
	w := &Wirer{log: o.Log, host: host, home: home, sysctls: cmp.Or(o.Sysctls, DefaultSysctls)}
	if w.atHome, err = sameFile(host, home); err != nil {
		return nil, errors.Join(err, host.Close(), home.Close())
	}
	w.rt = newConns(func() (*conn, error) { return w.dialHost(unix.NETLINK_ROUTE) })
	w.ct = newConns(func() (*conn, error) { return w.dialHost(unix.NETLINK_NETFILTER) })
	return w, nil
}

// dialHost opens a socket in the node's namespace, from any thread.
func (w *Wirer) dialHost(protocol int) (c *conn, err error) {
	err = w.inside(w.host, func() error {
		c, err = dial(protocol)
		return err
	})
	return c, err
}

// Close frees the Wirer's sockets. Attachments stay.
func (w *Wirer) Close() error {
	w.rt.close()
	w.ct.close()
	return errors.Join(w.host.Close(), w.home.Close())
}
