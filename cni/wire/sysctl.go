package wire

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// DefaultSysctls is where the kernel's network settings are. What is there is
// the calling thread's namespace's, also when it is mounted elsewhere.
const DefaultSysctls = "/proc/sys/net"

// sysctl is a setting below DefaultSysctls, of the calling thread's namespace.
type sysctl struct {
	path, value string
}

// hostSysctls are the host end's settings that netlink can't make: answer ARP
// for others at once, and take no router's word from a container.
func hostSysctls(s Spec, link string) []sysctl {
	list := []sysctl{{"ipv4/neigh/" + link + "/proxy_delay", "0"}}
	if !s.haveIPv6() {
		return list
	}
	list = append(list, sysctl{"ipv6/conf/" + link + "/accept_ra", "0"})
	if s.has6() {
		list = append(list,
			sysctl{"ipv6/conf/" + link + "/disable_ipv6", "0"},
			sysctl{"ipv6/conf/" + link + "/accept_dad", "0"},
			sysctl{"ipv6/conf/" + link + "/forwarding", "1"},
			sysctl{"ipv6/conf/" + link + "/proxy_ndp", "1"},
			sysctl{"ipv6/neigh/" + link + "/proxy_delay", "0"})
	}
	return list
}

// podSysctls are the container's settings.
func podSysctls(s Spec) []sysctl {
	var list []sysctl
	if !s.Forward {
		list = append(list, sysctl{"ipv4/ip_forward", "0"})
	}
	if s.has6() {
		if !s.Forward {
			list = append(list, sysctl{"ipv6/conf/all/forwarding", "0"})
		}
		list = append(list,
			sysctl{"ipv6/conf/" + s.Interface + "/disable_ipv6", "0"},
			sysctl{"ipv6/conf/" + s.Interface + "/accept_dad", "0"},
			sysctl{"ipv6/conf/" + s.Interface + "/accept_ra", "0"})
	}
	return list
}

// applySysctls makes the settings in a folder, touching only what differs.
func applySysctls(dir string, list []sysctl) error {
	for _, s := range list {
		file := dir + "/" + s.path
		if err := s.apply(file); err != nil {
			return fmt.Errorf("set %s to %s: %w", file, s.value, err)
		}
	}
	return nil
}

func (s sysctl) apply(file string) error {
	fd, err := unix.Open(file, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	var now [64]byte
	n, err := unix.Pread(fd, now[:], 0)
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(now[:n])) == s.value {
		return nil
	}
	_, err = unix.Pwrite(fd, []byte(s.value), 0)
	return err
}

// differs tells how the setting differs from what it should be, "" if it does not.
func (s sysctl) differs() string {
	file := DefaultSysctls + "/" + s.path
	got, err := os.ReadFile(file) // #nosec G304 -- a sysctl
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Sprintf("%s is missing", file)
	case err != nil:
		return err.Error()
	case strings.TrimSpace(string(got)) != s.value:
		return fmt.Sprintf("%s is %s, not %s", file, strings.TrimSpace(string(got)), s.value)
	}
	return ""
}
