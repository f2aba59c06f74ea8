package tunnel

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// oldOffload tells whether a kernel of that release corrupts the checksums of
// what goes over VXLAN when the device is to compute them: up to 5.7.
func oldOffload(release string) bool {
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return false
	}
	return major < 5 || major == 5 && minor <= 7
}

func kernelRelease() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", os.NewSyscallError("uname", err)
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

// ethtoolValue is struct ethtool_value.
type ethtoolValue struct{ cmd, data uint32 }

// txChecksum tells whether a link is to compute the checksums of what it sends.
func (c *conn) txChecksum(name string) (bool, error) {
	v := ethtoolValue{cmd: unix.ETHTOOL_GTXCSUM}
	err := c.ethtool(name, &v)
	return v.data != 0, err
}

func (c *conn) txChecksumOff(name string) error {
	return c.ethtool(name, &ethtoolValue{cmd: unix.ETHTOOL_STXCSUM})
}

// ethtool asks by ioctl, as kernels old enough to need it have no other way.
func (c *conn) ethtool(name string, v *ethtoolValue) error {
	var req struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(req.name[:unix.IFNAMSIZ-1], name)
	req.data = unsafe.Pointer(v) // #nosec G103 -- what the ioctl takes
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(c.fd), unix.SIOCETHTOOL,
		uintptr(unsafe.Pointer(&req))) // #nosec G103 -- what the ioctl takes
	if errno != 0 {
		return fmt.Errorf("ethtool %s: %w", name, errno)
	}
	return nil
}
