package tunnel

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// sysctl is a setting of a link's IPv6 that netlink can't make.
type sysctl struct{ link, name, value string }

// sysctls are the settings that a link has wrong.
func sysctls(w *want, l *link) []sysctl {
	if !l.ipv6 {
		return nil // the kernel has no IPv6 for it (yet)
	}
	var list []sysctl
	set := func(wrong bool, name, value string) {
		if wrong {
			list = append(list, sysctl{link: l.name, name: name, value: value})
		}
	}
	set(l.acceptRA, "accept_ra", "0") // no router's word from a tunnel
	if w.needs6() {
		set(l.disabled6, "disable_ipv6", "0")
		set(!l.forward6, "forwarding", "1")
	}
	return list
}

// proc is what is needed of /proc. The files are held open, as what they tell
// is of the network namespace in which they were opened.
type proc struct {
	conf6     int // the directory, -1: no IPv6
	udp, udp6 *os.File
}

// DefaultSysctls is where the kernel's network settings are.
const DefaultSysctls = "/proc/sys/net"

// openProc opens the files of the calling thread's network namespace. sysctls is
// where its settings are written.
func openProc(sysctls string) (_ *proc, err error) {
	p := &proc{conf6: -1}
	defer func() {
		if err != nil {
			_ = p.close()
		}
	}()
	p.conf6, err = unix.Open(sysctls+"/ipv6/conf", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		p.conf6, err = -1, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the IPv6 settings: %w", err)
	}
	if p.udp, err = os.Open("/proc/thread-self/net/udp"); err != nil {
		return nil, fmt.Errorf("open the list of UDP sockets: %w", err)
	}
	p.udp6, err = os.Open("/proc/thread-self/net/udp6")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open the list of UDP sockets: %w", err)
	}
	return p, nil
}

func (p *proc) close() error {
	var errs []error
	if p.conf6 >= 0 {
		errs = append(errs, unix.Close(p.conf6))
	}
	for _, f := range []*os.File{p.udp, p.udp6} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// write makes a setting.
func (p *proc) write(s sysctl) error {
	fd, err := unix.Openat(p.conf6, s.link+"/"+s.name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		_, err = unix.Write(fd, []byte(s.value))
		_ = unix.Close(fd)
	}
	if err != nil {
		return fmt.Errorf("set net.ipv6.conf of %s, %s, to %s: %w", s.link, s.name, s.value, err)
	}
	return nil
}

// listening tells whether a socket keeps a VXLAN device from the port. An
// IPv6 socket without an address is in the way of IPv4, too, as it mostly takes
// both; unless it is a VXLAN device's own (vxlan6), which doesn't.
func (p *proc) listening(port uint16, six, vxlan6 bool) bool {
	if six {
		return hasPort(p.udp6, port, false)
	}
	return hasPort(p.udp, port, false) || !vxlan6 && hasPort(p.udp6, port, true)
}

// hasPort looks for a port in a list of sockets, whose lines are
//
//	sl: local_address:port remote_address:port ...
//
// in hexadecimal. A list that can't be read says nothing.
func hasPort(f *os.File, port uint16, unspecified bool) bool {
	if f == nil {
		return false
	}
	list, err := readAll(f)
	if err != nil {
		return false
	}
	for line := range bytes.Lines(list) {
		fields := bytes.Fields(line)
		if len(fields) < 2 {
			continue
		}
		addr, hex, ok := bytes.Cut(fields[1], []byte(":"))
		if n, err := strconv.ParseUint(string(hex), 16, 16); !ok || err != nil || uint16(n) != port {
			continue
		}
		if !unspecified || len(bytes.Trim(addr, "0")) == 0 {
			return true
		}
	}
	return false
}

// readAll reads a file of /proc from its beginning.
func readAll(f *os.File) ([]byte, error) {
	var all []byte
	var b [16 << 10]byte
	for {
		n, err := unix.Pread(int(f.Fd()), b[:], int64(len(all)))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n <= 0 || err != nil {
			return all, err
		}
		all = append(all, b[:n]...)
	}
}
