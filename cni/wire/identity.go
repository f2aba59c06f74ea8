package wire

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Identity is who an attachment belongs to. It is written into the alias of
// the host's end, readable in `ip link`:
//
//	godwit k8s-pod-network 4fe1…c0 eth0 172.25.0.130
type Identity struct {
	Network     string // name of the CNI network
	ContainerID string
	Interface   string // in the container
	// Addresses that the container has on the interface, at most one of each family.
	Addresses []netip.Addr
}

// maxAlias is what the kernel takes as a link's alias, in bytes.
const maxAlias = 255

// The alias begins with one of these words.
const (
	aliasLive   = "godwit"
	aliasDoomed = "godwit-gone"
)

// errAlias says that an alias is not one of ours.
var errAlias = errors.New("not an alias of a Godwit link")

// alias is the identity as text; it fails when that would not fit into the
// kernel's alias or could not be read back.
func (id Identity) alias(doomed bool) (string, error) {
	words := []string{aliasLive, id.Network, id.ContainerID, id.Interface}
	if doomed {
		words[0] = aliasDoomed
	}
	for _, a := range id.Addresses {
		words = append(words, a.String())
	}
	s := strings.Join(words, " ")
	for _, w := range words {
		if w == "" || strings.ContainsAny(w, " \t\n\x00") {
			return "", fmt.Errorf("an empty name or one with blanks can't be kept: %q", s)
		}
	}
	// The longer of the two words must fit as well.
	if len(s)+len(aliasDoomed)-len(words[0]) > maxAlias {
		return "", fmt.Errorf("network name, container id and interface name are too long together: %d bytes, of %d", len(s), maxAlias)
	}
	return s, nil
}

// Valid tells whether the identity can be kept in the kernel.
func (id Identity) Valid() error {
	_, err := id.alias(false)
	return err
}

// parseAlias reads what alias wrote.
func parseAlias(s string) (id Identity, doomed bool, err error) {
	words := strings.Split(s, " ")
	if len(words) < 4 || (words[0] != aliasLive && words[0] != aliasDoomed) {
		return Identity{}, false, errAlias
	}
	id = Identity{Network: words[1], ContainerID: words[2], Interface: words[3]}
	for _, w := range words[4:] {
		a, err := netip.ParseAddr(w)
		if err != nil || a.Zone() != "" {
			return Identity{}, false, errAlias
		}
		id.Addresses = append(id.Addresses, a)
	}
	back, err := id.alias(words[0] == aliasDoomed)
	if err != nil || back != s {
		return Identity{}, false, errAlias
	}
	return id, words[0] == aliasDoomed, nil
}

// digest distinguishes attachments; the network is no part of it, as a
// container has one interface of a name only.
func digest(containerID, ifName string) [sha256.Size]byte {
	return sha256.Sum256([]byte(containerID + "\x00" + ifName))
}

// HostEnd is the name of the host's end of a container's interface. It comes
// from container and interface, so that a late DEL can't meet another pod's.
func HostEnd(containerID, ifName string) string {
	d := digest(containerID, ifName)
	return "gw" + hex.EncodeToString(d[:6])
}

// macOf is the MAC address of a container's interface: locally administered,
// unicast, and the same whenever it is asked for.
func macOf(containerID, ifName string) net.HardwareAddr {
	d := digest(containerID, ifName)
	mac := net.HardwareAddr(d[6:12])
	mac[0] = mac[0]&^0x01 | 0x02
	return append(net.HardwareAddr(nil), mac...)
}
